"""What a page says of one experiment over several networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from smd_evo.experiments.finetune.results import NEARLY_FREE
from smd_evo.experiments.protocol.across import Density, Overall, Trend
from smd_evo.experiments.protocol.networks import CANDIDATES, Gain, Network
from smd_evo.experiments.protocol.results import Summary
from smd_evo.experiments.protocol.table import millions, overall_table, protocol_verdict
from smd_evo.experiments.record import RunRecord
from smd_evo.experiments.sections import Cell, Group, Section, Table, decimal, estimate, figure, gain
from smd_evo.experiments.shortlists import SPARSE
from smd_evo.experiments.tables import BEST_FREE, p_text

__all__ = ["protocol_section"]


def protocol_section(record: RunRecord) -> Section:
    """All networks together, then each run."""
    summary = _summary(record.results)
    networks = summary.networks
    seeds = list(dict.fromkeys(str(seed) for each in networks for seed in each.seeds))
    return Section(
        title=f"Fine-tuning {len(networks)} network{'s' if len(networks) != 1 else ''} on {_data(record)}",
        folder=record.name,
        verdict=protocol_verdict(summary),
        facts={
            "Protocol": "each network is fine-tuned on its own, with a sigma of its own; the sections below say how",
            "Networks": ", ".join(each.name.removeprefix("timm:") for each in networks),
            **({"Seeds": ", ".join(seeds)} if len(seeds) > 1 else {}),
        },
        tables=[
            _gains(networks),
            _arms(networks),
            *(_against(networks, name) for name in CANDIDATES if networks[0].against[name]),
            *([overall_table(summary)] if summary.overall else []),
            *([_densities(summary.densities)] if summary.densities else []),
        ],
        figure=figure(
            record,
            "Left: gains over the parent of the sparse ensemble, of the dense one at matched norm and of the best "
            "of what is free, network by network. Right: sparse less dense at matched norm. The tables hold the "
            "numbers.",
            "Left: gains over the parent, network by network, the smallest first. Right: what sparse mutations gain "
            "over dense ones at matched norm. Bars are 95 % intervals, of the means over networks Student's.",
        ),
    )


def _data(record: RunRecord) -> str:
    return ", ".join(dict.fromkeys(str(part.config["data"]) for part in record.parts))


def _summary(results: Mapping[str, Any]) -> Summary:
    """As it was before it became JSON."""

    def gains(found: Mapping[str, Any]) -> dict[str, Gain]:
        return {name: Gain(**each | {"value": estimate(each["value"])}) for name, each in found.items()}

    def overall(found: Mapping[str, Any]) -> Overall:
        return Overall(**{**found, "mean": estimate(found["mean"])})

    every = results["overall"].items()
    return Summary(
        networks=[
            Network(**each | {part: {name: gains(own) for name, own in each[part].items()} for part in _NESTED})
            for each in results["networks"]
        ],
        gains={
            method: {name: estimate(found) for name, found in own.items()}
            for method, own in results.get("gains", {}).items()  # older summaries have none
        },
        overall={name: {other: overall(own) for other, own in each.items()} for name, each in every},
        question=results["question"],
        trends=[Trend(**each) for each in results["trends"]],
        densities=[Density(each["density"], overall(each["gain"])) for each in results["densities"]],
    )


_NESTED = ("gains", "against")


def _cells(found: Gain | None) -> list[Cell]:
    return [Cell(""), Cell("")] if found is None else [gain(found.value), Cell(p_text(found.adjusted))]


def _name(each: Network) -> Cell:
    return Cell(each.name.removeprefix("timm:"))


def _gains(networks: list[Network]) -> Table:
    lines = [
        [
            _name(each),
            Cell(millions(each.parameters)),
            Cell(f"{100 * each.accuracy:.1f}"),
            *(cell for name in CANDIDATES for cell in _cells(each.gains[SPARSE][name])),
        ]
        for each in networks
    ]
    return Table(
        title="Gains over the parent",
        columns=["network", "millions", "parent, %", *(column for name in CANDIDATES for column in (name, "p"))],
        groups=[Group(lines)],
        note="Millions: of parameters that may be mutated. Best child and ensemble: difference of the sparse ones to "
        "the parent, in points of test accuracy, with 95 % paired bootstrap intervals, each by itself, not "
        "corrected; of several seeds the mean, over all of their images, each drawn once. p: exact McNemar test, "
        f"adjusted by Holm for the {len(lines) * len(CANDIDATES)} gains of this table.",
    )


def _arms(networks: list[Network]) -> Table:
    """The ensembles of all arms, and all that is free."""
    arms = [method for method in networks[0].gains if method != NEARLY_FREE]
    free = list(
        dict.fromkeys(name for each in networks for name in each.gains.get(NEARLY_FREE, ()) if name != BEST_FREE)
    )

    def cell(each: Network, method: str, name: str) -> Cell:
        found = each.gains.get(method, {}).get(name)
        return Cell("") if found is None else gain(found.value)

    lines = [
        [
            _name(each),
            *(cell(each, arm, "ensemble") for arm in arms),
            *(cell(each, NEARLY_FREE, name) for name in free),
        ]
        for each in networks
    ]
    return Table(
        title="Gains of every ensemble, and of what is free",
        columns=["network", *arms, *free],
        groups=[Group(lines)],
        note="Differences to the parent in points of test accuracy, with 95 % paired bootstrap intervals, each by "
        "itself, not corrected. Empty: what makes no sense for a network.",
    )


def _against(networks: list[Network], candidate: str) -> Table:
    names = list(networks[0].against[candidate])
    lines = [
        [_name(each), *(cell for name in names for cell in _cells(each.against[candidate].get(name)))]
        for each in networks
    ]
    return Table(
        title=f"Sparse {candidate} against others",
        columns=["network", *(column for name in names for column in (name, "p"))],
        groups=[Group(lines)],
        note=f"Differences of the sparse {candidate} to that of each arm, and to the best of what is free, in points "
        "of test accuracy, with 95 % paired bootstrap intervals, each by itself, not corrected. p: exact McNemar "
        f"test, adjusted by Holm for the {len(lines) * len(names)} comparisons of this table.",
    )


def _densities(densities: list[Density]) -> Table:
    lines = [
        [
            Cell(f"{each.density:.3g}"),
            Cell(decimal(each.gain.mean.value, 4), f"[{each.gain.mean.low:.4f}, {each.gain.mean.high:.4f}]"),
            Cell(f"{each.gain.better} of {each.gain.networks}"),
            Cell(p_text(each.gain.wilcoxon)),
        ]
        for each in densities
    ]
    return Table(
        title="By density",
        columns=["density", "better than dense", "better on", "Wilcoxon, p"],
        groups=[Group(lines)],
        note="How much better the ensemble of sparse children of a density is on validation than that of dense "
        "children of the same norm, in the run's fitness, mean over networks with Student's 95 % interval.",
    )
