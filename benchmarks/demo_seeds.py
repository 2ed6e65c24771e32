"""The embedded demo over several seeds: does sparse beat the parent, and does it beat dense?

    python benchmarks/demo_seeds.py [SEEDS]

Every seed draws other splits of the scans that the parent did not see, and samples other children. Means over
seeds with 95 % t intervals; the differences to dense are paired by seed.
"""

import sys

import numpy as np
from rich.progress import track
from scipy import stats

from smd_evo.experiments.finetune.run import finetune
from smd_evo.experiments.finetune.settings import FinetuneConfig
from smd_evo.experiments.shortlists import SPARSE


def interval(values):
    values = 100 * np.asarray(values)
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return f"{values.mean():+.2f} [{values.mean() - half:+.2f}, {values.mean() + half:+.2f}]"


def main(seeds):
    runs = [finetune(FinetuneConfig.read({"seed": seed})) for seed in track(range(seeds))]
    tables = [{(row.method, row.candidate): row.accuracy for row in run.rows} for run in runs]
    parents = [table["parent", "parent"] for table in tables]
    print(
        f"{seeds} seeds; parent {100 * np.mean(parents):.1f} %, {100 * min(parents):.1f} to {100 * max(parents):.1f}"
    )
    print("\naccuracy points, mean [95 % interval]\n")
    print("| method | candidate | over the parent | sparse minus this |")
    print("| --- | --- | --- | --- |")
    for method, candidate in list(tables[0])[1:]:
        over = interval([table[method, candidate] - parent for table, parent in zip(tables, parents, strict=True)])
        minus = interval([table[SPARSE, candidate] - table[method, candidate] for table in tables])
        print(f"| {method} | {candidate} | {over} | {'' if method == SPARSE else minus} |")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
