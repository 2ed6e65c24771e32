"""Parents by name: the libraries' own networks with the head of the data, or one line that says what is wrong."""

import socket
import sys
import time
import urllib.error

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models
from torchvision.models import get_model_weights
from zoo_helpers import convnext_as_published, lively, saved, untrained, write_module

from smd_evo.errors import InvalidType, InvalidValue
from smd_evo.zoo.cifar_resnet import CifarResNet
from smd_evo.zoo.models import MODELS, build_model, check_name
from smd_evo.zoo.preprocessing import IMAGENET_MEAN


def same(one, other):
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


class TestFromACheckpoint:
    @pytest.mark.parametrize("classes", [1000, 7])
    @pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet", "test_resnet.r160_in1k"])
    def test_timm(self, tmp_path, name, classes):
        own = untrained(name, classes)
        network, preprocessing = build_model(f"timm:{name}", classes, saved(own, tmp_path / "x.safetensors"))
        assert same(network, own)
        assert not any(part.training for part in network.modules())
        assert preprocessing.mean == own.pretrained_cfg["mean"]
        assert (preprocessing.channels, preprocessing.channels_last) == (3, True)

    @pytest.mark.parametrize("classes", [1000, 7])
    @pytest.mark.parametrize("name", ["squeezenet1_0", "mobilenet_v3_small"])
    def test_torchvision(self, tmp_path, name, classes):
        own = lively(models.get_model(name, num_classes=classes))
        network, preprocessing = build_model(f"torchvision:{name}", classes, saved(own, tmp_path / "x.safetensors"))
        assert same(network, own)
        assert not network.training
        assert preprocessing.mean == IMAGENET_MEAN
        assert (preprocessing.channels, preprocessing.channels_last) == (3, True)

    @pytest.mark.parametrize("classes", [10, 3])
    def test_cifar_resnet(self, tmp_path, classes):
        own = lively(CifarResNet(20, classes))
        network, preprocessing = build_model("cifar-resnet20", classes, saved(own, tmp_path / "x.safetensors"))
        assert same(network, own)
        assert not network.training
        assert preprocessing.mean == IMAGENET_MEAN
        assert (preprocessing.channels, preprocessing.channels_last) == (3, True)

    def test_each_cifar_resnet_has_its_depth(self, tmp_path):
        for depth in (32, 44, 56, 110):
            file = saved(CifarResNet(depth), tmp_path / f"{depth}.safetensors")
            network, _ = build_model(f"cifar-resnet{depth}", 10, file)
            assert sum(isinstance(layer, nn.Conv2d | nn.Linear) for layer in network.modules()) == depth

    def test_a_cifar_resnet_needs_one(self):
        with pytest.raises(
            InvalidValue, match=r"^checkpoint: expected a file with the weights of cifar-resnet20, got none; none are"
        ):
            build_model("cifar-resnet20", 10)

    @pytest.mark.parametrize("name", ["timm:test_resnet", "torchvision:squeezenet1_0", "cifar-resnet20"])
    def test_of_another_architecture(self, tmp_path, name):
        file = saved(untrained("test_vit", 10), tmp_path / "x.safetensors")
        with pytest.raises(
            InvalidValue, match=r"x.safetensors, got differences: .* is missing; .*another architecture"
        ):
            build_model(name, 10, file)

    @pytest.mark.parametrize(
        ("name", "own", "head"),
        [
            ("timm:test_resnet", untrained("test_resnet", 12), r"fc.weight is \[12, 96\] instead of \[10, 96\]"),
            ("cifar-resnet20", CifarResNet(20, 12), r"linear.weight is \[12, 64\] instead of \[10, 64\]"),
        ],
        ids=["timm", "cifar"],
    )
    def test_for_another_number_of_classes(self, tmp_path, name, own, head):
        with pytest.raises(InvalidValue, match=rf"{head}.*for other classes\?$"):
            build_model(name, 10, saved(own, tmp_path / "x.safetensors"))

    @pytest.mark.parametrize("classes", [1000, 7])
    def test_in_the_names_of_its_authors_own_code(self, tmp_path, classes):
        """ConvNeXt as published, which timm translates when it fetches weights itself."""
        own = untrained("test_convnext", classes)
        theirs = convnext_as_published(own)
        assert theirs.keys() != own.state_dict().keys()
        save_file(theirs, tmp_path / "x.safetensors")
        assert same(build_model("timm:test_convnext", classes, tmp_path / "x.safetensors")[0], own)

    @pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
    def test_networks_that_scale_their_inputs_once_more_do_so_as_with_published_weights(self, tmp_path, name):
        with torch.random.fork_rng(devices=[]):
            published = models.get_model(name, transform_input=True, init_weights=False)
        network, _ = build_model(f"torchvision:{name}", 1000, saved(published, tmp_path / "x.safetensors"))
        assert network.transform_input


class TestPublishedWeights:
    @pytest.mark.parametrize(
        ("name", "outputs"),
        [
            ("timm:test_resnet", 1000),
            ("timm:resnet18.a1_in1k", 1000),
            ("timm:convnext_tiny.in12k", 11_821),
            ("timm:vit_small_patch14_dinov2.lvd142m", 0),
            ("torchvision:squeezenet1_0", 1000),
        ],
    )
    def test_for_other_classes_are_refused_before_they_are_fetched(self, name, outputs, monkeypatch):
        monkeypatch.setattr(socket, "getaddrinfo", None)
        expected = (
            f"^model: expected a network for the 10 classes of the data, got {name}, whose .* have {outputs}; give a"
        )
        with pytest.raises(InvalidValue, match=expected):
            build_model(name, 10)

    def test_of_torchvision_come_from_its_cache(self, tmp_path, monkeypatch, capfd):
        own = lively(models.get_model("squeezenet1_0"))
        file = tmp_path / "hub" / "checkpoints" / get_model_weights("squeezenet1_0").DEFAULT.url.rpartition("/")[2]
        file.parent.mkdir(parents=True)
        torch.save(own.state_dict(), file)
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        monkeypatch.setattr(socket, "getaddrinfo", None)
        network, _ = build_model("torchvision:squeezenet1_0", 1000)
        assert same(network, own)
        assert not network.training
        assert capfd.readouterr() == ("", "")


class TestOffline:
    """Neither in the cache nor to be fetched."""

    HINT = "; give a checkpoint: a file of its weights, safetensors or torch$"

    @pytest.fixture(autouse=True)
    def _empty_caches(self, tmp_path, monkeypatch):
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        for module in (huggingface_hub.constants, huggingface_hub.file_download.constants):
            monkeypatch.setattr(module, "HF_HUB_CACHE", str(tmp_path))

    def test_timm_without_a_network(self, monkeypatch, capfd):
        asked = []

        def unknown_host(host, *_args, **_options):
            asked.append(host)
            raise socket.gaierror(-2, "Name or service not known")

        monkeypatch.setattr(socket, "getaddrinfo", unknown_host)
        monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("it waits to try again"))
        expected = (
            "^model: expected the weights of timm:test_resnet in the cache or from the network, got neither \\("
        )
        with pytest.raises(InvalidValue, match=expected + ".*Name or service not known.*" + self.HINT) as caught:
            build_model("timm:test_resnet", 1000)
        assert len(asked) <= 2
        assert "\n" not in str(caught.value)
        assert capfd.readouterr() == ("", "")

    def test_timm_where_the_hub_is_switched_off(self, monkeypatch, capfd):
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(InvalidValue, match=r"^model: expected the weights of timm:test_resnet in .*" + self.HINT):
            build_model("timm:test_resnet", 1000)
        assert capfd.readouterr() == ("", "")

    def test_timm_where_none_are_published(self):
        name = next(name for name in timm.list_models() if not timm.get_pretrained_cfg(name).has_weights)
        expected = f"^checkpoint: expected a file with the weights of timm:{name}, got none; none are published$"
        with pytest.raises(InvalidValue, match=expected):
            build_model(f"timm:{name}", timm.get_pretrained_cfg(name).num_classes)

    def test_torchvision(self, monkeypatch):
        def unknown_host(*_args, **_options):
            raise urllib.error.URLError("Name or service not known")

        monkeypatch.setattr(torch.hub, "urlopen", unknown_host)
        expected = (
            "^model: expected the weights of torchvision:squeezenet1_0 in the cache or from the network, got neither"
        )
        with pytest.raises(InvalidValue, match=expected + ".*not known.*" + self.HINT) as caught:
            build_model("torchvision:squeezenet1_0", 1000)
        assert "\n" not in str(caught.value)


FACTORIES = """
import timm, torch
from torch import nn

def linear(classes): return nn.Sequential(nn.Flatten(), nn.Linear(48, classes))
def of_timm(classes): return timm.create_model("test_vit", num_classes=classes)
def no_network(classes): return "a network"
def failing(classes): raise ZeroDivisionError("mine")
def nothing(): return nn.Linear(1, 6)
def default(classes=3): return nn.Linear(1, classes)
def later(width=2, *, num_classes): return nn.Linear(width, num_classes)
def only_by_place(n, /, width=2): return nn.Linear(width, n)
def any_arguments(*sizes): return nn.Linear(1, *sizes)
def options(*, width=4): return nn.Linear(width, 6)
def two(width, num_classes): return nn.Linear(width, num_classes)
def width_alone(width=64): return nn.Linear(width, 6)
def anything(**options): return nn.Linear(1, 6)
def a_class(classes): return Net
class Net(nn.Linear):
    def __init__(self, num_classes=3): super().__init__(2, num_classes)
class Fixed(nn.Linear):
    def __init__(self): super().__init__(2, 6)
ready = nn.Sequential(nn.Linear(2, 6), nn.Dropout())
"""


class TestFactories:
    @pytest.fixture(autouse=True)
    def _module(self, tmp_path, monkeypatch):
        write_module(tmp_path, "my_nets", FACTORIES)
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend("")
        yield
        sys.modules.pop("my_nets", None)

    def test_a_network_of_ones_own_gets_pixels_from_0_to_1(self):
        network, preprocessing = build_model("my_nets:linear", 5)
        assert network[1].out_features == 5
        assert not network.training
        assert (preprocessing.mean, preprocessing.std) == ((0.0,), (1.0,))
        assert (preprocessing.channels, preprocessing.channels_last) == (None, False)

    @pytest.mark.parametrize(
        ("name", "outputs"),
        [
            *[("nothing", 6), ("options", 6), ("Fixed", 6)],
            *[("default", 5), ("later", 5), ("only_by_place", 5), ("any_arguments", 5), ("Net", 5)],
        ],
    )
    def test_the_number_of_classes_is_given_to_what_takes_it(self, name, outputs):
        assert build_model(f"my_nets:{name}", 5)[0].out_features == outputs

    def test_a_network_as_it_is_is_copied(self):
        network, _ = build_model("my_nets:ready", 6)
        own = sys.modules["my_nets"].ready
        assert same(network, own)
        assert network is not own
        assert own.training

    def test_one_of_timm_gets_what_timm_says(self):
        network, preprocessing = build_model("my_nets:of_timm", 5)
        assert network.head.out_features == 5
        assert preprocessing.mean == network.pretrained_cfg["mean"]
        assert preprocessing.channels == 3

    def test_with_a_checkpoint(self, tmp_path):
        own = lively(nn.Sequential(nn.Flatten(), nn.Linear(48, 5)))
        network, _ = build_model("my_nets:linear", 5, saved(own, tmp_path / "x.safetensors"))
        assert same(network, own)

    @pytest.mark.parametrize(
        ("factory", "error", "text"),
        [
            (
                "no_network",
                InvalidType,
                "^model: expected a torch.nn.Module from my_nets:no_network, got str; ret",
            ),
            ("a_class", InvalidType, "^model: expected a torch.nn.Module from .*, got Net, a class; return the netw"),
            ("failing", ZeroDivisionError, "^mine$"),
            (
                "two",
                InvalidType,
                r"^model: .* or of nothing, as my_nets:two, got one of \(width, num_classes\)",
            ),
            (
                "width_alone",
                InvalidType,
                r"got one of \(width=64\); call that parameter `classes`, and give",
            ),
            ("anything", InvalidType, r"got one of \(\*\*options\); call that parameter `classes`"),
            ("missing", InvalidValue, "^model: expected a function 'missing' in my_nets, got None$"),
        ],
    )
    def test_what_is_wrong_with_them(self, factory, error, text):
        with pytest.raises(error, match=text):
            build_model(f"my_nets:{factory}", 5)


class TestNames:
    @pytest.mark.parametrize(
        "name", ["demo-cnn", "cifar-resnet110", "timm:resnet18", "timm:resnet18.a1_in1k", "a.b:c"]
    )
    def test_known_ones(self, name):
        assert ":".join(filter(None, check_name(name))) == name

    @pytest.mark.parametrize("name", ["torchvision:resnet18", "torchvision:vit_b_16"])
    def test_known_ones_of_torchvision(self, name):
        assert check_name(name) == tuple(name.split(":"))

    @pytest.mark.parametrize(
        ("name", "meant"),
        [
            ("demo_cnn", "demo-cnn"),
            ("resnet18", "timm:resnet18"),
            ("tf_efficientnet_lit0", "timm:tf_efficientnet_lite0"),
            ("timm:resnet_18", "timm:resnet18"),
            ("timm:resnet18.a1_in1", "timm:resnet18.a1_in1k"),
            ("torchvision:resnet_18", "torchvision:resnet18"),
            ("torchvision:squeezenet1_", "torchvision:squeezenet1_1"),
            ("cifar-resnet2", "cifar-resnet32"),
            ("cifar_resnet110", "cifar-resnet110"),
        ],
    )
    def test_near_ones_are_suggested(self, name, meant):
        with pytest.raises(
            InvalidValue, match=rf"^model: expected one of .*, got '{name}'; did you mean '{meant}'\?$"
        ):
            check_name(name)

    @pytest.mark.parametrize("name", ["zzz", "timm:", "torchvision:", "timm:zzz", "torchvision:zzz", "", ":"])
    def test_unknown_ones(self, name):
        with pytest.raises(InvalidValue, match=r"^model: expected one of "):
            check_name(name)

    @pytest.mark.parametrize("name", ["tim:resnet18", "cifar-resnet20:x", "demo-cnn:x", ":x", "nets:"])
    def test_what_is_no_factory_either(self, name):
        with pytest.raises(InvalidValue, match=r"^model: expected one of demo-cnn, .* or module.path:factory, got "):
            build_model(name, 10)

    def test_detectors_and_the_like_are_no_classifiers(self):
        for name in ("fcn_resnet50", "fasterrcnn_resnet50_fpn", "quantized_resnet18"):
            with pytest.raises(InvalidValue, match=r"^model: expected one of [0-9]+ names of torchvision"):
                check_name(f"torchvision:{name}")

    def test_all_are_listed(self):
        assert MODELS[:3] == ("demo-cnn", "timm:NAME", "torchvision:NAME")
        assert all(check_name(name) for name in MODELS[3:])
