"""The command line, in a process of its own or, where that would only cost seconds of imports, in this one."""

import io
import os
import re
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import pytest
from matplotlib.figure import Figure
from report_helpers import png
from scipy import stats

from smd_evo import cli
from smd_evo.commands import shared
from smd_evo.statistics import bootstrap

TINY = ["--children", "6", "--density", "0.1", "--sigma", "0.05"]


_TOLD = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ")


class Ended(subprocess.CompletedProcess):
    """How a command ended: what it told while it worked, ``told``, apart from the rest of standard error."""

    def __init__(self, arguments, returncode, stdout, stderr):
        lines = stderr.splitlines(keepends=True)
        self.told = [_TOLD.sub("", line.rstrip("\n")) for line in lines if _TOLD.match(line)]
        super().__init__(arguments, returncode, stdout, "".join(line for line in lines if not _TOLD.match(line)))


BRIEF = "import cli_helpers; cli_helpers.brief(setattr); cli_helpers.cli.main()"


def smd_evo(*arguments, cwd=None, whole=False, **environment):
    """The command line in a process of its own, perhaps with all resamples and its pictures drawn."""
    if not whole:
        environment["PYTHONPATH"] = os.pathsep.join((str(Path(__file__).parent), os.environ["PYTHONPATH"]))
    ended = subprocess.run(
        [sys.executable, *(["-m", "smd_evo.cli"] if whole else ["-c", BRIEF]), *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=os.environ | {"COLUMNS": "80"} | environment,
    )
    return Ended(arguments, ended.returncode, ended.stdout, ended.stderr)


def here(*arguments, cwd=None):
    """The same in this process; what would be a traceback there is an exception here."""
    output, errors = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(output), redirect_stderr(errors):
        patch.setattr(sys, "argv", ["smd-evo", *arguments])
        patch.setattr(signal, "signal", lambda *_: None)
        patch.setattr(shared, "keep_freed_memory", lambda: None)  # tests of memory come after this one
        patch.setenv("COLUMNS", "80")
        if cwd is not None:
            patch.chdir(cwd)
        with pytest.raises(SystemExit) as end:
            cli.main()
    return Ended(arguments, end.value.code or 0, output.getvalue(), errors.getvalue())


def brief(setattr):
    """What takes most of a small run's time is left to the tests that are about it."""
    few_resamples(setattr)
    sketches(setattr)


def few_resamples(setattr):
    """Intervals of few resamples."""
    few = lambda *samples, **options: stats.bootstrap(*samples, **options | {"n_resamples": 99})  # noqa: E731
    setattr(bootstrap, "stats", SimpleNamespace(bootstrap=few))


def sketches(setattr):
    """Plots that are not drawn: grey pictures of their size."""
    setattr(Figure, "savefig", _sketched)


def _sketched(figure, file, dpi=100, **options):
    width, height = map(int, dpi * figure.get_size_inches())
    if isinstance(file, io.BytesIO):
        file.write(png(width, height))
    else:
        Path(file).write_bytes(png(width, height))


def refused(result, *texts):
    """It ended with exit code 2 and one line that holds these texts."""
    assert result.returncode == 2, (result.returncode, result.stdout, result.stderr)
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert result.stderr.startswith("smd-evo: ")
    for text in texts:
        assert text in result.stderr
