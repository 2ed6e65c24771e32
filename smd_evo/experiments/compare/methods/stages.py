"""An evolution strategy that moves more and more of the network: SubspaceES in stages."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import ClassVar

from torch import Tensor

from smd_evo.core.subspace import Dense, Subspace
from smd_evo.core.within import Within, shortest_names
from smd_evo.experiments.compare.methods.base import SearcherMethod, Settings, Task, alone
from smd_evo.integrations.evotorch.finetune import FinetuneProblem
from smd_evo.integrations.evotorch.staged import Staged
from smd_evo.integrations.evotorch.strategies import SubspaceES
from smd_evo.zoo.data import Samples

__all__ = ["StagedES"]

_NAME = "staged-es"


class StagedES(SearcherMethod):
    """OpenAI-ES on the last layer, then on normalisations and biases, then on everything.

    Args:
        task: the task.
        head, vectors: shares of the budget of the first two stages.
        sigma: mutation strength, in units of the calibrated one of each stage's subspace.
        rate: Adam's step size, in units of that strength's norm per coordinate.
    """

    about = "OpenAI-ES on the last layer, then norms and biases, then everything (Staged)"
    grid: ClassVar[Sequence[Settings]] = (
        {"head": 0.2, "vectors": 0.3, "sigma": 1.0, "rate": 0.2},
        {"head": 0.2, "vectors": 0.3, "sigma": 1.0, "rate": 0.4},
        {"head": 0.4, "vectors": 0.4, "sigma": 1.0, "rate": 0.2},
        {"head": 0.2, "vectors": 0.3, "sigma": 0.5, "rate": 0.2},
    )

    def __init__(self, task: Task, head: float, vectors: float, sigma: float, rate: float) -> None:
        super().__init__(task)
        names = task.space.names
        parts = (task.head(_NAME).names, task.vectors(_NAME).names)
        rules: list[Subspace] = [*(Within(shortest_names(part, names), Dense()) for part in parts), Dense()]
        total = task.budget // task.generation
        generations = [max(1, round(share * total)) for share in (head, vectors, 1 - head - vectors)]
        self.problem = FinetuneProblem(task.space, task.data, task.fitness, **task.host)
        self.searcher = Staged(
            self.problem,
            [
                (count, partial(_searcher, task=task, rule=rule, sigma=sigma, rate=rate))
                for count, rule in zip(generations, rules, strict=True)
            ],
        )

    def predict(self, data: Samples) -> Tensor:
        """See the base class."""
        return alone(self.problem.evaluator, data)


def _searcher(problem: FinetuneProblem, task: Task, rule: Subspace, sigma: float, rate: float) -> SubspaceES:
    strength = task.strength(rule)
    return SubspaceES(
        problem,
        popsize=task.children,
        subspace=rule,
        sigma=sigma * strength.sigma,
        center_learning_rate=rate * strength.norm,
    )
