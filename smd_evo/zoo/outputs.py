"""A network's outputs for the classes that the data have, where that are fewer than it knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from smd_evo.core.selection import head_of
from smd_evo.errors import InvalidValue
from smd_evo.zoo.sources import Source

__all__ = ["Head", "check_narrowed", "head_to_narrow", "narrow", "with_present"]

Head = nn.Linear | nn.Conv2d
"""Layers with a row of weights for each output."""

_MEND = "leave --outputs, outputs= out"


def with_present(source: Source) -> tuple[Source, NDArray[np.int64] | None]:
    """The data set with the classes alone that its images have, and the outputs of these; None for all of them.

    Raises:
        InvalidValue: all images are of one class.

    Example:
        >>> source = Source("x", "four animals", ("cat", "cow", "dog", "hen"), None, np.array([2, 0, 2]))
        >>> part, numbers = with_present(source)
        >>> part.classes, part.train_targets, part.description, numbers
        (('cat', 'dog'), array([1, 0, 1]), 'four animals; 2 of 4 outputs kept', array([0, 2]))
    """
    parts = [targets for targets in (source.train_targets, source.test_targets) if targets is not None]
    kept = np.unique(np.concatenate(parts))
    if len(kept) == len(source.classes):
        return source, None
    if len(kept) < 2:
        raise InvalidValue(
            f"outputs: expected images of two classes or more for present, got those of one "
            f"({source.classes[kept[0]]}) in {source.name}; {_MEND}"
        )
    part = replace(
        source,
        description=f"{source.description}; {len(kept):,} of {len(source.classes):,} outputs kept",
        classes=tuple(source.classes[number] for number in kept),
        train_targets=np.searchsorted(kept, source.train_targets),
        test_targets=None if source.test_targets is None else np.searchsorted(kept, source.test_targets),
    )
    return part, kept


def head_to_narrow(model: str, network: nn.Module, classes: int) -> Head:
    """The layer whose rows are the network's outputs.

    Args:
        model: the network's name.
        network: as it is built, without hooks of ours.
        classes: outputs that it has.

    Raises:
        InvalidValue: it is another kind of layer, of another size, or more than its weights make its outputs.
    """
    head = head_of(network)
    if not isinstance(head, Head) or (isinstance(head, nn.Conv2d) and head.groups > 1):
        raise _unusable(model, type(head).__name__)
    rows = len(head.weight)
    if rows != classes:
        raise _unusable(model, f"a {type(head).__name__} of {rows}")
    if is_parametrized(head) or head._forward_hooks or head._forward_pre_hooks:
        raise _unusable(model, "one with hooks or parametrizations")
    own = {id(parameter) for parameter in head.parameters()}
    held = [id(each) for module in network.modules() for each in module.parameters(recurse=False)]
    if any(held.count(each) > 1 for each in own):
        raise _unusable(model, "one whose weights another layer has, too")
    return head


def narrow(network: nn.Module, head: Head, kept: NDArray[np.int64]) -> None:
    """Leave a network some of its outputs.

    Args:
        network: changed in place.
        head: what :func:`head_to_narrow` found in it.
        kept: numbers of the outputs that stay, ascending.

    Example:
        >>> head = nn.Linear(2, 5)
        >>> narrow(head, head, np.array([1, 4]))
        >>> head
        Linear(in_features=2, out_features=2, bias=True)
    """
    rows, before = torch.from_numpy(kept), len(head.weight)
    for name, parameter in list(head.named_parameters(recurse=False)):
        is_last = parameter.dim() == 4 and not parameter.is_contiguous()
        layout = torch.channels_last if is_last else torch.contiguous_format
        values = parameter.detach()[rows.to(parameter.device)].contiguous(memory_format=layout)
        setattr(head, name, nn.Parameter(values, parameter.requires_grad))
    setattr(head, "out_features" if isinstance(head, nn.Linear) else "out_channels", len(kept))
    if getattr(network, "num_classes", None) == before:  # as networks of timm and torchvision know it
        vars(network)["num_classes"] = len(kept)
    config: Any = getattr(network, "config", None)
    labels = getattr(config, "id2label", None)
    if isinstance(labels, Mapping) and len(labels) == before:  # and as those of transformers do, which store it
        names = {place: labels[number] for place, number in enumerate(kept.tolist())}
        config.id2label, config.label2id = names, {name: place for place, name in names.items()}
        vars(network)["num_labels"] = len(kept)


def check_narrowed(model: str, whole: Tensor, part: Tensor, kept: NDArray[np.int64]) -> None:
    """Refuse a network whose kept outputs are not what they were.

    Args:
        model: the network's name.
        whole: outputs for some images before, [n, classes].
        part: outputs for the same images now, [n, kept classes].
        kept: numbers of the outputs that stayed.

    Raises:
        InvalidValue: they differ by more than rounding.
    """
    expected = whole[:, torch.from_numpy(kept)]
    slack = torch.finfo(whole.dtype).eps ** 0.5
    if not torch.allclose(part, expected, slack, slack * float(expected.abs().max()), equal_nan=True):
        raise InvalidValue(
            f"outputs: expected {model} to have the same {len(kept)} outputs without the others, got different ones; "
            f"give a network that does nothing with them after its last layer, no softmax for one, or {_MEND}"
        )


def _unusable(model: str, got: str) -> InvalidValue:
    return InvalidValue(
        f"outputs: expected a plain Linear or Conv2d layer with a row for each class as the head of {model} for "
        f"present, got {got}; {_MEND}"
    )
