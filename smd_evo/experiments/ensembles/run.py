"""Ensembles of a run's shortlisted children, beside what else their compute or their storage buys.

Each arm (sparse, and the dense controls at matched sigma, matched norm and sigmas of their own) chooses its ensemble
in the same way, on validation, from predictions that the run has stored. Beside it stand the arm's best child, the
soup of the ensemble's members, which costs one forward pass, and the parent's votes for as many views of each
image as the sparse ensemble has members. The test split is read once, when all that is chosen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from smd_evo.core.mutation import Lineage
from smd_evo.core.parameters import ParameterSpace
from smd_evo.ensemble.combine import combined
from smd_evo.ensemble.metrics import finite_logits
from smd_evo.ensemble.module import SparseEnsemble
from smd_evo.ensemble.selection import Selection, select_from, stored
from smd_evo.ensemble.soup import soup
from smd_evo.errors import InvalidValue, WrongParent, check_count
from smd_evo.evaluation.evaluator import Evaluator
from smd_evo.evaluation.fitness import OutputFitness, best_of
from smd_evo.experiments.ensembles.counts import ensemble_workload
from smd_evo.experiments.finetune.settings import FinetuneConfig
from smd_evo.experiments.parent import find_fitness, in_precision, load_parent
from smd_evo.experiments.progress import Logged, Progress
from smd_evo.experiments.scores import Curve, Diversity, Score, against, curve, diversity, of_classes, score
from smd_evo.experiments.shortlists import SPARSE, Shortlist
from smd_evo.experiments.speed import timed
from smd_evo.experiments.views import are_images, changes, voted_views
from smd_evo.statistics.tests import Estimate
from smd_evo.zoo.data import Data, Samples

__all__ = ["EnsembleResult", "build_ensemble", "choose", "parent_on_validation", "score_ensembles"]


@dataclass(frozen=True, eq=False)
class EnsembleResult:
    """All that comes out.

    Attributes:
        config: settings of the run.
        data: its data.
        selections: what each arm chose of its shortlist.
        ensemble: the sparse arm's.
        scores: a row for each classifier.
        against: the sparse ensemble's gain in accuracy over other classifiers, and its p value.
        diversity: of each arm with more than one member.
        curves: of each arm.
    """

    config: FinetuneConfig
    data: Data
    selections: dict[str, Selection]
    ensemble: SparseEnsemble
    scores: list[Score]
    against: dict[str, tuple[Estimate, float]]
    diversity: list[Diversity]
    curves: list[Curve]


def choose(shortlist: Shortlist, validation: Evaluator, method: str, size: int | None, combine: str) -> Selection:
    """An ensemble from a shortlist, by its stored predictions.

    Args:
        shortlist: the candidates.
        validation: the judge.
        method, size: see :func:`smd_evo.ensemble.selection.select_members`.
        combine: likewise; where samples have no classes "probabilities" is the mean of outputs, as in the run.

    Raises:
        InvalidValue: more members than the shortlist has children, an unknown method or combination, or stored
            predictions of other samples.
    """
    assert isinstance(validation.fitness, OutputFitness)
    count = len(shortlist.recipes)
    if size is not None and (size := check_count("size", size)) > count:
        raise InvalidValue(f"size: expected 1 to {count}, the children on each shortlist, got {size}")
    targets, (samples, *rest) = validation.targets(), shortlist.logits.shape[1:]
    least = f" of {int(targets.max()) + 1} classes or more" if of_classes(shortlist.logits[0], targets) else ""
    if samples != len(targets) or (least and rest[0] <= int(targets.max())):
        raise InvalidValue(
            f"run: expected predictions of {len(targets)} validation samples{least}, got those of "
            f"{' of '.join(map(str, (samples, *rest)))}; the data have changed since: run finetune again"
        )
    if not least and combine == "majority":
        raise InvalidValue("combine: expected logits for samples without classes, got majority; leave it out")
    if not least and combine == "probabilities":
        combine = "logits"
    return select_from(
        stored(shortlist.logits),
        count,
        targets,
        validation.fitness,
        ranking=range(count),
        method=method,
        size=size,
        combine=combine,
    )


def build_ensemble(space: ParameterSpace, shortlist: Shortlist, chosen: Selection) -> SparseEnsemble:
    """The chosen members as a module, whose file says how it was chosen."""
    notes = {
        "method": chosen.method,
        "validation": chosen.fitness if math.isfinite(chosen.fitness) else None,
        "density": shortlist.density,
        "sigma": shortlist.sigma,
        "fitness": [float(shortlist.fitness[number]) for number in chosen.members],
    }
    recipes = [shortlist.recipes[number] for number in chosen.members]
    return SparseEnsemble(space, recipes, chosen.weights, combine=chosen.combine, notes=notes)


def parent_on_validation(
    config: FinetuneConfig, shortlists: Sequence[Shortlist], progress: Progress | None = None
) -> tuple[Data, Evaluator]:
    """A run's data, and its parent on the validation split.

    Raises:
        WrongParent: the settings no longer lead to the parent that the shortlisted children were made of.
    """
    parent, data = load_parent(config, progress)
    select, batch_size = config.select, config.batch_size
    judge = Evaluator(parent, data.validation, find_fitness(config.fitness), select=select, batch_size=batch_size)
    fingerprint = judge.space.fingerprint()
    for arm in shortlists:
        if arm.fingerprint != fingerprint:
            raise WrongParent(
                f"run: expected children of the parent {fingerprint}, got those of {arm.fingerprint[:40]!r}; "
                "the settings or the parent's weights have changed since: run finetune again"
            )
    return data, judge


def score_ensembles(
    config: FinetuneConfig,
    shortlists: Sequence[Shortlist],
    *,
    method: str = "greedy",
    size: int | None = None,
    combine: str = "probabilities",
    progress: Progress | None = None,
) -> EnsembleResult:
    """Choose an ensemble of each arm, and score all.

    Args:
        config: settings of the run.
        shortlists: what it has stored.
        method, size, combine: see :func:`smd_evo.ensemble.selection.select_members`.
        progress: told of what is to come; by default :mod:`logging` is.

    Raises:
        InvalidValue: more members than a shortlist has children, or an unknown method or combination.
    """
    with in_precision(config):
        return _scored(config, shortlists, method, size, combine, progress or Logged())


def _scored(
    config: FinetuneConfig,
    shortlists: Sequence[Shortlist],
    method: str,
    size: int | None,
    combine: str,
    progress: Progress,
) -> EnsembleResult:
    data, validation = parent_on_validation(config, shortlists, progress)
    if not of_classes(shortlists[0].logits[0], validation.targets()):
        raise InvalidValue(
            "run: expected samples with classes to score ensembles on, got others; the run's own table has one"
        )
    selections = {arm.name: choose(arm, validation, method, size, combine) for arm in shortlists}
    space, seed = validation.space, config.seed
    passes = len(selections[SPARSE].members)
    viewed = passes > 1 and are_images(data.validation)
    counts = [len(chosen.members) for chosen in selections.values()]
    progress.expect(timed(ensemble_workload(counts, passes if viewed else 0, data.sizes), validation))
    progress.start("scoring ensembles", None)
    flips = _flips(validation, data.validation, passes, combine) if viewed else None

    test = validation.on(data.test)
    targets = test.targets()
    parent = test.predict([Lineage()])[0]
    rows = [score("parent", "parent", 1, parent, targets, {}, seed)]
    rivals: dict[str, Tensor] = {}
    if flips is not None:
        voted = rivals["the parent's votes for as many views"] = voted_views(
            test, data.test, changes(passes, flips), combine
        )
        rows.append(score("parent", "views", passes, voted, targets, {"parent": parent}, seed))
    differences = []
    for arm in shortlists:
        chosen = selections[arm.name]
        recipes = [arm.recipes[number] for number in (arm.best, *chosen.members)]
        best, *members = test.predict(recipes)
        together = combined(members, chosen.weights, combine)
        mixed = test.predict([soup(space, recipes[1:], chosen.weights)])[0]
        before = {"parent": parent}
        both = before | {"best child": best}
        rows.append(score(arm.name, "best child", 1, best, targets, before, seed))
        rows.append(score(arm.name, "ensemble", len(members), together, targets, both, seed))
        rows.append(score(arm.name, "soup", 1, mixed, targets, both, seed))
        if arm.name == SPARSE:
            ours, ensemble = together, build_ensemble(space, arm, chosen)
            rivals |= {"its best child": best, "its soup": mixed}
        else:
            rivals[f"the ensemble of {arm.name}"] = together
        if len(members) > 1:
            each = finite_logits(torch.stack(members), targets)
            differences.append(diversity(arm.name, each, targets, seed))
    return EnsembleResult(
        config=config,
        data=data,
        selections=selections,
        ensemble=ensemble,
        scores=rows,
        against={"the parent": against(ours, parent, targets, seed)}
        | {name: against(ours, other, targets, seed) for name, other in rivals.items()},
        diversity=differences,
        curves=[curve(arm.name, arm.logits, validation.targets(), combine, seed) for arm in shortlists],
    )


def _flips(judge: Evaluator, samples: Samples, passes: int, combine: str) -> bool:
    """Whether mirrored views of images help on validation."""
    fitness, targets = judge.fitness, judge.targets()
    assert isinstance(fitness, OutputFitness)
    options = (False, True)
    voted = [voted_views(judge, samples, changes(passes, flips), combine) for flips in options]
    return options[best_of([fitness.of(votes, targets) for votes in voted], fitness.sense)]
