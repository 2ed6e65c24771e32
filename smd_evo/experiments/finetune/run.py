"""Single-generation fine-tuning, with dense controls: sample children, keep the best, let the best vote.

Four arms get the same number of children and the same choices. The sparse arm has one group of children for
each density; each dense control has as many groups, of other strengths: the sparse ones' sigma (matched
sigma), their sigma times the square root of their density (matched norm), and strengths calibrated for dense
mutations themselves. In each arm the fitness split ranks, the validation split chooses the group, the best
child and the ensemble's size, and the test split is read once, when all choices are made. Beside the arms stands what
is nearly free (:mod:`smd_evo.experiments.free`), fitted to the fitness split.

Reference: Whitaker & Whitley, arXiv 2302.05832; the controls at matched norm and the splits are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace

from torch import Tensor

from smd_evo.core.mutation import Lineage, Mutation
from smd_evo.core.subspace import Dense, Subspace
from smd_evo.ensemble.combine import combined
from smd_evo.ensemble.selection import select_from, stored
from smd_evo.errors import InvalidType
from smd_evo.evaluation.calibration import calibrate_sigma
from smd_evo.evaluation.evaluator import Evaluation, Evaluator
from smd_evo.evaluation.fitness import BatchFitness, ModuleFitness, TotalFitness, best_of
from smd_evo.evaluation.race import race_rounds
from smd_evo.evaluation.work import Work
from smd_evo.experiments.calibration import on_few
from smd_evo.experiments.finetune.counts import calibrations, finetune_workload
from smd_evo.experiments.finetune.free import Chosen, choose_free
from smd_evo.experiments.finetune.results import NEARLY_FREE, RACED, SHORTLIST, UNRACED, Arm, FinetuneResult, Group
from smd_evo.experiments.finetune.settings import FinetuneConfig
from smd_evo.experiments.parent import NAMED, Source, in_precision
from smd_evo.experiments.progress import Logged, Progress
from smd_evo.experiments.rules import mean_density, rules_of
from smd_evo.experiments.scores import Row, against, of_classes, pooling, table_row
from smd_evo.experiments.shortlists import SPARSE
from smd_evo.experiments.speed import timed
from smd_evo.experiments.tables import BEST_FREE
from smd_evo.statistics.tests import Estimate
from smd_evo.zoo.data import Data

__all__ = ["finetune", "ranker_of"]

_BEST_OF = 10


@dataclass(frozen=True)
class _Strength:
    """How one group mutates."""

    subspace: Subspace
    density: float
    sigma: float


def finetune(config: FinetuneConfig, progress: Progress | None = None, source: Source = NAMED) -> FinetuneResult:
    """Run the experiment.

    Args:
        config: the settings.
        progress: told of each evaluated child; by default :mod:`logging` is.
        source: of the parent, the data and the fitness; by default the settings name them.

    Raises:
        InvalidValue, InvalidType, UnsupportedParameter: settings that the network or the data cannot have.
    """
    progress = progress or Logged()
    with in_precision(config):
        return _finetuned(config, progress, source)


def _finetuned(config: FinetuneConfig, progress: Progress, source: Source) -> FinetuneResult:
    data, ranker = ranker_of(config, progress, source)
    if isinstance(ranker.fitness, ModuleFitness):
        raise InvalidType(
            f"fitness: expected one of outputs for samples, got {ranker.fitness.name}, a function of the network; "
            "a BatchFitness is, and runs over generations take any"
        )
    progress.expect(timed(finetune_workload(config, data.sizes), ranker))
    judge = ranker.on(data.validation)
    plans, calibrations = _plan(config, ranker, progress)
    progress.start("children", config.children * sum(map(len, plans.values())))
    run_group, work = _group_runner(config, data, ranker, judge, progress)
    arms = []
    for name, plan in plans.items():
        groups = [run_group(strength) for strength in plan]
        choice = best_of([group.ensemble.fitness for group in groups], ranker.fitness.sense)
        arms.append(Arm(name, [_lean(group, number == choice) for number, group in enumerate(groups)], choice))
    progress.start("what is free", None)
    free, left_out = _free(config, ranker, judge, data)
    progress.start("test", None)
    rows, against = _report(arms, free, ranker, data, config.seed)
    return FinetuneResult(
        config=config,
        data=data,
        space=ranker.space,
        parent_fitness=float(ranker.evaluate([Lineage()]).fitness[0]),
        sense=ranker.fitness.sense,
        arms=arms,
        rows=rows,
        against=against,
        free={each.name: each.cost() for each in free},
        left_out=left_out,
        evaluations={
            "calibration, sparse": calibrations[0],
            "calibration, dense": calibrations[1],
            "children of each arm": config.children * len(plans[SPARSE]),
            **_raced(config, len(plans[SPARSE]), ranker.samples),
            "forward passes of an image, children and parent": round(work.forwards),
        },
    )


def _raced(config: FinetuneConfig, groups: int, samples: int) -> dict[str, int]:
    """Image evaluations of an arm's children, where they were fewer than all."""
    if not config.race:
        return {}
    raced = sum(count * images for count, images in race_rounds(config.children, samples))
    return {RACED: groups * raced, UNRACED: groups * config.children * samples}


def _lean(group: Group, chosen: bool) -> Group:
    """A group that was not chosen needs its outputs no more: for a thousand classes, hundreds of megabytes."""
    return group if chosen else replace(group, logits=group.logits.new_empty(0, *group.logits.shape[1:]))


def ranker_of(config: FinetuneConfig, progress: Progress, source: Source = NAMED) -> tuple[Data, Evaluator]:
    """The data, and the parent on the fitness split."""
    fitness = source.fitness(config.fitness)
    parent, data = source.parent(config, progress)
    return data, Evaluator(parent, data.fitness, fitness, select=config.select, batch_size=config.batch_size)


def _plan(
    config: FinetuneConfig, ranker: Evaluator, progress: Progress
) -> tuple[dict[str, list[_Strength]], tuple[int, int]]:
    """How the groups of each arm mutate, and what finding the sigmas cost, sparse and dense."""
    costs, (_, effort) = [0, 0], calibrations(config)
    few = on_few(ranker)

    def calibrated(subspace: Subspace, keep: float, dense: bool) -> float:
        progress.start(f"calibrating sigma, {subspace.spec}", None)
        found = calibrate_sigma(few, subspace, keep, key=config.seed, progress=progress.advance, **asdict(effort))
        costs[dense] += found.evaluations
        return found.sigma

    def dense(sigmas: Iterable[float]) -> list[_Strength]:
        return [_Strength(Dense(), 1.0, sigma) for sigma in sigmas]

    sparse = []
    for rule in rules_of(config.subspace, config.density, ranker.space):
        density = mean_density(rule, ranker.space.layout, config.seed)
        sparse.append(_Strength(rule, density, config.sigma or calibrated(rule, config.keep, dense=False)))
    if not config.controls:
        return {SPARSE: sparse}, (costs[0], 0)
    # As many strengths for dense mutations as the sparse ones have densities, around the same kept share.
    exponents = [2.0 ** (number - (len(sparse) - 1) / 2) for number in range(len(sparse))]
    plans = {
        SPARSE: sparse,
        "dense, matched sigma": dense(group.sigma for group in sparse),
        "dense, matched norm": dense(group.sigma * group.density**0.5 for group in sparse),
        "dense, own sigma": dense(calibrated(Dense(), config.keep**exponent, dense=True) for exponent in exponents),
    }
    return plans, (costs[0], costs[1])


def _group_runner(
    config: FinetuneConfig, data: Data, ranker: Evaluator, judge: Evaluator, progress: Progress
) -> tuple[Callable[[_Strength], Group], Work]:
    """A function that runs a group: one generation of the searcher, then choices on validation; and their work."""
    # EvoTorch takes seconds to load: not before all settings have proved right.
    from smd_evo.integrations.evotorch.evolution import SubspaceEvolution
    from smd_evo.integrations.evotorch.finetune import FinetuneProblem

    problem = FinetuneProblem(
        ranker.space, data.fitness, ranker.fitness, batch_size=config.batch_size, seed=config.seed
    )
    problem.evaluate(problem.generate_batch(1))
    problem.progress = progress.advance

    def run(strength: _Strength) -> Group:
        searcher = SubspaceEvolution(
            problem,
            popsize=config.children,
            subspace=strength.subspace,
            sigma=strength.sigma,
            num_elites=0,
            race=config.race,
        )
        searcher.run(1)
        fitness = searcher.population.access_evals(0).cpu()
        result = Evaluation(fitness, problem.objective_sense, searcher.status["nonfinite"])
        recipes = [lineage.steps[0] for lineage in problem.lineages(searcher.population)]
        return _judged(strength, recipes, result, judge)

    return run, problem.work


def _judged(strength: _Strength, recipes: list[Mutation], result: Evaluation, judge: Evaluator) -> Group:
    logits = judge.predict([recipes[number] for number in result.ranking()[:SHORTLIST]])
    fitness, targets = judge.fitness, judge.targets()
    assert isinstance(fitness, BatchFitness | TotalFitness)
    alone = [fitness.of(own, targets) for own in logits[:_BEST_OF]]
    best = best_of(alone, fitness.sense)
    ensemble = select_from(
        stored(logits),
        len(logits),
        targets,
        fitness,
        ranking=range(len(logits)),
        method="top_k",
        combine=pooling(logits[0], targets),
    )
    return Group(strength.subspace, strength.sigma, strength.density, recipes, result, logits, best, ensemble)


def _free(
    config: FinetuneConfig, ranker: Evaluator, judge: Evaluator, data: Data
) -> tuple[list[Chosen], dict[str, str]]:
    """What is nearly free, the best on validation first, and what is left out of it."""
    if not config.controls:
        return [], {}
    free, left_out = choose_free(ranker, judge, data)
    if not free:
        return [], left_out
    best = free[best_of([each.validation for each in free], judge.fitness.sense)]
    return [best, *(each for each in free if each is not best)], left_out


def _report(
    arms: list[Arm], free: list[Chosen], ranker: Evaluator, data: Data, seed: int
) -> tuple[list[Row], dict[str, tuple[Estimate, float]]]:
    """Read the test split: the only place that does."""
    test = ranker.on(data.test)
    targets, fitness = test.targets(), test.fitness
    assert isinstance(fitness, BatchFitness | TotalFitness)
    before = test.predict([Lineage()])[0]
    rows, pool = [table_row("parent", "parent", 1, before, None, targets, fitness)], pooling(before, targets)
    ensembles: dict[str, Tensor] = {}
    for arm in arms:
        for candidate, members in arm.group.chosen().items():
            after = combined(test.outputs(members), None, pool)
            strength = {"density": arm.group.density, "sigma": arm.group.sigma}
            rows.append(
                table_row(arm.name, candidate, len(members), after, before, targets, fitness, seed, **strength)
            )
            if candidate == "ensemble":
                ensembles[arm.name] = after
    for each in free:
        after = each.control.predict(ranker, data.test)
        rows.append(table_row(NEARLY_FREE, each.name, each.control.passes, after, before, targets, fitness, seed))
        if each is free[0]:
            ensembles[BEST_FREE] = after
    sparse = ensembles.pop(SPARSE)
    if not of_classes(before, targets):
        return rows, {}
    return rows, {name: against(sparse, other, targets, seed) for name, other in ensembles.items()}
