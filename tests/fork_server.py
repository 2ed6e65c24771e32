"""The command line in many processes that need no seconds of imports: each is forked from this one, which has them.

A job is a line of JSON: ``arguments`` of smd-evo, and what is to happen to the process. Its answer is one, too.
"""

import contextlib
import gc
import glob
import json
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import evolution_helpers
import torch
from cli_helpers import brief

from smd_evo import cli
from smd_evo.experiments.compare import runner
from smd_evo.experiments.generations import plot as evolution_plot
from smd_evo.experiments.generations.run import Evolution


class Moments:
    """Counts what a process writes, byte streams half-way too, and what Python calls; something happens at one."""

    def __init__(self, at, happens, copies=None):
        self.count, self.at, self.happens, self.copies = 0, at, happens, copies

    def pass_one(self):
        self.count += 1
        if self.copies is not None:
            folder, target = self.copies
            shutil.copytree(folder, os.path.join(target, str(self.count)))
        if self.count == self.at:
            self.happens()

    def watch_writing(self):
        for owner, name in ((os, "fsync"), (Path, "replace"), (Path, "unlink"), (Path, "mkdir")):
            setattr(owner, name, self._watched(getattr(owner, name)))
        open_file = Path.open

        def opened(path, mode="r", *arguments, **options):
            file = open_file(path, mode, *arguments, **options)
            return _Watched(file, self) if mode in ("wb", "ab") else file

        Path.open = opened

    def _watched(self, function):
        def watched(*arguments, **options):
            self.pass_one()
            return function(*arguments, **options)

        return watched

    def watch_calls(self):
        sys.setprofile(lambda frame, event, _: self.pass_one() if event == "call" else None)


class _Watched:
    """A file that is written in two halves."""

    def __init__(self, file, moments):
        self._file, self._moments = file, moments

    def write(self, content):
        middle = len(content) // 2
        self._file.write(content[:middle])
        self._file.flush()
        self._moments.pass_one()
        return middle + self._file.write(content[middle:])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()

    def __getattr__(self, name):
        return getattr(self._file, name)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def fail(number):
    raise OSError(number, os.strerror(number))


def stop_in(generation, numbers):
    """Signals that come while a generation is under way, or before the first one."""
    name = "_step" if generation else "_validate"
    do = getattr(Evolution, name)

    def done(self):
        if self.generation + bool(generation) == generation:
            for number in numbers:
                os.kill(os.getpid(), number)
        return do(self)

    setattr(Evolution, name, done)


def prepare(job):
    """All that is to happen to this process."""
    happens = partial(fail, job["fails"]) if "fails" in job else die
    moments = Moments(job.get("moment"), happens, job.get("copies"))
    if job.get("watch") == "writing":
        moments.watch_writing()
    elif job.get("watch") == "calls":
        moments.watch_calls()
    if "stop_in" in job:
        stop_in(*job["stop_in"])
    if "room" in job:
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["room"], job["room"]))
    if job.get("forks"):
        runner.multiprocessing = SimpleNamespace(
            get_context=lambda _: multiprocessing.get_context("fork"), parent_process=multiprocessing.parent_process
        )
    if job.get("nobody") and os.geteuid() == 0:  # for whom permissions count
        os.setgid(65534)
        os.setuid(65534)
    return moments


def work(job, report):
    """In the forked process: the command line, and how it ended."""
    os.setsid()
    os.chdir(job.get("cwd", "."))
    sys.argv = ["smd-evo", *job["arguments"]]
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115 - this one may be a pipe
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in job.get("ignores", ()):
        signal.signal(number, signal.SIG_IGN)
    moments = prepare(job)
    try:
        cli.main()
        code = 0
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
        code = 70
    sys.setprofile(None)
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    os.write(report, str(moments.count).encode())
    os._exit(code)


class Heard:
    """Standard error of a process: a file, or a pipe, which takes words also where files may not grow."""

    def __init__(self, pipe):
        self._file = None if pipe else tempfile.TemporaryFile()  # noqa: SIM115
        self._reading, self.writing = os.pipe() if pipe else (None, self._file.fileno())

    def read(self):
        if self._file is None:
            return os.read(self._reading, 2**16)
        self._file.seek(0)
        return self._file.read()

    def close(self):
        if self._file is None:
            os.close(self._reading)
            os.close(self.writing)
        else:
            self._file.close()


def heard(job):
    return contextlib.closing(Heard("room" in job))


def come(child, number, pattern, count, group=False, after=0.0):
    """A signal from outside, once there are so many files, or lines in the one file, and so many seconds later."""
    while count > (lines_in(pattern) if pattern.endswith(".jsonl") else len(glob.glob(pattern))):
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return
        time.sleep(0.002)
    time.sleep(after)
    (os.killpg if group else os.kill)(child, number)


def lines_in(file):
    try:
        return Path(file).read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def run(job):
    """Fork, perhaps kill after so many seconds, and tell how it ended."""
    with tempfile.TemporaryFile() as output, heard(job) as errors:
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.dup2(output.fileno(), 1)
            os.dup2(errors.writing, 2)
            work(job, writing)
        os.close(writing)
        if "seconds" in job:
            time.sleep(job["seconds"])
            os.kill(child, signal.SIGKILL)
        if "comes" in job:
            come(child, *job["comes"])
        count = os.read(reading, 99)
        os.close(reading)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        output.seek(0)
        told = {"stdout": output.read().decode(), "stderr": errors.read().decode()}
    return {"returncode": code, "process": child, "moments": int(count) if count else None, **told}


def no_plot(*arguments):
    """Instead of the slowest part of a run, and the last but one."""
    arguments[-1].write(b"a plot")


def main():
    torch.set_num_threads(1)
    os.environ["COLUMNS"] = "80"
    del sys.modules["__main__"].__file__  # or workers that a command starts would import this
    os.fsync = lambda _: None  # a process that is killed has left to the system what it wrote
    brief(setattr)
    evolution_helpers.network(3)  # trained once
    plot = evolution_plot.plot_evolution
    evolution_plot.plot_evolution = no_plot
    with tempfile.TemporaryDirectory() as folder:  # what is imported late is imported now
        for searcher in ("gradient", "selection"):
            settings = evolution_helpers.TINY | {"searcher": searcher, "generations": 2}
            sys.argv = ["smd-evo", "finetune", *evolution_helpers.options(settings), "--out", f"{folder}/{searcher}"]
            with open(os.devnull, "w") as null, contextlib.redirect_stdout(null):
                try:
                    cli.main()
                except SystemExit as end:  # without what it compiles, each command would take seconds more
                    if end.code:
                        raise
    evolution_plot.plot_evolution = plot
    gc.freeze()  # a collection in a forked process would copy all of this one's memory
    print("ready", flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        if not job.get("plot"):
            evolution_plot.plot_evolution = no_plot
        answer = run(job)
        evolution_plot.plot_evolution = plot
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
