"""Evolution strategies that move the parent along the gradient of their children: SubspaceES in its forms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from smd_evo.core.lowrank import LowRank
from smd_evo.core.parameters import ParameterSpace
from smd_evo.core.subspace import Dense, RandomSubspace, Subspace
from smd_evo.core.units import UnitSubspace
from smd_evo.experiments.compare.methods.base import SearcherMethod, Settings, Task, alone
from smd_evo.integrations.evotorch.finetune import FinetuneProblem
from smd_evo.integrations.evotorch.strategies import SubspaceES
from smd_evo.zoo.data import Samples

__all__ = ["Eggroll", "GradientES", "HeadES", "NormBiasES", "OpenAIESMethod", "SparseES", "StaticSparseES", "UnitES"]


class GradientES(SearcherMethod):
    """Antithetic pairs, centred ranks, Adam: Salimans et al. 2017 on any subspace.

    Args:
        task: the task.
        sigma: mutation strength, in units of the calibrated one of this subspace.
        rate: Adam's step size, in units of that strength's norm per coordinate.
    """

    def __init__(self, task: Task, sigma: float, rate: float) -> None:
        super().__init__(task)
        space = self.space(task)
        subspace = self.subspace(space)
        strength = task.strength(subspace, space, self.scale)
        self.problem = FinetuneProblem(space, task.data, task.fitness, **task.host)
        self.searcher = SubspaceES(
            self.problem,
            popsize=task.children,
            subspace=subspace,
            sigma=sigma * strength.sigma,
            center_learning_rate=rate * strength.norm,
            scale=self.scale,
        )

    scale: ClassVar[str] = "absolute"

    def space(self, task: Task) -> ParameterSpace:
        """What may be mutated."""
        return task.space

    def subspace(self, space: ParameterSpace) -> Subspace:
        """Which of it a child touches."""
        return Dense()

    def predict(self, data: Samples) -> Tensor:
        """See the base class."""
        return alone(self.problem.evaluator, data)


_GRID = (
    {"sigma": 1.0, "rate": 0.2},
    {"sigma": 1.0, "rate": 0.4},
    {"sigma": 0.5, "rate": 0.2},
    {"sigma": 1.0, "rate": 0.1},
)


class OpenAIESMethod(GradientES):
    """OpenAI-ES: dense mutations. No weight decay, which pulls a trained network to zero."""

    about = "OpenAI-ES: dense mutations, antithetic pairs, centred ranks, Adam (arXiv 1703.03864)"
    grid: ClassVar[Sequence[Settings]] = _GRID


class SparseES(GradientES):
    """SubspaceES in a random subspace for each pair of children."""

    about = "OpenAI-ES with a random subspace for each pair of children (SubspaceES)"
    grid: ClassVar[Sequence[Settings]] = tuple({"density": 0.1, **each} for each in _GRID)
    static: ClassVar[bool] = False

    def __init__(self, task: Task, density: float, sigma: float, rate: float) -> None:
        self.density = density
        super().__init__(task, sigma, rate)

    def subspace(self, space: ParameterSpace) -> Subspace:
        """See the base class."""
        return RandomSubspace(self.density, self.static)


class StaticSparseES(SparseES):
    """SubspaceES in one random subspace for the whole run."""

    about = "OpenAI-ES in one random subspace for the whole run (SubspaceES, static)"
    static = True


class NormBiasES(GradientES):
    """OpenAI-ES on the parameters of one dimension: the subspace of normalisations and biases."""

    about = "OpenAI-ES on scales and shifts of normalisations and on biases alone"
    grid: ClassVar[Sequence[Settings]] = _GRID

    def space(self, task: Task) -> ParameterSpace:
        """See the base class."""
        return task.vectors()


class HeadES(GradientES):
    """OpenAI-ES on the last layer: what is before it is computed once for all children of a minibatch."""

    about = "OpenAI-ES on the last layer alone, whose children share all layers before it"
    grid: ClassVar[Sequence[Settings]] = _GRID

    def space(self, task: Task) -> ParameterSpace:
        """See the base class."""
        return task.head()


class UnitES(GradientES):
    """OpenAI-ES whose children touch one unit each, drawn by what such children have gained for their cost."""

    about = "OpenAI-ES whose children touch one layer or block each, drawn by gain for its cost"
    grid: ClassVar[Sequence[Settings]] = (
        {"unit": "layer", "sigma": 1.0, "rate": 0.2},
        {"unit": 2, "sigma": 1.0, "rate": 0.2},
        {"unit": "layer", "sigma": 1.0, "rate": 0.4},
        {"unit": "layer", "sigma": 0.5, "rate": 0.2},
    )

    def __init__(self, task: Task, unit: str | int, sigma: float, rate: float) -> None:
        self.unit = unit
        super().__init__(task, sigma, rate)

    def subspace(self, space: ParameterSpace) -> Subspace:
        """See the base class."""
        return UnitSubspace(self.unit, Dense())


class Eggroll(GradientES):
    """EGGROLL: dense mutations of low rank."""

    about = "OpenAI-ES with noise of low rank in each matrix (EGGROLL, arXiv 2511.16652)"
    grid: ClassVar[Sequence[Settings]] = tuple({"rank": 1, **each} for each in _GRID)

    def __init__(self, task: Task, rank: int, sigma: float, rate: float) -> None:
        self.rank = rank
        super().__init__(task, sigma, rate)

    def subspace(self, space: ParameterSpace) -> Subspace:
        """See the base class."""
        return LowRank(self.rank)
