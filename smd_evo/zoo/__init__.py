"""Parents and data by name.

A data set brings its splits; a model is built for a data set. Both are registered in a table each, so that
another name is another entry.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from smd_evo.errors import check_choice

if TYPE_CHECKING:
    from torch import nn

    from smd_evo.zoo.data import Data

__all__ = ["data_names", "load_data", "load_model", "model_names"]


def _digits(seed: int) -> Data:
    from smd_evo.zoo.demo import shifted_digits

    return shifted_digits(seed)


def _demo_cnn(data: Data, seed: int) -> nn.Module:
    from smd_evo.zoo.demo import trained_cnn

    return trained_cnn(data, seed)


_DATA: dict[str, Callable[[int], Data]] = {"digits": _digits}
_MODELS: dict[str, Callable[[Data, int], nn.Module]] = {"demo-cnn": _demo_cnn}


def data_names() -> list[str]:
    """Names that :func:`load_data` knows."""
    return list(_DATA)


def model_names() -> list[str]:
    """Names that :func:`load_model` knows."""
    return list(_MODELS)


def load_data(name: str, seed: int = 0) -> Data:
    """A data set with its splits.

    Args:
        name: one of :func:`data_names`.
        seed: of the splits.

    Raises:
        InvalidValue: unknown name.
    """
    return _DATA[check_choice("data", name, _DATA)](seed)


def load_model(name: str, data: Data, seed: int = 0) -> nn.Module:
    """A pre-trained parent for a data set, on the CPU.

    Args:
        name: one of :func:`model_names`.
        data: what it is to classify.
        seed: of its training, where the parent is trained here.

    Raises:
        InvalidValue: unknown name.
    """
    return _MODELS[check_choice("model", name, _MODELS)](data, seed)
