"""Files of weights into networks of timm and torchvision, also as their authors published them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from smd_evo.errors import InvalidValue
from smd_evo.zoo.renaming import renamed
from smd_evo.zoo.weights import check_usable, load_weights, nothing_left

__all__ = ["timm_from", "torchvision_from"]

_AUXILIARY = {"googlenet": "aux1.", "inception_v3": "AuxLogits."}
"""Networks with a second head, which training needs and files may lack, and what its names begin with."""


def torchvision_from(name: str, classes: int, weights: Mapping[str, Tensor], source: str | Path) -> nn.Module:
    """A network of torchvision with weights of a file.

    Raises:
        InvalidValue: they do not fit; see :func:`smd_evo.zoo.weights.load_weights`.
    """
    from torchvision import models

    options: dict[str, Any] = {}
    if name in _AUXILIARY:
        # The first is what torchvision sets with the published weights alone: inputs are scaled once more.
        has_head = any(_AUXILIARY[name] in each for each in weights)
        options = {"transform_input": True, "init_weights": False, "aux_logits": has_head}
    network: nn.Module = models.get_model(name, num_classes=classes, **options)
    load_weights(network, weights, source)
    return network


def timm_from(name: str, classes: int, weights: Mapping[str, Tensor], source: str | Path) -> nn.Module:
    """A network of timm with weights of a file, by timm's names or by those of their authors' own code.

    Raises:
        InvalidValue: they do not fit; see :func:`smd_evo.zoo.weights.load_weights`.
    """
    import timm

    network = timm.create_model(name, num_classes=classes)
    try:
        load_weights(network, weights, source)
    except InvalidValue as error:
        for names in (renamed(weights, network.state_dict())[0], weights):
            with contextlib.suppress(Exception), _strict_timm(source):
                given = {"state_dict": dict(names), "num_classes": classes}
                return timm.create_model(name, pretrained=True, num_classes=classes, pretrained_cfg_overlay=given)
        raise error
    return network


@contextlib.contextmanager
def _strict_timm(source: str | Path) -> Iterator[None]:
    """A block in which timm, which knows how to translate names, loads all of a network's parameters or none.

    Some of its architectures load with ``strict=False``, and none looks at the numbers.
    """
    from timm.models import _builder

    original = _builder.load_pretrained

    def strictly(model: nn.Module, *args: Any, filter_fn: Callable[..., Any] | None = None, **options: Any) -> None:
        def translated(weights: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
            found: dict[str, Tensor] = weights
            if filter_fn is not None:
                try:
                    found = filter_fn(weights, model)
                except TypeError:  # one of a single argument
                    found = filter_fn(weights)
            check_usable(found, model, source)
            return found

        with nothing_left(model, source):
            original(model, *args, **{**options, "filter_fn": translated, "strict": True})

    _builder.load_pretrained = strictly
    try:
        yield
    finally:
        _builder.load_pretrained = original
