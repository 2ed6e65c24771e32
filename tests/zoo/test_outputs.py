"""Outputs of the classes that the images have: those columns of the whole network's, or one line that says why."""

import sys

import pytest
import torch
from torchvision import models
from zoo_helpers import picture, saved, untrained, write_folder, write_module

from smd_evo.errors import InvalidValue
from smd_evo.zoo import load
from smd_evo.zoo.names import OUTPUTS

MODULE = """
import torch
from torch import nn
from torch.nn.utils import parametrize

torch.manual_seed(0)

class Means(nn.Module):
    def __init__(self, classes, bias=True):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.head = nn.Linear(4, classes, bias=bias)
        self.num_classes = classes
    def forward(self, images):
        return self.head(self.conv(images).mean((2, 3)))

class Convolved(nn.Module):
    def __init__(self, classes, groups=1):
        super().__init__()
        self.body = nn.Conv2d(3, 2 * classes, 1)
        self.head = nn.Conv2d(2 * classes, classes, 1, groups=groups)
    def forward(self, images):
        return self.head(self.body(images)).mean((2, 3))

class Sure(Means):
    def forward(self, images): return super().forward(images).softmax(1)

class Hidden(nn.Sequential):
    def forward(self, images): return super().forward(images.mean((2, 3)))

def means(classes): return Means(classes)
def bare(classes): return Means(classes, bias=False)
def convolved(classes): return Convolved(classes)
def grouped(classes): return Convolved(classes, classes)
def sure(classes): return Sure(classes)
def nothing(classes): return Hidden(nn.Identity())
def frozen(classes):
    network = Means(classes)
    network.head.requires_grad_(False)
    return network
def first(classes): return Hidden(nn.Linear(3, classes), nn.ReLU(), nn.Linear(classes, classes - 1))
def hooked(classes):
    network = Means(classes)
    network.head.register_forward_hook(lambda *_: None)
    return network
def parametrized(classes):
    network = Means(classes)
    parametrize.register_parametrization(network.head, "weight", nn.Identity())
    return network
def tied(classes):
    network = Hidden(nn.Linear(3, classes), nn.Linear(classes, classes), nn.Linear(classes, classes))
    network[2].weight = network[1].weight
    return network

def one_class():
    from torch.utils.data import TensorDataset
    both = TensorDataset(torch.zeros(9, 3, 4, 4, dtype=torch.uint8), torch.ones(9, dtype=torch.int64))
    both.classes = "a", "b"
    return both, None
def samples():
    from smd_evo import Splits
    pair = torch.rand(4, 3, 4, 4), torch.arange(4) % 2
    return Splits(pair, pair, pair)
"""


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A current folder with five classes of images, of which two have none and one has test images alone."""
    write_module(tmp_path, "my_networks", MODULE)
    write_folder(tmp_path / "images" / "train", {"a": 0, "b": 9, "c": 0, "d": 9, "e": 0})
    write_folder(tmp_path / "images" / "test", {"a": 0, "b": 3, "c": 0, "d": 3, "e": 3}, start=18)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    yield tmp_path
    sys.modules.pop("my_networks", None)


def outputs(network, images):
    with torch.inference_mode():
        return network(images)


@pytest.mark.filterwarnings("ignore:data. expected images of")
@pytest.mark.parametrize("name", ["means", "bare", "frozen", "convolved"])
def test_they_are_those_columns_of_the_whole_network(place, name):
    whole, every = load(f"my_networks:{name}", "imagefolder:images")
    part, data = load(f"my_networks:{name}", "imagefolder:images", outputs="present")
    assert (every.classes, data.classes) == (("a", "b", "c", "d", "e"), ("b", "d", "e"))
    assert torch.equal(data.test[0], every.test[0])
    assert [data.classes[number] for number in data.test[1]] == [every.classes[number] for number in every.test[1]]
    torch.testing.assert_close(outputs(part, data.test[0]), outputs(whole, every.test[0])[:, [1, 3, 4]])
    before, after = (dict(network.named_parameters()) for network in (whole, part))
    assert before.keys() == after.keys()
    for parameter, narrowed in zip(before.values(), after.values(), strict=True):
        assert narrowed.dtype == parameter.dtype
        assert narrowed.requires_grad == parameter.requires_grad
        assert parameter.shape == narrowed.shape or (len(parameter), len(narrowed)) == (5, 3)
    assert not any(module.training for module in part.modules())


def test_of_images_of_some_of_imagenets_classes(place):
    write_folder(place / "photos" / "train", {"n01440764": 6, "n15075141": 6}, make=picture)
    write_folder(place / "photos" / "val", {"n01440764": 2, "n15075141": 2}, make=picture)
    arguments = {"checkpoint": saved(untrained(), place / "x.safetensors")}
    with pytest.warns(UserWarning, match="got none of 998"):
        whole, every = load("timm:test_resnet", "imagenet:photos", **arguments)
    part, data = load("timm:test_resnet", "imagenet:photos", **arguments, outputs="present")  # without a warning
    assert data.classes == (every.classes[0], every.classes[999])
    assert data.description == "images of 2 classes in photos (train and val); 2 of 1,000 outputs kept"
    assert (every.test[1] // 999).tolist() == data.test[1].tolist()
    torch.testing.assert_close(outputs(part, data.test[0]), outputs(whole, every.test[0])[:, [0, 999]])
    assert part.num_classes == part.get_classifier().out_features == 2


@pytest.mark.filterwarnings("ignore:data. expected images of")
def test_of_torchvisions_squeezenet(place):
    """Its head is a convolution, in the order of memory that the network is in."""
    write_folder(place / "photos", {"a": 0, "b": 9, "c": 9}, make=picture)
    network = models.squeezenet1_1(num_classes=3)
    arguments = "torchvision:squeezenet1_1", "imagefolder:photos"
    (whole, every), (part, _) = (
        load(*arguments, checkpoint=saved(network, place / "x.safetensors"), outputs=kept) for kept in OUTPUTS
    )
    images = every.test[0]
    torch.testing.assert_close(outputs(part, images), outputs(whole, images)[:, 1:])
    assert part.classifier[1].weight.stride() == whole.classifier[1].weight.stride()
    assert part.classifier[1].out_channels == part.num_classes == 2


def test_all_of_them_where_all_classes_have_images(place):
    write_folder(place / "all", {"a": 9, "b": 9})
    whole, part = (load("my_networks:means", "imagefolder:all", outputs=kept)[0] for kept in ("all", "present"))
    assert [each.shape for each in part.parameters()] == [each.shape for each in whole.parameters()]


@pytest.mark.parametrize(
    ("model", "got"),
    [
        ("grouped", "got Conv2d; "),
        ("nothing", "got Module; "),
        ("first", "got a Linear of 4; "),
        ("hooked", "got one with hooks or parametrizations; "),
        ("parametrized", "got one with hooks or parametrizations; "),
        ("tied", "got one whose weights another layer has, too; "),
    ],
)
def test_heads_that_have_no_rows_of_their_own(model, got, monkeypatch):
    monkeypatch.setattr("smd_evo.zoo.loading.splits_of", lambda *_: pytest.fail("it decodes"))
    with pytest.raises(InvalidValue, match=rf"^outputs: expected a plain Linear .* of my_networks:{model} .*{got}"):
        load(f"my_networks:{model}", "imagefolder:images", outputs="present")


def test_outputs_that_depend_on_all_of_them():
    with pytest.raises(
        InvalidValue, match=r"^outputs: expected my_networks:sure to have the same 3 outputs .* softmax"
    ):
        load("my_networks:sure", "imagefolder:images", outputs="present")


@pytest.mark.parametrize(
    ("model", "data", "kept", "text"),
    [
        ("demo-cnn", "digits", "present", "^outputs: expected all for digits, got 'present'"),
        (
            "my_networks:means",
            "my_networks:samples",
            "present",
            "^outputs: expected all for my_networks:samples, got",
        ),
        (
            "my_networks:means",
            "my_networks:one_class",
            "present",
            "^outputs: expected .* got those of one \\(b\\) in my_",
        ),
        ("my_networks:means", "imagefolder:images", "some", "^outputs: expected one of all, present, got 'some'"),
    ],
)
def test_where_they_cannot_be_told(model, data, kept, text):
    with pytest.raises(InvalidValue, match=text) as caught:
        load(model, data, outputs=kept)
    assert "\n" not in str(caught.value)
