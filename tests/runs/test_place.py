"""A place is one process's from the start, and whatever fails at the end, results are whole somewhere, and it is told."""

import errno
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import pytest
from faults import ERRORS, Faults
from hypothesis import given
from hypothesis import strategies as st

from smd_evo.atomic import partial_name, write_whole
from smd_evo.errors import InvalidValue, OutputExists, SmdEvoError
from smd_evo.runs import lock as lock_module
from smd_evo.runs.folder import PLOT, write_plot
from smd_evo.runs.lock import LOCK, Busy, Lock
from smd_evo.runs.rescue import RESULTS
from smd_evo.runs.survival import Interrupted
from smd_evo.runs.take import chosen, new_file, new_run, working_in

CONTENT = {"config.yaml": b"a: 1", "children.safetensors": bytes(range(256)), RESULTS: b"{}"}
WHOLE = CONTENT | {PLOT: b"png"}
FILES = {name: (lambda file, content=content: write_whole(file, content)) for name, content in CONTENT.items()}
FILES |= {PLOT: lambda file: write_plot(file, lambda picture: picture.write(b"png"))}


def held(folder):
    """Names and contents of what is in it, but for locks and what could not be deleted while it was written."""
    files = (file for file in folder.rglob("*") if file.is_file() and file.name != LOCK and file.suffix != ".partial")
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


@pytest.fixture
def base(tmp_path, monkeypatch):
    """A folder with something of the user's; temporary files go elsewhere."""
    (tmp_path / "temp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temp"))
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    (folder / "old").mkdir()
    (folder / "old" / RESULTS).write_text("old")
    return folder


def check(base, before, error, computed, told):
    """Nothing is lost, nothing looks whole that is not, and what was there is there."""
    found = held(base)
    assert {name: content for name, content in found.items() if name in before} == before
    whole = [seal.parent for seal in base.parent.rglob(RESULTS) if seal.parent != base / "old"]
    for place in whole:
        assert held(place) == WHOLE or (held(place) == CONTENT and any("plot: " in text for text in told))
    if not computed:
        assert isinstance(error, OSError | SmdEvoError)
        assert whole == []
    elif error is None:
        assert whole == [base / "deep" / "run"]
    else:
        assert not isinstance(error, SmdEvoError)
        assert any(str(error).endswith(f" whole in {place}") for place in whole)
    assert len(str(error).splitlines()) == 1


class TestFaults:
    """Each call, each error; the whole grid takes a second."""

    @pytest.mark.parametrize("once", [True, False], ids=["once", "from then on"])
    @pytest.mark.parametrize("name", ERRORS)
    def test_at_every_call(self, base, name, once):
        before = held(base)
        for at in itertools.count(1):
            faults, computed, error = Faults(base, at, ERRORS[name], once=once), False, None
            with faults() as told:
                try:
                    with new_run(base / "deep" / "run") as place:
                        computed = True
                        place.write(FILES)
                except (OSError, SmdEvoError) as caught:
                    error = caught
            check(base, before, error, computed, [str(each.message) for each in told])
            if faults.count < at:
                break
            for left in (*base.iterdir(), *(base.parent / "temp").iterdir()):
                if left.name not in ("mine.txt", "old"):
                    subprocess.run(["rm", "-r", left], check=True)
        assert at > 25
