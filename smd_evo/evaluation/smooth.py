"""Losses with slopes: which one stands for a fitness where its derivatives by the outputs are asked for."""

from __future__ import annotations

from torch import Tensor

from smd_evo.core.newton import CrossEntropy, Differentiable, Loss
from smd_evo.errors import InvalidValue
from smd_evo.evaluation.evaluator import Evaluator
from smd_evo.evaluation.fitness import CROSS_ENTROPY, BatchFitness, Fitness, ModuleFitness

__all__ = ["loss_of", "smooth"]


def smooth(fitness: Fitness) -> BatchFitness:
    """A fitness's surrogate, or itself where it is a score of each sample.

    Raises:
        InvalidValue: it has no surrogate and is no such score.

    Example:
        >>> from smd_evo.evaluation.fitness import ACCURACY
        >>> smooth(ACCURACY).name, smooth(CROSS_ENTROPY).name
        ('cross_entropy', 'cross_entropy')
    """
    found = None if isinstance(fitness, ModuleFitness) else fitness.surrogate
    if found is None and isinstance(fitness, BatchFitness):
        found = fitness
    if found is None:
        raise _refusal(fitness)
    return found


def loss_of(evaluator: Evaluator) -> Loss:
    """What stands for an evaluator's fitness, to be minimised, of its samples.

    Raises:
        InvalidValue: see :func:`smooth`; or its score does not depend on the outputs by a slope.
    """
    fitness, targets = smooth(evaluator.fitness), evaluator.targets()
    if fitness == CROSS_ENTROPY:  # not "is": pickles make another one
        return CrossEntropy(targets)
    sign = 1 if fitness.sense == "min" else -1

    def score(outputs: Tensor, own: Tensor) -> Tensor:
        found = sign * fitness.per_sample(outputs, own, len(outputs))
        if outputs.requires_grad and not found.requires_grad:
            raise _refusal(fitness)
        return found

    return Differentiable(score, targets)


def _refusal(fitness: Fitness) -> InvalidValue:
    return InvalidValue(
        f"fitness: expected a smooth loss of the outputs, or one with a surrogate, got {fitness.name!r}; use "
        "SubspaceES, which needs ranks alone, or BatchFitness(..., surrogate=...)"
    )
