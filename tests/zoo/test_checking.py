"""Parents are looked at before their data is decoded, and none of their weights is fetched."""

import sys

import pytest
import timm
import torch
from torch import nn
from zoo_helpers import saved, write_folder, write_module

from smd_evo.errors import InvalidValue, SmdEvoError
from smd_evo.zoo.checking import check_buildable, check_known, count_classes
from smd_evo.zoo.cifar_resnet import CifarResNet

UNPUBLISHED = next(f"timm:{name}" for name in timm.list_models() if not timm.get_pretrained_cfg(name).has_weights)
MODULE = """
import torch
from torch import nn
from smd_evo import Splits

def network(classes): return nn.Linear(2, classes)
def broken(classes): raise RuntimeError("no such luck")
def nothing(classes): return None
def samples(): return Splits(*[[(torch.ones(2), number)] * 2 for number in (0, 1, 0)])
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A current folder with a module and pictures; what is imported from it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    before = set(sys.modules)
    write_module(tmp_path, "module_of_parents", MODULE)
    write_folder(tmp_path / "pictures", {"cat": 1, "dog": 1, "owl": 1})
    write_folder(tmp_path / "photos", {"n01440764": 1})
    yield tmp_path
    for name in set(sys.modules) - before:
        if name == "module_of_parents":
            del sys.modules[name]


@pytest.mark.parametrize(
    ("data", "classes"),
    [
        ("digits", 10),
        ("imagefolder:pictures", 3),
        ("imagenet:photos", 1000),
        ("module_of_parents:samples", 2),
    ],
)
def test_data_tells_its_classes(place, data, classes):
    assert count_classes(data) == classes


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("timm:resnet19", "did you mean 'timm:resnet18"),
        ("resnet18", "model: expected one of"),
        ("module_of_parents:absent", "expected a function 'absent'"),
        ("no_module:network", "there is no module 'no_module'"),
        ("demo-cnn", "expected another one than demo-cnn for imagefolder:pictures"),
    ],
)
def test_unknown_ones(place, model, message):
    with pytest.raises(InvalidValue, match=message):
        check_known(model, "imagefolder:pictures")


@pytest.mark.parametrize(
    "model", ["timm:resnet18", "torchvision:vgg16", "cifar-resnet20", "module_of_parents:network"]
)
def test_known_ones(place, model):
    check_known(model, "imagefolder:pictures")
    check_known("demo-cnn", "digits")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (UNPUBLISHED, f"checkpoint: expected a file with the weights of {UNPUBLISHED}, got none; none are published"),
        ("cifar-resnet20", "checkpoint: expected a file with the weights of cifar-resnet20, got none"),
        ("timm:resnet18", "for the 3 classes of the data, got timm:resnet18, whose published weights have 1000"),
        ("torchvision:resnet18", "whose published weights have 1000"),
        ("module_of_parents:broken", "got an error: RuntimeError: no such luck"),
        ("module_of_parents:nothing", "expected a torch.nn.Module"),
    ],
)
def test_what_cannot_be_built(place, model, message):
    with pytest.raises(SmdEvoError, match=message):
        check_buildable(model, 3)


def test_what_can_be_built_or_is_published(place):
    before = torch.get_rng_state()
    check_buildable("timm:resnet18", 1000)
    check_buildable("torchvision:resnet18", 1000)
    check_buildable("module_of_parents:network", 3)
    check_buildable("demo-cnn", 10)
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_have_to_fit(place):
    good, bad = (
        saved(CifarResNet(20, 3), place / "good.safetensors"),
        saved(nn.Linear(2, 3), place / "bad.safetensors"),
    )
    check_buildable("cifar-resnet20", 3, good)
    with pytest.raises(InvalidValue, match=r"bad\.safetensors"):
        check_buildable("cifar-resnet20", 3, bad)
    with pytest.raises(InvalidValue, match="not there"):
        check_buildable("cifar-resnet20", 3, place / "absent.safetensors")
    with pytest.raises(InvalidValue, match="checkpoint_key: expected none without a checkpoint"):
        check_buildable("timm:resnet18", 1000, None, "ema")
