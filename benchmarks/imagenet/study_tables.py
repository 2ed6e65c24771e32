"""The tables of benchmarks/README.md that come from this study, as Markdown, from results/ alone.

python benchmarks/imagenet/study_tables.py
"""

import json
from collections import defaultdict
from functools import partial
from math import log
from pathlib import Path
from statistics import mean, stdev

from smd_evo.experiments.compare.methods.registry import CONTROLS
from smd_evo.statistics.tests import rank_correlation, t_interval, wilcoxon

RESULTS = Path(__file__).parent / "results"
SITUATIONS = ("tiny200", "tiny1000", "photos")
CANDIDATES = ("best child", "ensemble")
DENSITIES = (0.1, 0.01, 0.001)
SHARE = 0.9


def tables():
    """Each by its name: a function that makes it, of what is in results/ so far."""
    found = {}
    for situation in SITUATIONS:
        if (RESULTS / situation / "summary.json").exists():
            kinds = {"networks": each_network, "methods": each_method, "sparse": against, "trends": trends}
            found |= {f"imagenet {situation} {kind}": partial(make, situation) for kind, make in kinds.items()}
    if read("tiny200"):
        found["imagenet headline"] = headline
    if read("tiny1000"):
        found["imagenet forgot"] = partial(each_method, "tiny1000", "also")
    if read("window"):
        found |= {
            "imagenet windows": windows,
            "imagenet windows over networks": over_windows,
            "imagenet spread": spread,
        }
    if read("evolve"):
        found["imagenet evolve"] = evolved
    return found | {"imagenet cost": cost}


def main():
    for name, make in tables().items():
        print(f"### {name}\n\n{make()}\n")


def read(kind):
    """Results of every part, by its folder."""
    return {
        file.parent.name: json.loads(file.read_text()) for file in sorted((RESULTS / kind).glob("*/results.json"))
    }


def table(columns, rows):
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def summary_of(situation):
    return json.loads((RESULTS / situation / "summary.json").read_text())


def points(value, digits=1):
    low, high = (f"{100 * value[name]:+.{digits}f}" for name in ("low", "high"))
    return f"{100 * value['value']:+.{digits}f} [{low}, {high}]"


def p_text(value):
    return f"{value:.3f}" if value >= 0.001 else f"{value:.0e}"


def headline(situation="tiny200"):
    """The sentence of the README."""
    seeds = len({part.rpartition("-seed")[2] for part in read(situation)})
    methods = gains_over_networks(situation)

    def gain(*row):
        value = methods[row][0]
        return f"{100 * value.value:.1f} [{100 * value.low:.1f}, {100 * value.high:.1f}]"

    return (
        f"One generation on eleven ImageNet networks with shifted images (the picture; seeds: {seeds}), points of "
        "accuracy over the parent:\n"
        f"the sparse ensemble gains {gain('sparse', 'ensemble')}, the dense one of the same norm "
        f"{gain('dense, matched norm', 'ensemble')}, class biases {gain('nearly free', 'class-bias')}."
    )


def each_network(situation):
    """What each network gained, with intervals over its images."""
    rows = []
    for each in sorted(summary_of(situation)["networks"], key=lambda each: each["parameters"]):
        gains, against = each["gains"], each["against"]
        rows.append(
            [
                each["name"],
                len(each["seeds"]),
                f"{100 * each['accuracy']:.1f}",
                *(points(gains["sparse"][name]["value"]) for name in CANDIDATES),
                points(gains["dense, matched norm"]["ensemble"]["value"]),
                points(gains["nearly free"]["the best of what is free"]["value"]),
                *(points(against[name]["dense, matched norm"]["value"]) for name in CANDIDATES),
            ]
        )
    columns = ["network", "seeds", "parent, %", "sparse, best child", "sparse, ensemble", "dense, ensemble", "free"]
    return table([*columns, "sparse - dense, best child", "sparse - dense, ensemble"], rows)


def against(situation):
    """Sparse candidates and others, over networks."""
    rows = [
        [
            f"{name} against {other}",
            points(found["mean"], 2),
            f"{found['better']} of {found['networks']}",
            p_text(found["wilcoxon"]),
            p_text(found["sign"]),
        ]
        for name, each in summary_of(situation)["overall"].items()
        for other, found in each.items()
    ]
    return table(["sparse", "mean", "better on", "Wilcoxon", "sign test"], rows)


def trends(situation):
    """What goes with size and with what a head gains; and each density beside dense children, on validation."""
    summary = summary_of(situation)
    rows = [
        [each["of"], each["by"], f"{each['rho']:+.2f}", p_text(each["p_value"]), each["networks"]]
        for each in summary["trends"]
    ]
    densities = [
        [f"{each['density']:.3g}", f"{each['gain']['mean']['value']:+.4f}", p_text(each["gain"]["wilcoxon"])]
        for each in summary["densities"]
    ]
    return "\n\n".join(
        [
            table(["of", "by", "rank correlation", "p", "networks"], rows),
            table(["density", "loss less than dense, validation", "Wilcoxon"], densities),
        ]
    )


def each_method(situation, rows_of="rows"):
    """What each method's candidates gain in accuracy and in loss; ensembles chosen otherwise of sparse ones alone."""
    rows = [
        [
            method,
            candidate,
            networks,
            points(vars(accuracy)),
            f"{loss.value:+.3f} [{loss.low:+.3f}, {loss.high:+.3f}]",
        ]
        for (method, candidate), (accuracy, loss, networks) in gains_over_networks(situation, rows_of).items()
        if method == "sparse" or candidate not in ("greedy ensemble", "diverse ensemble")
    ]
    return table(["method", "candidate", "networks", "accuracy, points", "loss, nats"], rows)


def gains_over_networks(situation, rows_of="rows"):
    """Of each method and candidate: mean over networks of the means over seeds, of accuracy and of loss; networks."""
    found = defaultdict(lambda: defaultdict(list))
    for part, results in read(situation).items():
        for row in results[rows_of][1:]:
            gains = [row[name]["value"] for name in ("accuracy_gain", "loss_gain")]
            found[row["method"], row["candidate"]][part.rpartition("-seed")[0]].append(gains)
    return {
        row: (
            *(t_interval([mean(gains[place] for gains in runs) for runs in own.values()]) for place in (0, 1)),
            len(own),
        )
        for row, own in found.items()
        if len(own) > 1
    }


def measured_windows():
    """Of each network, from the smallest on: dense norm and ratios to it by density, 90 % of the accuracy kept."""
    networks, found = json.loads((RESULTS / "networks.json").read_text()), {}
    for name, results in sorted(read("window").items(), key=lambda each: networks[each[0]]["parameters"]):
        norms, ratios = {}, {}
        for profile in results["profiles"]:
            own = next(each for each in profile["windows"] if each["share"] == SHARE)
            norms[profile["density"]] = own["norm"]["value"]
            if own["matched_norm"]:
                ratios[profile["density"]] = own["matched_norm"]
        at = [ratios[min(ratios, key=lambda there: abs(there - density))] for density in DENSITIES]
        found[name] = networks[name], norms[max(norms)], at
    return found


def windows():
    """How strong mutations may be: norms at which the median child keeps 90 % of the accuracy."""
    rows = []
    for name, (about, dense, ratios) in measured_windows().items():
        size = f"{about['parameters'] / 1e6:.2f}"
        own = [f"{cell['value']:.2f} [{cell['low']:.2f}, {cell['high']:.2f}]" for cell in ratios]
        rows.append([name, size, about["layers"], about["batchnorm"], f"{dense:.4f}", *own])
    columns = ["network", "millions", "layers", "BatchNorm", "dense, norm"]
    return table([*columns, *(f"{density:.3g}, times dense" for density in DENSITIES)], rows)


def over_windows():
    """Whether windows at matched norm differ from the dense one's, and what they go with."""
    found = [*measured_windows().values()]
    rows = []
    for place, density in enumerate(DENSITIES):
        values = [ratios[place]["value"] for _, _, ratios in found]
        row = [f"ratio at {density:.3g}", f"{mean(values):.2f}", p_text(wilcoxon(values, [1.0] * len(values)))]
        rows.append(row + correlations(values, found))
    values = [dense for _, dense, _ in found]
    rows.append(["dense, norm", f"{mean(values):.4f}", "", *correlations(values, found)])
    return table(["", "mean", "Wilcoxon against 1", "with size", "with layers"], rows)


def spread():
    """How much children differ from each other where the median dense one keeps 90 % of the accuracy."""
    own = {"norm": defaultdict(list), "sigma": defaultdict(list)}
    for results in read("window").values():
        cells = {profile["density"]: profile["cells"] for profile in results["profiles"]}
        dense = next(profile for profile in results["profiles"] if profile["kind"] == "dense")
        edge = next(each for each in dense["windows"] if each["share"] == SHARE)
        for measure, found in own.items():
            for density in (1, *DENSITIES):
                there = cells[min(cells, key=lambda each: abs(each - density))]
                cell = min(there, key=lambda each: abs(log(each[measure] / edge[measure]["value"])))
                found[density].append(100 * stdev(cell["accuracies"]))
    rows = []
    for density in (1, *DENSITIES):
        by_norm, by_sigma = own["norm"][density], own["sigma"][density]
        p_value = p_text(wilcoxon(by_norm, own["norm"][1])) if density < 1 and len(by_norm) > 4 else ""
        rows.append([f"{density:g}", f"{mean(by_norm):.1f}", p_value, f"{mean(by_sigma):.1f}"])
    columns = ["density", "same norm: standard deviation, points", "Wilcoxon against dense", "same sigma"]
    return table(columns, rows)


def evolved():
    """A hundred generations: what each method ends with on test, beside OpenAI-ES and the best of what is free."""
    networks, rows = json.loads((RESULTS / "networks.json").read_text()), []
    for name, results in sorted(read("evolve").items(), key=lambda each: networks[each[0]]["parameters"]):
        rows.append([name, "parent", f"{100 * results['parent']['test']['accuracy']:.1f}", *[""] * 5])
        for method in results["methods"]:
            if method["method"] in CONTROLS and method["method"] != results["control"]:
                continue
            label = f"{method['method']} (the best of what is free)"
            rows.append(
                [
                    name,
                    label if method["method"] == results["control"] else method["method"],
                    f"{100 * method['accuracy']['value']:.1f}",
                    *(difference(method[kind], "accuracy") for kind in ("against", "against_control")),
                    f"{method['calibrated']['loss']['value']:.3f}",
                    difference(method["against_control"], "loss"),
                    f"{method['forwards']:,.0f}",
                ]
            )
    columns = ["network", "method", "accuracy, %", "against openai-es", "against what is free", "loss, calibrated"]
    return table([*columns, "against what is free", "forward passes"], rows)


def difference(found, measure):
    """With its interval and Holm's p; nothing for what others are compared with."""
    if measure not in found:
        return ""
    value, p_value = found[measure]["value"], p_text(found[measure]["adjusted"])
    if measure == "accuracy":
        return f"{points(value)} (p {p_value})"
    return f"{value['value']:+.3f} [{value['low']:+.3f}, {value['high']:+.3f}] (p {p_value})"


def correlations(values, found):
    by = [rank_correlation(values, [about[name] for about, _, _ in found]) for name in ("parameters", "layers")]
    return [f"{rho:+.2f} (p {p_text(p_value)})" for rho, p_value in by]


def cost():
    """What was computed: hours of one core, other work beside it included."""
    rows = []
    for kind in (*SITUATIONS, "window", "evolve"):
        seconds = [results["environment"]["seconds"] for results in read(kind).values()]
        if seconds:
            rows.append([kind, len(seconds), f"{sum(seconds) / 3600:.2f}", f"{max(seconds) / 60:.0f}"])
    return table(["what", "parts", "hours", "longest, minutes"], rows)


if __name__ == "__main__":
    main()
