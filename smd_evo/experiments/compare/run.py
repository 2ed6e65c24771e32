"""A fair comparison: every method the same parent, minibatches, budget and number of trials.

The budget is counted in image evaluations, children times images, and if asked for also in forward passes, of which
children that share layers with their parent need fewer: a run ends where one of the two is spent. Settings are chosen
on the validation split, from as many trials for each method, on a seed of their own; the reported runs have other
seeds, and each looks at the test split once, at its end.
"""

from __future__ import annotations

import math
import time
import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from smd_evo.controls.outputs import fit_scaling
from smd_evo.core.keys import derive
from smd_evo.core.parameters import ParameterSpace
from smd_evo.ensemble.metrics import accuracy, negative_log_likelihood
from smd_evo.errors import InvalidType, InvalidValue, check_count, shown
from smd_evo.evaluation.classification import say_if_probabilities
from smd_evo.evaluation.evaluator import Evaluator
from smd_evo.experiments.chance import remark
from smd_evo.experiments.compare.memory import PeakMemory
from smd_evo.experiments.compare.methods.base import Method, Strength, Task, alone
from smd_evo.experiments.compare.methods.free import refused
from smd_evo.experiments.compare.methods.registry import find_method
from smd_evo.experiments.compare.settings import CompareConfig
from smd_evo.experiments.parent import NAMED, Source, check_of_outputs, in_precision
from smd_evo.experiments.progress import Logged, Progress
from smd_evo.experiments.speed import timed
from smd_evo.experiments.workload import Workload
from smd_evo.zoo.data import Samples

__all__ = ["PARENT", "Comparison", "Job", "Point", "Run", "Score", "settings_of"]

PARENT = "parent"
"""The name of the run that does nothing."""


@dataclass(frozen=True)
class Score:
    """How good predictions are: the share of right ones, and the cross-entropy."""

    accuracy: float
    loss: float


@dataclass(frozen=True)
class Point:
    """A method's score on validation after so many image evaluations and forward passes.

    Runs of older versions do not know the latter.
    """

    evaluations: int
    score: Score
    forwards: float | None = None


@dataclass(frozen=True)
class Job:
    """One run to be made.

    Attributes:
        method: its name.
        seed: of its children and minibatches, together with that of the settings.
        trial: number of its settings in the method's grid.
        reported: whether it is; a tuning run never sees the test split.
    """

    method: str
    seed: int
    trial: int
    reported: bool


@dataclass(frozen=True)
class Run:
    """What came out of one run.

    Attributes:
        job: what was to be done.
        settings: of the method.
        points: the learning curve, of which the first is the parent; of a tuning run only its two ends.
        evaluations: images that were evaluated.
        forwards: forward passes of an image that this took, see :class:`smd_evo.evaluation.work.Work`; None in runs
            of older versions.
        calibration: images that finding the unit of its strength took, once for all runs; outside of the budget.
        seconds: that the method took, without the scores.
        memory: bytes that it took at its peak beyond parent and data; None where nobody can tell.
        test: the score on the test split of what it hands over; None for tuning runs.
        calibrated: the same once its outputs have a temperature and a bias for each class, fitted to the fitness
            split; None for tuning runs, and for those of versions that did not look.
    """

    job: Job
    settings: dict[str, Any]
    points: tuple[Point, ...]
    evaluations: int
    calibration: int
    seconds: float
    memory: int | None
    test: Score | None
    calibrated: Score | None = None
    forwards: float | None = None


def method_of(job: Job) -> type[Method]:
    """The class that makes a run."""
    return Parent if job.method == PARENT else find_method(job.method)


def settings_of(job: Job) -> dict[str, Any]:
    """What a run's method is made with."""
    return dict(method_of(job).grid[job.trial])


class Comparison:
    """The parent and the data, on which runs are made one after the other.

    Args:
        config: the settings.
        progress: told of what is being done.
        source: of the parent, the data and the fitness; by default the settings name them.

    Raises:
        InvalidValue, InvalidType, UnsupportedParameter: settings that the network or the data cannot have.
    """

    def __init__(self, config: CompareConfig, progress: Progress | None = None, source: Source = NAMED) -> None:
        self.config, self._fitness = config, check_of_outputs(source.fitness(config.fitness))
        self._progress = progress or Logged()
        parent, self.data = source.parent(config, self._progress)
        self._space = ParameterSpace(parent, config.select)
        self._strengths: dict[Any, Strength] = {}
        self._targets: dict[str, Tensor] = {}

    @property
    def parameters(self) -> int:
        """How many parameters may be mutated."""
        return self._space.size

    @property
    def fingerprint(self) -> str:
        """Of the parent."""
        return self._space.fingerprint()

    @cached_property
    def refused_controls(self) -> dict[str, str]:
        """Controls that make no sense for this network or these samples, and why."""
        with in_precision(self.config):
            return refused(self._space, self.data.fitness, self.config.batch_size)

    @property
    def steps(self) -> int:
        """Generations that a run has, roughly."""
        return self.config.budget // (self.config.children * min(self.config.images, self.data.sizes["fitness"]))

    def timed(self, workload: Workload, note: str = "") -> Workload:
        """The same with the time that it takes the parent here and now."""
        evaluator = Evaluator(self._space, self.data.fitness, batch_size=self.config.batch_size)
        with in_precision(self.config):
            return timed(workload, evaluator, note)

    def run(self, job: Job) -> Run:
        """Make one run.

        Raises:
            InvalidValue: the budget has no room for one step of the method, or the method refuses its settings.
        """
        with in_precision(self.config):
            return self._run(job)

    def _run(self, job: Job) -> Run:
        kind, settings, task = method_of(job), settings_of(job), self._task(job)
        with PeakMemory(self.config.device) as memory:
            method = kind(task, **settings)
            points, evaluations, seconds, forwards = self._spend(method, job)
        test, calibrated = self._reported(method, job) if job.reported else (None, None)
        return Run(
            job=job,
            settings=settings,
            points=points,
            evaluations=evaluations,
            calibration=task.calibration,
            seconds=seconds,
            memory=memory.peak,
            test=test,
            calibrated=calibrated,
            forwards=forwards,
        )

    def _spend(self, method: Method, job: Job) -> tuple[tuple[Point, ...], int, float, float]:
        """The learning curve, and of the method's own steps image evaluations, seconds and forward passes."""
        budget, marks, spent, seconds = self._budget(job), self.config.checkpoints if job.reported else 1, 0, 0.0
        limit, forwards = self._limit(job), 0.0
        ahead = 0.0  # what the next step will compute, as far as the last one tells
        if not isinstance(method, Parent) and (cost := _cost(method, job)) > budget:
            raise InvalidValue(
                f"budget: expected at least the {cost} image evaluations of one step of {job.method}, got {budget}"
            )
        points = [Point(0, self._score(method, job, "validation"), 0.0)]
        for number in range(1, marks + 1):
            mark, moved = budget * number // marks, False
            while spent + (cost := _cost(method, job)) <= mark and forwards + ahead <= limit * number / marks:
                start, before = time.perf_counter(), method.work.forwards if method.work else 0.0
                method.step()
                if torch.device(self.config.device).type == "cuda":
                    torch.cuda.synchronize()
                seconds += time.perf_counter() - start
                # A look at the parent that the method does not need is not charged.
                ahead = min(method.work.forwards - before, float(cost)) if method.work else float(cost)
                spent, forwards, moved = spent + cost, forwards + ahead, True
                if not cost and not _cost(method, job):
                    raise InvalidValue(
                        f"methods: expected {job.method} to take one step that costs nothing, and no more, got "
                        "another one; its cost is children times images"
                    )
                if forwards > limit:
                    raise InvalidValue(
                        f"forwards: expected at least the {forwards:,.0f} forward passes of a step of {job.method}, "
                        f"got {limit:,.0f}"
                    )
                self._progress.advance()
            score = self._score(method, job, "validation") if moved else points[-1].score
            points.append(Point(mark if self.config.forwards is None else spent, score, forwards))
        return tuple(points), spent, seconds, forwards

    def _budget(self, job: Job) -> int:
        config = self.config
        return config.budget if job.reported or config.tuning_budget is None else config.tuning_budget

    def _limit(self, job: Job) -> float:
        """Forward passes of a run, at most: of a trial as large a share as of image evaluations."""
        config = self.config
        return math.inf if config.forwards is None else config.forwards * self._budget(job) / config.budget

    def _task(self, job: Job) -> Task:
        config = self.config
        return Task(
            space=self._space,
            data=self.data.fitness,
            fitness=self._fitness,
            children=config.children,
            images=config.images,
            budget=self._budget(job),
            seed=derive(config.seed, "compare", job.seed) >> 1,
            base_seed=config.seed,
            batch_size=config.batch_size,
            strengths=self._strengths,
        )

    def _score(self, method: Method, job: Job, split: str) -> Score:
        return _scored(*self._predicted(method, job, split))

    def _reported(self, method: Method, job: Job) -> tuple[Score, Score]:
        """The score on the test split, which is predicted once, as it is and calibrated on the fitness split."""
        outputs, targets = self._predicted(method, job, "test")
        known, labels = self._predicted(method, job, "fitness")
        if isinstance(method, Parent) and (line := remark(known, labels)):
            warnings.warn(line, stacklevel=2)
        raw = _scored(outputs, targets)
        if not bool(outputs.isfinite().all()) or not bool(known.isfinite().all()):
            return raw, raw  # a network that answers nothing cannot be calibrated
        return raw, _scored(fit_scaling(known, labels).of(outputs), targets)

    def _predicted(self, method: Method, job: Job, split: str) -> tuple[Tensor, Tensor]:
        samples = getattr(self.data, split)
        if split not in self._targets:
            judge = Evaluator(self._space, samples, batch_size=self.config.batch_size)
            self._targets[split] = judge.targets()
        outputs, targets = method.predict(samples), self._targets[split]
        if not isinstance(outputs, Tensor) or outputs.dim() < 2 or len(outputs) != len(targets):
            got = f"{list(outputs.shape)}" if isinstance(outputs, Tensor) else shown(outputs)
            raise InvalidType(
                f"methods: expected logits or log-probabilities [{len(targets)}, classes] from {job.method}'s "
                f"predict, got {got}"
            )
        say_if_probabilities(outputs, f"methods: {job.method}'s predict")
        return outputs, targets


def _cost(method: Method, job: Job) -> int:
    """Image evaluations of the next step; 0 of one that looks at none.

    Raises:
        InvalidValue, InvalidType: it is no such number.
    """
    return check_count(f"methods: {job.method}'s cost", method.cost, low=0, mend="it is children times images")


def _scored(outputs: Tensor, targets: Tensor) -> Score:
    return Score(float(accuracy(outputs, targets).mean()), float(negative_log_likelihood(outputs, targets).mean()))


class Parent(Method):
    """The method that leaves the parent as it is."""

    about = "the parent as it is"
    grid = ({},)

    def __init__(self, task: Task) -> None:
        self._evaluator, self._never = task.parent, task.budget + 1

    @property
    def cost(self) -> int:
        """More than there is."""
        return self._never

    def step(self) -> None:
        """Never taken."""

    def predict(self, data: Samples) -> Tensor:
        """See the base class."""
        return alone(self._evaluator, data)
