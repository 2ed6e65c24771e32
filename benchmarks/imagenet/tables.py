"""The tables of benchmarks/README.md that come from this study, as Markdown, from results/ alone.

python benchmarks/imagenet/tables.py
"""

import json
from collections import defaultdict
from pathlib import Path
from statistics import mean

from smd_evo.statistics.tests import rank_correlation, t_interval, wilcoxon

RESULTS = Path(__file__).parent / "results"
SITUATIONS = ("tiny200", "tiny1000", "photos")
CANDIDATES = ("best child", "ensemble")
SHARE = 0.9


def main():
    networks = json.loads((RESULTS / "networks.json").read_text())
    for situation in SITUATIONS:
        if (RESULTS / situation / "summary.json").exists():
            one_generation(situation)
    if read("tiny1000"):
        print("### What tiny1000 forgot of the photos\n")
        every_row("tiny1000", "also")
    windows(networks)
    cost()


def read(kind):
    """Results of every part, by its folder."""
    return {
        file.parent.name: json.loads(file.read_text()) for file in sorted((RESULTS / kind).glob("*/results.json"))
    }


def table(columns, rows):
    print(f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
    for row in rows:
        print(f"| {' | '.join(map(str, row))} |")
    print()


def points(value, digits=1):
    low, high = (f"{100 * value[name]:+.{digits}f}" for name in ("low", "high"))
    return f"{100 * value['value']:+.{digits}f} [{low}, {high}]"


def p_text(value):
    return f"{value:.3f}" if value >= 0.001 else f"{value:.0e}"


def one_generation(situation):
    """Each network, then over networks."""
    summary = json.loads((RESULTS / situation / "summary.json").read_text())
    print(f"### {situation}\n")
    rows = []
    for each in sorted(summary["networks"], key=lambda each: each["parameters"]):
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
    table([*columns, "sparse - dense, best child", "sparse - dense, ensemble"], rows)
    every_row(situation, "rows")
    rows = [
        [
            f"{name} against {other}",
            points(found["mean"], 2),
            f"{found['better']} of {found['networks']}",
            p_text(found["wilcoxon"]),
            p_text(found["sign"]),
        ]
        for name, each in summary["overall"].items()
        for other, found in each.items()
    ]
    table(["sparse", "mean", "better on", "Wilcoxon", "sign test"], rows)
    rows = [
        [each["of"], each["by"], f"{each['rho']:+.2f}", p_text(each["p_value"]), each["networks"]]
        for each in summary["trends"]
    ]
    table(["of", "by", "rank correlation", "p", "networks"], rows)
    rows = [
        [f"{each['density']:g}", f"{each['gain']['mean']['value']:+.4f}", p_text(each["gain"]["wilcoxon"])]
        for each in summary["densities"]
    ]
    table(["density", "loss less than dense, validation", "Wilcoxon"], rows)


def every_row(situation, rows_of):
    """What each method's candidates gain in accuracy and in loss: mean over networks of the means over seeds."""
    found = defaultdict(lambda: defaultdict(list))
    for part, results in read(situation).items():
        for row in results[rows_of][1:]:
            gains = [row[name]["value"] for name in ("accuracy_gain", "loss_gain")]
            found[row["method"], row["candidate"]][part.rpartition("-seed")[0]].append(gains)
    rows = []
    for (method, candidate), own in found.items():
        if len(own) > 1:
            accuracy, loss = ([mean(gains[place] for gains in runs) for runs in own.values()] for place in (0, 1))
            change = t_interval(loss)
            cells = [
                points(vars(t_interval(accuracy))),
                f"{change.value:+.3f} [{change.low:+.3f}, {change.high:+.3f}]",
            ]
            rows.append([method, candidate, len(own), *cells])
    table(["method", "candidate", "networks", "accuracy, points", "loss, nats"], rows)


def windows(networks):
    """How strong mutations may be: norms at which the median child keeps 90 % of the accuracy."""
    norms, ratios = defaultdict(dict), defaultdict(dict)
    for name, results in read("window").items():
        for profile in results["profiles"]:
            own = next(each for each in profile["windows"] if each["share"] == SHARE)
            norms[name][profile["density"]] = own["norm"]["value"]
            if own["matched_norm"]:
                ratios[name][profile["density"]] = own["matched_norm"]
    densities = sorted({density for own in norms.values() for density in own}, reverse=True)
    names = sorted(norms, key=lambda name: networks[name]["parameters"])
    nominal = [min(densities, key=lambda own: abs(own - density)) for density in (1, 0.1, 0.01, 0.001)]

    def at(own, density):
        return own[min(own, key=lambda there: abs(there - density))]

    rows = []
    for name in names:
        about = networks[name]
        size, dense = f"{about['parameters'] / 1e6:.2f}", at(norms[name], 1)
        cells = [at(ratios[name], density) for density in nominal[1:]]
        own = [f"{cell['value']:.2f} [{cell['low']:.2f}, {cell['high']:.2f}]" for cell in cells]
        rows.append([name, size, about["layers"], about["batchnorm"], f"{dense:.4f}", *own])
    print("### Windows\n")
    columns = ["network", "millions", "layers", "BatchNorm", "dense, norm"]
    table([*columns, *(f"{density:.3g}, times dense" for density in nominal[1:])], rows)
    if len(names) < 5:
        return
    rows = []
    for density in nominal[1:]:
        values = [at(ratios[name], density)["value"] for name in names]
        row = [f"ratio at {density:.3g}", f"{mean(values):.2f}", p_text(wilcoxon(values, [1.0] * len(values)))]
        rows.append(row + correlations(values, names, networks))
    values = [at(norms[name], 1) for name in names]
    rows.append(["dense, norm", f"{mean(values):.4f}", "", *correlations(values, names, networks)])
    table(["", "mean", "Wilcoxon against 1", "with size", "with layers"], rows)


def correlations(values, names, networks):
    found = [rank_correlation(values, [networks[name][by] for name in names]) for by in ("parameters", "layers")]
    return [f"{rho:+.2f} (p {p_text(p_value)})" for rho, p_value in found]


def cost():
    """What was computed: hours of one core, other work beside it included."""
    rows = []
    for kind in (*SITUATIONS, "window", "evolve"):
        seconds = [results["environment"]["seconds"] for results in read(kind).values()]
        if seconds:
            rows.append([kind, len(seconds), f"{sum(seconds) / 3600:.2f}", f"{max(seconds) / 60:.0f}"])
    table(["what", "parts", "hours", "longest, minutes"], rows)


if __name__ == "__main__":
    main()
