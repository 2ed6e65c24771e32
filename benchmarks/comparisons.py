"""Methods against OpenAI-ES on ResNet-20 and CIFAR-10 as JPEG, as a user would compare them: smd-evo's own command.

    python benchmarks/comparisons.py DATA OUT [short|levers|long]...

DATA holds cifar10-jpeg.tar.xz (an ImageFolder layout) and cifar10-resnet20.safetensors. OUT keeps the runs: what is
finished is not done again. "short": all methods, 96,000 image evaluations; "levers": those of levers.py, beside
norm-bias-es, with the same; "long": some methods, 288,000, tuned at 96,000. All three by default, two runs at a time.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from experiments import unpacked
from levers import LEVERS

from smd_evo.experiments.compare.methods.registry import METHODS

COMMON = ("--precision", "bfloat16", "--jobs", 2, "--validation-samples", 1000, "--test-samples", 4000)
PLANS = {
    "short": (METHODS, "--budget", 96_000, "--trials", 3, "--checkpoints", 6),
    "levers": (["norm-bias-es", *LEVERS], "--budget", 96_000, "--trials", 2, "--checkpoints", 6, "--seeds", 3),
    "long": (
        ["sparse-es", "norm-bias-es", "smd", "smd-ensemble", "sgd"],
        *("--budget", 288_000, "--tuning-budget", 96_000, "--trials", 3, "--checkpoints", 9),
    ),
}


def main(data, out, wanted):
    images = unpacked(data / "cifar10-jpeg.tar.xz", out / "cifar10")
    parent = ("--model", "cifar-resnet20", "--checkpoint", data.absolute() / "cifar10-resnet20.safetensors")
    here = Path(__file__).parent
    for name in wanted:
        methods, *budget = PLANS[name]
        folder = (out / name).absolute()
        command = ["smd-evo", "compare", *parent, "--data", f"imagefolder:{images.absolute()}", *COMMON, *budget]
        command += ["--methods", ",".join(methods), "--out", folder]
        # Of one core each; levers.py is found in the current folder.
        subprocess.run(list(map(str, command)), check=True, cwd=here, env={**os.environ, "OMP_NUM_THREADS": "1"})
        print(f"\n{name}\n{markdown(json.loads((folder / 'results.json').read_text()))}")


def around(found, scale, digits, sign=""):
    value, low, high = (f"{scale * found[name]:{sign}.{digits}f}" for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def markdown(results):
    """The tables as benchmarks/README.md has them."""
    budget, test = results["methods"][0]["curve"]["evaluations"][-1], results["parent"]["test"]
    rows = [
        "| method | accuracy, % | loss | accuracy, to OpenAI-ES | p | loss, to OpenAI-ES | p | target loss after |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        f"| parent | {100 * test['accuracy']:.1f} | {test['loss']:.3f} |  |  |  |  |  |",
    ]
    for method in results["methods"]:
        cells = [method["method"], around(method["accuracy"], 100, 1), around(method["loss"], 1, 3)]
        for measure, scale, digits in (("accuracy", 100, 1), ("loss", 1, 3)):
            found = method["against"].get(measure)
            cells += [around(found["value"], scale, digits, "+"), f"{found['adjusted']:.2g}"] if found else ["", ""]
        target = method["to_target"]["loss"]
        places = (target[name] for name in ("evaluations", "low", "high"))
        value, low, high = ("never" if place is None else f"{100 * place / budget:.0f}" for place in places)
        cells.append("never" if value == low == high == "never" else f"{value} [{low}, {high}] %")
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:] or list(PLANS))
