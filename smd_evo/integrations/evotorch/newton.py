"""SubspaceNewton, a searcher that solves for the best mixture of its children by their outputs."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from evotorch import SolutionBatch
from torch import Tensor

from smd_evo.core.gradient import mixture
from smd_evo.core.newton import Loss, calibrations, solve_weights, unit_directions
from smd_evo.core.subspace import Subspace
from smd_evo.errors import InvalidValue, check_flag, check_number
from smd_evo.evaluation.fitness import CROSS_ENTROPY
from smd_evo.evaluation.response import Response, calibrate_response
from smd_evo.evaluation.smooth import loss_of, smooth
from smd_evo.integrations.evotorch.finetune import FinetuneProblem
from smd_evo.integrations.evotorch.replica import GenerationStep, Replica
from smd_evo.integrations.evotorch.searcher import NetworkSearcher
from smd_evo.integrations.evotorch.solutions import labels_of, rows_of
from smd_evo.integrations.rules import subspace_of
from smd_evo.integrations.words import SEARCHER_WORDS
from smd_evo.mends import not_here

__all__ = ["MixtureStep", "SubspaceNewton"]

_MANY = 50
"""Newton steps, of which most solutions need ten."""


class MixtureStep(GenerationStep):
    """The parent moves by a weighted sum of one generation's mutations."""

    def apply(self, replica: Replica) -> None:
        """Make the children's noise again, and move the parent."""
        space = replica.space
        space.fold(mixture(self.mutations(), self.weights, space.layout, device=space.device))


class SubspaceNewton(NetworkSearcher):
    """Newton's method in the subspace that a generation's mutations span, by forward passes alone.

    A child's outputs tell more than its fitness: ``J_i = (Z_i - Z) / r_i`` is a directional derivative of all outputs
    on the minibatch, r_i its root mean square. Each generation solves::

        min over a in R^N of  mean loss(Z + sum_i a_i J_i) + ridge / 2 |a|^2

    by backtracked Newton steps, and moves the problem's parent by ``sum_i a_i / r_i * delta_i``. In the last layer,
    where a network is linear, that is exact; elsewhere it is Gauss-Newton. The loss is the fitness itself, if it is a
    smooth score of each sample, or its surrogate: cross-entropy for accuracy, balanced accuracy and macro F1.
    ``problem.make_net()`` is the present parent; ``status["parent_eval"]`` the fitness of the one before the step.

    Differences are one-sided: pairs cost half of the directions, and at changes of 5 % networks are linear enough.
    Beside these autocast to bfloat16, whose outputs are off by 0.2 %, does little harm; with a much smaller sigma it
    would.

    Args:
        problem: a FinetuneProblem, without actors.
        popsize: N, directions of a generation; the parent is evaluated besides.
        density: share of the coordinates that a mutation touches, in (0, 1]. Give this or ``subspace``.
        subspace: another rule of the coordinates.
        static: with ``density``: one subspace for the whole run; only its coordinates ever move.
        ridge: weight of the squares beside the mean loss: the larger, the shorter the step. Few images want much.
        sigma: mutation strength; "auto" finds, by at most 17 evaluations at the first generation, that at which
            outputs change by 5 % of their size.
        scale: "relative" searches in units of each tensor's standard deviation.
        calibrated: whether a temperature and a bias for each class are solved for beside the weights, and then left
            out: children need not do what calibrating the outputs afterwards does for nothing. Of classifiers only.

    Raises:
        InvalidValue, InvalidType: the above does not hold, or the fitness has no slopes.

    Example:
        >>> from torch import nn
        >>> problem = FinetuneProblem(nn.Linear(4, 4), (torch.eye(4), torch.arange(4)), seed=1)
        >>> searcher = SubspaceNewton(problem, popsize=20, density=1.0, ridge=0.01)
        >>> searcher.run(3)
        >>> network = problem.make_net()
        >>> network(torch.eye(4)).argmax(1).tolist()
        [0, 1, 2, 3]

    References: Gower et al., "RSN: Randomized Subspace Newton", arXiv 1905.10874, algorithm 1; Schraudolph, Neural
    Computation 14, 2002 (Gauss-Newton). Mixing children so is ours: a soup (Wortsman et al., arXiv 2203.05482) whose
    weights are solved for.
    """

    @not_here(**SEARCHER_WORDS)
    def __init__(
        self,
        problem: FinetuneProblem,
        *,
        popsize: int,
        density: float | None = None,
        subspace: Subspace | None = None,
        static: bool = False,
        ridge: float = 0.3,
        sigma: float | str = "auto",
        scale: str = "absolute",
        calibrated: bool = False,
    ) -> None:
        rule = subspace_of(density, subspace, static)
        super().__init__(problem, popsize=popsize, sigma=sigma, subspace=rule, scale=scale)
        self._ridge = check_number("ridge", ridge, low=0, mend="try 0.3")
        self._calibrates = check_flag("calibrated", calibrated)
        if smooth(problem.fitness) != CROSS_ENTROPY and self._calibrates:
            raise InvalidValue(
                f"calibrated: expected a classifier's fitness, got {problem.fitness.name!r}; leave it out"
            )
        self._told = False
        self.add_status_getters({"center": self._get_center})

    def _calibrated(self) -> Response:
        return calibrate_response(self.problem.evaluator, self._subspace, key=self._key, scale=self._scale)

    def _solutions(self) -> SolutionBatch:
        raise InvalidValue(
            "ask: expected a searcher by fitness, got SubspaceNewton, which needs its children's outputs; use step()"
        )

    def _learn(self, solutions: SolutionBatch, parent_eval: float | None) -> None:
        raise NotImplementedError

    def _step(self) -> None:
        problem = self.problem
        self._take_seed()
        evaluator = problem.evaluator  # of the samples that the population is evaluated on
        with problem.observing() as outputs:
            self._population = self._mutated(problem.generate_batch(self._popsize))
            problem.evaluate(self._population)
        parent_eval = problem.status["parent_eval"]
        step = self._mixed(outputs, loss_of(evaluator))
        if step is not None:
            problem.change(step)
        if self._units is not None:  # after what takes time: an interrupted generation has taught nothing
            self._units.learn(self._population, parent_eval)

    def _mixed(self, outputs: Mapping[bytes, Tensor], loss: Loss) -> MixtureStep | None:
        """The best step by the outputs of the population, by their labels; None where nothing is better."""
        parent = outputs[b""]
        children = torch.stack([outputs[label] for label in labels_of(rows_of(self._population))])
        directions, lengths = unit_directions(parent, children)
        if not bool(lengths.any()):
            self._say("no child has finite outputs other than the parent's")
            return None
        weights = self._solved(parent, directions, loss)
        if weights is None:
            self._say("no mixture of the children is better than the parent")
            return None
        return MixtureStep(
            key=self._key,
            generation=self.step_count,
            weights=(weights / lengths).where(lengths > 0, 0),
            subspace=self._subspace,
            sigma=self.sigma,
            scale=self._scale,
            units=None if self._units is None else self._units.drawn,
        )

    def _solved(self, parent: Tensor, directions: Tensor, loss: Loss) -> Tensor | None:
        """The weights, float64 [N]; None where nothing is better than the parent."""
        if not self._calibrates:
            solved = solve_weights(parent, directions, loss, self._ridge)
            return solved.weights if solved.after < solved.before else None
        if parent.dim() != 2:
            raise InvalidValue(f"calibrated: expected outputs [n, classes], got {list(parent.shape)}; leave it out")
        free = calibrations(parent)
        # To its end, and first, or a calibration that is only begun would count as the children's.
        alone = solve_weights(parent, free, loss, self._ridge, steps=_MANY)
        there = parent.double() + torch.tensordot(alone.weights, free.double(), 1)
        solved = solve_weights(there, torch.cat([directions, free]), loss, self._ridge)
        return solved.weights[: len(directions)] if solved.after < solved.before else None

    def _say(self, reason: str) -> None:
        """Say once that the parent stays where it is."""
        if not self._told:
            self._told = True
            warnings.warn(
                f"the parent did not move in generation {self.step_count + 1}: {reason}; give a larger "
                "minibatch_size, more children or another sigma",
                RuntimeWarning,
                stacklevel=3,
            )
