"""What the command lines of README and docs name: a module, folders of pictures, files of weights, runs."""

import importlib.util

import pytest
import timm
from cli_helpers import here
from zoo_helpers import lively, picture, saved, untrained, write_folder, write_module

from smd_evo.experiments import speed
from smd_evo.experiments.generations.run import Evolution
from smd_evo.experiments.protocol.parents import PROTOCOLS
from smd_evo.zoo import models
from smd_evo.zoo.cifar_resnet import CifarResNet

MODULE = """
from torch import nn

def network(classes):
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes))
"""
STUDY = """
parents:
  - {name: resnet20, model: cifar-resnet20, checkpoint: resnet20.safetensors}
  - {name: small, model: mymodule:network}
settings:
  children: 64
"""
WORDNET = ("n01440764", "n01443537")
SMALL = ["--children", "4", "--density", "0.1", "--sigma", "0.05"]


def furnish(folder):
    """All that a page may name, as small as can be."""
    write_module(folder, "mymodule", MODULE)
    write_pictures(folder / "cifar", ("cat", "dog"), "test")
    write_pictures(folder / "data" / "pictures", ("cat", "dog"), "test")
    write_pictures(folder / "data" / "imagenet", WORDNET, "val")
    saved(lively(CifarResNet(20, 2)), folder / "resnet20.safetensors")
    (folder / "study.yaml").write_text(STUDY)
    (folder / "weights").mkdir()
    for name in ("resnet18", "vit_small_patch16_224"):
        saved(untrained(name), folder / "weights" / f"{name}.safetensors")
    if importlib.util.find_spec("transformers"):
        write_transformer(folder / "vit")


def write_transformer(folder):
    """An image classifier as ``save_pretrained`` writes it."""
    import transformers

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.ViTConfig(**sizes, image_size=32, patch_size=8, num_labels=2)
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)


def write_pictures(folder, classes, test):
    """So few that each split has one of each class: the networks of a dry run are timed on them."""
    write_folder(folder / "train", dict.fromkeys(classes, 3), make=picture)
    write_folder(folder / test, dict.fromkeys(classes, 1), make=picture, start=100)


def publish(patch):
    """Make timm's published weights random ones, there being no network here that they could come from."""
    create = timm.create_model
    patch.setattr(timm, "create_model", lambda name, pretrained=False, **options: create(name, **options))
    patch.setattr(models, "ask_hub", lambda repository: None)
    patch.setitem(PROTOCOLS, "imagenet", PROTOCOLS["imagenet"][::5])  # each is loaded and tried
    patch.setattr(speed, "seconds_per_image", lambda evaluator: 1.0)  # a dozen large networks need not be timed twice


def done(*arguments, cwd):
    """It ended well."""
    result = here(*arguments, cwd=cwd)
    assert result.returncode == 0, (arguments, result.stderr)


def make_run(arguments, cwd):
    """What the command would leave, but for its size.

    Of a protocol, a single network. A run over generations is interrupted in the second one: it is to be resumed.
    """
    if "--protocol" in arguments:
        arguments = [*arguments, "--models", "mymodule:network"]
    if "--generations" not in arguments:
        done(*arguments, *SMALL, cwd=cwd)
        return
    with pytest.MonkeyPatch.context() as brief:
        brief.setattr(Evolution, "_step", interrupted(Evolution._step))
        result = here(*arguments, *SMALL, "--generations", "2", "--checkpoint-every", "1", cwd=cwd)
    assert result.returncode == 130, result.stderr


def interrupted(step):
    """A step that does not come to its end if it is the second."""

    def first_alone(self):
        if self.generation:
            raise KeyboardInterrupt
        return step(self)

    return first_alone


def skipped_without(library, names, part):
    """Parameters of a test, of which those with a part of a name are skipped where a library is not there."""
    absent = pytest.mark.skipif(importlib.util.find_spec(library) is None, reason=f"needs {library}: smd-evo[hf]")
    return [pytest.param(name, marks=absent) if part in name else name for name in names]
