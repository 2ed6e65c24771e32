"""Ensembles of children of CIFAR ResNets on CIFAR-10 as JPEG, beside soups and test-time augmentation.

    python benchmarks/ensembles.py DATA OUT [NETWORKS] [SEEDS] [KEEPS] [SHORTLIST]

DATA holds cifar10-jpeg.tar.xz (ImageFolder layout) and cifar10-resnet{20,32,44}.safetensors (He et al. 2016, option
A); OUT keeps what is finished, so that a second start goes on, also beside a first one. NETWORKS: "20,32,44";
SEEDS: 3; KEEPS: "loss-0.9,accuracy-0.9"; SHORTLIST: 20.

64 children a group, ranked on 5,000 training images (all on the first 1,000, SHORTLIST of these on the others,
too), chosen from on 5,000 others; the test split is read when all is chosen. Sparse groups have density 0.1 and
sigmas at which the median child keeps that share of the parent's score; dense ones have the same norms, or the same
sigma as the first of them. Each candidate is chosen from all groups of its arm. bfloat16 autocast.
"""

import io
import json
import os
import sys
import tarfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from scipy import stats

from smd_evo import (
    Dense,
    Evaluator,
    Lineage,
    Mutation,
    RandomSubspace,
    calibrate_sigma,
    derive,
    permutation,
    sample_mutations,
    soup,
)
from smd_evo.ensemble.combine import combined
from smd_evo.ensemble.diversity import disagreement
from smd_evo.ensemble.metrics import accuracy, negative_log_likelihood
from smd_evo.ensemble.selection import select_from, stored
from smd_evo.evaluation.fitness import ACCURACY, CROSS_ENTROPY
from smd_evo.experiments.ensembles.plot import draw_curves
from smd_evo.experiments.scores import Curve, curve
from smd_evo.experiments.views import views
from smd_evo.statistics.tests import Estimate, mcnemar_exact
from smd_evo.zoo.cifar_resnet import CifarResNet

DENSITY, CHILDREN = 0.1, 64
ARMS = {"sparse": "sparse", "dense, matched norm": "norm", "dense, matched sigma": "sigma"}
MEAN, DEVIATION = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def images(data, out, split):
    """All images of a split as uint8 [n, 3, 32, 32], and their classes; decoded once."""
    file = out / f"{split}.safetensors"
    if not file.exists():
        pixels, names = {}, set()
        with tarfile.open(data / "cifar10-jpeg.tar.xz") as archive:
            for member in archive:
                parts = Path(member.name).parts
                if member.isfile() and split in parts and member.name.endswith(".jpg"):
                    image = Image.open(io.BytesIO(archive.extractfile(member).read())).convert("RGB")
                    pixels[parts[-2:]] = torch.from_numpy(np.array(image)).permute(2, 0, 1)
                    names.add(parts[-2])
        order, names = sorted(pixels), sorted(names)
        targets = torch.tensor([names.index(name) for name, _ in order])
        save_file({"images": torch.stack([pixels[key] for key in order]).contiguous(), "targets": targets}, file)
    both = load_file(file)
    return both["images"], both["targets"]


def prepared(pixels, targets):
    scaled = (pixels.float() / 255 - MEAN[:, None, None]) / DEVIATION[:, None, None]
    return scaled.contiguous(memory_format=torch.channels_last), targets


def parent_on(data, out, depth, seed):
    """The parent on the fitness split and on the validation split."""
    network = CifarResNet(depth)
    network.load_state_dict(load_file(data / f"cifar10-resnet{depth}.safetensors"))
    network = network.eval().to(memory_format=torch.channels_last)
    numbers = permutation(derive(seed, "split"), torch.arange(10000), 50000)
    pixels, targets = images(data, out, "train")
    fitness, validation = (prepared(pixels[some], targets[some]) for some in numbers.split(5000))
    ranker = Evaluator(network, fitness, batch_size=250)
    network.compile(dynamic=False)
    return ranker, validation


def make_children(data, out, depth, seed, keep, with_sigma, shortlist, file):
    """Fitness of the children of one strength, and outputs of the shortlists on validation."""
    ranker, validation = parent_on(data, out, depth, seed)
    judge = ranker.on(validation)
    few, first, rest = (ranker.on_samples(torch.arange(*ends)) for ends in ((0, 500), (0, 1000), (1000, 5000)))
    measure, share = keep.split("-")
    if measure == "accuracy":
        few.fitness = ACCURACY
    sigma = calibrate_sigma(few, RandomSubspace(DENSITY), float(share), key=seed).sigma
    tensors, groups = {"targets": validation[1], "parent": judge.predict([Lineage()]).half()}, []
    rules = {
        "sparse": (RandomSubspace(DENSITY), sigma),
        "norm": (Dense(), sigma * DENSITY**0.5),
        "sigma": (Dense(), sigma),
    }
    if not with_sigma:
        del rules["sigma"]
    for arm, (rule, strength) in rules.items():
        children = sample_mutations(derive(seed, arm, keep), CHILDREN, subspace=rule, sigma=strength)
        result = first.evaluate(children)
        fitness, going_on = result.fitness, result.ranking()[:shortlist]
        whole = fitness[going_on] + 4 * rest.evaluate([children[number] for number in going_on]).fitness
        ranking = [going_on[place] for place in whole.argsort(stable=True).tolist()]
        tensors[arm] = judge.predict([children[number] for number in ranking]).half()
        group = {"arm": arm, "keep": keep, "sigma": strength, "fitness": fitness.tolist()}
        groups.append(group | {"shortlist": [children[number].encode() for number in ranking]})
        print(f"ResNet-{depth}, seed {seed}: {arm}, keep {keep}, sigma {strength:.3g}", flush=True)
    save_file(tensors, file, {"smd": json.dumps(groups)})


METHODS = {"top 5": ("top_k", 5), "greedy": ("greedy", None), "diverse": ("diverse", None)}


def choices(files, targets):
    """Each arm's candidates, by validation: loss there, recipes, weights, and from which group."""
    found = {}
    for file in files:
        with safe_open(file, "pt") as opened:
            groups = json.loads(opened.metadata()["smd"])
        outputs = load_file(file)
        for group in groups:
            recipes = [Mutation.decode(text) for text in group["shortlist"]]
            logits = outputs[group["arm"]].float()
            alone = [float(negative_log_likelihood(some, targets).mean()) for some in logits]
            best = int(np.argmin(alone))
            options = {"best child": (alone[best], [recipes[best]], [1.0])}
            for candidate, (method, size) in METHODS.items():
                if group["arm"] != "sigma" or candidate == "top 5":  # far off, and each costs forward passes
                    options[candidate] = chosen_from(logits, recipes, targets, method, size)
            own = found.setdefault(group["arm"], {})
            for candidate, option in options.items():
                if candidate not in own or option[0] < own[candidate][0]:
                    own[candidate] = (*option, group["keep"], group["sigma"])
    return {name: found[short] for name, short in ARMS.items()}


def chosen_from(logits, recipes, targets, method, size):
    count = len(logits)
    source, ranking = stored(logits), range(count)
    chosen = select_from(source, count, targets, CROSS_ENTROPY, ranking=ranking, method=method, size=size)
    return chosen.fitness, [recipes[number] for number in chosen.members], chosen.weights


def score(data, out, depth, seed, children, file):
    """Read the test split."""
    ranker, validation = parent_on(data, out, depth, seed)
    chosen = choices(children, validation[1])
    judge, test_data = ranker.on(validation), prepared(*images(data, out, "test"))
    passes = {"5 views": 5, "10 views": 10}
    flips = {}
    for name, count in passes.items():
        votes = {flip: voted(judge, validation, count, flip) for flip in (False, True)}
        flips[name] = min(votes, key=lambda flip: float(negative_log_likelihood(votes[flip], validation[1]).mean()))
    test, targets = ranker.on(test_data), test_data[1]
    rows, before = [], test.predict([Lineage()])[0]

    def add(method, candidate, logits, cost, **more):
        correct = accuracy(logits, targets)
        loss = float(negative_log_likelihood(logits, targets).mean())
        p_value = mcnemar_exact(correct, accuracy(before, targets))
        row = {"method": method, "candidate": candidate, "passes": cost, "accuracy": float(correct.mean())}
        rows.append(row | {"nll": loss, "p": p_value} | more)

    add("parent", "parent", before, 1)
    for name, count in passes.items():
        add("parent", name, voted(test, test_data, count, flips[name]), count, flips=flips[name])
    for name, options in chosen.items():
        needed = list(dict.fromkeys(recipe for option in options.values() for recipe in option[1]))
        logits = dict(zip(needed, test.predict(needed), strict=True))
        for candidate, (_, recipes, weights, keep, sigma) in options.items():
            members = torch.stack([logits[recipe] for recipe in recipes])
            differ = float(disagreement(members).mean()) if len(members) > 1 else None
            more = {"keep": keep, "sigma": sigma, "disagreement": differ}
            add(name, candidate, combined(members, weights), len(members), **more)
            if candidate in ("top 5", "greedy"):
                add(name, f"soup of {candidate}", test.predict([soup(test.space, recipes, weights)])[0], 1, **more)
    file.write_text(json.dumps({"depth": depth, "seed": seed, "rows": rows}, indent=1))


def voted(judge, samples, count, flips):
    images, targets = samples
    outputs = [judge.on((view, targets)).predict([Lineage()])[0] for view in views(images, count, flips)]
    return combined(outputs)


def interval(values, digits=2):
    middle = np.mean(values)
    if np.ptp(values) == 0:
        return f"{middle:+.{digits}f}"
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return f"{middle:+.{digits}f} [{middle - half:+.{digits}f}, {middle + half:+.{digits}f}]"


def report(out, depth):
    """A table of one network over its seeds."""
    runs = [json.loads(file.read_text())["rows"] for file in sorted(out.glob(f"{depth}-*.json"))]
    tables = [{(row["method"], row["candidate"]): row for row in rows} for rows in runs]
    print(f"\n### ResNet-{depth}, {len(runs)} seeds\n")
    print("| method | candidate | passes | keep | accuracy, % | over the parent | nll | disagreement, % |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for key in (key for key in tables[-1] if all(key in table for table in tables)):
        rows = [table[key] for table in tables]
        gains = [100 * (table[key]["accuracy"] - table["parent", "parent"]["accuracy"]) for table in tables]
        differ = [100 * row["disagreement"] for row in rows if row.get("disagreement")]
        passes, keeps = (dict.fromkeys(str(row[name]) for row in rows if name in row) for name in ("passes", "keep"))
        print(
            f"| {key[0]} | {key[1]} | {', '.join(passes)} | {', '.join(keeps)} "
            f"| {np.mean([100 * row['accuracy'] for row in rows]):.2f} | {interval(gains)} "
            f"| {np.mean([row['nll'] for row in rows]):.4f} | {f'{np.mean(differ):.1f}' if differ else ''} |"
        )


def compare(out):
    """Differences of accuracy and of loss over all networks and seeds, paired."""
    runs = [json.loads(file.read_text())["rows"] for file in sorted(out.glob("*-?.json"))]
    tables = [{(row["method"], row["candidate"]): row for row in rows} for rows in runs]
    norm, sigma, views = ("dense, matched norm", "{}"), ("dense, matched sigma", "{}"), ("parent", "10 views")
    pairs = [(candidate, norm) for candidate in ("best child", *METHODS, "soup of greedy")]
    pairs += [("best child", sigma), ("top 5", sigma), ("greedy", views), ("greedy", ("sparse", "best child"))]
    pairs += [("greedy", ("sparse", "soup of greedy"))]
    print(f"\n### Sparse minus others, {len(tables)} pairs of networks and seeds\n")
    print("| sparse | minus | accuracy, points | loss |")
    print("| --- | --- | --- | --- |")
    for candidate, (method, other) in pairs:
        other = other.format(candidate)
        gains = {
            name: [table["sparse", candidate][name] - table[method, other][name] for table in tables]
            for name in ("accuracy", "nll")
        }
        accuracy_gain = interval([100 * gain for gain in gains["accuracy"]])
        print(f"| {candidate} | {method}, {other} | {accuracy_gain} | {interval(gains['nll'], 3)} |")


def plot(out, depth, keep):
    """Curves over ensemble sizes on validation; mean and range of the seeds."""
    curves, files = [], sorted(out.glob(f"{depth}-?-{keep}.safetensors"))
    for name, short in ARMS.items():
        if short == "sigma":
            continue  # far off
        stores = [load_file(file) for file in files]
        shortest = min(len(store[short]) for store in stores)
        found = [curve(name, store[short][:shortest].float(), store["targets"]) for store in stores]
        joint = {
            measure: [
                Estimate(float(np.mean(values)), min(values), max(values))
                for values in zip(*[[e.value for e in getattr(one, measure)] for one in found], strict=True)
            ]
            for measure in ("accuracy", "nll")
        }
        curves.append(Curve(name, **joint, members=[point for one in found for point in one.members]))
    title = f"ResNet-{depth}, 5,000 validation images, {keep}; bands: range of {len(files)} seeds"
    draw_curves(curves, title, out / f"resnet{depth}-{keep}.png")


def once(file, make, *arguments):
    """Make a file unless it is there or another process is at it."""
    lock = file.with_name(f"{file.name}.lock")
    if file.exists():
        return
    try:
        os.close(os.open(lock, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    try:
        make(*arguments, file)
    finally:
        lock.unlink(missing_ok=True)


def main(data, out, networks, seeds, keeps, shortlist):
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    for seed in range(seeds):
        for depth in networks:
            files = [out / f"{depth}-{seed}-{keep}.safetensors" for keep in keeps]
            with torch.autocast("cpu", torch.bfloat16):
                for keep, file in zip(keeps, files, strict=True):
                    once(file, make_children, data, out, depth, seed, keep, keep == keeps[0], shortlist)
                if all(file.exists() for file in files):
                    once(out / f"{depth}-{seed}.json", score, data, out, depth, seed, files)
    for depth in networks:
        report(out, depth)
        for keep in keeps:
            plot(out, depth, keep)
    compare(out)


if __name__ == "__main__":
    given = dict(enumerate(sys.argv))
    main(
        Path(sys.argv[1]),
        Path(sys.argv[2]),
        [int(depth) for depth in given.get(3, "20,32,44").split(",")],
        int(given.get(4, 3)),
        given.get(5, "loss-0.9,accuracy-0.9").split(","),
        int(given.get(6, 20)),
    )
