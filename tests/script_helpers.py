"""Scripts of users, each in a process of its own that is forked from one which has the imports already."""

import multiprocessing
import os
import re
import runpy
import subprocess
import sys
import traceback
import warnings
from pathlib import Path

import pytest
from cli_helpers import brief

# Warnings are errors, but for those that EvoTorch makes (two when it is imported, two in its CMAES), and one of peft.
UPSTREAM = {
    "`torch.jit.script` is deprecated": FutureWarning,
    "Creating NamedTuple classes using keyword arguments": DeprecationWarning,
    "To copy construct from a tensor": UserWarning,
    "__array_wrap__ must accept context": DeprecationWarning,
    "`is_gradient_checkpointing` is deprecated": FutureWarning,  # peft calls what transformers has renamed
}


def run_script(script, *arguments, cwd, **environment):
    """A file of Python as a program, where warnings are errors: its return code, standard output and error."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["script_imports"])
    outputs = cwd / "stdout", cwd / "stderr"
    told = str(script), *map(str, arguments)
    process = context.Process(target=_run, args=(told, str(cwd), list(map(str, outputs)), environment))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)  # the server's, if it starts now
        process.start()
    process.join()
    return subprocess.CompletedProcess(told, process.exitcode, *(output.read_text() for output in outputs))


def _run(told, cwd, outputs, environment):
    os.environ.update(environment)
    os.chdir(cwd)
    sys.path.insert(0, str(Path(told[0]).parent))
    for number, output in enumerate(outputs, 1):
        os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT), number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
    sys.argv = list(told)
    brief(setattr)
    warnings.resetwarnings()
    warnings.simplefilter("error")
    for message, category in UPSTREAM.items():
        warnings.filterwarnings("ignore", re.escape(message), category)
    try:
        runpy.run_path(told[0], run_name="__main__")
    except Exception:
        traceback.print_exc()
        sys.exit(1)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
