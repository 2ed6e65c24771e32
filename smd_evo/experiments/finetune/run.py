"""Single-generation fine-tuning, with dense controls: sample children, keep the best, let the best vote.

All arms choose alike. The sparse arm has one group of children for each density; each dense arm has as many
groups of as many children, of other strengths: the sparse ones' sigma (matched sigma), their sigma times the square
root of their density (matched norm), and strengths calibrated for dense mutations themselves. Arms of other
subspaces have strengths of their own. In each arm the fitness split ranks, the validation split chooses the group,
the best child and the ensemble's members, and the test split is read once, when all choices are made. Beside the arms
stands what is nearly free (:mod:`smd_evo.experiments.free`), fitted to the fitness split.

Reference: Whitaker & Whitley, arXiv 2302.05832; the controls at matched norm and the splits are ours.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace

from smd_evo.core.mutation import Lineage, Mutation
from smd_evo.ensemble.selection import Selection, select_from, stored
from smd_evo.evaluation.evaluator import Evaluation, Evaluator
from smd_evo.evaluation.fitness import OutputFitness, best_of
from smd_evo.evaluation.race import race_rounds, raced
from smd_evo.evaluation.work import Work
from smd_evo.experiments.chance import remark
from smd_evo.experiments.finetune.arms import Strength, plan_arms
from smd_evo.experiments.finetune.counts import finetune_workload
from smd_evo.experiments.finetune.free import Chosen, choose_free
from smd_evo.experiments.finetune.report import report_on
from smd_evo.experiments.finetune.results import RACED, UNRACED, Arm, FinetuneResult, Group
from smd_evo.experiments.finetune.settings import FinetuneConfig
from smd_evo.experiments.parent import NAMED, Source, check_of_outputs, in_precision
from smd_evo.experiments.progress import Logged, Progress
from smd_evo.experiments.scores import pooling
from smd_evo.experiments.shortlists import SPARSE
from smd_evo.experiments.speed import timed
from smd_evo.zoo.data import Data

__all__ = ["finetune", "ranker_of"]

_BEST_OF = 10


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
    check_of_outputs(ranker.fitness)
    if config.race:
        raced(ranker.fitness)
    sizes = {name: len(numbers) for name, numbers in data.indices.items()}  # of other data, too
    progress.expect(timed(finetune_workload(config, sizes), ranker))
    judge = ranker.on(data.validation)
    before, outputs = ranker.observe([Lineage()])
    if told := remark(outputs[0], ranker.targets()):
        warnings.warn(told, stacklevel=2)
    plans, calibrations = plan_arms(config, ranker, progress)
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
    test = report_on(data.test, arms, free, ranker, config.seed)
    also = report_on(data.also, arms, free, ranker, config.seed).rows if data.also is not None else []
    return FinetuneResult(
        config=config,
        data=data,
        space=ranker.space,
        parent_fitness=float(before.fitness[0]),
        sense=ranker.fitness.sense,
        arms=arms,
        rows=test.rows,
        right=test.right,
        also=also,
        against=test.against,
        free={each.name: each.cost() for each in free},
        left_out=left_out,
        best_free=free[0].control if free else None,
        evaluations={
            **calibrations,
            "children of each arm": config.children * len(plans[SPARSE]),
            **_raced(config, len(plans[SPARSE]), ranker.samples),
            **{
                f"children of {name}": config.children * len(plan)
                for name, plan in plans.items()
                if len(plan) != len(plans[SPARSE])
            },
            "forward passes of an image, children and parent": round(work.forwards),
        },
    )


def _raced(config: FinetuneConfig, groups: int, samples: int) -> dict[str, int]:
    """Image evaluations of an arm's children, where they were fewer than all."""
    if not config.race:
        return {}
    seen = sum(count * images for count, images in race_rounds(config.children, samples))
    return {RACED: groups * seen, UNRACED: groups * config.children * samples}


def _lean(group: Group, chosen: bool) -> Group:
    """A group that was not chosen needs its outputs no more: for a thousand classes, hundreds of megabytes."""
    return group if chosen else replace(group, logits=group.logits.new_empty(0, *group.logits.shape[1:]))


def ranker_of(config: FinetuneConfig, progress: Progress, source: Source = NAMED) -> tuple[Data, Evaluator]:
    """The data, and the parent on the fitness split."""
    fitness = source.fitness(config.fitness)
    parent, data = source.parent(config, progress)
    return data, Evaluator(parent, data.fitness, fitness, select=config.select, batch_size=config.batch_size)


def _group_runner(
    config: FinetuneConfig, data: Data, ranker: Evaluator, judge: Evaluator, progress: Progress
) -> tuple[Callable[[Strength], Group], Work]:
    """A function that runs a group: one generation of the searcher, then choices on validation; and their work."""
    # EvoTorch takes seconds to load: not before all settings have proved right.
    from smd_evo.integrations.evotorch.evolution import SubspaceEvolution
    from smd_evo.integrations.evotorch.finetune import FinetuneProblem

    problem = FinetuneProblem(
        ranker.space, data.fitness, ranker.fitness, batch_size=config.batch_size, seed=config.seed
    )
    problem.evaluate(problem.generate_batch(1))
    problem.progress = progress.advance

    def run(strength: Strength) -> Group:
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
        return _judged(strength, recipes, result, judge, config.shortlist, config.ensembles)

    return run, problem.work


def _judged(
    strength: Strength,
    recipes: list[Mutation],
    result: Evaluation,
    judge: Evaluator,
    shortlist: int,
    ensembles: Sequence[str] = (),
) -> Group:
    logits = judge.predict([recipes[number] for number in result.ranking()[:shortlist]])
    fitness, targets = judge.fitness, judge.targets()
    assert isinstance(fitness, OutputFitness)
    alone = [fitness.of(own, targets) for own in logits[:_BEST_OF]]
    best = best_of(alone, fitness.sense)

    def chosen(method: str) -> Selection:
        return select_from(
            stored(logits),
            len(logits),
            targets,
            fitness,
            ranking=range(len(logits)),
            method=method,
            combine=pooling(logits[0], targets),
        )

    return Group(
        strength.subspace,
        strength.sigma,
        strength.density,
        recipes,
        result,
        logits,
        best,
        ensemble=chosen("top_k"),
        others={method: chosen(method) for method in ensembles if method != "soup"},
        mixed="soup" in ensembles,
    )


def _free(
    config: FinetuneConfig, ranker: Evaluator, judge: Evaluator, data: Data
) -> tuple[list[Chosen], dict[str, str]]:
    """What is nearly free, the best on validation first, and what is left out of it."""
    if not config.controls:
        return [], {}
    free, left_out = choose_free(ranker, judge, data, config.shortlist)
    if not free:
        return [], left_out
    best = free[best_of([each.validation for each in free], judge.fitness.sense)]
    return [best, *(each for each in free if each is not best)], left_out
