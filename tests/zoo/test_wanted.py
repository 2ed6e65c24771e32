"""What a user wants done to pictures: read from a text, and done as torchvision itself does it."""

import sys

import pytest
import torch
from torchvision import models
from torchvision.transforms import v2
from torchvision.transforms.functional import InterpolationMode
from zoo_helpers import lively, picture, saved, untrained, write_folder, write_module

from smd_evo.errors import InvalidType, InvalidValue
from smd_evo.zoo import load
from smd_evo.zoo.cifar_resnet import CifarResNet
from smd_evo.zoo.models import build_model
from smd_evo.zoo.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from smd_evo.zoo.wanted import OWN, Wanted, read_wanted

MODULE = """
import torch
from torch import nn
from torch.utils.data import TensorDataset

class Plain(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.head = nn.Linear(3, classes)
    def forward(self, images):
        self.seen = images
        return self.head(images.mean((2, 3)))

def plain(classes): return Plain(classes)
def told(classes):
    network = Plain(classes)
    network.pretrained_cfg = {"input_size": (3, 32, 32), "crop_pct": 0.8, "interpolation": "bicubic"}
    network.pretrained_cfg |= {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
    return network
def gray(classes):
    network = nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))
    network.pretrained_cfg = {"input_size": (1, 32, 32), "crop_pct": 0.8, "interpolation": "bicubic"}
    network.pretrained_cfg |= {"mean": (0.1,), "std": (0.4,)}
    return network
def tensors():
    return TensorDataset(torch.zeros(12, 3, 9, 9, dtype=torch.uint8), torch.arange(12) % 2), None
def samples():
    from smd_evo import Splits
    pair = torch.rand(4, 3, 4, 4), torch.arange(4) % 2
    return Splits(pair, pair, pair)
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A current folder with pictures and networks."""
    write_module(tmp_path, "my_networks", MODULE)
    write_folder(tmp_path / "images", {"a": 6, "b": 6}, make=picture)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    yield tmp_path
    sys.modules.pop("my_networks", None)


def by_torchvision(image, resized, size, interpolation):
    """The pixels as torchvision makes them, step by step."""
    image = v2.functional.resize(image, resized, InterpolationMode(interpolation))
    return v2.functional.pil_to_tensor(v2.functional.center_crop(image, [size, size]))


class TestText:
    @pytest.mark.parametrize(
        ("text", "found"),
        [
            (None, OWN),
            ("size=96", Wanted(size=96)),
            ("mean=0.5,std=0.25", Wanted(mean=(0.5,), std=(0.25,))),
            (
                " std = 1/0.5/0.25 , mean=0/0/1,crop=1,interpolation=box,size=1",
                Wanted(1, 1.0, "box", (0.0, 0.0, 1.0), (1.0, 0.5, 0.25)),
            ),
        ],
    )
    def test_of_any_of_the_keys(self, text, found):
        assert read_wanted(text) == found

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", ": expected parts like size=224, got ''; try size=224,crop="),
            ("224", ": expected parts like size=224, got '224'; try"),
            ("size=224,", ": expected parts like size=224, got ''; try"),
            ("sise=224", ": expected one of size, crop, interpolation, mean, std, got 'sise'; did you mean 'size'?"),
            ("size=1,size=2", ": expected size once, got 'size=1,size=2'; give one of them"),
            ("size=0", " size: expected a whole number >= 1, got 0; give pixels such as 224"),
            ("size=22.4", " size: expected a whole number >= 1, got '22.4'; give pixels such as 224"),
            ("size=-5", " size: expected a whole number >= 1, got '-5'; give pixels such as 224"),
            ("size=5000", " size: expected at most 4096 pixels, got '5000'"),
            (
                "crop=0",
                " crop: expected a finite number in (0, 1], got 0.0; give the share that is kept, such as 0.8",
            ),
            ("crop=1.2", " crop: expected a finite number in (0, 1], got 1.2; give the share"),
            ("crop=nan", " crop: expected a finite number in (0, 1], got nan; give the share"),
            ("crop=all", " crop: expected a number in (0, 1], got 'all'; give the share"),
            (
                "interpolation=cubic",
                " interpolation: expected one of nearest, bilinear, bicubic, box, hamming, lanczos,",
            ),
            ("std=0", " std: expected a finite number in (0, 1], got 0.0; it is on a scale from 0 to 1, such as 0.5"),
            ("std=0.5/0/0.5", " std: expected a finite number in (0, 1], got 0.0; it is on a scale from 0 to 1"),
            ("mean=127.5", " mean: expected a finite number in [0, 1], got 127.5; it is on a scale from 0 to 1"),
            ("mean=", " mean: expected a number in [0, 1], got ''; it is on"),
            ("mean=0.5/0.5", " mean: expected one number or three with / between, got '0.5/0.5'"),
        ],
    )
    def test_that_cannot_be_read(self, text, message):
        with pytest.raises((InvalidValue, InvalidType)) as caught:
            read_wanted(text)
        assert str(caught.value).startswith(f"preprocessing{message}")
        assert "\n" not in str(caught.value)

    def test_that_is_none(self):
        with pytest.raises(InvalidType, match=r"^preprocessing: expected a text, got 224; try size=224"):
            read_wanted(224)


class TestPixels:
    """What is given is done, and all else as the network itself says."""

    @pytest.mark.parametrize(
        ("text", "resized", "size", "interpolation"),
        [
            ("mean=0.5", 40, 32, "bicubic"),
            ("size=16", 20, 16, "bicubic"),
            ("crop=0.5", 64, 32, "bicubic"),
            ("interpolation=nearest", 40, 32, "nearest"),
            ("size=20,crop=1,interpolation=bilinear", 20, 20, "bilinear"),
        ],
    )
    def test_of_a_network_with_a_configuration(self, place, text, resized, size, interpolation):
        _, wants = build_model("my_networks:told", 2, wanted=read_wanted(text))
        assert torch.equal(wants(picture()), by_torchvision(picture(), resized, size, interpolation))

    def test_of_a_network_without_one(self, place):
        _, wants = build_model("my_networks:plain", 2, wanted=read_wanted("size=14"))
        assert torch.equal(wants(picture()), by_torchvision(picture(), 16, 14, "bilinear"))
        assert (wants.mean, wants.std, wants.channels_last) == (IMAGENET_MEAN, IMAGENET_STD, False)
        assert build_model("my_networks:plain", 2)[1](picture()).shape == (3, 30, 40)

    def test_of_timm(self, tmp_path):
        own = untrained("test_resnet", 2)
        file = saved(own, tmp_path / "x.safetensors")
        config = own.pretrained_cfg
        _, wants = build_model("timm:test_resnet", 2, file, wanted=read_wanted("size=38,std=0.5"))
        resized = int(38 / config["crop_pct"])
        assert torch.equal(wants(picture()), by_torchvision(picture(), resized, 38, config["interpolation"]))
        assert (wants.mean, wants.std) == (config["mean"], (0.5, 0.5, 0.5))

    @pytest.mark.parametrize("name", ["squeezenet1_0", "inception_v3", "mobilenet_v3_small"])
    def test_of_torchvision(self, tmp_path, name):
        with torch.random.fork_rng(devices=[]):
            own = models.get_model(name, **({"init_weights": False} if name == "inception_v3" else {}))
        file = saved(lively(own), tmp_path / "x.safetensors")
        image = picture(size=(400, 300))
        _, usual = build_model(f"torchvision:{name}", 1000, file)
        _, same = build_model(f"torchvision:{name}", 1000, file, wanted=read_wanted("mean=0.5/0.25/0"))
        assert torch.equal(same(image), usual(image))
        assert (same.mean, same.std) == ((0.5, 0.25, 0.0), usual.std)
        _, small = build_model(f"torchvision:{name}", 1000, file, wanted=read_wanted("size=96,crop=0.75"))
        assert torch.equal(small(image), by_torchvision(image, 128, 96, "bilinear"))

    def test_of_cifar_resnets(self, tmp_path):
        """All of the picture is made a square, as without."""
        file = saved(CifarResNet(20, 2), tmp_path / "x.safetensors")
        _, usual = build_model("cifar-resnet20", 2, file)
        _, same = build_model("cifar-resnet20", 2, file, wanted=read_wanted("mean=0"))
        assert torch.equal(same(picture()), usual(picture()))
        _, wants = build_model("cifar-resnet20", 2, file, wanted=read_wanted("size=24"))
        assert torch.equal(wants(picture()), v2.functional.pil_to_tensor(v2.functional.resize(picture(), [24, 24])))


class TestLoading:
    def test_the_network_sees_normalised_pixels(self, place):
        network, data = load(
            "my_networks:plain", "imagefolder:images", preprocessing="size=14,mean=0.5,std=0.1/0.2/0.5"
        )
        assert data.test[0].shape == (4, 3, 14, 14)
        network(data.test[0])
        scale = torch.tensor([0.1, 0.2, 0.5])[:, None, None]
        torch.testing.assert_close(network.seen, (data.test[0] / 255 - 0.5) / scale)

    @pytest.mark.parametrize(
        ("model", "data", "text", "kind", "message"),
        [
            ("demo-cnn", "digits", "mean=0.5", InvalidValue, "expected none for digits, got 'mean=0.5'; that is for"),
            ("my_networks:plain", "my_networks:samples", "size=9", InvalidValue, "expected none for my_networks:sa"),
            (
                "my_networks:plain",
                "my_networks:tensors",
                "size=9",
                InvalidType,
                "expected none for data of tensors, ",
            ),
            (
                "my_networks:plain",
                "imagefolder:images",
                "std=1",
                InvalidValue,
                "expected a size for my_networks:plain",
            ),
            (
                "my_networks:plain",
                "imagefolder:images",
                "std=2",
                InvalidValue,
                "expected a finite number in \\(0, 1\\]",
            ),
            (
                "my_networks:gray",
                "imagefolder:images",
                "std=1/1/1",
                InvalidValue,
                "expected one number for pictures of",
            ),
        ],
    )
    def test_what_does_not_go_together(self, place, model, data, text, kind, message):
        with pytest.raises(kind, match=rf"^preprocessing( std)?: {message}") as caught:
            load(model, data, preprocessing=text)
        assert "\n" not in str(caught.value)
