"""Data sets by name: their classes, and images that are not decoded yet."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from smd_evo.errors import InvalidType, InvalidValue
from smd_evo.zoo.names import SOURCES, TEST_FOLDERS, TORCHVISION_DATA, unknown, user_object
from smd_evo.zoo.own import Splits

__all__ = ["SOURCES", "Source", "open_source"]


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

    @property
    def testing(self) -> tuple[Any, NDArray[np.int64]]:
        """The images that test, and their classes: those of ``train`` where there are no others."""
        return (self.train, self.train_targets) if self.test_targets is None else (self.test, self.test_targets)


def open_source(name: str, data_dir: str | Path = "data", download: bool = False) -> Source | Splits:
    """A data set by its name.

    Args:
        name: one of :data:`SOURCES` but the demo's, or ``module.path:factory``: a function without arguments that
            returns ``(train, test)``, map-style data sets of (PIL image or tensor, class); ``classes`` of the first
            names the classes, ``targets`` of each spares decoding its images, and ``test`` may be None. Or a function
            that returns :class:`smd_evo.Splits`, of samples of any kind, which are taken as they are.
        data_dir: folder of the data sets that torchvision knows.
        download: whether these may be downloaded to there.

    Raises:
        InvalidValue, InvalidType: an unknown name, or a folder or file that is not there.
    """
    kind, colon, place = name.partition(":")
    if kind in _FOLDERS:
        if not place:
            raise InvalidValue(f"data: expected {kind}:PATH, got {name!r}; add the folder of the images")
        return _FOLDERS[kind](name, Path(place).expanduser())
    if kind in TORCHVISION_DATA:
        if colon:
            raise InvalidValue(f"data: expected {kind} alone, got {name!r}; give the folder as data_dir")
        return _torchvision(kind, Path(data_dir).expanduser(), download)
    if place:
        return _from_factory(name)
    raise unknown("data", name, f"one of {', '.join(SOURCES)} or module.path:factory", SOURCES)


def _image_folder(name: str, path: Path) -> Source:
    """``path/train`` and ``path/test`` (or val), one of these alone, or ``path`` with a folder for each class."""
    if not path.is_dir():
        what = "is a file; unpack it if it is an archive" if path.exists() else "is not there"
        raise InvalidValue(f"data: expected a folder, got {path}, which {what}")
    train_part = [path / "train"] if (path / "train").is_dir() else []
    test_part = [path / folder for folder in TEST_FOLDERS if (path / folder).is_dir()][:1]
    parts = [*train_part, *test_part] or [path]
    train, *rest = [_folder(part) for part in parts]
    test = rest[0] if rest else None
    if test and test.classes != train.classes:
        differ = ", ".join(sorted(set(train.classes) ^ set(test.classes))[:3])
        raise InvalidValue(
            f"data: expected the same classes in {parts[0]} and {parts[1]}, got differences ({differ})"
        )
    where = " and ".join(part.name for part in parts) if test else f"{parts[0].name} alone"
    return Source(
        name=name,
        description=f"images of {len(train.classes)} classes in {path} ({where})",
        classes=tuple(train.classes),
        train=train,
        train_targets=_targets(train),
        test=test,
        test_targets=_targets(test) if test else None,
    )


def _folder(path: Path) -> Any:
    """The images in the folders of a folder."""
    from smd_evo.zoo.folders import ClassFolders  # torchvision takes its time

    try:
        return ClassFolders(path)
    except OSError as error:
        raise InvalidValue(f"data: expected a folder that can be read, got {path} ({error}); mend that") from None


def _imagenet(name: str, path: Path) -> Source:
    """Folders named by WordNet ids, in any subset; the outputs are always the 1,000 of ImageNet-1k."""
    from timm.data.imagenet_info import ImageNetInfo

    info = ImageNetInfo()
    numbers = {wordnet: number for number, wordnet in enumerate(info.label_names())}
    folders = _image_folder(name, path)
    alien = [folder for folder in folders.classes if folder not in numbers]
    if alien:
        raise InvalidValue(
            f"data: expected class folders named by the WordNet ids of ImageNet-1k such as n01440764 in {path}, got "
            f"{', '.join(alien[:3])}; for other classes give imagefolder:{path}"
        )
    outputs = np.array([numbers[folder] for folder in folders.classes])
    return Source(
        name=name,
        description=folders.description,
        classes=tuple(info.index_to_description(number) for number in range(len(numbers))),
        train=folders.train,
        train_targets=outputs[folders.train_targets],
        test=folders.test,
        test_targets=None if folders.test_targets is None else outputs[folders.test_targets],
    )


def _torchvision(kind: str, folder: Path, download: bool) -> Source:
    from torchvision import datasets

    build = getattr(datasets, TORCHVISION_DATA[kind])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy's, about files that are older than it
            train, test = (build(str(folder), train=part, download=download) for part in (True, False))
    except Exception as error:  # not found, no network, or whatever damaged files lead to
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InvalidValue(
            f"data: expected {kind} in {folder}, got: {reason}; set data_dir, or download where there is a network"
        ) from error
    return Source(
        name=kind,
        description=f"{build.__name__}, {len(train):,} training and {len(test):,} test images",
        classes=tuple(train.classes),
        train=train,
        train_targets=_targets(train),
        test=test,
        test_targets=_targets(test),
    )


def _from_factory(name: str) -> Source | Splits:
    pair = user_object("data", name, SOURCES)()
    if isinstance(pair, Splits):
        return pair
    if not isinstance(pair, tuple | list) or len(pair) != 2 or not _is_set(pair[0]):
        raise InvalidType(
            f"data: expected (train, test) of map-style data sets from {name}, got {_kind(pair)}; test may be None; "
            "smd_evo.Splits holds samples of other kinds"
        )
    train, test = pair
    train_targets = _targets(train)
    test_targets = None if test is None else _targets(test)
    count = 1 + max(int(numbers.max()) for numbers in (train_targets, test_targets) if numbers is not None)
    classes = tuple(map(str, getattr(train, "classes", range(count))))
    if count > len(classes):
        raise InvalidValue(f"data: expected numbers below the {len(classes)} classes of {name}, got {count - 1}")
    return Source(name, f"{name}, {len(classes)} classes", classes, train, train_targets, test, test_targets)


def _is_set(dataset: Any) -> bool:
    return hasattr(dataset, "__getitem__") and isinstance(dataset, Sized) and not isinstance(dataset, Tensor)


def _targets(dataset: Any) -> NDArray[np.int64]:
    """Classes of a data set's samples."""
    if not _is_set(dataset):
        raise InvalidType(f"data: expected map-style data sets, got {_kind(dataset)}")
    found = getattr(dataset, "targets", None)
    if found is None:
        found = [_class_of(dataset[number]) for number in range(len(dataset))]  # iteration may have no end
    elif (transform := getattr(dataset, "target_transform", None)) is not None:  # torchvision's: of samples alone
        found = [transform(number) for number in (found if isinstance(found, Sequence) else found.tolist())]
    try:
        numbers = np.array([operator.index(number) for number in found], dtype=np.int64)
    except TypeError as error:
        raise InvalidType(f"data: expected a class number for each sample, got: {error}") from None
    if not len(dataset) or len(numbers) != len(dataset) or numbers.min() < 0:
        raise InvalidValue(
            f"data: expected at least one sample, and for each a class number from 0, got {len(dataset)} samples and "
            f"{len(numbers)} numbers from {min(numbers, default=0)}"
        )
    return numbers


def _class_of(sample: Any) -> Any:
    if not isinstance(sample, tuple | list) or len(sample) < 2:
        raise InvalidType(f"data: expected samples (image, class), got {_kind(sample)}")
    return sample[1]


def _kind(thing: Any) -> str:
    inside = f" of {len(thing)}" if isinstance(thing, tuple | list) else ""
    return f"{type(thing).__name__}{inside}"


_FOLDERS: dict[str, Callable[[str, Path], Source]] = {"imagenet": _imagenet, "imagefolder": _image_folder}
