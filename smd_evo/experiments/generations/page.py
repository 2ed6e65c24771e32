"""What a page says of a run over generations."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from smd_evo.experiments.facts import data_facts, environment, fitness_fact, stored_rows
from smd_evo.experiments.generations.table import evolution_table, evolution_verdict, kept_generation
from smd_evo.experiments.readers import schedule
from smd_evo.experiments.record import RunRecord
from smd_evo.experiments.scores import Row
from smd_evo.experiments.sections import Cell, Group, Section, Table, decimal, figure, printed
from smd_evo.experiments.settings import fitness_name, in_percent
from smd_evo.experiments.tables import percent, short

__all__ = ["evolution_section"]

_ROLES = {
    "fitness": "ranks children, other ones each generation",
    "validation": "keeps a parent, stops, chooses who votes",
    "test": "is reported, once",
}
_SEARCHERS = {
    "gradient": "gradient: the parent follows what all children tell",
    "selection": "selection: the best child is the next parent",
    "newton": "newton: the parent becomes the mixture of its children whose outputs have the least loss",
}
_CHOSEN = "\N{NO-BREAK SPACE}\N{BLACK STAR}"
_LINES = 20
"""Validations that a table shows, about."""


def evolution_section(record: RunRecord) -> Section:
    """What a run found on the test split, how it came there, and who votes."""
    config, results = record.config, record.results
    rows = stored_rows(results)
    samples = f"{results['data']['samples']['validation']:,}"
    measure = fitness_name(config["fitness"])
    other = "accuracy" if config["fitness"] == "cross_entropy" else "cross-entropy"
    other = measure if results["validation"].get("accuracy") is None else other
    return Section(
        title=f"Fine-tuning {config['model']} on {config['data']} over {results['generations']:,} generations",
        folder=record.name,
        verdict=_verdict(rows, record),
        facts=_facts(record),
        tables=[
            printed(evolution_table(rows, config["fitness"], results.get("sense", "min"))),
            _voters(results),
            _validations(record.metrics, results["validation"], config["fitness"]),
        ],
        figure=figure(
            record,
            f"Left, over the generations: {measure} of the median child, the best child and their parent on the "
            f"generation's images, and of parents on validation. Right: {other} of these on validation; below it, "
            "sigma and the images of a generation where they change. The table of validations holds the numbers.",
            f"Left: {measure}; thin lines are on minibatches, other images each generation, so they are noisy. "
            f"Right: {other} of the same parents on {samples} validation images. A star marks the parent that was "
            "kept; these very images chose it, so the test split alone says what it is worth.",
        ),
        environment=environment(results),
        unreadable=[str(name) for name in results["data"]["unreadable"]],
    )


def _verdict(rows: Sequence[Row], record: RunRecord) -> list[str]:
    config, results = record.config, record.results
    lines = [
        *evolution_verdict(rows, config["fitness"], results.get("sense", "min")),
        "All of this speaks of this very run: another seed finds another network.",
    ]
    if not kept_generation(record.metrics):
        lines.append("On validation no parent was better than the pre-trained one, so that is the best network.")
    if len(record.results["weights"]) == 1:
        lines.append("The ensemble is a single network: on validation no other one helped it.")
    if lost := sum(line["nonfinite"] for line in record.metrics):
        lines.append(f"{lost:,} children had a non-finite fitness and were ranked last.")
    if limit := record.metrics[-1]["batch_limit"]:
        lines.append(
            f"Memory ran out: forward passes were cut down to {limit:,} samples. Elsewhere, the last bits of fitness "
            "may differ, and so may ranks."
        )
    return lines


def _facts(record: RunRecord) -> dict[str, str]:
    config, results, last = record.config, record.results, record.metrics[-1]
    return {
        **data_facts(config, results, _ROLES),
        "Searcher": _SEARCHERS.get(config["searcher"], config["searcher"]) + _rate(config),
        "Fitness": fitness_fact(config["fitness"], results.get("sense")),
        "Children": f"{config['children']:,} a generation; images of each: {_images(config, last)}",
        "Subspaces": config["subspace"] + (f", density {config['density']:g}" if "density" in config else ""),
        "Sigma": _sigma(config, record.metrics),
        "Stopped": _stopped(config, results),
        "Best network": _kept(record.metrics),
        "Evaluations": f"{last['evaluations']:,} networks, parents included, on {last['image_evaluations']:,} images "
        f"in all{_forwards(last)}; calibration: {results['calibration']:,} more",
        "Seed": str(config.get("seed", 0)),
        "Computed on": f"{config.get('device', 'cpu')}, {config.get('precision', 'float32')}{_actors(config)}",
    }


def _rate(config: Mapping[str, Any]) -> str:
    if config["searcher"] == "newton":
        return f"; ridge {config['ridge']:g}" + (", beside a calibration" if config["calibrated"] else "")
    if config["searcher"] != "gradient":
        return ""
    rate = config.get("learning_rate")
    return f"; step size of Adam {'0.2 x sigma x sqrt(density)' if rate is None else format(rate, 'g')}"


def _from_on(parts: Sequence[tuple[int, str]]) -> str:
    """What holds from which generation on, in words.

    >>> _from_on([(1, "300"), (50, "1000")])
    '300, from generation 50 on 1000'
    """
    (_, first), *later = parts
    return ", ".join([first, *(f"from generation {begin} on {what}" for begin, what in later)])


def _images(config: Mapping[str, Any], last: Mapping[str, Any]) -> str:
    return _from_on(schedule("images", str(config.get("images") or last["images"]), ",", "try 300,1000@50"))


def _sigma(config: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]) -> str:
    each = list(dict.fromkeys(f"{line['sigma']:.3g}" for line in metrics))
    found = each[0] if config.get("adapt_sigma") else ", then ".join(each)  # a stage has its own
    if config.get("sigma") is None:
        keep = 100 * config.get("keep", 0.9)
        found += (
            ", calibrated: the median child's outputs change by 5 % of their size"
            if config["searcher"] == "newton"
            else f", calibrated: the median child keeps {keep:g} % of the parent's score"
        )
    return f"{found}; by the 1/5 success rule {each[-1]} in the end" if config.get("adapt_sigma") else found


def _forwards(last: Mapping[str, Any]) -> str:
    """What the evaluations took, where that was counted."""
    return f", {last['forwards']:,.0f} forward passes" if last.get("forwards") else ""


def _stopped(config: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    reasons = {
        "generations": f"after all {results['generations']:,} generations",
        "patience": f"after {results['generations']:,} of {config['generations']:,} generations: "
        f"{config.get('patience')} validations without a better parent",
    }
    return reasons.get(results["stopped"], str(results["stopped"]))


def _kept(metrics: Sequence[Mapping[str, Any]]) -> str:
    kept, validations = kept_generation(metrics), sum(line["validation"] is not None for line in metrics)
    if not kept:
        return f"the pre-trained parent: none of {validations:,} later ones was better on validation"
    return f"the parent of generation {kept:,}, the best of {validations:,} on validation"


def _actors(config: Mapping[str, Any]) -> str:
    return f", {config['actors']} actors of Ray" if config.get("actors") else ""


def _voters(results: Mapping[str, Any]) -> Table:
    weights = sorted(results["weights"].items(), key=lambda each: -each[1])
    return Table(
        title="Who votes in the ensemble",
        columns=["network", "weight, %"],
        groups=[Group([[Cell(name), Cell(f"{100 * weight:.1f}")] for name, weight in weights])],
        note=f"Chosen greedily on validation from {len(results['candidates'])}: the best parent, the last validated "
        "ones, oldest first, and the best children of the last generation, best first. The weight is how often each "
        "was chosen.",
    )


def _validations(metrics: Sequence[Mapping[str, Any]], start: Mapping[str, Any], fitness: str) -> Table:
    found = [line for line in metrics if line["validation"]]
    kept, every = kept_generation(metrics), -(-len(found) // _LINES)
    first = {"generation": 0, "evaluations": 0, "sigma": None, "validation": start}
    shown = [
        line
        for place, line in enumerate(found, start=1)
        if place % every == 0 or place == len(found) or line["generation"] == kept
    ]
    measure, classes = fitness_name(fitness), start.get("accuracy") is not None
    # Beside accuracy and loss; JSON has no number for one that is not finite.
    told = any(line["validation"].get("fitness") is not None for line in (first, *found))
    own = (percent if in_percent(fitness) else short) if classes and told else None
    part = "" if every == 1 else f" One in {every} is shown, beside the kept and the last one."
    return Table(
        title="Parents on validation",
        columns=[
            *("generation", "networks evaluated", "sigma"),
            *(("accuracy, %", "loss") if classes else (measure,)),
            *([f"{measure}, %" if own is percent else measure] if own else []),
        ],
        groups=[Group([_validation(line, kept, own) for line in (first, *shown)])],
        note="Generation 0 is the pre-trained parent. Loss: negative log-likelihood, in nats. A star marks the "
        f"parent that was kept.{part}",
    )


def _validation(line: Mapping[str, Any], kept: int, own: Callable[[float], str] | None) -> list[Cell]:
    found, star = line["validation"], _CHOSEN if line["generation"] == kept else ""
    sigma = "" if line["sigma"] is None else f"{line['sigma']:.3g}"
    cells = [f"{line['evaluations']:,}", sigma]
    if found.get("accuracy") is None:
        cells.append(_finite(found.get("fitness"), short))
    else:
        cells += [percent(found["accuracy"]), decimal(found["loss"])]
        cells += [_finite(found.get("fitness"), own)] if own else []
    return [Cell(f"{line['generation']:,}{star}"), *map(Cell, cells)]


def _finite(value: float | None, told: Callable[[float], str]) -> str:
    return told(value) if value is not None and math.isfinite(value) else decimal(None)
