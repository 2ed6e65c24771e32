"""Runs over generations in forked processes, and what must be the same about them."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

from cli_helpers import Ended
from evolution_helpers import TINY, options

SERVER = Path(__file__).with_name("fork_server.py")


class Server:
    """The process that the commands are forked from."""

    def __init__(self):
        self._process = subprocess.Popen(
            [sys.executable, SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
        )
        assert self._process.stdout.readline() == "ready\n"

    def run(self, *arguments, trust=True, **happens):
        """A command that ends by itself or by what happens to it; these runs are of functions of their own."""
        if arguments[0] in ("resume", "verify") and trust and len(arguments) > 1:
            arguments = (*arguments, "--trust")
        self._process.stdin.write(json.dumps({"arguments": list(map(str, arguments)), **happens}) + "\n")
        self._process.stdin.flush()
        told = json.loads(self._process.stdout.readline())
        result = Ended(arguments, told["returncode"], told["stdout"], told["stderr"])
        result.process, result.moments = told["process"], told["moments"]
        return result

    def finetune(self, out, settings=TINY, **happens):
        return self.run("finetune", *options(settings), "--out", out, **happens)

    def go_on(self, out, settings=TINY, **happens):
        """What a user does after whatever ended a run: resume it, or begin it if it never came to be."""
        return self.run("resume", out, **happens) if out.exists() else self.finetune(out, settings, **happens)

    def close(self):
        with self._process as process:  # which closes its pipes
            process.stdin.close()
            assert process.wait() == 0


def environment(*folders):
    path = os.pathsep.join(map(str, (*folders, SERVER.parent, SERVER.parent.parent)))
    return os.environ | {"PYTHONPATH": path, "COLUMNS": "80", "WANDB_MODE": "offline"}


def ended(result, code=0):
    assert result.returncode == code, (result.returncode, result.stdout, result.stderr)
    return result


def lines(run, name="metrics.jsonl"):
    """Those of a run's generations, but for the time that they took."""
    found = [json.loads(line) for line in (run / name).read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in found]


def told(run):
    """All that must be the same however often a run was interrupted: numbers, and files byte for byte."""
    results = json.loads((run / "results.json").read_text())
    del results["environment"]
    files = ("history.jsonl", "network.safetensors", "ensemble.safetensors")
    return lines(run), results, {name: (run / name).read_bytes() for name in files}


def same(run, expected):
    """The parts of which differ are easier to read than all of them."""
    found = told(run)
    assert found[0] == expected[0]
    assert found[1] == expected[1]
    assert [name for name in found[2] if found[2][name] != expected[2][name]] == []


def everything(folder):
    """All that is in a folder: files with their content, and other folders."""
    return {
        str(each.relative_to(folder)): each.is_file() and hashlib.sha256(each.read_bytes()).hexdigest()
        for each in sorted(folder.rglob("*"))
    }


def tree(folder):
    """All files of a folder with what is in them, but for the lock."""
    return {name: content for name, content in everything(folder).items() if content and Path(name).name != "lock"}


def checkpoints(run):
    return sorted(int(file.stem) for file in (run / "checkpoints").glob("*.json"))
