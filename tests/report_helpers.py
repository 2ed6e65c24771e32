"""Run directories of the real format, small, without running anything."""

import json
import struct
import zlib

import yaml

METHODS = ("sparse", "dense, matched sigma", "dense, matched norm", "dense, own sigma")
ENVIRONMENT = {"smd_evo": "0.1.0", "python": "3.11.7", "torch": "2.9.0", "platform": "Linux-x86_64", "seconds": 25.6}
CONFIG = {
    "model": "demo-cnn",
    "data": "digits",
    "select": "all",
    "seed": 0,
    "device": "cpu",
    "precision": "float32",
    "batch_size": "auto",
    "children": 128,
    "subspace": "random",
    "density": [0.3, 0.1, 0.03],
    "sigma": None,
    "keep": 0.9,
    "fitness": "cross_entropy",
}


def png(width=3, height=2, shade=128):
    """A grey picture."""

    def chunk(kind, content):
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    pixels = zlib.compress((b"\0" + bytes([shade]) * width) * height)
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def around(value, spread=0.02):
    return {"value": value, "low": value - spread, "high": value + spread}


def against(gains):
    return {name: {"accuracy_gain": around(gain), "p_value": p_value} for name, (gain, p_value) in gains.items()}


def finetune_results(gain=0.186):
    """The sparse best child gains that much."""
    nothing = {"accuracy_gain": None, "loss_gain": None, "p_value": None}
    rows = [{"method": "parent", "candidate": "parent", "members": 1, "density": None, "sigma": None}]
    rows[0] |= {"accuracy": 0.732, "loss": 0.868, **nothing}
    for place, method in enumerate(METHODS):
        density, sigma = (0.03, 0.0766) if method == "sparse" else (1.0, 0.0133 + place / 1e4)
        for candidate, members, own in (("median child", 1, -0.018), ("best child", 1, gain), ("ensemble", 2, gain)):
            row = {"method": method, "candidate": candidate, "members": members, "density": density, "sigma": sigma}
            row |= {"accuracy": 0.732 + own - place / 1e3, "loss": 0.25 + place / 1e3}
            row |= {"accuracy_gain": around(own - place / 1e3), "loss_gain": around(-0.6), "p_value": 2e-23}
            rows.append(row)
    group = {"subspace": "random:0.03", "density": 0.03, "sigma": 0.0766, "validation": 0.372}
    group |= {"ensemble_size": 2, "best_fitness": 0.364, "nonfinite": 0}
    return {
        "kind": "finetune",
        "rows": rows,
        "sparse_ensemble_against": against({METHODS[1]: (-0.002, 1.0), METHODS[2]: (0.058, 4.2e-7)}),
        "arms": {method: {"chosen": 1, "groups": [group, group]} for method in METHODS},
        "parent_fitness": 0.797,
        "parameters": 14458,
        "fingerprint": "efb09efc",
        "evaluations": {"calibration, sparse": 355, "calibration, dense": 339, "children of each arm": 384},
        "data": {
            "description": "digits through a camera",
            "classes": 10,
            "samples": {"fitness": 300, "validation": 310, "test": 1500},
            "unreadable": [],
        },
        "splits": {"fitness": [1], "validation": [2], "test": [3]},
        "environment": ENVIRONMENT,
    }


def ensemble_results(method="greedy", combine="probabilities", members=2):
    scores = []
    for name in ("parent", *METHODS):
        for candidate in ("parent", "views") if name == "parent" else ("best child", "ensemble", "soup"):
            compared = {} if candidate == "parent" else {"parent": around(0.2)}
            scores.append(
                {
                    "method": name,
                    "candidate": candidate,
                    "passes": 3 if candidate in ("views", "ensemble") else 1,
                    "metrics": {
                        "accuracy": around(0.92),
                        "nll": around(0.255),
                        "brier": around(0.121),
                        "calibration_error": around(0.061),
                    },
                    "over": compared,
                    "p_values": dict.fromkeys(compared, 3e-9),
                }
            )
    measures = {name: around(0.1) for name in ("disagreement", "kl", "oracle", "q")}
    chosen = {"members": list(range(members)), "weights": [1 / members] * members, "fitness": 0.25}
    chosen |= {"curve": [0.26 - place / 100 * (place == members - 1) for place in range(20)]}
    chosen |= {"method": method, "combine": combine}
    return {
        "kind": "ensemble",
        "scores": scores,
        "sparse_ensemble_against": against({"the parent": (0.2, 5e-27), "its soup": (0.004, 0.69)}),
        "selections": dict.fromkeys(METHODS, chosen),
        "diversity": [{"method": "sparse", "members": members, "measures": measures}],
        "validation_curves": [],
        "environment": ENVIRONMENT,
    }


def summary_results(models=("resnet18", "vgg16"), seeds=None, protocol=None, **settings):
    """Of each model, or of each with each seed; the protocol's, if there is one, with what else was given."""

    def gain(value):
        return {"value": around(value), "p_value": 0.001, "adjusted": 0.004}

    networks = [
        {
            "name": model,
            "seeds": list(seeds or (0,)),
            "model": f"timm:{model}",
            "parameters": 11_000_000,
            "accuracy": 0.7 + place / 100,
            "gains": {
                "sparse": {"best child": gain(0.011), "ensemble": gain(0.015)},
                "dense, matched norm": {"best child": gain(0.01), "ensemble": gain(0.012)},
                "nearly free": {"views": gain(0.02), "the best of what is free": gain(0.02)},
            },
            "against": {
                "best child": {"dense, matched norm": gain(0.001)},
                "ensemble": {"dense, matched norm": gain(0.03), "the best of what is free": gain(-0.01)},
            },
        }
        for place, model in enumerate(models)
    ]

    def overall(value):
        return {"mean": around(value), "better": 1, "networks": len(models), "wilcoxon": 0.25, "sign": 0.5}

    summary = {
        "networks": networks,
        "overall": {
            name: {"the parent": overall(0.01), "dense, matched norm": overall(0.02)}
            for name in ("best child", "ensemble")
        },
        "question": {"best child": 0.5, "ensemble": 0.04},
        "trends": [{"of": "gain", "by": "parameters", "rho": 0.5, "p_value": 0.3, "networks": len(models)}],
        "densities": [{"density": 0.1, "gain": overall(0.001)}],
    }
    runs = list(models) if seeds is None else [f"{model}-seed{seed}" for seed in seeds for model in models]
    command = {"protocol": protocol, "models": None if protocol else list(models)}
    command |= {"seeds": seeds and list(seeds), "settings": settings}
    return {"kind": "protocol", "runs": runs, "command": command, **summary}


def write_run(folder, results, config=CONFIG, plot=None):
    """A run directory; of an ensemble, whose ``config`` is None, the folder in it."""
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(results))
    if config is not None:
        (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (folder / "plot.png").write_bytes(png() if plot is None else plot)
    return folder


def write_protocol(folder, models=("resnet18", "vgg16")):
    for model in models:
        own = CONFIG | {"model": f"timm:{model}", "checkpoint": f"weights/{model}.pth", "data": "imagenet:images"}
        write_run(folder / model, finetune_results(), own)
    (folder / "summary.json").write_text(json.dumps(summary_results(models)))
    return folder


def window_results():
    """Two rules, dense and sparse."""

    def best(sigma):
        return {"sigma": sigma, "recipe": "r", "accuracy": 0.8, "gain": around(0.06), "p_value": 1e-4}

    def profile(rule, density, factor):
        sigmas = [0.01 * factor, 0.1 * factor]
        cells = [
            {
                "sigma": sigma,
                "norm": sigma * density**0.5,
                "accuracies": [0.7 - place / 2] * 6,
                "nonfinite": 0,
                "median": around(0.7 - place / 2),
                "best": best(sigma),
            }
            for place, sigma in enumerate(sigmas)
        ]
        ratio = None if rule == "dense" else around(factor, 0.5)
        edge = {"sigma": around(0.02 * factor, 0.005), "norm": around(0.02, 0.005), "beyond": None}
        edge |= {"matched_sigma": ratio, "matched_norm": ratio and around(1, 0.5), "best": best(sigmas[0])}
        below = {"sigma": None, "norm": None, "beyond": "below", "best": None}
        below |= {"matched_sigma": None, "matched_norm": None}
        for name in ("sigma", "norm"):
            below[name] = {"value": None, "low": None, "high": 0.01}
        windows = [{"share": 0.99, **below}, {"share": 0.9, **edge}]
        return {"rule": rule, "kind": rule, "density": density, "cells": cells, "windows": windows}

    return {
        "kind": "window",
        "config": WINDOW,
        "parameters": 14458,
        "samples": {"fitness": 300, "validation": 310},
        "parent": 0.732,
        "parent_validation": 0.71,
        "chance": 0.1,
        "destroyed": 0.4,
        "profiles": [profile("dense", 1.0, 1), profile("random:0.01", 0.01, 4)],
        "evaluations": {"children": 240, "full grid": 480, "validation": 4},
        "data": finetune_results()["data"],
        "environment": ENVIRONMENT,
    }


WINDOW = {"model": "demo-cnn", "data": "digits", "seed": 0, "device": "cpu", "children": 12, "density": [1.0, 0.01]}
WINDOW |= {"subspace": ["random"], "sigma": None, "select": "all", "precision": "float32"}
