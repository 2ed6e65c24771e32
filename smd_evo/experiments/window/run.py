"""The mutation window: how strong mutations may be at each density before the network breaks.

A *cell* is a rule (which coordinates) and a strength sigma. Its children are evaluated on the fitness split, and
their median accuracy is compared with three levels: 99 % and 90 % of the parent's accuracy, and *destroyed*, half way
from the parent's accuracy down to chance (or the level of 90 %, if that is lower).

Sampling is adaptive. A cell starts with 6 children, the fewest that give a median a 95 % interval, and gets 6 more
until it is *certain*, its interval being on one side of each level, or has ``config.children`` of them. Without given
strengths, each rule walks a grid of ratio 10 ** (1 / 4), from one cell upwards until two are certainly destroyed and
downwards until two certainly keep 99 %. For densities that are powers of 10, the grid also holds sigma *
sqrt(density), so that rules meet both at matched sigma and at matched norm. At last the two cells between which an
edge lies get all their children, certain or not: the edge is interpolated between their medians, and else no number
of children would make it more certain than 6 do.

A caveat: an interval that is looked at several times, and for several levels, is wrong at one of the looks more often
than at the first; with 24 children there are up to four. Nothing is corrected for that or for the number of cells. In
300 repetitions on the demo's CNN, 2 % of the cells that were called certain were on the wrong side of a level; the
edges' intervals held the true edge 95 % of the time (92 % without completing the cells beside it).

Each cell has children of its own. The same noise at each strength (common random numbers) would make smoother curves
but a less certain edge: it lies between two cells, whose independent luck averages out, while that of one set of
children stays. On the demo's CNN (24 children a cell, 400 repetitions), the edge at 90 % has a root mean square error
of 0.07 in log10 sigma with children of their own and of 0.09 with the same ones; at 99 %, 0.25 and 0.28.

Reference: Whitaker & Whitley, arXiv 2302.05832, whose claim this tests; all definitions here are ours, as are the
comparisons at matched norm.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from smd_evo.core.keys import derive
from smd_evo.core.layout import Layout
from smd_evo.core.mutation import Lineage, sample_mutations
from smd_evo.core.parameters import Child
from smd_evo.core.subspace import Dense, Subspace
from smd_evo.ensemble.metrics import accuracy
from smd_evo.errors import InvalidValue, check_count
from smd_evo.evaluation.evaluator import Evaluator
from smd_evo.evaluation.fitness import best_of
from smd_evo.experiments.chance import chance
from smd_evo.experiments.parent import NAMED, Source, in_precision
from smd_evo.experiments.progress import Logged, Progress
from smd_evo.experiments.rules import make_rule, mean_density
from smd_evo.experiments.speed import timed
from smd_evo.experiments.window.counts import window_workload
from smd_evo.experiments.window.numbers import FEWEST, Edge, PartialEstimate, crossing, find_edge
from smd_evo.experiments.window.results import SHARES, BestChild, Cell, Profile, Window, WindowResult
from smd_evo.experiments.window.sampling import Levels, Sample, complete_edges, walk
from smd_evo.experiments.window.settings import WindowConfig
from smd_evo.statistics.bootstrap import paired_difference
from smd_evo.statistics.tests import mcnemar_exact
from smd_evo.zoo.data import Data

__all__ = ["WindowResult", "measure_window", "window"]

_START = 0.1
"""First dense strength, in standard deviations of the weights."""


class _Rule(NamedTuple):
    """A subspace rule, and the mean share of the coordinates that it takes."""

    subspace: Subspace
    density: float


def window(
    config: WindowConfig, progress: Progress | None = None, source: Source = NAMED
) -> tuple[WindowResult, Data]:
    """Run the experiment.

    Args:
        config: the settings.
        progress: told of each child; by default :mod:`logging` is.
        source: of the parent, the data and the fitness; by default the settings name them.

    Returns:
        What was measured, and the data that it was measured on; its test split has not been looked at.

    Raises:
        InvalidValue, InvalidType, UnsupportedParameter: settings that the network or the data cannot have.
    """
    progress = progress or Logged()
    parent, data = source.parent(config, progress)
    ranker = Evaluator(parent, data.fitness, "accuracy", select=config.select, batch_size=config.batch_size)
    with in_precision(config):
        return measure_window(config, ranker, ranker.on(data.validation), progress), data


def measure_window(
    config: WindowConfig, ranker: Evaluator, judge: Evaluator, progress: Progress | None = None
) -> WindowResult:
    """Measure the mutation window of a network for each rule of the settings.

    Args:
        config: the settings; all randomness derives from its seed.
        ranker: the parent on the fitness split, with the fitness "accuracy".
        judge: the same on the validation split, which is read when all cells are sampled and chooses nothing.
        progress: told of each child.

    Raises:
        InvalidValue: fewer than six children a cell, another fitness, a parent that is no better than chance, or a
            rule that the network is too small for.
    """
    progress = progress or Logged()
    check_count("children", config.children, low=FEWEST, mend="fewer give a median no 95 % interval, try 24")
    for evaluator in (ranker, judge):
        if evaluator.fitness.name != "accuracy":
            raise InvalidValue(f"fitness: expected accuracy, got {evaluator.fitness.name}; a window is of accuracies")
    rules = _rules(config, ranker.space.layout)
    sizes = {"fitness": ranker.samples, "validation": judge.samples}
    progress.expect(timed(window_workload(config, len(rules), sizes), ranker))
    parent = float(ranker.evaluate([Lineage()]).fitness[0])
    levels = Levels(parent, chance(ranker.targets()))
    samples = _sampled(config, rules, ranker, levels, progress)
    cells, parent_validation = _judged(config, rules, samples, judge, progress)
    every = [cell for own in cells for cell in own]
    return WindowResult(
        config=config,
        parameters=ranker.space.size,
        samples=sizes,
        parent=parent,
        parent_validation=parent_validation,
        chance=levels.chance,
        destroyed=levels.destroyed,
        profiles=_profiles(config, rules, cells, levels),
        evaluations={
            "children": sum(len(cell.accuracies) for cell in every),
            "full grid": len({cell.sigma for cell in every}) * len(rules) * config.children,
            "validation": len(every),
        },
    )


def _rules(config: WindowConfig, layout: Layout) -> list[_Rule]:
    """The different rules of the settings."""
    made = [make_rule(kind, density) for kind in config.subspace for density in config.density]
    different = {rule.spec: rule for rule in made}
    return [_Rule(rule, mean_density(rule, layout)) for rule in different.values()]


def _sampled(
    config: WindowConfig, rules: Sequence[_Rule], ranker: Evaluator, levels: Levels, progress: Progress
) -> list[list[Sample]]:
    """The cells of each rule, weakest first."""
    slots = ranker.space.layout.slots
    norm = _START * (sum(slot.size * slot.scale**2 for slot in slots) / ranker.space.size) ** 0.5
    found = []
    for rule, density in rules:
        progress.start(f"children, {rule.spec}", None)

        def sample(sigma: float, rule: Subspace = rule) -> Sample:
            # The key is of the strength itself: a cell's children are the same whatever other cells there are.
            key = derive(config.seed, "window", rule.spec, repr(sigma))
            cell = Sample(sample_mutations(key, config.children, subspace=rule, sigma=sigma))
            return cell.grown(ranker, lambda cell: cell.certain(levels), progress.advance)

        if config.sigma is None:
            own = walk(sample, norm / density**0.5, levels)
        else:
            own = [sample(sigma) for sigma in sorted(config.sigma)]
        own = complete_edges(own, lambda cell: cell.grown(ranker, lambda _: False, progress.advance), levels)
        # The next walk starts at the norm that destroyed this rule's children: its own edges are near.
        edge = float(crossing([cell.sigma for cell in own], [cell.median.value for cell in own], levels.destroyed))
        norm = edge * density**0.5 if 0 < edge < np.inf else norm
        found.append(own)
    return found


def _judged(
    config: WindowConfig, rules: Sequence[_Rule], samples: list[list[Sample]], judge: Evaluator, progress: Progress
) -> tuple[list[list[Cell]], float]:
    """The cells with the gains of their best children, and the parent's accuracy: only this reads validation."""
    flat = [sample for own in samples for sample in own]
    places = [best_of(sample.accuracies, "max") for sample in flat]
    chosen: list[Child] = [sample.recipes[place] for sample, place in zip(flat, places, strict=True)]
    progress.start("validation", 1 + len(chosen))
    targets, right = judge.targets(), []
    for outputs in judge.outputs([Lineage(), *chosen]):
        right.append(accuracy(outputs, targets).numpy())
        progress.advance()
    before, *after = right

    def judged(density: float, sample: Sample, place: int, own: NDArray[np.float64]) -> Cell:
        best = BestChild(
            sigma=sample.sigma,
            recipe=sample.recipes[place].encode(),
            accuracy=sample.accuracies[place],
            gain=paired_difference(own, before, seed=config.seed),
            p_value=mcnemar_exact(own, before),
        )
        norm = sample.sigma * density**0.5
        return Cell(sample.sigma, norm, tuple(sample.accuracies), sample.nonfinite, sample.median, best)

    answers = zip(places, after, strict=True)
    cells = [
        [judged(rule.density, sample, *next(answers)) for sample in own]
        for rule, own in zip(rules, samples, strict=True)
    ]
    return cells, float(before.mean())


def _profiles(
    config: WindowConfig, rules: Sequence[_Rule], cells: Sequence[Sequence[Cell]], levels: Levels
) -> tuple[Profile, ...]:
    def edges(rule: _Rule, own: Sequence[Cell]) -> dict[float, Edge]:
        # A seed for each rule, so that the ratios of two rules' edges are of independent resampling.
        seed = derive(config.seed, "window", "bootstrap", rule.subspace.spec)
        sigmas, children = [cell.sigma for cell in own], [cell.accuracies for cell in own]
        return {share: find_edge(sigmas, children, level, seed=seed) for share, level in levels.shares.items()}

    found = {rule: edges(rule, own) for rule, own in zip(rules, cells, strict=True)}
    dense = next((own for rule, own in found.items() if isinstance(rule.subspace, Dense)), {})
    profiles = []
    for (rule, own), row in zip(found.items(), cells, strict=True):
        windows = [
            _window(share, row, rule.density, own.get(share), None if own is dense else dense.get(share))
            for share in SHARES
        ]
        profiles.append(Profile(rule.subspace.spec, rule.subspace.name, rule.density, tuple(row), tuple(windows)))
    return tuple(profiles)


def _window(share: float, cells: Sequence[Cell], density: float, edge: Edge | None, dense: Edge | None) -> Window:
    if edge is None:  # the level is no more than chance
        unknown = PartialEstimate(None, None, None)
        return Window(share, unknown, unknown, "chance", None, None, None)
    inside = [cell.best for cell in cells if cell.sigma <= edge.sigma]
    return Window(
        share=share,
        sigma=edge.times(1),
        norm=edge.times(density**0.5),
        beyond="below" if edge.sigma == 0 else "above" if edge.sigma == np.inf else None,
        matched_sigma=edge.over(dense) if dense else None,
        matched_norm=edge.over(dense, density**0.5) if dense else None,
        best=inside[best_of([best.accuracy for best in inside], "max")] if inside else None,
    )
