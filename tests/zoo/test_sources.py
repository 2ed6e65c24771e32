"""Data sets by name: folders of images, torchvision's, the user's own; their classes as the network's outputs."""

import pickle
import sys
import urllib.error

import numpy as np
import pytest
from torchvision.datasets import cifar, utils
from zoo_helpers import numbered, write_folder, write_module

from smd_evo.errors import InvalidType, InvalidValue
from smd_evo.zoo.sources import open_source

LETTERS = {"a": 2, "b": 3, "c": 1}


class TestImageFolder:
    @pytest.mark.parametrize("test", ["test", "val", "validation"])
    def test_with_a_folder_for_training_and_one_for_testing(self, tmp_path, test):
        write_folder(tmp_path / "train", LETTERS)
        write_folder(tmp_path / test, {"a": 1, "b": 1, "c": 2}, start=100)
        source = open_source(f"imagefolder:{tmp_path}")
        assert source.classes == ("a", "b", "c")
        assert source.train_targets.tolist() == [0, 0, 1, 1, 1, 2]
        assert source.test_targets.tolist() == [0, 1, 2, 2]
        assert [image.getpixel((0, 0))[1] for image, _ in source.train] == [0, 1, 2, 3, 4, 5]
        assert [image.getpixel((0, 0))[1] for image, _ in source.test] == [100, 101, 102, 103]
        assert source.description == f"images of 3 classes in {tmp_path} (train and {test})"

    def test_test_comes_before_val(self, tmp_path):
        for number, part in enumerate(("train", "val", "test")):
            write_folder(tmp_path / part, {"a": number + 1})
        source = open_source(f"imagefolder:{tmp_path}")
        assert (len(source.train), len(source.test)) == (1, 3)

    @pytest.mark.parametrize("part", ["train", "val", "test", "."])
    def test_with_one_folder_only_the_test_split_has_to_be_cut_off(self, tmp_path, part):
        write_folder(tmp_path / part, LETTERS)
        source = open_source(f"imagefolder:{tmp_path}")
        assert source.test is None
        assert source.test_targets is None
        assert source.train_targets.tolist() == [0, 0, 1, 1, 1, 2]
        assert source.description.endswith(f"({(tmp_path / part).name} alone)")

    def test_in_the_home_folder(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        write_folder(tmp_path / "images", LETTERS)
        assert len(open_source("imagefolder:~/images").train) == 6

    def test_files_that_are_no_images_are_left_alone(self, tmp_path):
        write_folder(tmp_path, LETTERS)
        for name in ("notes.txt", ".DS_Store", "Thumbs.db"):
            (tmp_path / "a" / name).touch()
        (tmp_path / "labels.csv").touch()
        assert len(open_source(f"imagefolder:{tmp_path}").train) == 6

    def test_folders_named_by_wordnet_ids_are_classes_like_others(self, tmp_path):
        write_folder(tmp_path, {"n01440764": 1, "n15075141": 1})
        assert open_source(f"imagefolder:{tmp_path}").classes == ("n01440764", "n15075141")

    def test_different_classes_in_training_and_testing(self, tmp_path):
        write_folder(tmp_path / "train", LETTERS)
        write_folder(tmp_path / "val", {"a": 1, "c": 1, "d": 1})
        with pytest.raises(
            InvalidValue, match=r"^data: expected the same classes in .*train and .*val, got .*\(b, d\)$"
        ):
            open_source(f"imagefolder:{tmp_path}")

    @pytest.mark.parametrize("kind", ["imagefolder", "imagenet"])
    def test_no_folder(self, tmp_path, kind):
        with pytest.raises(InvalidValue, match=r"^data: expected a folder, got .*nowhere, which is not there$"):
            open_source(f"{kind}:{tmp_path / 'nowhere'}")
        (tmp_path / "file").touch()
        with pytest.raises(InvalidValue, match=r"^data: expected a folder, got .*file, which is a file; unpack it"):
            open_source(f"{kind}:{tmp_path / 'file'}")
        with pytest.raises(InvalidValue, match=rf"^data: expected {kind}:PATH, got '{kind}'; add the folder"):
            open_source(kind)

    def test_a_class_without_images(self, tmp_path):
        write_folder(tmp_path, LETTERS)
        (tmp_path / "aa").mkdir()
        source = open_source(f"imagefolder:{tmp_path}")
        assert source.classes == ("a", "aa", "b", "c")
        assert source.train_targets.tolist() == [0, 0, 2, 2, 2, 3]

    def test_folders_without_any_image(self, tmp_path):
        for name in "abcd":
            (tmp_path / name).mkdir()
        (tmp_path / "a" / "x.gif").touch()
        expected = r"^data: expected images in the class folders of .*, got none in a, b, c; their names end in "
        with pytest.raises(InvalidValue, match=expected):
            open_source(f"imagefolder:{tmp_path}")

    def test_what_is_hidden_is_left_alone(self, tmp_path):
        write_folder(tmp_path / ".images" / "train", LETTERS)
        write_folder(tmp_path / ".images" / "val", LETTERS)
        for folder in ("train", "train/a", "val"):
            write_folder(tmp_path / ".images" / folder, {".ipynb_checkpoints": 2})
        numbered(9).save(tmp_path / ".images" / "train" / "b" / "._0001.png")
        source = open_source(f"imagefolder:{tmp_path / '.images'}")
        assert source.classes == ("a", "b", "c")
        assert source.train_targets.tolist() == source.test_targets.tolist() == [0, 0, 1, 1, 1, 2]

    def test_a_folder_that_may_not_be_read(self, tmp_path, monkeypatch):
        write_folder(tmp_path, LETTERS)

        def refused(*_):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("smd_evo.zoo.folders.os.scandir", refused)
        with pytest.raises(InvalidValue, match=r"^data: expected a folder that can be read, got .*Permission denied"):
            open_source(f"imagefolder:{tmp_path}")

    def test_an_empty_folder(self, tmp_path):
        with pytest.raises(InvalidValue, match=r"^data: expected a folder of images for each class in .* no labels"):
            open_source(f"imagefolder:{tmp_path}")


WORDNET = {"n01443537": 2, "n01440764": 1, "n15075141": 1}  # goldfish, tench, toilet tissue


class TestImageNet:
    def test_any_subset_has_the_numbers_of_the_1000_outputs(self, tmp_path):
        write_folder(tmp_path / "train", WORDNET)
        write_folder(tmp_path / "val", WORDNET)
        source = open_source(f"imagenet:{tmp_path}")
        assert len(source.classes) == 1000
        assert source.train_targets.tolist() == source.test_targets.tolist() == [0, 1, 1, 999]
        assert [source.classes[number].split(",")[0] for number in (0, 1, 999)] == [
            "tench",
            "goldfish",
            "toilet tissue",
        ]

    def test_the_validation_images_alone(self, tmp_path):
        write_folder(tmp_path / "val", WORDNET)
        source = open_source(f"imagenet:{tmp_path}")
        assert source.test is None
        assert source.test_targets is None
        assert source.train_targets.tolist() == [0, 1, 1, 999]

    def test_all_sorted_ids_are_the_standard_order(self):
        from timm.data.imagenet_info import ImageNetInfo

        assert ImageNetInfo().label_names() == sorted(ImageNetInfo().label_names())

    def test_validation_images_side_by_side_have_no_labels(self, tmp_path):
        write_folder(tmp_path / "train", WORDNET)
        (tmp_path / "val").mkdir()
        for number in range(3):
            numbered(number).save(tmp_path / "val" / f"ILSVRC2012_val_{number:08}.png")
        expected = (
            "^data: expected a folder of images for each class in .*val, got 3 images and no folder; images that lie"
        )
        with pytest.raises(InvalidValue, match=expected):
            open_source(f"imagenet:{tmp_path}")

    def test_other_folders(self, tmp_path):
        write_folder(tmp_path, {"n01440764": 1, "tench": 1})
        with pytest.raises(
            InvalidValue, match=r"WordNet ids .* got tench; for other classes give imagefolder:"
        ) as caught:
            open_source(f"imagenet:{tmp_path}")
        assert "n01440764, " not in str(caught.value)

    def test_a_thousand_other_folders(self, tmp_path):
        write_folder(
            tmp_path, {f"{number:03}": 1 for number in range(1000)}, make=lambda number: numbered(number, (1, 1))
        )
        with pytest.raises(InvalidValue, match="got 000, 001, 002; for other classes"):
            open_source(f"imagenet:{tmp_path}")


def write_cifar(root, kind):
    """CIFAR as torchvision finds it: image n is all n, of class n % classes."""
    ten = kind == "cifar10"
    folder = root / ("cifar-10-batches-py" if ten else "cifar-100-python")
    folder.mkdir(parents=True)
    files = [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"] if ten else ["train", "test"]
    for place, name in enumerate(files):
        images = np.repeat(np.arange(4, dtype=np.uint8)[:, None] + 4 * place, 3072, axis=1)
        labels = (images[:, 0] % 10).tolist()
        content = {"data": images, "labels" if ten else "fine_labels": labels}
        (folder / name).write_bytes(pickle.dumps(content))
    names = [f"kind {n}" for n in range(10 if ten else 100)]
    (folder / ("batches.meta" if ten else "meta")).write_bytes(
        pickle.dumps({"label_names" if ten else "fine_label_names": names})
    )


def write_fashion(root):
    """Fashion-MNIST as torchvision finds it: image n is all n, of class n % 10."""
    folder = root / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    for part, count in (("train", 12), ("t10k", 6)):
        images = np.repeat(np.arange(count, dtype=np.uint8), 784)
        header = b"".join(size.to_bytes(4, "big") for size in (2051, count, 28, 28))
        (folder / f"{part}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        labels = bytes(number % 10 for number in range(count))
        header = b"".join(size.to_bytes(4, "big") for size in (2049, count))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(header + labels)


class TestTorchvision:
    @pytest.mark.parametrize(("kind", "train"), [("cifar10", 20), ("cifar100", 4)])
    def test_cifar(self, tmp_path, monkeypatch, kind, train):
        write_cifar(tmp_path, kind)
        monkeypatch.setattr(cifar, "check_integrity", lambda path, md5: True)
        source = open_source(kind, tmp_path)
        assert len(source.classes) == int(kind.removeprefix("cifar"))
        assert source.classes[3] == "kind 3"
        assert source.train_targets.tolist() == [number % 10 for number in range(train)]
        assert source.test_targets.tolist() == [number % 10 for number in range(train, train + 4)]
        assert source.train[3][0].getpixel((5, 5)) == (3, 3, 3)
        assert source.test[0][0].size == (32, 32)

    def test_fashion_mnist(self, tmp_path):
        write_fashion(tmp_path)
        source = open_source("fashion-mnist", tmp_path)
        assert source.classes[0] == "T-shirt/top"
        assert source.train_targets.tolist() == [*range(10), 0, 1]
        assert source.test_targets.tolist() == [*range(6)]
        assert (source.train[5][0].mode, source.train[5][0].getpixel((9, 9))) == ("L", 5)
        assert source.description == "FashionMNIST, 12 training and 6 test images"

    @pytest.mark.parametrize("kind", ["cifar10", "cifar100", "fashion-mnist"])
    def test_not_there(self, tmp_path, kind):
        with pytest.raises(
            InvalidValue, match=rf"^data: expected {kind} in {tmp_path}, got: .*; set data_dir, or"
        ) as caught:
            open_source(kind, tmp_path)
        assert "\n" not in str(caught.value)
        assert not list(tmp_path.iterdir())

    def test_damaged(self, tmp_path, monkeypatch):
        write_cifar(tmp_path, "cifar10")
        with pytest.raises(InvalidValue, match=r"^data: expected cifar10 in .* corrupted"):  # by its checksum
            open_source("cifar10", tmp_path)
        monkeypatch.setattr(cifar, "check_integrity", lambda path, md5: True)
        for content in (b"", b"no pickle", pickle.dumps([])):
            (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(content)
            with pytest.raises(InvalidValue, match=r"^data: expected cifar10 in "):
                open_source("cifar10", tmp_path)
        write_fashion(tmp_path)
        file = tmp_path / "FashionMNIST" / "raw" / "train-images-idx3-ubyte"
        for content in (b"", file.read_bytes()[:-9], b"nonsense" * 9):
            file.write_bytes(content)
            with pytest.raises(InvalidValue, match=r"^data: expected fashion-mnist in "):
                open_source("fashion-mnist", tmp_path)

    def test_download_without_a_network(self, tmp_path, monkeypatch):
        def offline(*_args, **_options):
            raise urllib.error.URLError("no network")

        monkeypatch.setattr(utils.urllib.request, "urlopen", offline)
        for kind in ("cifar10", "fashion-mnist"):
            with pytest.raises(InvalidValue, match=rf"^data: expected {kind} in .*; set data_dir, or download where"):
                open_source(kind, tmp_path, download=True)

    def test_the_folder_is_no_part_of_the_name(self, tmp_path):
        with pytest.raises(
            InvalidValue, match=r"^data: expected cifar10 alone, got 'cifar10:x'; give the folder as data_dir$"
        ):
            open_source("cifar10:x", tmp_path)


FACTORIES = """
import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, TensorDataset

class Numbered(Dataset):
    '''It has no targets, and no end when it is iterated.'''
    def __init__(self, count): self.count = count
    def __len__(self): return self.count
    def __getitem__(self, number): return Image.new("RGB", (6, 4), (0, number % 256, 7)), number % 3

class Counted(Numbered):
    '''Its targets are had without its images.'''
    classes = ["x", "y", "z"]
    def __init__(self, count, targets=None):
        super().__init__(count)
        self.targets = [n % 3 for n in range(count)] if targets is None else targets
    def __getitem__(self, number): raise AssertionError("not needed")

def tensors(count): return TensorDataset(torch.zeros(count, 3, 4, 4), torch.arange(count) % 3)

def numbered_pair(): return Numbered(9), Numbered(4)
def counted_alone(): return [Counted(7), None]
def tensor_pair(): return tensors(6), tensors(3)
def tensor_targets(): return Counted(3, torch.tensor([2, 0, 1])), None
def array_targets(): return Counted(3, np.array([2, 0, 1], dtype=np.int32)), None
def transformed_targets():
    '''As torchvision's data sets have them: each sample's class goes through a function.'''
    found = Counted(6, torch.arange(6) % 3)
    found.target_transform = [2, 0, 1].__getitem__
    return found, None
def more_classes_in_test(): return tensors(2), tensors(3)

def one_only(): return Numbered(9)
def three(): return Numbered(9), Numbered(9), Numbered(9)
def plain_tensors(): return torch.zeros(9, 3, 4, 4), torch.zeros(9)
def generators(): return (n for n in range(9)), None
def generator_test(): return tensors(3), (n for n in range(9))
def nothing(): return None
def images_only(): return TensorDataset(torch.zeros(9, 3, 4, 4)), None
def bare_images(): return [Image.new("L", (2, 2))] * 3, None
def empty(): return tensors(0), None
def empty_test(): return tensors(3), tensors(0)
def negative(): return Counted(3, [0, -1, 1]), None
def fractions(): return Counted(3, [0.5, 1.5, 0.5]), None
def one_hot(): return Counted(3, torch.eye(3)), None
def words(): return Counted(3, ["cat", "dog", "cat"]), None
def too_few_targets(): return Counted(3, [0, 1]), None
def too_many_classes(): return Counted(3, [0, 3, 1]), None
def failing(): raise ZeroDivisionError("mine")
def failing_sample(): return Failing(3), None

class Failing(Numbered):
    def __getitem__(self, number): raise KeyError("no such image")
"""


class TestFactories:
    @pytest.fixture(autouse=True)
    def _module(self, tmp_path, monkeypatch):
        write_module(tmp_path, "my_sets", FACTORIES)
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend("")
        yield
        sys.modules.pop("my_sets", None)

    @pytest.mark.parametrize(
        ("factory", "classes", "train", "test"),
        [
            ("numbered_pair", "012", [0, 1, 2] * 3, [0, 1, 2, 0]),
            ("counted_alone", "xyz", [0, 1, 2, 0, 1, 2, 0], None),
            ("tensor_pair", "012", [0, 1, 2] * 2, [0, 1, 2]),
            ("tensor_targets", "xyz", [2, 0, 1], None),
            ("array_targets", "xyz", [2, 0, 1], None),
            ("transformed_targets", "xyz", [2, 0, 1] * 2, None),
            ("more_classes_in_test", "012", [0, 1], [0, 1, 2]),
        ],
    )
    def test_their_classes(self, factory, classes, train, test):
        source = open_source(f"my_sets:{factory}")
        assert source.classes == tuple(classes)
        assert source.train_targets.dtype == np.int64
        assert source.train_targets.tolist() == train
        assert (source.test is None) == (source.test_targets is None) == (test is None)
        assert test is None or source.test_targets.tolist() == test

    @pytest.mark.parametrize(
        ("factory", "error", "text"),
        [
            (
                "one_only",
                InvalidType,
                "^data: expected \\(train, test\\) of map-style data sets .* got Numbered; test may",
            ),
            ("three", InvalidType, "^data: expected \\(train, test\\) .* got tuple of 3;"),
            ("plain_tensors", InvalidType, "^data: expected \\(train, test\\) of map-style data sets "),
            ("generators", InvalidType, "^data: expected \\(train, test\\) of map-style data sets "),
            ("generator_test", InvalidType, "^data: expected map-style data sets, got generator"),
            ("nothing", InvalidType, "got NoneType"),
            ("images_only", InvalidType, "^data: expected samples \\(image, class\\), got tuple of 1"),
            ("bare_images", InvalidType, "^data: expected samples \\(image, class\\), got Image"),
            ("empty", InvalidValue, "^data: expected at least one sample.* got 0 samples"),
            ("empty_test", InvalidValue, "^data: expected at least one sample.* got 0 samples"),
            ("negative", InvalidValue, "a class number from 0, got 3 samples and 3 numbers from -1$"),
            ("fractions", InvalidType, "^data: expected a class number for each sample, got: .*float"),
            ("one_hot", InvalidType, "^data: expected a class number for each sample"),
            ("words", InvalidType, "^data: expected a class number for each sample, got: .*str"),
            ("too_few_targets", InvalidValue, "got 3 samples and 2 numbers from 0$"),
            ("too_many_classes", InvalidValue, "^data: expected numbers below the 3 classes of my_sets:.*, got 3$"),
            ("failing", ZeroDivisionError, "mine"),
            ("failing_sample", KeyError, "no such image"),
        ],
    )
    def test_what_is_wrong_with_them(self, factory, error, text):
        with pytest.raises(error, match=text):
            open_source(f"my_sets:{factory}")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("digit", "'digits'"),
        ("cifar-10", "'cifar10'"),
        ("fashionmnist", "'fashion-mnist'"),
        ("imagefolders:/x", "'imagefolder:PATH'"),
        ("imgenet:/x", "'imagenet:PATH'"),
    ],
)
def test_unknown_names(name, meant):
    with pytest.raises(InvalidValue, match=rf"^data: expected one of digits, .*, got '{name}'; did you mean {meant}"):
        open_source(name)
