"""The whole path: splits that never meet, of the images that their indices say, for a network that takes them."""

import itertools
import multiprocessing
import pickle
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import same_bits, state_bits
from torch import nn
from zoo_helpers import damage, number_of, numbered, picture, saved, untrained, write_folder, write_module

from smd_evo import Evaluator, Lineage, RandomSubspace, sample_mutations
from smd_evo.errors import InvalidType, InvalidValue
from smd_evo.evaluation.stream import Stream
from smd_evo.zoo import load, pixels

SPLITS = ("fitness", "validation", "test")
MODULE = """
import random
import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import TensorDataset

class Means(nn.Module):
    '''The mean of each channel, weighted at random: it takes images of any size.'''
    def __init__(self, classes, channels=3):
        super().__init__()
        self.conv = nn.Conv2d(channels, 4, 1)
        self.head = nn.Linear(4, classes)
    def forward(self, images):
        return self.head(self.conv(images).mean((2, 3)))

def means(classes): return Means(classes)
def gray(classes): return Means(classes, 1)
def two_outputs(classes): return Means(2)
def drawing(classes):
    random.random(), np.random.rand()
    return Means(classes)
class Pairs(Means):
    def forward(self, images): return super().forward(images), 1
def pairs(classes): return Pairs(classes)
class Named(Means):
    def forward(self, images): return {"out": super().forward(images)}
def named(classes): return Named(classes)
class Buggy(Means):
    def forward(self, images): return self.no_such_layer(images)
def buggy(classes): return Buggy(classes)

def digits(count, dtype=torch.uint8):
    images = torch.arange(count).view(-1, 1, 1, 1).expand(-1, 3, 4, 4).to(dtype)
    return TensorDataset(images, torch.arange(count) % 2)
def tensors(): return digits(40), digits(12)
def floats(): return digits(40, torch.float32), None
def grays():
    return [(Image.new("L", (5, 5), n), n % 2) for n in range(30)], None
def mixed():
    return [(Image.new("LRGB"[n // 20:][:1 + 2 * (n // 20)], (5, 5)), n % 2) for n in range(30)], None
"""


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A current folder with a module of networks and data sets."""
    write_module(tmp_path, "my_things", MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    yield tmp_path
    sys.modules.pop("my_things", None)


def inputs(samples):
    if isinstance(samples, tuple):
        return samples[0]
    return torch.cat([batch.inputs for batch in samples.batches(7)])


def targets(samples):
    return samples[1] if isinstance(samples, tuple) else samples.targets


def check(data, train, test=None):
    """Images and targets are those of the indices; ``train`` and ``test`` tell the class of each image by number."""
    for one, other in itertools.combinations(SPLITS if test is None else SPLITS[:2], 2):
        assert not set(data.indices[one]) & set(data.indices[other])
    for name in SPLITS:
        split, indices = getattr(data, name), data.indices[name].tolist()
        offset, classes = (len(train), test) if name == "test" and test is not None else (0, train)
        assert number_of(inputs(split)) == [offset + index for index in indices]
        assert targets(split).tolist() == [classes[index] for index in indices]
        assert targets(split).dtype == torch.int64
        assert data.sizes[name] == len(indices) == len(set(indices))


@pytest.mark.parametrize("memory", [4, 1e-9], ids=["memory", "stream"])
class TestFolders:
    TRAIN = [0] * 20 + [1] * 30 + [2] * 10

    def test_training_and_test_images(self, place, memory):
        write_folder(place / "images" / "train", {"a": 20, "b": 30, "c": 10})
        write_folder(place / "images" / "test", {"a": 4, "b": 2, "c": 1}, start=60)
        _, data = load("my_things:means", "imagefolder:images", memory=memory)
        check(data, self.TRAIN, [0] * 4 + [1] * 2 + [2])
        assert data.sizes == {"fitness": 20, "validation": 20, "test": 7}
        assert data.classes == ("a", "b", "c")
        assert torch.bincount(targets(data.fitness)).tolist() in ([7, 10, 3], [6, 10, 4], [6, 11, 3], [7, 9, 4])
        assert all(isinstance(getattr(data, name), tuple if memory == 4 else Stream) for name in SPLITS)

    def test_training_images_alone(self, place, memory):
        write_folder(place / "images", {"a": 20, "b": 30, "c": 10})
        _, data = load("my_things:means", "imagefolder:images", memory=memory)
        check(data, self.TRAIN)
        assert sorted(np.concatenate(list(data.indices.values()))) == list(range(60))

    def test_sizes(self, place, memory):
        write_folder(place / "images" / "train", {"a": 20, "b": 30, "c": 10})
        write_folder(place / "images" / "test", {"a": 4, "b": 2, "c": 1}, start=60)
        sizes = {"fitness": 25, "validation": None, "test": 5}
        _, data = load("my_things:means", "imagefolder:images", sizes=sizes, memory=memory)
        check(data, self.TRAIN, [0] * 4 + [1] * 2 + [2])
        assert data.sizes == {"fitness": 25, "validation": 11, "test": 5}

    def test_all_sizes_of_training_images_alone(self, place, memory):
        write_folder(place / "images", {"a": 20, "b": 30, "c": 10})
        sizes = {"fitness": 10, "validation": 20, "test": 30}
        _, data = load("my_things:means", "imagefolder:images", sizes=sizes, memory=memory)
        check(data, self.TRAIN)
        assert data.sizes == sizes

    def test_the_seed_tells_which(self, place, memory):
        write_folder(place / "images", {"a": 20, "b": 30, "c": 10})
        draws = [load("my_things:means", "imagefolder:images", seed=seed, memory=memory)[1] for seed in (0, 0, 2**32)]
        for name in SPLITS:
            assert np.array_equal(draws[0].indices[name], draws[1].indices[name])
            assert set(draws[0].indices[name]) != set(draws[2].indices[name])

    def test_damaged_images_are_left_out_named_and_counted(self, place, memory):
        write_folder(place / "images", {"a": 20, "b": 30, "c": 10})
        whole = load("my_things:means", "imagefolder:images")[1]
        lost = [int(whole.indices[name][4]) for name in SPLITS]
        files = sorted((place / "images").rglob("*.png"))
        for number, how in zip(lost, ("truncated", "text", "empty"), strict=True):
            damage(files[number], how)
        calls = []
        arguments = "my_things:means", "imagefolder:images"
        _, data = load(*arguments, memory=memory, progress=lambda: calls.append(1))
        check(data, self.TRAIN)
        assert data.unreadable == [f"images/{files[number].parent.name}/{files[number].name}" for number in lost]
        assert data.description == "images of 3 classes in images (images alone); 3 unreadable images left out"
        assert len(calls) == 60
        for name, number in zip(SPLITS, lost, strict=True):
            kept = [index for index in whole.indices[name].tolist() if index != number]
            assert data.indices[name].tolist() == kept
        damage(files[whole.indices["test"][7]], "empty")
        with pytest.raises(InvalidValue, match=r"^data: expected at most 1 unreadable of 20 images, got at least 2 "):
            load("my_things:means", "imagefolder:images", memory=memory)
        _, data = load("my_things:means", "imagefolder:images", memory=memory, skip_unreadable=True)
        assert (len(data.unreadable), data.sizes["test"]) == (4, 18)


class TestMemory:
    def test_pixels_stay_uint8_of_the_size_that_the_network_wants(self, place):
        write_folder(place / "images", {"a": 6, "b": 6}, make=picture)
        file = saved(untrained("test_resnet", 2), place / "x.safetensors")
        network, data = load("timm:test_resnet", "imagefolder:images", checkpoint=file)
        assert data.fitness[0].dtype == torch.uint8
        assert data.fitness[0].shape == (4, 3, 160, 160)
        assert network(data.fitness[0]).shape == (4, 2)

    def test_the_bound_is_for_all_splits_together(self, place):
        write_folder(place / "images", {"a": 30})
        one = 3 * 4 * 6
        for images, held in ((30, 3), (29, 2), (20, 2), (19, 1), (10, 1), (9, 0)):
            _, data = load("my_things:means", "imagefolder:images", memory=images * one / 2**30)
            assert [isinstance(getattr(data, name), tuple) for name in SPLITS] == [True] * held + [False] * (3 - held)

    def test_an_evaluation_from_the_disk_has_the_bits_of_one_from_memory(self, place):
        write_folder(place / "images", {"a": 20, "b": 20}, make=picture)
        file = saved(untrained("test_resnet", 2), place / "x.safetensors")
        arguments = {"model": "timm:test_resnet", "data": "imagefolder:images", "checkpoint": file}
        network, held = load(**arguments)
        _, streamed = load(**arguments, memory=1e-9)
        children = sample_mutations(0, 3, subspace=RandomSubspace(0.1), sigma=0.3)
        found, expected = (Evaluator(network, d.fitness, batch_size=8).evaluate(children) for d in (streamed, held))
        assert torch.equal(found.fitness, expected.fitness)
        assert len(set(found.fitness.tolist())) == 3

    def test_workers_decode_bigger_images(self, place, monkeypatch):
        write_folder(place / "images", {"a": 30, "b": 30}, make=lambda number: numbered(number, (80, 80)))
        monkeypatch.setattr(pixels, "_BATCH", 5)
        monkeypatch.setattr(pixels.os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
        for memory in (4, 1e-9):
            _, data = load("my_things:means", "imagefolder:images", memory=memory)
            check(data, [0] * 30 + [1] * 30)
            assert bool(multiprocessing.active_children()) == (memory != 4)  # a stream's wait for the next pass


class TestImageNet:
    def test_any_classes_go_with_all_outputs(self, place):
        write_folder(place / "images" / "val", {"n01440764": 6, "n15075141": 6})
        file = saved(untrained(), place / "x.safetensors")
        with pytest.warns(UserWarning, match=r"got none of 998 \(goldfish, .*, \.\.\.\); the outputs"):
            network, data = load("timm:test_resnet", "imagenet:images", checkpoint=file)
        assert sorted(set(torch.cat([targets(getattr(data, name)) for name in SPLITS]).tolist())) == [0, 999]
        assert network(data.test[0]).shape == (4, 1000)

    def test_folders_as_classes_of_their_own_do_not(self, place):
        write_folder(place / "images", {"n01440764": 6, "n15075141": 6})
        with pytest.raises(
            InvalidValue, match=r"^model: expected a network for the 2 classes of the data, got timm:test_re"
        ):
            load("timm:test_resnet", "imagefolder:images")


class TestFactories:
    def test_tensors_of_pixels(self):
        network, data = load("my_things:means", "my_things:tensors")
        assert data.sizes == {"fitness": 13, "validation": 13, "test": 12}
        for name in SPLITS:
            images, classes = getattr(data, name)
            assert images[:, 0, 0, 0].tolist() == data.indices[name].tolist()
            assert classes.tolist() == (data.indices[name] % 2).tolist()
        assert torch.allclose(network(data.test[0]), network(data.test[0] / 255))

    def test_floats_are_not_normalised(self):
        network, data = load("my_things:means", "my_things:floats")
        assert data.fitness[0].dtype == torch.float32
        assert data.fitness[0].max() > 20
        plain = nn.Sequential(network.conv, nn.AdaptiveAvgPool2d(1), nn.Flatten(), network.head)
        assert torch.allclose(network(data.fitness[0]), plain(data.fitness[0]))

    def test_gray_pictures_for_a_network_that_says_nothing(self):
        network, data = load("my_things:gray", "my_things:grays")
        assert data.fitness[0].shape[1:] == (1, 5, 5)
        assert network(data.fitness[0]).shape == (10, 2)

    def test_digits_for_a_network_of_ones_own(self):
        network, data = load("my_things:gray", "digits")
        assert network(data.test[0]).shape == (500, 10)
        assert data.indices.keys() == {"source", *SPLITS}

    @pytest.mark.parametrize(
        ("model", "data", "error", "text"),
        [
            (
                "two_outputs",
                "digits",
                InvalidValue,
                "takes images \\[1, 8, 8\\] of float32, got an error from my_things:tw",
            ),
            (
                "gray",
                "my_things:tensors",
                InvalidValue,
                "takes images \\[3, 4, 4\\] of uint8, got an error from my_things:g",
            ),
            (
                "named",
                "my_things:tensors",
                InvalidType,
                "^outputs: expected a tensor, .* got dict of out; network.register_forward_hook",
            ),
            (
                "two_outputs",
                "imagefolder:images",
                InvalidValue,
                "^model: expected 3 outputs .* got \\[2\\] from my_things:two",
            ),
            ("buggy", "my_things:tensors", AttributeError, "no_such_layer"),
            ("means", "my_things:mixed", InvalidValue, "^data: expected images of one size and type"),
            ("missing", "my_things:tensors", InvalidValue, "^model: expected a function 'missing' in my_things"),
            ("means", "my_things:missing", InvalidValue, "^data: expected a function 'missing' in my_things"),
        ],
    )
    def test_what_does_not_go_together(self, place, model, data, error, text):
        write_folder(place / "images", {"a": 9, "b": 9, "c": 9})
        with pytest.raises(error, match=text) as caught:
            load(f"my_things:{model}", data)
        assert "\n" not in str(caught.value)

    def test_a_network_whose_logits_are_the_first_of_its_outputs(self):
        network, data = load("my_things:pairs", "my_things:tensors")
        expected = Evaluator(network, data.test).predict([Lineage()])[0]
        with torch.inference_mode():
            assert torch.equal(network(data.test[0])[0], expected)


class TestClasses:
    def test_an_empty_folder_is_a_class_without_images(self, place):
        write_folder(place / "images", {"a": 9, "c": 9})
        (place / "images" / "b").mkdir()
        with pytest.warns(UserWarning, match=r"^data: expected images of all 3 classes, got none of 1 \(b\); the"):
            _, data = load("my_things:means", "imagefolder:images")
        assert data.classes == ("a", "b", "c")
        assert set(data.fitness[1].tolist()) == {0, 2}

    @pytest.mark.parametrize("memory", [4, 1e-9])
    def test_one_that_a_split_lacks(self, place, memory):
        write_folder(place / "images" / "train", {"a": 9, "b": 9})
        write_folder(place / "images" / "test", {"a": 1, "b": 1})
        with pytest.warns(UserWarning, match=r"of each class in every split, got none of 1 \((a|b)\) in test; give"):
            load("my_things:means", "imagefolder:images", sizes={"test": 1}, memory=memory)


class TestArguments:
    @pytest.mark.parametrize(
        ("arguments", "error", "text"),
        [
            ({"sizes": {"fitness": 0}}, InvalidValue, "^sizes\\['fitness'\\]: expected a whole number >= 1, got 0"),
            (
                {"sizes": {"fitness": 0.5}},
                InvalidType,
                "^sizes\\['fitness'\\]: expected a whole number >= 1, got 0.5",
            ),
            (
                {"sizes": {"valid": 5}},
                InvalidValue,
                "^sizes: expected one of .*, got 'valid'; did you mean 'validation'",
            ),
            ({"sizes": {"fitness": 39, "validation": 2}}, InvalidValue, "^data: expected enough of its 40 samples"),
            ({"sizes": {"test": 13}}, InvalidValue, "^data: expected enough of its 12 samples .*, got 13 for test$"),
            ({"memory": 0}, InvalidValue, "^memory: expected a finite number > 0, got 0; give GiB such as 4$"),
            ({"memory": "much"}, InvalidType, "^memory: expected a number"),
            ({"model": "timm:resnt18"}, InvalidValue, "did you mean 'timm:resnet18'\\?$"),
            ({"data": "digit"}, InvalidValue, "did you mean 'digits'\\?$"),
            ({"seed": -1}, InvalidValue, "seed"),
            (
                {"model": nn.Flatten()},
                InvalidType,
                "^model: expected a name, got .*Flatten.*; smd_evo.finetune takes",
            ),
            ({"data": Path("images")}, InvalidType, "^data: expected a name, got .*images.*; smd_evo.finetune"),
            ({"also": ["digits"]}, InvalidType, "^also: expected a name, got .'digits'.; smd_evo.finetune takes"),
            ({"sizes": 300}, InvalidType, "^sizes: expected a dict such as {'test': 500}, got 300$"),
        ],
    )
    def test_unusable_ones(self, arguments, error, text):
        with pytest.raises(error, match=text):
            load(**{"model": "my_things:means", "data": "my_things:tensors"} | arguments)

    def test_a_misspelt_network_is_found_out_before_a_big_folder_is_looked_through(self, monkeypatch):
        monkeypatch.setattr("smd_evo.zoo.loading.open_source", lambda *_: pytest.fail("it looks"))
        with pytest.raises(InvalidValue, match="did you mean 'timm:resnet18'"):
            load("timm:resnt18", "imagenet:/big")


class TestRepetition:
    def test_the_users_random_numbers_are_left_where_they_were(self, place):
        write_folder(place / "images", {"a": 9, "b": 9})
        file = saved(untrained("test_vit", 2), place / "x.safetensors")
        np.random.seed(5)
        random.seed(5)
        before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
        load("my_things:drawing", "imagefolder:images")
        load("timm:test_vit", "imagefolder:images", checkpoint=file)
        load("my_things:gray", "digits")
        with pytest.raises(InvalidValue):
            load("my_things:two_outputs", "digits")
        assert torch.equal(before[0], torch.get_rng_state())
        assert before[1:] == (random.getstate(), np.random.get_state()[1].tolist())

    def test_a_factory_that_draws_its_weights_draws_the_same_ones(self):
        draws = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            draws.append(state_bits(load("my_things:drawing", "my_things:tensors")[0]))
        assert same_bits(*draws)

    def test_a_loaded_network_can_be_sent_to_other_processes(self, place):
        write_folder(place / "images", {"a": 9, "b": 9}, make=picture)
        file = saved(untrained("test_resnet", 2), place / "x.safetensors")
        network, data = load("timm:test_resnet", "imagefolder:images", checkpoint=file, memory=1e-9)
        other, stream = pickle.loads(pickle.dumps((network, data.fitness)))
        with torch.inference_mode():
            assert torch.equal(other(inputs(stream)), network(inputs(data.fitness)))
