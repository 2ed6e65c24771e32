"""Methods of one generation: sample children of the parent, keep the best, let them vote."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from smd_evo.core.mutation import Lineage, Mutation, sample_mutations
from smd_evo.core.parameters import Child
from smd_evo.core.subspace import Dense, RandomSubspace, Subspace
from smd_evo.evaluation.fitness import rank
from smd_evo.evaluation.work import Work
from smd_evo.experiments.compare.methods.base import Method, Settings, Task, voted
from smd_evo.zoo.data import Samples

__all__ = ["RandOpt", "Smd", "SmdEnsemble"]


class OneGeneration(Method):
    """The best of many children of the parent; a step evaluates some more of them, all on the same images.

    Args:
        task: the task.
        subspace: rule of the coordinates.
        sigma: mutation strength, in units of the calibrated one of this subspace.
        images: images that each child is evaluated on, in units of the task's.
        members: how many are kept, and vote.
    """

    combine: ClassVar[str] = "probabilities"

    def __init__(self, task: Task, subspace: Subspace, sigma: float, images: float, members: int) -> None:
        self._evaluator = task.minibatch(0, max(1, round(images * task.images)))
        self._task, self._members = task, members
        self._children = max(1, task.generation // self._evaluator.samples)
        self._subspace, self._sigma = subspace, sigma * task.strength(subspace).sigma
        self._steps = 0
        self._best: list[tuple[Mutation, float]] = []

    @property
    def cost(self) -> int:
        """See the base class."""
        return self._children * self._evaluator.samples

    @property
    def work(self) -> Work:
        """See the base class."""
        return self._evaluator.work

    def step(self) -> None:
        """See the base class."""
        children = sample_mutations(
            self._task.key,
            self._children,
            subspace=self._subspace,
            sigma=self._sigma,
            generation=self._steps,
        )
        fitness = self._evaluator.evaluate(children).fitness.tolist()
        everyone = [*self._best, *zip(children, fitness, strict=True)]
        order = rank([own for _, own in everyone], self._evaluator.fitness.sense)
        self._best = [everyone[number] for number in order[: self._members]]
        self._steps += 1

    def predict(self, data: Samples) -> Tensor:
        """See the base class; before the first step it is the parent's."""
        members: list[Child] = [child for child, _ in self._best] or [Lineage()]
        return voted(self._task.parent.on(data), members, self.combine)


class Smd(OneGeneration):
    """Sparse Mutation Decomposition: one generation, the best child."""

    about = "one generation of sparse mutations, the best child (arXiv 2302.05832)"
    grid: ClassVar[Sequence[Settings]] = (
        {"density": 0.1, "sigma": 1.0, "images": 3},
        {"density": 0.01, "sigma": 1.0, "images": 3},
        {"density": 0.1, "sigma": 0.5, "images": 3},
        {"density": 0.1, "sigma": 1.0, "images": 1},
    )

    def __init__(self, task: Task, density: float, sigma: float, images: float, members: int = 1) -> None:
        super().__init__(task, RandomSubspace(density), sigma, images, members)


class SmdEnsemble(Smd):
    """The same, of which several children vote."""

    about = "one generation of sparse mutations, mean probabilities of the best children (arXiv 2302.05832)"
    grid: ClassVar[Sequence[Settings]] = (
        {"density": 0.1, "sigma": 1.0, "images": 1, "members": 10},
        {"density": 0.1, "sigma": 2.0, "images": 1, "members": 10},
        {"density": 0.01, "sigma": 2.0, "images": 1, "members": 10},
        {"density": 0.1, "sigma": 2.0, "images": 1, "members": 20},
    )


class RandOpt(OneGeneration):
    """Dense perturbations of the parent; the best ones take a majority vote."""

    about = "one generation of dense mutations, majority vote of the best children (RandOpt, arXiv 2603.12228)"
    combine = "majority"
    grid: ClassVar[Sequence[Settings]] = (
        {"sigma": 1.0, "images": 1, "members": 10},
        {"sigma": 2.0, "images": 1, "members": 10},
        {"sigma": 0.5, "images": 1, "members": 10},
        {"sigma": 2.0, "images": 1, "members": 20},
    )

    def __init__(self, task: Task, sigma: float, images: float, members: int) -> None:
        super().__init__(task, Dense(), sigma, images, members)
