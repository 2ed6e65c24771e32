"""Parents of the Hugging Face Hub or of a folder: their own weights, pixels, labels, or a line that says why not."""

import json
import pickle
import socket
import sys
import time

import huggingface_hub
import pytest
import timm
import torch
from cli_helpers import here, refused
from torch import nn
from zoo_helpers import picture, saved, untrained, write_folder

from smd_evo import Lineage, RandomSubspace, sample_mutations
from smd_evo.core.parameters import ParameterSpace
from smd_evo.errors import InvalidValue
from smd_evo.evaluation.evaluator import Evaluator
from smd_evo.zoo.hub import check_labels
from smd_evo.zoo.loading import load
from smd_evo.zoo.models import build_model
from smd_evo.zoo.preprocessing import Normalize
from smd_evo.zoo.wanted import read_wanted

transformers = pytest.importorskip("transformers", reason="needs smd-evo[hf]")

CLASSES = ("cat", "dog", "hen")
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
SQUARE = {"height": 32, "width": 32}
PROCESSORS = {
    "square": {"size": SQUARE},
    "cropped": {
        "size": {"shortest_edge": 40},
        "do_center_crop": True,
        "crop_size": SQUARE,
        "image_mean": [0.4, 0.5, 0.6],
        "image_std": [0.2, 0.3, 0.25],
    },
    "plain": {"size": SQUARE, "do_normalize": False},
    "scaled": {"size": SQUARE, "rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3},
}


def vit(labels=CLASSES):
    torch.manual_seed(0)
    names = dict(enumerate(labels))
    config = transformers.ViTConfig(**SMALL, image_size=32, patch_size=8, id2label=names, label2id={})
    return transformers.ViTForImageClassification(config).eval()


def write(folder, network=None, **processor):
    """A folder as ``save_pretrained`` writes it."""
    (vit() if network is None else network).save_pretrained(folder)
    if processor:
        kind = transformers.CLIPImageProcessor if "crop_size" in processor else transformers.ViTImageProcessor
        kind(**processor).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(tmp_path, capfd):
    write(tmp_path / "model", **PROCESSORS["square"])
    capfd.readouterr()
    return tmp_path / "model"


class TestFolder:
    def test_has_its_own_weights_in_silence(self, folder, capfd):
        network, preprocessing = build_model(f"hf:{folder}", 3)
        own = vit().state_dict()
        assert all(torch.equal(tensor, own[name]) for name, tensor in network.state_dict().items())
        assert not any(part.training for part in network.modules())
        assert (preprocessing.mean, preprocessing.std, preprocessing.channels) == ((0.5,) * 3, (0.5,) * 3, 3)
        assert capfd.readouterr() == ("", "")

    @pytest.mark.parametrize("kind", PROCESSORS)
    @pytest.mark.parametrize("size", [(50, 40), (20, 31)], ids=str)
    def test_its_image_processor_becomes_the_preprocessing(self, tmp_path, kind, size):
        write(tmp_path, **PROCESSORS[kind])
        _, preprocessing = build_model(f"hf:{tmp_path}", 3)
        preprocessing = pickle.loads(pickle.dumps(preprocessing))  # as workers get it
        image = picture(1, size=size)
        own = transformers.AutoImageProcessor.from_pretrained(tmp_path)(images=image, return_tensors="pt")
        pixels = preprocessing(image)
        assert pixels.dtype == torch.uint8
        identity = nn.Identity()
        identity.register_forward_pre_hook(Normalize(preprocessing))
        torch.testing.assert_close(identity(pixels[None]), own["pixel_values"].float(), atol=2e-5, rtol=0)

    def test_what_a_user_wants_comes_before_it(self, tmp_path):
        write(tmp_path / "a", **PROCESSORS["cropped"])
        write(tmp_path / "b")
        _, preprocessing = build_model(f"hf:{tmp_path / 'a'}", 3, wanted=read_wanted("size=24,mean=0.3"))
        assert preprocessing(picture()).shape == (3, 24, 24)
        assert (preprocessing.mean, preprocessing.std) == ((0.3,) * 3, (0.2, 0.3, 0.25))
        _, preprocessing = build_model(f"hf:{tmp_path / 'b'}", 3, wanted=read_wanted("size=32"))
        assert preprocessing(picture()).shape == (3, 32, 32)

    @pytest.mark.parametrize(
        ("kind", "settings"),
        [
            ("ViT", {"size": SQUARE}),
            ("ViT", {"size": SQUARE, "resample": 0}),
            ("DeiT", {"size": {"height": 40, "width": 40}, "crop_size": SQUARE}),
            ("ConvNext", {"size": {"shortest_edge": 32}, "crop_pct": 0.8}),
            ("ConvNext", {"size": {"shortest_edge": 384}}),
            (
                "PoolFormer",
                {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}, "crop_pct": 0.8},
            ),
            ("Levit", {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}),
            ("MobileViT", {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}}),
        ],
    )
    def test_what_a_user_does_not_say_stays_its_own(self, tmp_path, kind, settings):
        getattr(transformers, f"{kind}ImageProcessor")(**settings).save_pretrained(write(tmp_path))
        image = picture(1, size=(50, 40))
        _, own = build_model(f"hf:{tmp_path}", 3)
        _, other = build_model(f"hf:{tmp_path}", 3, wanted=read_wanted("mean=0.25"))
        assert torch.equal(other(image), own(image))
        assert (other.mean, other.std, other.is_asked) == ((0.25,) * 3, own.std, True)
        wanted = read_wanted(f"size={own(image).shape[1]}")  # as it is
        if kind in ("Levit", "MobileViT"):  # a share of its own, and blue for red
            with pytest.raises(InvalidValue, match=rf"^preprocessing: .* got {kind}Im.* give mean and std alone, or"):
                build_model(f"hf:{tmp_path}", 3, wanted=wanted)
        else:
            _, other = build_model(f"hf:{tmp_path}", 3, wanted=wanted)
            assert float((other(image).float() - own(image).float()).abs().mean()) < 0.5

    def test_a_checkpoint_of_other_classes(self, folder, tmp_path):
        own = vit("abcdefg")
        network, _ = build_model(f"hf:{folder}", 7, saved(own, tmp_path / "x.safetensors"))
        assert all(torch.equal(tensor, own.state_dict()[name]) for name, tensor in network.state_dict().items())

    def test_loads_with_pictures_and_its_children_too(self, folder, tmp_path):
        pictures = write_folder(tmp_path / "pictures", dict.fromkeys(CLASSES, 8), make=picture)
        network, data = load(f"hf:{folder}", f"imagefolder:{pictures}")
        assert data.classes == CLASSES
        children = [Lineage(), *sample_mutations(0, 2, subspace=RandomSubspace(0.1), sigma=0.5)]
        assert len(set(Evaluator(network, data.test).evaluate(children).fitness.tolist())) == 3
        child = ParameterSpace(network).make_child(children[1])
        child.save_pretrained(tmp_path / "child")
        again, _ = build_model(f"hf:{tmp_path / 'child'}", 3, wanted=read_wanted("size=32"))
        assert all(torch.equal(tensor, child.state_dict()[name]) for name, tensor in again.state_dict().items())

    def test_of_fewer_outputs_is_stored_with_these(self, tmp_path):
        write(tmp_path / "model", vit("abcde"), **PROCESSORS["square"])
        pictures = write_folder(tmp_path / "pictures", {"a": 0, "b": 8, "c": 0, "d": 8, "e": 0}, make=picture)
        network, _ = load(f"hf:{tmp_path / 'model'}", f"imagefolder:{pictures}", outputs="present")
        network.save_pretrained(tmp_path / "part")
        again = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "part")
        assert again.config.id2label == {0: "b", 1: "d"}
        assert torch.equal(again.classifier.weight, vit("abcde").classifier.weight[[1, 3]])


class TestCommand:
    def test_finetunes_it(self, folder, tmp_path):
        pictures = write_folder(tmp_path / "pictures", dict.fromkeys(CLASSES, 8), make=picture)
        arguments = ["--model", "hf:./model", "--data", f"imagefolder:{pictures}", "--dry-run"]
        result = here("finetune", *arguments, cwd=tmp_path)
        assert result.returncode == 0, result.stderr

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("hf:./nothing", "model: expected a folder of a model, got ./nothing, which is not there"),
            ("hf:", "model: expected hf:OWNER/NAME, as on the Hugging Face Hub, or a folder, got 'hf:'"),
            ("hf:a b", "model: expected hf:OWNER/NAME, as on the Hugging Face Hub, or a folder, got 'hf:a b'"),
            ("timm:local-dir:./nothing", "model: expected a folder of a model, got ./nothing, which is not there"),
        ],
    )
    def test_refuses_places_where_there_is_none(self, tmp_path, name, message):
        pictures = write_folder(tmp_path / "pictures", dict.fromkeys(CLASSES, 4), make=picture)
        refused(here("finetune", "--model", name, "--data", f"imagefolder:{pictures}", cwd=tmp_path), message)


class TestRefused:
    def test_another_number_of_classes(self, folder):
        with pytest.raises(InvalidValue, match=r"the 5 classes of the data, got hf:.*, whose .* have 3; give a"):
            build_model(f"hf:{folder}", 5)

    def test_a_network_without_a_head(self, folder):
        config = transformers.ViTConfig(**SMALL, image_size=32, patch_size=8, num_labels=3)
        transformers.ViTModel(config).save_pretrained(folder)
        (folder / "config.json").write_text(json.dumps(config.to_dict()))
        with pytest.raises(InvalidValue, match=r"^model: expected all tensors .* got none for .*classifier\.weight"):
            build_model(f"hf:{folder}", 3)

    def test_an_image_processor_that_does_more(self, folder):
        transformers.EfficientNetImageProcessor().save_pretrained(folder)  # it divides by the deviation twice
        with pytest.raises(InvalidValue, match=r"^model: expected an image processor that .* got EfficientNetImageP"):
            build_model(f"hf:{folder}", 3)

    def test_no_image_processor(self, tmp_path):
        write(tmp_path)
        with pytest.raises(
            InvalidValue, match=r"^preprocessing: expected an image processor of hf:.*, got none; put"
        ):
            build_model(f"hf:{tmp_path}", 3)

    def test_a_folder_of_something_else(self, tmp_path):
        with pytest.raises(
            InvalidValue, match=r"^model: expected an image classifier of transformers in hf:.*, got n"
        ):
            build_model(f"hf:{tmp_path}", 3)
        small = {"vocab_size": 9, "hidden_size": 8, "num_attention_heads": 1, "num_hidden_layers": 1}
        transformers.BertModel(transformers.BertConfig(**small, intermediate_size=8)).save_pretrained(tmp_path)
        with pytest.raises(InvalidValue, match=r"^model: expected an image classifier of .*BertConfig") as caught:
            build_model(f"hf:{tmp_path}", 3)
        assert "\n" not in str(caught.value)

    def test_code_of_the_models_own_is_not_run(self, folder):
        config = json.loads((folder / "config.json").read_text())
        told = {"AutoConfig": "own.Config", "AutoModelForImageClassification": "own.Model"}
        (folder / "config.json").write_text(json.dumps({**config, "model_type": "own", "auto_map": told}))
        (folder / "own.py").write_text("raise SystemExit('it was imported')")
        with pytest.raises(InvalidValue, match=r"^model: expected an image classifier of transformers in hf:"):
            build_model(f"hf:{folder}", 3)

    def test_without_the_library(self, folder, monkeypatch):
        monkeypatch.setitem(sys.modules, "transformers", None)
        with pytest.raises(
            InvalidValue, match=r"^model: expected the transformers library for hf:.*'smd-evo\[hf\]'$"
        ):
            build_model(f"hf:{folder}", 3)


class TestLabels:
    """A class of the data is the output that the network calls so, where it calls one so."""

    def network(self, *labels):
        network = nn.Module()
        network.config = type("Config", (), {"id2label": dict(enumerate(labels))})
        return network

    @pytest.mark.parametrize(
        "labels", [("cat", "dog"), ("Cat, tabby cat", "DOG"), ("LABEL_0", "LABEL_1"), ("cat", "x")]
    )
    def test_that_agree_or_say_nothing(self, labels):
        check_labels("hf:x", self.network(*labels), ["cat", "dog"])
        check_labels("x", nn.Linear(2, 2), ["cat", "dog"])

    def test_of_timm(self, tmp_path):
        timm.models.save_for_hf(untrained("test_resnet", 2), tmp_path, model_config={"label_names": ["dog", "cat"]})
        network, _ = build_model(f"timm:local-dir:{tmp_path}", 2)
        check_labels("x", network, ["dog", "cat"])
        with pytest.raises(InvalidValue, match=r"labels, got cat as class 0, which is its output 1; rename"):
            check_labels("x", network, ["cat", "dog"])

    def test_in_another_order(self):
        order = sorted(str(number) for number in range(11))  # 0, 1, 10, 2: as folders are read
        expected = r"in the order of hf:x's labels, got 10 as class 2, which is its output 10; rename"
        with pytest.raises(InvalidValue, match=expected):
            check_labels("hf:x", self.network(*map(str, range(11))), order)
        with pytest.raises(InvalidValue, match=r"got big cat as class 0, which is its output 1"):
            check_labels("hf:x", self.network("dog", "Big_Cat, lion"), ["big cat", "dog"])


class TestHub:
    @pytest.fixture(autouse=True)
    def asked(self, tmp_path, monkeypatch):
        hosts = []

        def unknown_host(host, *_args, **_options):
            hosts.append(host)
            raise socket.gaierror(-2, "Name or service not known")

        for module in (huggingface_hub.constants, huggingface_hub.file_download.constants):
            monkeypatch.setattr(module, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(socket, "getaddrinfo", unknown_host)
        monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("it waits to try again"))
        return hosts

    @pytest.mark.parametrize(
        ("name", "mend"),
        [
            ("hf:owner/name", "; give hf:FOLDER, what save_pretrained wrote$"),
            ("timm:hf_hub:owner/name", "; give a checkpoint: a file of its weights, safetensors or torch$"),
            ("timm:hf-hub:owner/name@main", "; give a checkpoint: a file of its weights, safetensors or torch$"),
        ],
    )
    def test_without_a_network_it_is_asked_once(self, name, mend, asked, capfd):
        expected = rf"^model: expected the weights of {name} in the cache or from the network, got neither \("
        with pytest.raises(InvalidValue, match=expected + ".*Name or service not known.*" + mend) as caught:
            build_model(name, 3)
        assert len(asked) <= 2
        assert "\n" not in str(caught.value)
        assert capfd.readouterr() == ("", "")

    def test_what_is_in_the_cache_is_not_asked_for(self, tmp_path, asked, capfd):
        cached = tmp_path / "cache" / "models--owner--name"
        write(cached / "snapshots" / "abc", **PROCESSORS["square"])
        (cached / "refs").mkdir()
        (cached / "refs" / "main").write_text("abc")
        capfd.readouterr()
        network, preprocessing = build_model("hf:owner/name", 3)
        assert torch.equal(network.classifier.weight, vit().classifier.weight)
        assert preprocessing(picture()).shape == (3, 32, 32)
        assert not asked
        assert capfd.readouterr() == ("", "")

    def test_an_image_processor_that_nobody_has_cached_is_fetched(self, tmp_path, asked, monkeypatch):
        cached = tmp_path / "cache" / "models--owner--name"
        write(cached / "snapshots" / "abc")
        (cached / "refs").mkdir()
        (cached / "refs" / "main").write_text("abc")
        with pytest.raises(
            InvalidValue, match=r"^preprocessing: expected an image processor of hf:owner/name, got n"
        ):
            build_model("hf:owner/name", 3)
        assert len(asked) <= 2  # and there is no network
        found = {"owner/name": transformers.ViTImageProcessor(size=SQUARE)}

        def from_pretrained(place, **_options):
            if place not in found:
                raise OSError("no such file")
            return found[place]

        monkeypatch.setattr(transformers.AutoImageProcessor, "from_pretrained", from_pretrained)
        monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda url: url.endswith("r_config.json"))
        _, preprocessing = build_model("hf:owner/name", 3)
        assert preprocessing(picture()).shape == (3, 32, 32)


def test_a_folder_of_timm(tmp_path):
    own = untrained("test_resnet", 3)
    timm.models.save_for_hf(own, tmp_path)
    network, preprocessing = build_model(f"timm:local-dir:{tmp_path}", 3)
    assert all(torch.equal(tensor, own.state_dict()[name]) for name, tensor in network.state_dict().items())
    assert tuple(preprocessing.mean) == timm.get_pretrained_cfg("test_resnet").mean
    with pytest.raises(InvalidValue, match="the 5 classes of the data, got timm:local-dir:"):
        build_model(f"timm:local-dir:{tmp_path}", 5)
