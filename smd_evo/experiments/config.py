"""Settings of the experiments: defaults, checks, and their file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from smd_evo.errors import InvalidType, InvalidValue, check_choice, check_count, check_keep, check_number
from smd_evo.zoo import data_names, model_names

__all__ = ["FinetuneConfig", "load_settings"]

_SUBSPACES = ("random", "partition", "neuron", "tensor")
_FITNESSES = ("cross_entropy", "accuracy")


@dataclass(frozen=True)
class FinetuneConfig:
    """Settings of ``smd-evo finetune``; every field is an option and a key of the configuration file.

    Attributes:
        model: name of the parent.
        data: name of the data set.
        children: children of one group (one density, or one dense strength).
        subspace: rule of the sparse mutations.
        density: densities to choose from on validation; ignored by the tensor subspace.
        sigma: mutation strength of the sparse children; None: calibrated.
        keep: share of the parent's score that calibration leaves the median child.
        select: which parameters are mutated.
        fitness: what children are ranked by.
        seed: of everything.
        device: "auto", "cpu" or "cuda[:N]".
        batch_size: images a forward pass, or "auto".

    Example:
        >>> FinetuneConfig.read({"children": "64", "density": "0.1,0.01"}).density
        (0.1, 0.01)
    """

    model: str = "demo-cnn"
    data: str = "digits"
    children: int = 128
    subspace: str = "random"
    density: tuple[float, ...] = (0.3, 0.1, 0.03)
    sigma: float | None = None
    keep: float = 0.9
    select: str = "all"
    fitness: str = "cross_entropy"
    seed: int = 0
    device: str = "cpu"
    batch_size: int | str = "auto"

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> FinetuneConfig:
        """Settings from a mapping of names to numbers or strings; what is missing has its default.

        Raises:
            InvalidValue, InvalidType: an unknown name or an unusable value.
        """
        known = [field.name for field in fields(cls)]
        for name in values:
            check_choice("setting", name, known)
        # Resolved now, so that the stored settings say what was used; last, because it has to import torch.
        values = {**values, "device": values.get("device", "auto")}
        config = cls(**{name: _READERS[name](name, value) for name, value in values.items()})
        if config.subspace == "tensor" and "density" in values:
            raise InvalidValue("density: expected none for the tensor subspace, which has no density; leave it out")
        return config

    def as_dict(self) -> dict[str, Any]:
        """The settings as plain values, which :meth:`read` takes."""
        values = asdict(self) | {"density": list(self.density)}
        return {name: value for name, value in values.items() if name != "density" or self.subspace != "tensor"}


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


_MENDS = {"children": "try 128", "seed": "try 0", "batch_size": "try auto"}


def _whole(name: str, value: Any) -> int:
    try:
        number = int(value) if isinstance(value, str) else value
    except ValueError:
        number = value
    return check_count(name, number, low=0 if name == "seed" else 1, mend=_MENDS[name])


def _seed(name: str, value: Any) -> int:
    number = _whole(name, value)
    if number >= 2**64:
        raise InvalidValue(f"{name}: expected a whole number below 2**64, got {number}")
    return number


def _densities(name: str, value: Any) -> tuple[float, ...]:
    items = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
    densities = tuple(check_number(name, item, low=0, high=1, mend="try 0.1") for item in items)
    if not densities or len(set(densities)) < len(densities):
        raise InvalidValue(f"{name}: expected one or more different numbers in (0, 1], got {value!r}")
    return densities


def _sigma(name: str, value: Any) -> float | None:
    if value in (None, "auto"):
        return None
    return check_number(name, value, low=0, mend="leave it out to have it calibrated")


def _batch_size(name: str, value: Any) -> int | str:
    return "auto" if value == "auto" else _whole(name, value)


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


_READERS: dict[str, Callable[[str, Any], Any]] = {
    "model": lambda name, value: check_choice(name, value, model_names()),
    "data": lambda name, value: check_choice(name, value, data_names()),
    "children": _whole,
    "subspace": lambda name, value: check_choice(name, value, _SUBSPACES),
    "density": _densities,
    "sigma": _sigma,
    "keep": lambda _, value: check_keep(value),
    "select": _text,
    "fitness": lambda name, value: check_choice(name, value, _FITNESSES),
    "seed": _seed,
    "device": _device,
    "batch_size": _batch_size,
}
