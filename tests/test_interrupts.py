"""Ctrl-C at any moment: one line, exit code 130, and never in the middle of an import."""

import os
import re
import signal
import subprocess
import sys

import pytest
from cli_helpers import Ended

START = """
import os, signal, sys, time
from smd_evo.interrupts import Interrupts
interrupts = Interrupts()
interrupts.begin()
def interrupt():
    os.kill(os.getpid(), signal.SIGINT)
"""


def run(tmp_path, code, **modules):
    """The end of a process that runs this code, beside modules of these names."""
    for name, content in modules.items():
        (tmp_path / f"{name}.py").write_text(content)
    (tmp_path / "main.py").write_text(START + code)
    arguments = [sys.executable, "main.py"]
    found = subprocess.run(arguments, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
    return Ended(arguments, found.returncode, found.stdout, found.stderr)


def environment():
    return os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def test_at_once_where_nothing_is_imported(tmp_path):
    code = "try:\n    interrupt()\nexcept KeyboardInterrupt:\n    print('there', interrupts.asked)"
    assert run(tmp_path, code).stdout == "there True\n"


@pytest.mark.parametrize("swallowed", ["except BaseException", "except KeyboardInterrupt", "finally"])
def test_after_an_import_that_would_have_swallowed_it(tmp_path, swallowed):
    """And the module is whole."""
    half = f"from __main__ import interrupt\ntry:\n    interrupt()\n    whole = True\n{swallowed}:\n    pass\n"
    code = "try:\n    import half\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    print(half.whole)"
    assert run(tmp_path, code, half=half).stdout == "True\n"


def test_between_the_imports_of_many_modules(tmp_path):
    """Of the modules that a module imports the first one is interrupted, and all are whole."""
    many = {f"m{number}": "" for number in range(20)}
    outer = "from __main__ import interrupt\ninterrupt()\n" + "".join(f"import {name}\n" for name in many)
    code = "try:\n    import outer\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    print(hasattr(outer, 'm19'))"
    assert run(tmp_path, code, outer=outer, **many).stdout == "True\n"


def test_an_import_that_takes_long_is_left(tmp_path):
    """What the command has begun is undone, and nothing else runs any more."""
    code = """
import smd_evo.interrupts as module
module._PATIENCE = 0.2
with module.undone(lambda: print("undone", flush=True)):
    try:
        import slow
    finally:
        print("not here", flush=True)
"""
    result = run(tmp_path, code, slow="from __main__ import interrupt, time\ninterrupt()\ntime.sleep(60)\n")
    assert (result.returncode, result.stdout) == (130, "undone\n")
    assert result.stderr == "smd-evo: interrupted while modules were loading; nothing was being written\n"


def test_the_place_of_a_run_is_given_back_then_too(tmp_path):
    code = """
import smd_evo.interrupts as module
from smd_evo.experiments.folders.take import chosen, new_run
module._PATIENCE = 0.2
with chosen(None, "window") as target, new_run(target):
    import slow
"""
    result = run(tmp_path, code, slow="from __main__ import interrupt, time\ninterrupt()\ntime.sleep(60)\n")
    assert result.returncode == 130
    assert not (tmp_path / "runs").exists()


def test_the_second_one_does_not_wait(tmp_path):
    twice = "from __main__ import interrupt, time\ninterrupt()\ntime.sleep(0)\ninterrupt()\ntime.sleep(60)\n"
    assert run(tmp_path, "import twice", twice=twice).returncode == 130


def test_one_that_python_ignores_comes_again(tmp_path):
    code = """
class Closing:
    def __del__(self):
        interrupt()
        time.sleep(1)
try:
    Closing()
    time.sleep(60)
except KeyboardInterrupt:
    print("came again")
"""
    result = run(tmp_path, code)
    assert (result.stdout, result.stderr) == ("came again\n", "")


def test_after_the_end_there_is_no_more_to_tell(tmp_path):
    result = run(tmp_path, "interrupts.end()\ninterrupt()\ntime.sleep(60)")
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "")


def test_ignored_signals_stay_ignored(tmp_path):
    """Those of a shell's background."""
    code = "interrupt()\nprint('still here')"
    begin = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    (tmp_path / "main.py").write_text(begin + START + code)
    found = subprocess.run(
        [sys.executable, "main.py"], cwd=tmp_path, env=environment(), capture_output=True, check=True
    )
    assert found.stdout == b"still here\n"


@pytest.mark.parametrize(("at", "number"), [(30, signal.SIGINT), (700, signal.SIGTERM), (1700, signal.SIGINT)])
def test_a_command_at_imports_of_its_own_and_of_its_libraries(tmp_path, at, number):
    """By the number of the import, which is the same on every machine of the same versions."""
    (tmp_path / "main.py").write_text(f"""
import os, sys
count = 0
def listen(event, arguments):
    global count
    count += event == "import" and "smd_evo.__main__" in sys.modules
    if count == {at}:
        count += 1
        os.kill(os.getpid(), {int(number)})
sys.addaudithook(listen)
sys.argv = ["smd-evo", "window", "--device", "cpu", "--out", "run"]
from smd_evo.__main__ import main
main()
""")
    arguments = [sys.executable, "main.py"]
    found = subprocess.run(arguments, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
    result = Ended(arguments, found.returncode, found.stdout, found.stderr)
    assert result.returncode == 130
    assert re.fullmatch("smd-evo: interrupted.*; nothing was (being )?written\n", result.stderr)
    assert os.listdir(tmp_path) == ["main.py"]
