"""Data sets by name: their classes, and images that are not decoded yet."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from smd_evo.errors import InvalidType, InvalidValue

__all__ = ["SOURCES", "Source", "open_source", "user_object"]

_TEST_FOLDERS = ("test", "val", "validation")


@dataclass(frozen=True, eq=False)
class Source:
    """A data set before its images are decoded.

    Attributes:
        name: as the user gave it.
        description: one line for reports.
        classes: names of the network's outputs.
        train: map-style data set of (PIL image or tensor, class), for the fitness and the validation split.
        train_targets: class of each of them as the number of an output, int64 [n].
        test: the same for the test split; None: it is cut off ``train``.
        test_targets: as above.
    """

    name: str
    description: str
    classes: tuple[str, ...]
    train: Any
    train_targets: NDArray[np.int64]
    test: Any = None
    test_targets: NDArray[np.int64] | None = None


def open_source(name: str, data_dir: str | Path = "data", download: bool = False) -> Source:
    """A data set by its name.

    Args:
        name: a key of :data:`SOURCES` with its path after a colon where it needs one, or ``module.path:factory``: a
            function without arguments that returns ``(train, test)``, map-style data sets of (PIL image or tensor,
            class); ``classes`` of the first names the classes, and ``test`` may be None.
        data_dir: folder of the data sets that torchvision knows.
        download: whether these may be downloaded to there.

    Raises:
        InvalidValue, InvalidType: an unknown name, or a folder or file that is not there.
    """
    kind, _, place = name.partition(":")
    if kind in _FOLDERS:
        if not place:
            raise InvalidValue(f"data: expected {kind}:PATH, got {name!r}; add the folder of the images")
        return _FOLDERS[kind](name, Path(place).expanduser())
    if kind in _TORCHVISION:
        if place:
            raise InvalidValue(f"data: expected {kind} alone, got {name!r}; give the folder as data_dir")
        return _torchvision(kind, Path(data_dir).expanduser(), download)
    if place and not difflib.get_close_matches(kind, _FOLDERS):
        return _from_factory(name)
    raise _unknown(name)


def _unknown(name: str) -> InvalidValue:
    near = difflib.get_close_matches(name, SOURCES, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return InvalidValue(f"data: expected one of {', '.join(SOURCES)}, module.path:factory, got {name!r}{hint}")


def _folder(path: Path) -> Any:
    """torchvision's ImageFolder, which names no error that a user would understand."""
    from torchvision.datasets import ImageFolder

    if not path.is_dir():
        raise InvalidValue(f"data: expected a folder, got {path}, which is not there")
    try:
        return ImageFolder(str(path))
    except FileNotFoundError as error:
        raise InvalidValue(
            f"data: expected a folder of images for each class in {path}, got {str(error).splitlines()[0]}"
        ) from None


def _image_folder(name: str, path: Path) -> Source:
    """``path/train`` and ``path/test`` (or val), or ``path`` with a folder for each class."""
    if not path.is_dir():
        raise InvalidValue(f"data: expected a folder, got {path}, which is not there")
    tests = [path / folder for folder in _TEST_FOLDERS if (path / folder).is_dir()]
    parts = [path / "train", tests[0]] if (path / "train").is_dir() and tests else tests[:1] or [path]
    train, *test = [_folder(part) for part in parts]
    if test and test[0].classes != train.classes:
        differ = sorted(set(train.classes) ^ set(test[0].classes))[:3]
        raise InvalidValue(
            f"data: expected the same classes in {parts[0]} and {parts[1]}, got differences ({', '.join(differ)})"
        )
    where = " and ".join(part.name for part in parts) if test else f"{parts[0].name} alone"
    classes, numbers = _outputs(train.classes)
    return Source(
        name=name,
        description=f"images of {len(train.classes)} classes in {path} ({where})",
        classes=classes,
        train=train,
        train_targets=numbers[np.array(train.targets)],
        test=test[0] if test else None,
        test_targets=numbers[np.array(test[0].targets)] if test else None,
    )


def _imagenet(name: str, path: Path) -> Source:
    """Folders named by WordNet ids, in any subset; a flat ``val`` folder has no labels."""
    source = _image_folder(name, path)
    if len(source.classes) != 1000:
        raise InvalidValue(
            f"data: expected class folders named by the WordNet ids of ImageNet-1k in {path}, got "
            f"{source.classes[0]!r} and others; for other classes give imagefolder:{path}"
        )
    return source


def _outputs(folders: list[str]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Names of the network's outputs, and which each folder is: ImageNet's 1,000 where all are WordNet ids."""
    from timm.data.imagenet_info import ImageNetInfo

    info = ImageNetInfo()
    order = {wordnet: number for number, wordnet in enumerate(info.label_names())}
    if all(folder in order for folder in folders):
        names = tuple(info.index_to_description(number) for number in range(len(order)))
        return names, np.array([order[folder] for folder in folders])
    return tuple(folders), np.arange(len(folders))


def _torchvision(kind: str, folder: Path, download: bool) -> Source:
    from torchvision import datasets

    build = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100, "fashion-mnist": datasets.FashionMNIST}[kind]
    try:
        train, test = (build(str(folder), train=part, download=download) for part in (True, False))
    except RuntimeError as error:  # not found, or corrupted
        reason = " ".join(str(error).split())
        raise InvalidValue(
            f"data: expected {kind} in {folder}, got: {reason}; set data_dir, or download where there is a network"
        ) from None
    except OSError as error:
        raise InvalidValue(f"data: expected {kind} from the network, got: {error}; fetch it to {folder}") from None
    return Source(
        name=kind,
        description=f"{build.__name__}, {len(train):,} training and {len(test):,} test images",
        classes=tuple(train.classes),
        train=train,
        train_targets=np.array(train.targets),
        test=test,
        test_targets=np.array(test.targets),
    )


def _from_factory(name: str) -> Source:
    pair = user_object("data", name)()
    if not isinstance(pair, tuple | list) or len(pair) != 2 or not hasattr(pair[0], "__getitem__"):
        raise InvalidType(
            f"data: expected (train, test) of map-style data sets from {name}, got {type(pair).__name__}; "
            "test may be None"
        )
    train, test = pair
    targets = [None if part is None else _targets(part) for part in pair]
    assert targets[0] is not None
    count = 1 + max(int(numbers.max()) for numbers in targets if numbers is not None)
    classes = tuple(map(str, getattr(train, "classes", range(count))))
    return Source(name, f"{name}, {len(classes)} classes", classes, train, targets[0], test, targets[1])


def _targets(dataset: Any) -> NDArray[np.int64]:
    """Classes of a data set's samples; ``targets`` spares decoding its images."""
    found = getattr(dataset, "targets", None)
    numbers = np.array([sample[1] for sample in dataset] if found is None else found, dtype=np.int64)
    if numbers.ndim != 1 or not len(numbers) or numbers.min() < 0:
        raise InvalidValue(f"data: expected class numbers from 0, [n], got shape {list(numbers.shape)}")
    return numbers


def user_object(what: str, name: str) -> Callable[..., Any]:
    """The function behind ``module.path:factory``, looked for in the current folder, too.

    Raises:
        InvalidValue: there is no such module, or nothing to call of that name in it.
    """
    module_name, _, attribute = name.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found = importlib.import_module(module_name)
    except ImportError as error:
        raise InvalidValue(
            f"{what}: expected a name of the documentation or module.path:factory, got {name!r} ({error})"
        ) from None
    factory = getattr(found, attribute, None)
    if not callable(factory):
        raise InvalidValue(f"{what}: expected a function {attribute!r} in {module_name}, got {factory!r}")
    return cast("Callable[..., Any]", factory)


_FOLDERS: dict[str, Callable[[str, Path], Source]] = {"imagenet": _imagenet, "imagefolder": _image_folder}
_TORCHVISION = ("cifar10", "cifar100", "fashion-mnist")

SOURCES = ("digits", "imagenet:PATH", "imagefolder:PATH", *_TORCHVISION)
"""Names of data sets; digits is the demo's own."""
