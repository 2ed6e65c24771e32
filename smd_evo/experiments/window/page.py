"""What a page says of a mutation window."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from smd_evo.experiments.facts import data_facts, environment, listed
from smd_evo.experiments.record import RunRecord
from smd_evo.experiments.sections import (
    Cell,
    Group,
    Section,
    Table,
    estimate,
    figure,
    gain,
    printed,
    span,
)
from smd_evo.experiments.window import results as found
from smd_evo.experiments.window.numbers import PartialEstimate
from smd_evo.experiments.window.settings import WindowConfig
from smd_evo.experiments.window.table import window_tables, window_verdict

__all__ = ["compare_windows", "window_section"]

_ROLES = {"fitness": "makes the window and ranks children", "validation": "judges the best ones"}
_FOUND = "found, from what changes nothing to what nothing survives"


def window_section(record: RunRecord) -> Section:
    """The edges, the best children, and the cells that they come from."""
    result, results = _result(record), record.results
    config = result.config
    spent = [f"{purpose}: {number:,}" for purpose, number in result.evaluations.items()]
    return Section(
        title=f"Mutation window of {config.model} on {config.data}",
        folder=record.name,
        verdict=window_verdict(result),
        facts={
            **data_facts(record.config, results, _ROLES),
            "Accuracy": f"{100 * result.parent:.1f} % on fitness, {100 * result.parent_validation:.1f} % on "
            f"validation; chance {100 * result.chance:.1f} %",
            "Subspaces": f"{listed(config.subspace)}; densities {listed(config.density)}",
            "Sigma": _FOUND if config.sigma is None else listed(config.sigma),
            "Children": f"at most {config.children:,} of each cell",
            "Evaluations": "; ".join(spent),
            "Seed": str(config.seed),
            "Computed on": f"{config.device}, {config.precision}",
        },
        tables=[*map(printed, window_tables(result)), _cells(result)],
        figure=figure(
            record,
            "Top: a heat map of the median accuracy of each cell, a row for each rule and a column for each "
            "strength, with the edges of the windows. Below: the same as curves over sigma, and over sigma at "
            "matched norm. The tables hold the numbers.",
            "Top: median accuracy of each cell; hatched: not sampled. Below: the same over sigma, and over sigma "
            "times the square root of the density; bands are 95 % intervals of the median child.",
        ),
        environment=environment(results),
        unreadable=[str(name) for name in results["data"]["unreadable"]],
    )


def compare_windows(numbered: Sequence[tuple[int, RunRecord]]) -> Table:
    """The edges of several runs; ``numbered`` also holds the numbers of their sections."""
    groups = []
    for number, record in numbered:
        edges = printed(window_tables(_result(record))[0])
        rows = [[Cell(f"{rule.heading}, {row[0].text}"), *row[1:]] for rule in edges.groups for row in rule.rows]
        config = record.config
        groups.append(Group(rows, f"{number}. {config['model']} on {config['data']}, seed {config.get('seed', 0)}"))
    return Table("Mutation windows", edges.columns, groups, edges.note)


def _cells(result: found.WindowResult) -> Table:
    groups = [
        Group(
            [
                [
                    Cell(f"{cell.sigma:.3g}"),
                    Cell(f"{cell.norm:.3g}"),
                    Cell(str(len(cell.accuracies))),
                    span(cell.median, 1, 100),
                    Cell(f"{100 * cell.best.accuracy:.1f}"),
                    gain(cell.best.gain),
                ]
                for cell in profile.cells
            ],
            f"{profile.rule}: density {profile.density:.3g}",
        )
        for profile in result.profiles
    ]
    return Table(
        title="All cells",
        columns=["sigma", "norm", "children", "median, %", "best child, %", "gain"],
        groups=groups,
        note="Norm: sigma times the square root of the density. Median and best child: accuracy on the fitness "
        "split, where the best is the best of many and so too high; gain: of the best child over the parent on "
        "validation, in points. Brackets: 95 % intervals, of the median over children, of the gain over images.",
    )


def _result(record: RunRecord) -> found.WindowResult:
    """The result as it was before it became JSON."""
    settings: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in record.config.items()
    }
    names = ("parameters", "samples", "parent", "parent_validation", "chance", "destroyed", "evaluations")
    return found.WindowResult(
        config=WindowConfig(**settings),
        profiles=tuple(_profile(profile) for profile in record.results["profiles"]),
        **{name: record.results[name] for name in names},
    )


def _profile(profile: Mapping[str, Any]) -> found.Profile:
    cells, windows = tuple(map(_cell, profile["cells"])), tuple(map(_window, profile["windows"]))
    # The terminal's tables take texts alone.
    return found.Profile(**{**profile, "rule": str(profile["rule"]), "cells": cells, "windows": windows})


def _cell(cell: Mapping[str, Any]) -> found.Cell:
    return found.Cell(**{**cell, "median": estimate(cell["median"]), "best": _best(cell["best"])})


def _window(window: Mapping[str, Any]) -> found.Window:
    names = ("sigma", "norm", "matched_sigma", "matched_norm")
    edges = {name: window[name] and PartialEstimate(**window[name]) for name in names}
    return found.Window(**{**window, **edges, "best": window["best"] and _best(window["best"])})


def _best(child: Mapping[str, Any]) -> found.BestChild:
    return found.BestChild(**{**child, "gain": estimate(child["gain"])})
