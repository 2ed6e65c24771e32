"""Memory of a run with a reward beside plain inference: SmolLM2-135M, 32 prompts at a time, each in its own process.

    python benchmarks/gradient_free/language_memory.py FOLDER [KIND]

FOLDER: what ``save_pretrained`` wrote. MiB at the peak: of the whole process, and from when the model was loaded (the
highest mark is set back then, so that what loading took for a moment hides nothing).
"""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import smd_evo

PROMPTS = [f"12+3=15\n46+1=47\n34+8=42\n{one}+{other}=" for one in range(10, 18) for other in range(8)]
NORMS = {"select": "norm", "density": 1.0, "sigma": 0.01}
SPARSE = {"select": "all", "density": 0.001, "sigma": 0.01}
KINDS = {
    "inference": None,
    "inference, EvoTorch imported": None,
    "searcher, norms": NORMS,
    "searcher, norms, copy=False": {**NORMS, "copy": False},
    "searcher, density 0.001 of all, copy=False": {**SPARSE, "copy": False},
    "evolve, norms": NORMS,
    "evolve, norms, copy=False": {**NORMS, "copy": False},
    "evolve, density 0.001 of all": SPARSE,
    "evolve, density 0.001 of all, copy=False": {**SPARSE, "copy": False},
}


def proc(name):
    return int(re.search(rf"{name}:\s*(\d+)", Path("/proc/self/status").read_text())[1]) / 2**10


def peaks(folder, kind):
    """Of the process, and since the model was there."""
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    generate = smd_evo.from_transformers(tokenizer, max_new_tokens=3)
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()  # of its own, as a file that is mapped counts only where it was read
    loading = proc("VmHWM")
    Path("/proc/self/clear_refs").write_text("5")
    if kind == "inference, EvoTorch imported":  # code, which a run needs however small its network is
        _ = smd_evo.FinetuneProblem, smd_evo.SubspaceES
        importlib.import_module("smd_evo.experiments.generations.plot")
    if kind.startswith("inference"):
        with torch.no_grad():
            for start in (0, 32):
                generate(model, PROMPTS[start : start + 32])
    else:
        _run(model, generate, kind)
    print(max(loading, proc("VmHWM")), proc("VmHWM"))


def _run(model, generate, kind):
    fitness = smd_evo.RewardFitness("short", generate, lambda texts, _: [-len(text) for text in texts], PROMPTS)
    if kind.startswith("searcher"):
        options = dict(KINDS[kind])
        own = {name: options.pop(name) for name in ("select", "copy") if name in options}
        problem = smd_evo.FinetuneProblem(model, fitness=fitness, minibatch_size=32, seed=1, **own)
        searcher = smd_evo.SubspaceES(problem, popsize=2, center_learning_rate=0.001, **options)
        searcher.run(2)
        return
    numbers, nothing = fitness.samples
    data = smd_evo.Splits(*((numbers[a:b], nothing[a:b]) for a, b in ((0, 48), (48, 56), (56, 64))))
    smd_evo.evolve(
        model, data, fitness=fitness, generations=2, children=2, images=32, validate_every=2, **KINDS[kind]
    )


def main():
    if sys.argv[2:]:  # one of them, in this process
        peaks(*sys.argv[1:])
        return
    print(
        "| | MiB, whole process | to inference | MiB, since loading | to inference |\n| --- | --- | --- | --- | --- |"
    )
    base = None
    for kind in KINDS:
        command = [sys.executable, __file__, sys.argv[1], kind]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found = [float(text) for text in done.stdout.split()[-2:]]
        base = base or found
        whole, since = (f"{value:,.0f} | {value / other:.2f}" for value, other in zip(found, base, strict=True))
        print(f"| {kind} | {whole} | {since} |", flush=True)


if __name__ == "__main__":
    main()
