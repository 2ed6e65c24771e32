"""The table of a folder of results: means over seeds, and paired differences to the parent and to dense OpenAI-ES.

Methods come first, then what is no search: what is free, and gradients.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

from smd_evo.statistics.tests import paired_t

__all__ = ["table"]

REFERENCE = "openai-es"


def table(folder: Path) -> str:
    """Markdown: a row a method, a column pair a number of the test."""
    runs: defaultdict[str, dict[int, Any]] = defaultdict(dict)
    for file in sorted(folder.glob("*-seed*.json")):
        record = json.loads(file.read_text())
        runs[record["method"]][record["seed"]] = record
    if not runs:
        return "nothing there"
    some = next(iter(next(iter(runs.values())).values()))
    names = [*some["test"]]
    heads = ["method", "seeds", "forward passes", "seconds"]
    for name in names:
        heads += [name, "to the parent", f"to {REFERENCE}"]
    rows = [heads, ["---"] * len(heads)]
    parents = {seed: each["parent"] for records in runs.values() for seed, each in records.items()}
    parent_row = ["parent", str(len(parents)), "", ""]
    for name in names:
        parent_row += [f"{mean(each['test'][name] for each in parents.values()):.4g}", "", ""]
    rows.append(parent_row)
    searches = {method for method, records in runs.items() if any("setting" in each for each in records.values())}
    for method in sorted(runs, key=lambda method: (method != REFERENCE, method not in searches, method)):
        records = runs[method]
        row = [f"`{method}`", str(len(records))]
        row += [f"{mean(each[part] for each in records.values()):,.0f}" for part in ("forwards", "seconds")]
        for name in names:
            row.append(f"{mean(each['test'][name] for each in records.values()):.4g}")
            row.append(_difference(name, records, {seed: each["parent"] for seed, each in records.items()}))
            row.append("" if method == REFERENCE else _difference(name, records, runs.get(REFERENCE, {})))
        rows.append(row)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _difference(name: str, records: dict[int, Any], others: dict[int, Any]) -> str:
    """Mean of the paired differences, with Student's interval where seeds, two or more, differ."""
    seeds = sorted(set(records) & set(others))
    if not seeds:
        return ""
    mine, theirs = ([each[seed]["test"][name] for seed in seeds] for each in (records, others))
    if len(seeds) < 2:
        return f"{mine[0] - theirs[0]:+.3g}"
    found, _ = paired_t(mine, theirs)
    if found.low == found.high:  # nothing random, which is no certainty
        return f"{found.value:+.3g}"
    return f"{found.value:+.3g} [{found.low:+.3g}, {found.high:+.3g}]"


if __name__ == "__main__":
    for folder in sys.argv[1:]:
        print(table(Path(folder)), end="\n\n")
