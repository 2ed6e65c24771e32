"""What a page says of a fine-tuning run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from smd_evo.experiments.facts import data_facts, environment, fitness_fact, listed, stored_rows
from smd_evo.experiments.finetune.table import against_controls, forgotten, raced, told, without
from smd_evo.experiments.record import RunRecord
from smd_evo.experiments.scores import Row
from smd_evo.experiments.sections import (
    Cell,
    Group,
    Section,
    Table,
    against,
    decimal,
    figure,
    gain,
    printed,
)
from smd_evo.experiments.settings import fitness_name
from smd_evo.experiments.shortlists import SPARSE
from smd_evo.experiments.tables import claim, last_column, own_table, own_verdict, p_text, percent

__all__ = ["compare_finetunes", "finetune_section"]


def finetune_section(record: RunRecord) -> Section:
    """A run with its ensembles."""
    config, results = record.config, record.results
    rows = stored_rows(results)
    data = results["data"]
    samples = f"{data['samples']['test']:,}"
    return Section(
        title=f"Fine-tuning {config['model']} on {config['data']}",
        folder=record.name,
        verdict=_verdict(rows, config, results),
        facts=_facts(config, results),
        tables=[_results(rows, samples, config, results), _groups(results, config["fitness"])],
        figure=figure(
            record,
            "Left: fitness of all children of each method's chosen group, with the parent's as a line. Right: test "
            "accuracy of the median child, the best child and the ensemble of each method. The table of results "
            "holds the numbers.",
            f"Left: fitness of {config.get('children', '')} children of each method's chosen group. Right: accuracy "
            f"on {samples} test images; bars are 95 % intervals of the difference to the parent.",
        ),
        environment=environment(results),
        unreadable=[str(name) for name in data["unreadable"]],
    )


def compare_finetunes(numbered: Sequence[tuple[int, RunRecord]]) -> Table:
    """A line for each of several runs; ``numbered`` also holds the numbers of their sections."""
    lines = []
    for number, record in numbered:
        rows = stored_rows(record.results)
        gains = {row.candidate: row.accuracy_gain for row in rows if row.method == SPARSE}
        found = against(record.results["sparse_ensemble_against"])
        cells = [Cell("") if (each := gains.get(name)) is None else gain(each) for name in ("best child", "ensemble")]
        cells += [gain(found[name][0]) if name in found else Cell("") for name in _MATCHED]
        where = f"{record.config['data']}, seed {record.config.get('seed', 0)}"
        name = Cell(f"{number}. {record.config['model']}", where, link=number)
        lines.append([name, Cell(percent(rows[0].accuracy)), *cells])
    return Table(
        title="Fine-tuning runs",
        columns=["run", "parent, %", "best child", "ensemble", "dense, matched sigma", "dense, matched norm"],
        groups=[Group(lines)],
        note="Parent: test accuracy. Best child and ensemble: difference of the sparse ones to the parent, in "
        "points. Dense: difference of the sparse ensemble to that of dense mutations, in points. Brackets: 95 % "
        "paired bootstrap intervals, each of the test images of its own run.",
    )


_ROLES = {"fitness": "ranks children", "validation": "chooses", "test": "is reported"}
_CHOSEN = "\N{NO-BREAK SPACE}\N{BLACK STAR}"
_MATCHED = ("dense, matched sigma", "dense, matched norm")


def _verdict(rows: Sequence[Row], config: Mapping[str, Any], results: Mapping[str, Any]) -> list[str]:
    lines = [
        f"Sparse {row.candidate} against the parent: {claim(row.accuracy_gain, row.p_value)}"
        for row in rows
        if row.method == SPARSE and row.candidate != "median child" and row.accuracy_gain and row.p_value is not None
    ]
    lines += own_verdict(told(rows), config["fitness"], results.get("sense", "min"))
    lines += against_controls(against(results["sparse_ensemble_against"]), results.get("free", {}))
    lines += forgotten(stored_rows(results, "also") if results.get("also") else [], config.get("also"))
    lines += without(results.get("left_out", {}))
    lines.append("All of this speaks of these very children: another seed draws others.")
    lines += raced(results["evaluations"])
    lost = sum(group["nonfinite"] for arm in results["arms"].values() for group in arm["groups"])
    if lost:
        lines.append(f"{lost} children had a non-finite fitness and were ranked last.")
    return lines


def _facts(config: Mapping[str, Any], results: Mapping[str, Any]) -> dict[str, str]:
    keep = 100 * config.get("keep", 0.9)
    calibrated = f"calibrated: the median child keeps {keep:g} % of the parent's score"
    density = f", densities {listed(config['density'])}" if config.get("density") else ""
    controls = [name for name in results["arms"] if name != SPARSE]
    spent = [f"{purpose}: {number:,}" for purpose, number in results["evaluations"].items()]
    return {
        **data_facts(config, results, _ROLES),
        "Fitness": fitness_fact(config["fitness"], results.get("sense")),
        "Subspaces": f"{config['subspace']}{density}; {config['children']:,} children of each",
        "Sigma": calibrated if config.get("sigma") is None else listed(config["sigma"]),
        "Controls": f"{'; '.join(controls)}; as many children each" if controls else "none",
        **_free(results.get("free", {})),
        "Evaluations": "; ".join(spent),
        "Seed": str(config.get("seed", 0)),
        "Computed on": f"{config.get('device', 'cpu')}, {config.get('precision', 'float32')}",
    }


def _free(free: Mapping[str, Any]) -> dict[str, str]:
    """How what is nearly free was chosen."""
    shown = []
    for name, each in free.items():
        how = ", ".join(f"{key} {value}" for key, value in each["settings"].items())
        shown.append(f"{name} ({how})" if how else name)
    return {"Nearly free": f"{'; '.join(shown)}; fitted to the fitness split, settings by validation"} if free else {}


def _results(rows: Sequence[Row], samples: str, config: Mapping[str, Any], results: Mapping[str, Any]) -> Table:
    if rows[0].accuracy is None:
        return printed(own_table(rows, config["fitness"], results["sense"]))
    last, meaning = last_column(rows, config["fitness"], results.get("sense", "min"))
    groups = []
    for method, members in groupby(rows, key=lambda row: row.method):
        several = list(members)
        how = f": density {several[0].density:.3g}, sigma {several[0].sigma:.3g}" if several[0].sigma else ""
        groups.append(Group([_line(row) for row in several], f"{method}{how}" if how else ""))
    return Table(
        title=f"Accuracy and {last} on {samples} test images, read once",
        columns=["", "accuracy, %", "difference", "p", last],
        groups=groups,
        note="Difference: to the parent, in points of accuracy, with its 95 % paired bootstrap interval. p: exact "
        f"McNemar test, not corrected for the {len(rows) - 1} lines. {last.capitalize()}: {meaning}. In "
        "parentheses: forward passes of an image. Dense controls match the sparse groups one by one; each method "
        "chooses its own group on validation. Intervals and p values know the chance of the test images, not that "
        "of the children.",
    )


def _line(row: Row) -> list[Cell]:
    name = row.candidate if row.members == 1 else f"{row.candidate} ({row.members})"
    accuracy, last = Cell(percent(row.accuracy)), Cell(decimal(row.loss if row.fitness is None else row.fitness))
    if row.accuracy_gain is None or row.p_value is None:
        return [Cell(name), accuracy, Cell(""), Cell(""), last]
    return [Cell(name), accuracy, gain(row.accuracy_gain), Cell(p_text(row.p_value)), last]


def _groups(results: Mapping[str, Any], fitness: str) -> Table:
    groups = [
        Group([_group(group, number == arm["chosen"]) for number, group in enumerate(arm["groups"])], name)
        for name, arm in results["arms"].items()
    ]
    return Table(
        title="Groups that validation chose from",
        columns=["subspace", "density", "sigma", "best child", "ensemble", "members"],
        groups=groups,
        note=f"In {fitness_name(fitness)}: the best child on the fitness split, where the parent has "
        f"{decimal(results['parent_fitness'])}, and the group's ensemble on validation. A star marks the chosen "
        "group of each method.",
    )


def _group(group: Mapping[str, Any], chosen: bool) -> list[Cell]:
    numbers = [f"{group['density']:.3g}", f"{group['sigma']:.3g}", decimal(group["best_fitness"])]
    numbers += [decimal(group["validation"]), str(group["ensemble_size"])]
    return [Cell(f"{group['subspace']}{_CHOSEN if chosen else ''}"), *map(Cell, numbers)]
