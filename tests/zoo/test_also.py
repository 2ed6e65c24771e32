"""Another data set beside the data: all its test images, for the same network, in the numbers of its outputs."""

import sys

import pytest
import torch
from zoo_helpers import damage, number_of, numbered, picture, saved, untrained, write_folder, write_module

from smd_evo.errors import InvalidType, InvalidValue
from smd_evo.evaluation.stream import Stream
from smd_evo.zoo import load

MODULE = """
import torch
from torch import nn
from torch.utils.data import TensorDataset

class Means(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.head = nn.Linear(3, classes)
    def forward(self, images):
        return self.head(images.mean((2, 3)))

def means(classes): return Means(classes)
def samples():
    from smd_evo import Splits
    pair = torch.rand(4, 3, 4, 4), torch.arange(4) % 2
    return Splits(pair, pair, pair)
def no_pair(): return 3
"""
MODEL = "my_means:means"


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A current folder with a data set of three classes, of which one has no images."""
    write_module(tmp_path, "my_means", MODULE)
    write_folder(tmp_path / "images", {"a": 9, "b": 0, "c": 9})
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    yield tmp_path
    sys.modules.pop("my_means", None)


def loaded(**arguments):
    return load(MODEL, "imagefolder:images", **arguments)[1]


def content(samples):
    """Numbers and classes of the images."""
    if isinstance(samples, tuple):
        return number_of(samples[0]), samples[1].tolist()
    return number_of(torch.cat([batch.inputs for batch in samples.batches(4)])), samples.targets.tolist()


@pytest.mark.filterwarnings("ignore:data. expected images of all")
class TestImages:
    @pytest.mark.parametrize("memory", [4, 1e-9], ids=["memory", "stream"])
    def test_all_of_the_test_part_in_order(self, place, memory):
        write_folder(place / "other" / "train", {"a": 5, "b": 5, "c": 5})
        write_folder(place / "other" / "val", {"a": 2, "b": 3, "c": 1}, start=300)
        data = loaded(also="imagefolder:other", memory=memory)
        assert content(data.also) == ([300, 301, 302, 303, 304, 305], [0, 0, 1, 1, 1, 2])
        assert isinstance(data.also, tuple if memory == 4 else Stream)

    def test_all_of_them_where_there_is_one_part(self, place):
        write_folder(place / "other", {"a": 1, "b": 1, "c": 2}, start=300)
        assert content(loaded(also="imagefolder:other").also) == ([300, 301, 302, 303], [0, 1, 2, 2])

    def test_those_that_have_an_output(self, place):
        write_folder(place / "other", {"a": 1, "b": 1, "c": 2}, start=300)
        data = loaded(also="imagefolder:other", outputs="present")
        assert content(data.also) == ([300, 302, 303], [0, 1, 1])
        assert data.classes == ("a", "c")

    def test_the_splits_are_those_of_the_data_alone(self, place):
        write_folder(place / "other", {"a": 1, "b": 1, "c": 2}, start=300)
        alone, both = loaded(), loaded(also="imagefolder:other")
        assert alone.also is None
        for name, numbers in alone.indices.items():
            assert (numbers == both.indices[name]).all()
            assert content(getattr(alone, name)) == content(getattr(both, name))

    def test_no_more_than_the_test_split_has_drawn_with_the_seed(self, place):
        write_folder(place / "other", {"a": 4, "b": 4, "c": 4}, start=300)
        first, again, other = (content(loaded(also="imagefolder:other", seed=seed).also) for seed in (0, 0, 1))
        assert first == again != other
        assert len(first[0]) == loaded().sizes["test"] < 12
        assert first[0] == sorted(first[0])

    def test_memory_is_for_both_together(self, place):
        write_folder(place / "other", {"a": 1, "b": 0, "c": 2}, start=300)
        one = 3 * 4 * 6
        for images, kind in ((21, tuple), (20, Stream)):
            data = loaded(also="imagefolder:other", memory=images * one / 2**30)
            assert isinstance(data.test, tuple)
            assert isinstance(data.also, kind)

    def test_damaged_ones_are_left_out_and_named(self, place):
        write_folder(place / "other", {"a": 1, "b": 1, "c": 2}, start=300)
        damage(place / "other" / "c" / "0302.png")
        data = loaded(also="imagefolder:other")
        assert content(data.also) == ([300, 301, 303], [0, 1, 2])
        assert data.unreadable == ["other/c/0302.png"]


def test_photos_for_a_network_that_keeps_some_of_imagenets_outputs(place):
    write_folder(place / "tiny", {"n01440764": 6, "n15075141": 6}, make=picture)
    write_folder(place / "photos", {"n01440764": 1, "n01443537": 2, "n15075141": 3}, make=picture)
    file = saved(untrained(), place / "x.safetensors")
    arguments = {"checkpoint": file, "also": "imagenet:photos", "outputs": "present"}
    network, data = load("timm:test_resnet", "imagenet:tiny", **arguments)
    assert data.also[1].tolist() == [0, 1, 1, 1]
    assert network(data.also[0]).shape == (4, 2)


@pytest.mark.filterwarnings("ignore:data. expected images of all")
class TestRefused:
    @pytest.fixture(autouse=True)
    def others(self, place, monkeypatch):
        write_folder(place / "cats", {"a": 1, "b": 1, "cat": 1})
        write_folder(place / "two", {"a": 0, "b": 2, "c": 0})
        write_folder(place / "large", {"a": 1, "b": 0, "c": 1}, make=lambda number: numbered(number, (9, 9)))

    @pytest.mark.parametrize(
        ("also", "kind", "text"),
        [
            (
                "imagefolder:cats",
                InvalidValue,
                "expected the 3 classes of imagefolder:images, got 3 in .* \\(c, cat\\)",
            ),
            ("imagenet:images", InvalidValue, "expected class folders named by the WordNet ids"),
            ("imagefolder:nowhere", InvalidValue, "expected a folder, got nowhere, which is not there"),
            ("imagefoldr:two", InvalidValue, "expected one of .*; did you mean"),
            ("digits", InvalidValue, "expected another set of images for imagefolder:images, got digits"),
            ("my_means:samples", InvalidValue, "expected a set of images, got my_means:samples"),
            ("my_means:no_pair", InvalidType, "expected \\(train, test\\) of map-style"),
        ],
    )
    def test_before_any_image_is_decoded(self, also, kind, text, monkeypatch):
        monkeypatch.setattr("smd_evo.zoo.loading.splits_of", lambda *_: pytest.fail("it decodes"))
        with pytest.raises(kind, match=f"^also: {text}") as caught:
            loaded(also=also)
        assert "\n" not in str(caught.value)

    def test_images_of_classes_without_outputs_alone(self):
        with pytest.raises(
            InvalidValue, match=r"^also: expected images in .*:two of the 2 classes that .* got none; "
        ):
            loaded(also="imagefolder:two", outputs="present")

    def test_images_of_another_size(self):
        text = r"^also: expected images \[3, 4, 6\] of uint8 as imagefolder:images has, got \[3, 9, 9\] of uint8 in "
        with pytest.raises(InvalidValue, match=text):
            loaded(also="imagefolder:large")

    @pytest.mark.parametrize(("model", "data"), [("demo-cnn", "digits"), (MODEL, "my_means:samples")])
    def test_beside_data_that_are_no_set_of_images(self, model, data):
        with pytest.raises(InvalidValue, match=f"^also: expected none for {data}, got 'imagefolder:images'; "):
            load(model, data, also="imagefolder:images")
