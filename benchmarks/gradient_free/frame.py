"""What comparisons of gradient-free methods share: a task, a budget, trials, checks by validation, and their records.

Budget: forward passes of one sample. A child on a minibatch of m costs m, MeZO's step 2 m; what a method evaluates
besides (its parent, a base line, a first scale) counts, too. Not counted, for all alike: validation, and finding the
strength at which the median dense mutation keeps 0.9 of the parent's score, in whose units all strengths are.

Every method has the same budget, and as many trials as there are settings in its grid, four, each on a tenth of it;
validation chooses among them, for each seed anew. A method that makes less than two steps in a trial has the first
setting. Of a run comes the best of five equally spaced checks and its start, by validation. Test is read once a
method and seed.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

import smd_evo
from smd_evo.atomic import partial_name, write_whole
from smd_evo.evaluation.data import minibatch

os.environ.setdefault("EVOTORCH_VERBOSE_LEVEL", "0")  # which EvoTorch reads when it is imported: at its first use
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measure import machine

__all__ = ["Cost", "Outcome", "Search", "Task", "calibrated", "main", "once", "run", "tuned"]

RESULTS = Path(__file__).with_name("results")
CHECKS, TRIALS, SHARE, LEAST = 5, 4, 10, 2
KEEP, TESTED, BISECTIONS = 0.9, 8, 4
OTHERS = ("eggroll-es", "polystep", "x-evolution", "snntorch", "transformers")


@dataclass
class Task:
    """A network to make better without gradients, as every method gets it.

    Args:
        network: the parent, in eval mode, with its weights as floating point parameters.
        cost: mean over the fitness samples of these numbers, minimised.
        samples: fitness samples in all.
        minibatch: samples that a child is evaluated on.
        validate: of a network, maximised.
        select: which parameters are mutated.
        fitness, data: the same as ``cost``, as smd_evo takes it; None where the fitness brings its samples.
        own, own_select: what our method mutates, where it can do without the floats: integers.
        children: of a generation, even.
        forwards: the budget, which ``main`` is told: what is no search has it from here.
        unit: see ``calibrated``: found once for each network, selection and subspace.
        starts: what our methods begin with in place of the parent, by name: found once.
    """

    network: nn.Module
    cost: Callable[[nn.Module, Tensor], float]
    samples: int
    minibatch: int
    validate: Callable[[nn.Module], float]
    select: Any = "all"
    fitness: Any = "cross_entropy"
    data: smd_evo.Splits | None = None
    own: nn.Module | None = None
    own_select: Any = None
    children: int = 32
    forwards: int = 0
    unit: dict[Any, float] = field(default_factory=dict)
    starts: dict[str, nn.Module] = field(default_factory=dict)

    def problem(self, seed: int, network: nn.Module | None = None, select: Any = None) -> smd_evo.FinetuneProblem:
        """EvoTorch's problem of this task."""
        samples = None if self.data is None else self.data.fitness
        return smd_evo.FinetuneProblem(
            self.network if network is None else network,
            samples,
            self.fitness,
            select=self.select if select is None else select,
            minibatch_size=self.minibatch,
            seed=seed + 1,
        )


class Search(Protocol):
    """A method at work: see ``rivals`` and ``ours``."""

    @property
    def module(self) -> nn.Module:
        """What it has arrived at."""

    def step(self) -> int:
        """One generation; the forward passes it took."""


Maker = Callable[..., Search]
"""``maker(task, seed, **setting)``."""


class Cost:
    """A task's cost on minibatch after minibatch, for methods that ask for numbers alone; it counts."""

    def __init__(self, task: Task, seed: int) -> None:
        self._task, self._key, self._number = task, smd_evo.derive(seed, "cost"), 0
        self.spent = 0
        self.turn()

    def turn(self) -> None:
        """Go on to the next minibatch."""
        self._numbers = minibatch(self._key, self._number, self._task.minibatch, self._task.samples)
        self._number += 1

    @torch.no_grad()
    def __call__(self, module: nn.Module) -> float:
        self.spent += len(self._numbers)
        return float(self._task.cost(module, self._numbers))


def calibrated(
    task: Task, subspace: smd_evo.Subspace | None = None, network: nn.Module | None = None, select: Any = None
) -> float:
    """Strength of a mutation that keeps 0.9 of the parent's score on a minibatch; the same for all seeds."""
    subspace = subspace or smd_evo.Dense()
    select = task.select if select is None else select
    known = subspace.spec, str(select), id(network)  # which the task holds
    if known not in task.unit:
        ranker = task.problem(0, network, select).evaluator  # on the first minibatch
        task.unit[known] = smd_evo.calibrate_sigma(
            ranker, subspace, KEEP, children=TESTED, bisections=BISECTIONS
        ).sigma
    return task.unit[known]


@dataclass
class Outcome:
    """What came of a run.

    Attributes:
        module: the best of the checks and the start, by validation.
        validation: its score.
        forwards: forward passes taken.
        steps: that took these.
        checks: forward passes and validation at each check, the start's first.
    """

    module: nn.Module
    validation: float
    forwards: int
    steps: int
    checks: list[tuple[int, float]]


def run(task: Task, maker: Maker, forwards: int, seed: int, setting: Mapping[str, Any]) -> Outcome:
    """A method on a task with a budget."""
    before = torch.random.get_rng_state()
    torch.manual_seed(seed)
    try:
        search = maker(task, seed, **setting)
        start = search.module  # the parent, or what the method makes of it first
        best, kept = task.validate(start), copy.deepcopy(start)
        checks, spent, last, steps = [(0, best)], 0, 0, 0
        while spent + last <= forwards:
            last = search.step()
            spent, steps = spent + last, steps + 1
            if spent >= forwards * len(checks) / CHECKS or spent + last > forwards:
                checks.append((spent, task.validate(search.module)))
                if checks[-1][1] > best:
                    best, kept = checks[-1][1], copy.deepcopy(search.module)
        return Outcome(kept, best, spent, steps, checks)
    finally:
        torch.random.set_rng_state(before)


def tuned(
    task: Task, maker: Maker, forwards: int, seed: int, grid: list[dict[str, Any]]
) -> tuple[dict[str, Any], list[Any]]:
    """The setting of a grid that does best on a tenth of the budget, and what each came to on validation."""
    found: list[Any] = []
    for setting in grid[:TRIALS] if len(grid) > 1 else []:
        outcome = run(task, maker, forwards // SHARE, 1000 + seed, setting)
        if outcome.steps < LEAST:  # which says little of it, or takes more than others have for a trial
            return grid[0], []
        found.append((setting, outcome.validation))
    return max(found, key=lambda each: each[1], default=(grid[0], 0.0))[0], found


def once(file: Path, save: Callable[[Path], object]) -> Path:
    """A file that is made once, and appears whole: two of these commands may look for it at a time."""
    if not file.exists():
        save(partial := partial_name(file))
        partial.replace(file)
    return file


def main(
    name: str,
    task: Callable[[int], Task],
    test: Callable[[nn.Module], dict[str, float]],
    forwards: int,
    methods: Mapping[str, tuple[Maker, list[dict[str, Any]]]],
    *,
    prepare: Callable[[Path], object] = lambda work: None,
    special: Mapping[str, Callable[[Task, int], tuple[nn.Module, int]]] | None = None,
) -> None:
    """The command line of a task: a file a method and seed, those that exist skipped, and the table at the end.

    Files of another budget are refused, which a table would mix with these.

    Args:
        name: of the folder of results.
        task: makes it for a seed.
        test: numbers of a network on the test split.
        forwards: the budget unless told otherwise.
        methods: makers and grids by their names.
        prepare: told where data lies.
        special: what is no search: ``(task, seed) -> (network, forward passes)``.
    """
    special = special or {}
    parser = argparse.ArgumentParser(description=name)
    parser.add_argument("work", type=Path, help="folder with the data, or for what is made on the way")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--methods", default=",".join([*methods, *special]))
    parser.add_argument("--forwards", type=int, default=forwards)
    given = parser.parse_args()
    if unknown := {*given.methods.split(",")} - {*methods, *special}:
        parser.error(f"--methods: expected some of {', '.join([*methods, *special])}, got {', '.join(unknown)}")
    folder = RESULTS / name
    for file in folder.glob("*-seed*.json"):
        if (budget := json.loads(file.read_text())["budget"]) != given.forwards:
            parser.error(f"--forwards: expected {budget}, as in {file}, got {given.forwards}; move {folder} away")
    prepare(given.work)
    folder.mkdir(parents=True, exist_ok=True)
    versions = {each.name: each.version for each in distributions() if each.name in OTHERS}
    for seed in map(int, given.seeds.split(",")):
        made: Task | None = None
        parent: dict[str, Any] = {}
        for method in given.methods.split(","):
            file = folder / f"{method}-seed{seed}.json"
            if file.exists():
                continue
            made = made or replace(task(seed), forwards=given.forwards)
            parent = parent or {"validation": made.validate(made.network), "test": test(made.network)}
            start, record = time.perf_counter(), {"method": method, "seed": seed, "budget": given.forwards}
            if method in special:
                module, spent = special[method](made, seed)
                record |= {"forwards": spent, "validation": made.validate(module)}
            else:
                maker, grid = methods[method]
                setting, trials = tuned(made, maker, given.forwards, seed, grid)
                outcome = run(made, maker, given.forwards, seed, setting)
                module = outcome.module
                record |= {"setting": setting, "trials": trials, "forwards": outcome.forwards}
                record |= {"validation": outcome.validation, "checks": outcome.checks}
            record |= {"test": test(module), "parent": parent, "seconds": round(time.perf_counter() - start, 1)}
            record["machine"] = {**machine(), **versions}
            write_whole(file, (json.dumps(record, indent=1) + "\n").encode())
            print(f"{method}, seed {seed}: {record['validation']:.4g}, {record['seconds']} s", flush=True)
    from tables import table

    print(table(folder))


if __name__ == "__main__":
    print(__doc__)
