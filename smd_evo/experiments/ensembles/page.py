"""What a page says of an ensemble of a run's children."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from smd_evo.experiments.facts import environment
from smd_evo.experiments.record import RunRecord
from smd_evo.experiments.scores import Diversity, Score
from smd_evo.experiments.sections import Cell, Group, Section, Table, against, estimate, figure, gain, span
from smd_evo.experiments.shortlists import SPARSE
from smd_evo.experiments.tables import claim, p_text
from smd_evo.statistics.tests import Estimate

__all__ = ["ensemble_section"]


def ensemble_section(record: RunRecord, run: RunRecord) -> Section:
    """An ensemble, its rivals, and its diversity.

    Args:
        record: the ensemble.
        run: the run that it belongs to.
    """
    results, samples = record.results, run.results["data"]["samples"]
    scores = [
        Score(**row | {part: _estimates(row[part]) for part in ("metrics", "over")}) for row in results["scores"]
    ]
    tables = [_gains(scores, f"{samples['test']:,}"), _quality(scores)]
    chosen = results["selections"][SPARSE]
    if results["diversity"]:
        tables.append(_diversity([Diversity(**row | _measures(row)) for row in results["diversity"]]))
    return Section(
        title=f"Ensemble: {chosen['method']} selection, {chosen['combine']} combined",
        folder=record.name,
        verdict=[*_verdict(results), *_besides(scores, run, chosen["method"])],
        facts={
            "Chosen": f"{_METHODS.get(chosen['method'], chosen['method'])}; by each method in the same way, on "
            "validation",
            "Members": "; ".join(f"{name}: {len(each['members'])}" for name, each in results["selections"].items()),
            "Time": environment(results)["time"],
        },
        tables=tables,
        figure=figure(
            record,
            "Left and middle: accuracy and negative log-likelihood of ensembles of one to twenty members, for each "
            "method. Right: disagreement of each member with the others against its accuracy.",
            f"Ensembles of the first children by fitness on {samples['validation']:,} validation images; bands are "
            "95 % intervals. Right: each member alone, and how often it disagrees with the others.",
        ),
    )


def _besides(scores: Sequence[Score], run: RunRecord, method: str) -> list[str]:
    """The run's own ensemble beside this one, which is another choice of the same children."""
    own = next(
        (row for row in run.results["rows"] if (row["method"], row["candidate"]) == (SPARSE, "ensemble")), None
    )
    here = next((row for row in scores if (row.method, row.candidate) == (SPARSE, "ensemble")), None)
    if own is None or own["accuracy"] is None or here is None:
        return []
    found = here.metrics["accuracy"].value
    return [
        f"The run's own table has another ensemble of the same children: the {own['members']} best by fitness, "
        f"{100 * own['accuracy']:.1f} %; this one, by {method} selection, {100 * found:.1f} %."
    ]


_METHODS = {
    "top_k": "the best by fitness",
    "greedy": "again and again the child that helps most, also repeatedly",
    "diverse": "one after the other, the child that helps most and differs",
    "all": "all children of the shortlist",
}
# Name, digits, factor.
_QUALITY = {"nll": (3, 1), "calibration_error": (1, 100), "brier": (3, 1)}
_DIVERSITY = {"disagreement": (1, 100), "kl": (3, 1), "q": (2, 1), "oracle": (1, 100)}


def _estimates(found: Mapping[str, Any]) -> dict[str, Estimate]:
    return {name: estimate(each) for name, each in found.items()}


def _measures(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"measures": _estimates(row["measures"])}


def _verdict(results: Mapping[str, Any]) -> list[str]:
    found = against(results["sparse_ensemble_against"])
    lines = [f"Sparse ensemble against {name}: {claim(*each)}" for name, each in found.items()]
    if len(results["selections"][SPARSE]["members"]) == 1:
        lines.insert(0, "The sparse ensemble is a single child: on validation no other one helped it.")
    return lines


def _by_method(scores: Sequence[Score]) -> list[tuple[str, list[Score]]]:
    return [(method, list(rows)) for method, rows in groupby(scores, key=lambda row: row.method)]


def _name(row: Score) -> Cell:
    return Cell(row.candidate if row.passes == 1 else f"{row.candidate} ({row.passes})")


def _gains(scores: Sequence[Score], samples: str) -> Table:
    def line(row: Score) -> list[Cell]:
        difference = gain(row.over["parent"]) if "parent" in row.over else Cell("")
        p_values = [row.p_values.get(other) for other in ("parent", "best child")]
        tested = [Cell("") if value is None else Cell(p_text(value)) for value in p_values]
        return [_name(row), span(row.metrics["accuracy"], 1, 100), difference, *tested]

    return Table(
        title=f"Accuracy on {samples} test images",
        columns=["", "accuracy, %", "difference", "p", "p, best child"],
        groups=[Group([line(row) for row in rows], method) for method, rows in _by_method(scores)],
        note="Difference: to the parent, in points. Brackets: 95 % bootstrap intervals. p: exact McNemar tests "
        "against the parent and against the method's best child, not corrected for the number of lines. In "
        "parentheses: forward passes an image. Soup: one network of the members' mean weights. Views: the parent's "
        "votes for as many views of the image.",
    )


def _quality(scores: Sequence[Score]) -> Table:
    def line(row: Score) -> list[Cell]:
        return [_name(row), *(span(row.metrics[name], *style) for name, style in _QUALITY.items())]

    return Table(
        title="Likelihood and calibration",
        columns=["", "loss", "calibration error, %", "Brier score"],
        groups=[Group([line(row) for row in rows], method) for method, rows in _by_method(scores)],
        note="Loss: negative log-likelihood, in nats. Of all three, less is better.",
    )


def _diversity(found: Sequence[Diversity]) -> Table:
    lines = [
        [
            Cell(row.method),
            Cell(str(row.members)),
            *(span(row.measures[name], *_DIVERSITY[name]) for name in _DIVERSITY),
        ]
        for row in found
    ]
    return Table(
        title="Diversity of the members",
        columns=["", "members", "differ, %", "KL, nats", "Q", "any right, %"],
        groups=[Group(lines)],
        note="Differ: pairs of members that predict different classes. KL: mean divergence of their probabilities. "
        "Q: 1 where members err on the same images, 0 where independently. Any right: at least one member is.",
    )
