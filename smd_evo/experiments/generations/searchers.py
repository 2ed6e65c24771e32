"""The searchers of a run over generations, one a stage, and the mutation strength of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from smd_evo.core.parameters import ParameterSpace
from smd_evo.core.subspace import Subspace
from smd_evo.evaluation.calibration import Calibration, calibrate_sigma
from smd_evo.evaluation.evaluator import Evaluator
from smd_evo.evaluation.response import Response, calibrate_response
from smd_evo.experiments.calibration import on_few
from smd_evo.experiments.generations.counts import calibration_effort
from smd_evo.experiments.generations.settings import EvolutionConfig
from smd_evo.experiments.progress import Progress
from smd_evo.experiments.rules import in_short, mean_density, rules_of
from smd_evo.experiments.subspaces import stages_of

if TYPE_CHECKING:  # EvoTorch takes seconds to load: not before all settings have proved right
    from smd_evo.integrations.evotorch.finetune import FinetuneProblem
    from smd_evo.integrations.evotorch.searcher import NetworkSearcher
    from smd_evo.integrations.evotorch.staged import Staged

__all__ = ["Stages"]

_RATE = 0.2
"""Step size in units of the calibrated mutation's norm: the first of `smd-evo compare`'s settings."""


class Stages:
    """The stages of a run: their rules, where they meet the network.

    Args:
        config: the settings.
        space: the pre-trained parent.

    Raises:
        InvalidValue, InvalidType: the network has nothing that a stage names, or is too small for it.
    """

    def __init__(self, config: EvolutionConfig, space: ParameterSpace) -> None:
        self._config, self._space = config, space
        stages = stages_of(config.subspace)
        self._begins = [begin for begin, _ in stages]
        self._rules = [rules_of(subspace, (config.density,), space)[0] for _, subspace in stages]
        for rule in self._rules:
            rule.coordinates(rule.draw(0), space.layout)

    def calibrate(self, evaluator: Evaluator, progress: Progress) -> tuple[list[float], int]:
        """The sigma of each stage, all around the pre-trained parent, and how many images that took.

        Args:
            evaluator: of that parent on the fitness split.
            progress: told of each evaluated child.
        """
        if self._config.sigma:
            return [self._config.sigma] * len(self._rules), 0
        few = on_few(evaluator)
        found = [self._calibrated(few, rule, progress) for rule in self._rules]
        return [each.sigma for each in found], max(1, few.samples) * sum(each.evaluations for each in found)

    def searcher(self, problem: FinetuneProblem, sigmas: Sequence[float]) -> NetworkSearcher | Staged:
        """The searcher of the only stage, or one that has all of them."""
        from smd_evo.integrations.evotorch.staged import Staged

        makes: list[Callable[[FinetuneProblem], NetworkSearcher]] = [
            partial(self._make, rule, sigma) for rule, sigma in zip(self._rules, sigmas, strict=True)
        ]
        if len(makes) == 1:
            return makes[0](problem)
        counts = [after - before for before, after in pairwise((*self._begins, self._begins[-1] + 1))]
        return Staged(problem, zip(counts, makes, strict=True))

    def _calibrated(self, few: Evaluator, rule: Subspace, progress: Progress) -> Calibration | Response:
        config = self._config
        progress.start(f"calibrating sigma, {in_short(rule)}", None)
        if config.searcher == "newton":
            return calibrate_response(few, rule, key=config.seed)
        effort = asdict(calibration_effort(config))
        return calibrate_sigma(few, rule, config.keep, key=config.seed, progress=progress.advance, **effort)

    def _make(self, rule: Subspace, sigma: float, problem: FinetuneProblem) -> NetworkSearcher:
        from smd_evo.integrations.evotorch.evolution import SubspaceEvolution
        from smd_evo.integrations.evotorch.newton import SubspaceNewton
        from smd_evo.integrations.evotorch.strategies import SubspaceES

        config = self._config
        common: dict[str, Any] = {"popsize": config.children, "subspace": rule, "sigma": sigma}
        if config.searcher == "selection":
            return SubspaceEvolution(problem, adapt_sigma=config.adapt_sigma, **common)
        if config.searcher == "newton":
            return SubspaceNewton(problem, ridge=config.ridge, calibrated=config.calibrated, **common)
        norm = sigma * mean_density(rule, self._space.layout) ** 0.5
        return SubspaceES(problem, center_learning_rate=config.learning_rate or _RATE * norm, **common)
