"""What scripts import, for the process that they are forked from; by itself it does nothing."""

import gc
import importlib
import warnings

import cli_helpers  # noqa: F401

import smd_evo

EXTRAS = "transformers", "peft"

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    for name in smd_evo.__all__:
        getattr(smd_evo, name)
    for name in ("matplotlib.pyplot", "sklearn.datasets", "timm", "torchvision", *EXTRAS):
        if name not in EXTRAS or importlib.util.find_spec(name):
            importlib.import_module(name)
gc.collect()
gc.freeze()  # a collection in a forked process would copy all of this one's memory
