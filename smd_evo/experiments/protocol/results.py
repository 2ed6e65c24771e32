"""The paper's set-up over many architectures: one generation each, sigma calibrated for each, one table.

The list of architectures is ours (the paper's abstract says "nearly a dozen"), as are the tests: whether a gain is
the rule over architectures (Wilcoxon), and which single gains stand when all of them are tested (Holm).

Reference: Whitaker & Whitley, arXiv 2302.05832.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smd_evo.errors import InvalidValue, check_choice
from smd_evo.zoo.names import MODELS

if TYPE_CHECKING:
    from smd_evo.statistics.tests import Estimate

__all__ = ["CANDIDATES", "PROTOCOLS", "Architecture", "Gain", "Summary", "model_settings", "summarise"]

PROTOCOLS = {
    "imagenet": (
        "resnet18",
        "resnet50",
        "vgg16",
        "densenet121",
        "mobilenetv2_100",
        "mobilenetv3_large_100",
        "efficientnet_b0",
        "tf_efficientnet_lite0",
        "regnety_004",
        "convnext_tiny",
        "vit_small_patch16_224",
        "swin_tiny_patch4_window7_224",
    )
}
"""Names of timm by the protocol's name."""

CANDIDATES = ("best child", "ensemble")
_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


@dataclass(frozen=True)
class Gain:
    """A difference in accuracy, the p value of its exact McNemar test, and the same adjusted by Holm."""

    value: Estimate
    p_value: float
    adjusted: float


@dataclass(frozen=True)
class Architecture:
    """One network's line.

    Attributes:
        model: its name.
        parameters: how many may be mutated.
        accuracy: of the parent on the test split.
        gains: of the sparse best child and the sparse ensemble over the parent.
        against: of the sparse ensemble over that of each dense control, and over the best of what is free.
    """

    model: str
    parameters: int
    accuracy: float
    gains: dict[str, Gain]
    against: dict[str, Gain]


@dataclass(frozen=True)
class Summary:
    """All architectures, and what holds over them.

    Attributes:
        rows: one for each architecture; p values adjusted over all of their gains, and apart from these over all
            comparisons with controls.
        overall: two-sided Wilcoxon signed-rank p value over the architectures, by candidate and by control.
    """

    rows: list[Architecture]
    overall: dict[str, float]


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if not all(names) or len(set(names)) < len(names):
        raise InvalidValue(f"models: expected different names with commas between them, got {text!r}")
    return names


def model_settings(
    settings: Mapping[str, Any], models: str | None, protocol: str | None = None
) -> dict[str, dict[str, Any]]:
    """Settings of each network's run, by the name of its folder.

    Args:
        settings: of all; ``checkpoint`` is a folder with a file for each network.
        models: names with commas between them, those of timm without a prefix; None: the protocol's.
        protocol: a key of :data:`PROTOCOLS`.

    Raises:
        InvalidValue: an unknown name, a file that is missing, or settings that do not go together.
    """
    if "model" in settings:
        raise InvalidValue(
            f"model: expected none beside models or a protocol, got {settings['model']!r}; leave it out"
        )
    known = PROTOCOLS[check_choice("protocol", protocol, PROTOCOLS)] if protocol is not None else ()
    if protocol is not None and not str(settings.get("data", "")).startswith(f"{protocol}:"):
        raise InvalidValue(f"data: expected {protocol}:PATH with the protocol, got {settings.get('data')!r}")
    names = known if models is None else _names(models)
    folder = settings.get("checkpoint")
    found = {}
    for name in names:
        model = name if ":" in name or name in MODELS else f"timm:{name}"
        own = {} if folder is None else {"checkpoint": str(_checkpoint(name, Path(folder)))}
        found[name.replace(":", "-")] = {**settings, "model": model, **own}

    from smd_evo.zoo.models import check_name  # with the libraries that know the names: after all else

    for each in found.values():
        check_name(each["model"])
    return found


def _checkpoint(model: str, folder: Path) -> Path:
    """The file of a model's weights: its name without the library's, and any usual suffix."""
    name = model.rpartition(":")[2]
    for suffix in _SUFFIXES:
        if (folder / f"{name}{suffix}").is_file():
            return folder / f"{name}{suffix}"
    raise InvalidValue(f"checkpoint: expected a file {name}{{{','.join(_SUFFIXES)}}} in {folder}, got none")


def summarise(rows: Sequence[Architecture]) -> Summary:
    """Adjust p values over all rows, and test over architectures.

    Args:
        rows: with any ``adjusted``.
    """
    from smd_evo.statistics.tests import wilcoxon

    gains, against = (_adjusted([row.gains for row in rows]), _adjusted([row.against for row in rows]))
    overall = {}
    for each in (gains, against):
        for name in each[0] if len(rows) > 1 else ():
            overall[name] = wilcoxon([row[name].value.value for row in each], [0.0] * len(rows))
    rows = [replace(row, gains=gains[place], against=against[place]) for place, row in enumerate(rows)]
    return Summary(rows, overall)


def _adjusted(rows: Sequence[Mapping[str, Gain]]) -> list[dict[str, Gain]]:
    from smd_evo.statistics.tests import holm

    adjusted = iter(holm([gain.p_value for row in rows for gain in row.values()]))
    return [{name: replace(gain, adjusted=next(adjusted)) for name, gain in row.items()} for row in rows]
