"""Settings of the experiments: each field with its default, its check and what the command line says of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import Field, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import yaml

from smd_evo.errors import InvalidType, InvalidValue, check_choice, check_count, check_keep, check_number

__all__ = ["ExperimentConfig", "FinetuneConfig", "WindowConfig", "load_settings", "whole_number"]

SUBSPACES = ("random", "partition", "neuron", "tensor")
_FITNESSES = ("cross_entropy", "accuracy")
_PRECISIONS = ("float32", "bfloat16")
_Config = TypeVar("_Config", bound="ExperimentConfig")
_Reader = Callable[[str, Any], Any]


def _setting(default: Any, metavar: str, text: str, read: _Reader) -> Any:
    """A field that the command line offers as an option with this placeholder and help."""
    return field(default=default, metadata={"metavar": metavar, "help": text, "read": read})


def whole_number(name: str, value: object, *, low: int = 1, mend: str = "give such a number") -> int:
    """A whole number as a user writes it.

    Raises:
        InvalidValue, InvalidType: it is none, or below ``low``.
    """
    try:
        number = int(value) if isinstance(value, str) else value
    except ValueError:
        number = value
    return check_count(name, number, low=low, mend=mend)


def _whole(mend: str, low: int = 1) -> _Reader:
    return lambda name, value: whole_number(name, value, low=low, mend=mend)


def _samples(name: str, value: Any) -> int | None:
    return None if value is None else whole_number(name, value, mend="leave it out for the default")


def _seed(name: str, value: Any) -> int:
    number = whole_number(name, value, low=0, mend="try 0")
    if number >= 2**64:
        raise InvalidValue(f"{name}: expected a whole number below 2**64, got {number}")
    return number


def _numbers(mend: str, high: float) -> _Reader:
    """Different numbers in (0, high], with commas between them."""

    def read(name: str, value: Any) -> tuple[float, ...]:
        items = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
        numbers = tuple(check_number(name, item, low=0, high=high, mend=mend) for item in items)
        if not numbers or len(set(numbers)) < len(numbers):
            interval = "> 0" if high == float("inf") else f"in (0, {high:g}]"
            raise InvalidValue(f"{name}: expected one or more different numbers {interval}, got {value!r}")
        return numbers

    return read


def _sigma(name: str, value: Any) -> float | None:
    if value in (None, "auto"):
        return None
    return check_number(name, value, low=0, mend="leave it out to have it calibrated")


def _batch_size(name: str, value: Any) -> int | str:
    return "auto" if value == "auto" else whole_number(name, value, mend="try auto")


def _device(name: str, value: Any) -> str:
    import torch

    if value == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(value)
    except (RuntimeError, TypeError):
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise InvalidValue(f"{name}: expected auto, cpu, cuda or cuda:N, got {value!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InvalidValue(
            f"{name}: expected one of {torch.cuda.device_count()} CUDA devices, got {value!r}; try cpu"
        )
    return str(device)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidType(f"{name}: expected a word, got {value!r}")
    return value


def _path(name: str, value: Any) -> str | None:
    return None if value is None else _text(name, str(value) if isinstance(value, Path) else value)


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise InvalidType(f"{name}: expected true or false, got {value!r}")
    return value


def _one_of(choices: tuple[str, ...]) -> _Reader:
    return lambda name, value: check_choice(name, value, choices)


def _several_of(choices: tuple[str, ...]) -> _Reader:
    """Different ones of the choices, with commas between them."""

    def read(name: str, value: Any) -> tuple[str, ...]:
        items = tuple(value.split(",") if isinstance(value, str) else value)
        if not items or len(set(items)) < len(items):
            raise InvalidValue(f"{name}: expected one or more different ones of {', '.join(choices)}, got {value!r}")
        return tuple(check_choice(name, item, choices) for item in items)

    return read


@dataclass(frozen=True)
class ExperimentConfig:
    """Settings that all experiments have: the parent, the data, where and how they run."""

    model: str = _setting(
        "demo-cnn",
        "NAME",
        "Parent: demo-cnn, timm:NAME, torchvision:NAME, cifar-resnetN or module.path:factory [demo-cnn].",
        _text,
    )
    checkpoint: str | None = _setting(None, "FILE", "Its weights, safetensors or torch [the published ones].", _path)
    data: str = _setting(
        "digits",
        "NAME",
        "digits, imagenet:PATH, imagefolder:PATH, cifar10, cifar100, fashion-mnist or module.path:factory [digits].",
        _text,
    )
    data_dir: str = _setting("data", "DIR", "Folder of cifar10, cifar100 and fashion-mnist [data].", _text)
    download: bool = _setting(False, "", "Fetch these if they are not there.", _flag)
    fitness_samples: int | None = _setting(
        None, "N", "Samples that rank children [5000, at most a third of the training data].", _samples
    )
    validation_samples: int | None = _setting(None, "N", "Samples that choose, likewise.", _samples)
    test_samples: int | None = _setting(None, "N", "Samples that are reported [all of the test data].", _samples)
    memory: float = _setting(
        4.0,
        "GIB",
        "Decoded images to hold in memory; more are decoded again when needed [4].",
        lambda name, value: check_number(name, value, low=0, mend="try 4"),
    )
    select: str = _setting(
        "all", "TERMS", "Parameters to mutate: all, weight, bias, norm, head, layers, patterns [all].", _text
    )
    seed: int = _setting(0, "N", "Seed of everything [0].", _seed)
    device: str = _setting("cpu", "NAME", "auto, cpu, cuda or cuda:N [auto].", _device)
    precision: str = _setting(
        "float32",
        "NAME",
        "float32, or bfloat16: autocast, twice as fast on much hardware [float32].",
        _one_of(_PRECISIONS),
    )
    batch_size: int | str = _setting("auto", "N", "Images a forward pass, or auto [auto].", _batch_size)

    @classmethod
    def read(cls: type[_Config], values: Mapping[str, Any]) -> _Config:
        """Settings from a mapping of names to numbers or strings; what is missing has its default.

        Raises:
            InvalidValue, InvalidType: an unknown name or an unusable value.
        """
        known: dict[str, Field[Any]] = {setting.name: setting for setting in fields(cls)}
        for name in values:
            check_choice("setting", name, known)
        # Resolved now, so that the stored settings say what was used; last, because it has to import torch.
        values = {**values, "device": values.get("device", "auto")}
        config = cls(**{name: known[name].metadata["read"](name, value) for name, value in values.items()})
        config.check(values)
        return config

    def check(self, given: Mapping[str, Any]) -> None:
        """Raise InvalidValue if settings exclude each other; ``given`` are those that have no default."""

    def as_dict(self) -> dict[str, Any]:
        """The settings as plain values, which :meth:`read` takes."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @property
    def sizes(self) -> dict[str, int | None]:
        """Samples of each split, where they are given."""
        return {
            "fitness": self.fitness_samples,
            "validation": self.validation_samples,
            "test": self.test_samples,
        }


@dataclass(frozen=True)
class FinetuneConfig(ExperimentConfig):
    """Settings of ``smd-evo finetune``.

    Example:
        >>> FinetuneConfig.read({"children": "64", "density": "0.1,0.01"}).density
        (0.1, 0.01)
    """

    children: int = _setting(128, "N", "Children of each density [128].", _whole("try 128"))
    subspace: str = _setting("random", "NAME", f"{', '.join(SUBSPACES[:-1])} or tensor [random].", _one_of(SUBSPACES))
    density: tuple[float, ...] = _setting(
        (0.3, 0.1, 0.03),
        "X[,X...]",
        "Densities in (0, 1] to choose from on validation [0.3,0.1,0.03].",
        _numbers("try 0.1", 1),
    )
    sigma: float | None = _setting(None, "X", "Mutation strength > 0 [calibrated].", _sigma)
    keep: float = _setting(
        0.9,
        "X",
        "Share of the parent's score that calibration leaves the median child [0.9].",
        lambda _, value: check_keep(value),
    )
    fitness: str = _setting(
        "cross_entropy", "NAME", "cross_entropy or accuracy [cross_entropy].", _one_of(_FITNESSES)
    )

    def check(self, given: Mapping[str, Any]) -> None:
        """See the base class."""
        if self.subspace == "tensor" and "density" in given:
            raise InvalidValue("density: expected none for the tensor subspace, which has no density; leave it out")

    def as_dict(self) -> dict[str, Any]:
        """See the base class."""
        return {
            name: value for name, value in super().as_dict().items() if name != "density" or self.subspace != "tensor"
        }


@dataclass(frozen=True)
class WindowConfig(ExperimentConfig):
    """Settings of ``smd-evo window``.

    Example:
        >>> WindowConfig.read({"density": "1,0.01", "subspace": "random,neuron"}).subspace
        ('random', 'neuron')
    """

    children: int = _setting(24, "N", "Children of a cell, at most [24].", _whole("try 24"))
    subspace: tuple[str, ...] = _setting(
        ("random",),
        "NAME[,NAME...]",
        "Kinds of subspaces: random, partition, neuron [random].",
        _several_of(SUBSPACES[:-1]),
    )
    density: tuple[float, ...] = _setting(
        (1.0, 0.1, 0.01, 0.001), "X[,X...]", "Densities in (0, 1] [1,0.1,0.01,0.001].", _numbers("try 0.1", 1)
    )
    sigma: tuple[float, ...] | None = _setting(
        None,
        "X[,X...]",
        "Mutation strengths > 0 [found: from what nothing survives down to what changes nothing].",
        lambda name, value: None if value is None else _numbers("try 0.01", float("inf"))(name, value),
    )


def load_settings(path: Path | str) -> dict[str, Any]:
    """The mapping that a YAML file holds.

    Raises:
        InvalidValue: the file is unreadable or holds no mapping.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise InvalidValue(f"config: expected a readable YAML file, got {path} ({reason})") from None
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise InvalidValue(f"config: expected lines like 'children: 64' in {path}, got {type(values).__name__}")
    return values
