"""What a method gets, and what it has to do: :class:`Task` and :class:`Method`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

from torch import Tensor, nn

from smd_evo.core.keys import Key, derive
from smd_evo.core.mutation import Lineage
from smd_evo.core.parameters import Child, ParameterSpace
from smd_evo.core.selection import Names, head_of
from smd_evo.core.subspace import Subspace
from smd_evo.ensemble.combine import combined
from smd_evo.errors import InvalidValue
from smd_evo.evaluation.calibration import Calibration, calibrate_sigma, calibration_cost
from smd_evo.evaluation.data import minibatch
from smd_evo.evaluation.evaluator import Evaluator
from smd_evo.evaluation.fitness import Fitness
from smd_evo.evaluation.response import Response, calibrate_response
from smd_evo.evaluation.work import Work
from smd_evo.experiments.rules import mean_density
from smd_evo.zoo.data import Samples

__all__ = ["STRENGTH_COST", "Method", "SearcherMethod", "Settings", "Strength", "Task", "alone", "voted"]

Settings = Mapping[str, Any]

_KEEP, _CHILDREN, _BISECTIONS = 0.9, 8, 4
"""Calibration: share of the parent's score that the median child keeps, of so many."""

STRENGTH_COST = calibration_cost(_CHILDREN, _BISECTIONS)
"""Networks that it evaluates at most."""


@dataclass(frozen=True)
class Strength:
    """How strong one kind of mutation may be.

    Attributes:
        sigma: the strength at which the median child keeps 0.9 of the parent's score.
        density: mean share of the coordinates that one mutation touches.
        evaluations: images that were evaluated to find it, outside of all budgets.
    """

    sigma: float
    density: float
    evaluations: int

    @property
    def norm(self) -> float:
        """Strength of the dense mutation of the same expected norm: the unit of step sizes."""
        return float(self.sigma * self.density**0.5)


@dataclass(frozen=True, eq=False)
class Task:
    """The problem that all methods get alike.

    Attributes:
        space: the parent's parameters that may be mutated; methods leave its network as it is.
        data: the fitness split.
        fitness: what children are good by.
        children: children a generation, even.
        images: images that a child is evaluated on.
        budget: image evaluations in all.
        seed: of the run.
        base_seed: of what is common to all runs: the calibration.
        batch_size: samples a forward pass, or "auto".
        strengths: calibrations that were made before, and those of this run besides.
    """

    space: ParameterSpace
    data: Samples
    fitness: str | Fitness
    children: int
    images: int
    budget: int
    seed: int
    base_seed: int = 0
    batch_size: int | str = "auto"
    strengths: dict[Any, Strength] = field(default_factory=dict)
    _used: dict[Any, Strength] = field(default_factory=dict, init=False)

    @cached_property
    def parent(self) -> Evaluator:
        """The parent on the whole fitness split."""
        return Evaluator(self.space, self.data, self.fitness, batch_size=self.batch_size)

    @property
    def key(self) -> Key:
        """The run's key, from which minibatches follow, the same for all methods and EvoTorch's problems."""
        return derive(self.seed, "problem")

    @property
    def minibatch_size(self) -> int:
        """Images that a child is evaluated on: no more than there are."""
        return min(self.images, self.parent.samples)

    @property
    def generation(self) -> int:
        """Image evaluations of a generation."""
        return self.children * self.minibatch_size

    @property
    def host(self) -> dict[str, Any]:
        """What every problem of EvoTorch's gets alike."""
        return {"minibatch_size": self.minibatch_size, "batch_size": self.batch_size, "seed": self.seed}

    def minibatch(self, number: int, images: int | None = None) -> Evaluator:
        """The parent on one minibatch; those of one size and number are the same for all methods."""
        size = min(images or self.images, self.parent.samples)
        return self.parent.on_samples(minibatch(self.key, number, size, self.parent.samples))

    def vectors(self, method: str = "norm-bias-es") -> ParameterSpace:
        """Of those parameters the ones of one dimension: scales and shifts of normalisations, and biases."""
        return self._some(lambda tensor: tensor.dim() <= 1, "norms or biases", "none of one dimension", method)

    def head(self, method: str = "head-es") -> ParameterSpace:
        """Of those parameters the last layer's."""
        inside = {id(parameter) for parameter in head_of(self.space.module).parameters()}
        return self._some(lambda tensor: id(tensor) in inside, "the last layer's", "none", method)

    def early(self, depth: float, method: str) -> ParameterSpace:
        """Of those of one dimension a share of the tensors, the first ones in the network."""
        names = self.vectors(method).names
        chosen = set(names[: max(1, round(depth * len(names)))])
        return ParameterSpace(self.space.module, Names(chosen))

    def _some(self, wanted: Callable[[Tensor], bool], what: str, got: str, method: str) -> ParameterSpace:
        """Of the parameters that may be mutated those that a method wants."""
        found = zip(self.space.names, self.space.tensors, strict=True)
        chosen = {name for name, tensor in found if wanted(tensor)}
        if not chosen:
            raise InvalidValue(
                f"methods: expected {what} among the {len(self.space.names)} tensors that may be mutated, got {got}; "
                f"leave {method} out"
            )
        return ParameterSpace(self.space.module, Names(chosen))

    def strength(self, subspace: Subspace, space: ParameterSpace | None = None, scale: str = "absolute") -> Strength:
        """How strong such mutations may be: calibrated once, the same way for all methods, outside of budgets."""

        def calibrated(evaluator: Evaluator) -> Calibration:
            return calibrate_sigma(
                evaluator,
                subspace,
                _KEEP,
                key=self.base_seed,
                children=_CHILDREN,
                bisections=_BISECTIONS,
                scale=scale,
            )

        return self._calibrated("keep", calibrated, subspace, space or self.space, scale)

    def response(self, subspace: Subspace, space: ParameterSpace, scale: str = "absolute") -> Strength:
        """How strong mutations are that change the outputs by 5 % of their size; calibrated as the others are."""

        def calibrated(evaluator: Evaluator) -> Response:
            return calibrate_response(evaluator, subspace, key=self.base_seed, scale=scale)

        return self._calibrated("response", calibrated, subspace, space, scale)

    def _calibrated(
        self,
        kind: str,
        calibrated: Callable[[Evaluator], Calibration | Response],
        subspace: Subspace,
        space: ParameterSpace,
        scale: str,
    ) -> Strength:
        known = (kind, subspace.spec, space.names, scale)
        if known not in self.strengths:
            total = self.parent.samples
            numbers = minibatch(derive(self.base_seed, "strength"), 0, self.minibatch_size, total)
            evaluator = Evaluator(space, self.data, self.fitness, batch_size=self.batch_size).on_samples(numbers)
            found = calibrated(evaluator)
            density = mean_density(subspace, space.layout)
            self.strengths[known] = Strength(found.sigma, density, found.evaluations * len(numbers))
        self._used[known] = self.strengths[known]
        return self.strengths[known]

    def note(self, other: Task) -> None:
        """Take note of the calibrations of a task that follows from this one."""
        self._used.update({("of another parent", *known): found for known, found in other._used.items()})

    @property
    def calibration(self) -> int:
        """Images that the calibrations of this run took."""
        return sum(strength.evaluations for strength in self._used.values())


class Method(ABC):
    """One way to spend a budget of image evaluations on a parent.

    Made for each run as ``Method(task, **settings)``; then :meth:`step` is called as long as the budget has room
    for another :attr:`cost`, and :meth:`predict` at any time between.

    Attributes:
        about: one line for reports.
        grid: settings to be tried, the most promising first; all methods get the same number of trials.
    """

    about: ClassVar[str]
    grid: ClassVar[Sequence[Settings]]

    @abstractmethod
    def __init__(self, task: Task, **settings: Any) -> None:
        """A run that is about to begin."""

    @staticmethod
    def refusal(network: nn.Module, samples: Samples) -> str:
        """Why the method makes no sense for a network and samples, if it does not."""
        return ""

    @property
    @abstractmethod
    def cost(self) -> int:
        """Image evaluations that the next step will take: children times images."""

    @property
    def work(self) -> Work | None:
        """What its steps, and other things, have computed; None: a forward pass for each image evaluation."""
        return None

    @abstractmethod
    def step(self) -> None:
        """One generation."""

    @abstractmethod
    def predict(self, data: Samples) -> Tensor:
        """What the method would hand over now: logits or log-probabilities for all samples, [n, classes]."""


class SearcherMethod(Method):
    """A method that is a searcher of EvoTorch's: a step is one of its generations.

    Attributes:
        task: the task.
        problem, searcher: made by the subclass.
    """

    problem: Any
    searcher: Any

    def __init__(self, task: Task) -> None:
        self.task = task

    @property
    def cost(self) -> int:
        """See the base class."""
        return self.task.generation

    @property
    def work(self) -> Work | None:
        """See the base class."""
        found: Work = self.problem.work
        return found

    def step(self) -> None:
        """See the base class."""
        self.searcher.step()


def voted(parent: Evaluator, members: Sequence[Child], combine: str = "probabilities") -> Tensor:
    """The prediction of one or several children of a parent."""
    if len(members) == 1:
        return parent.predict(members)[0]
    return combined(parent.outputs(members), combine=combine)


def alone(evaluator: Evaluator, data: Samples) -> Tensor:
    """The prediction of an evaluator's parent itself."""
    outputs: Tensor = evaluator.on(data).predict([Lineage()])[0]
    return outputs
