"""Networks of the user's own: from a function of the number of classes, from one of nothing, or as they are."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from inspect import Parameter
from typing import Any

from torch import nn

from smd_evo.errors import InvalidType

__all__ = ["made"]

_OPEN = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
_IN_PLACE = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
_BY_NAME = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
_CLASSES = ("classes", "num_classes", "n_classes", "nb_classes", "number_of_classes", "num_labels", "num_outputs")


def made(name: str, found: Callable[..., Any], classes: int) -> nn.Module:
    """The network behind ``module.path:name``.

    Args:
        name: as the user gave it.
        found: a function or class, which is called with the number of classes if it takes that and without arguments
            if it takes none; or a network, of which a copy is taken.
        classes: outputs that the data has.

    Raises:
        InvalidType: it takes other arguments, or makes no network.
    """
    network = copy.deepcopy(found) if isinstance(found, nn.Module) else _call(name, found, classes)
    if not isinstance(network, nn.Module):
        got = network.__name__ + ", a class" if isinstance(network, type) else type(network).__name__
        raise InvalidType(f"model: expected a torch.nn.Module from {name}, got {got}; return the network")
    return network


def _call(name: str, factory: Callable[..., Any], classes: int) -> Any:
    try:
        parameters = list(inspect.signature(factory).parameters.values())
    except (TypeError, ValueError):  # of something that is not written in Python
        return factory(classes)
    needed = [each for each in parameters if each.default is Parameter.empty and each.kind not in _OPEN]
    named = [each for each in parameters if each.name in _CLASSES and each.kind in _BY_NAME]
    if len(named) == 1 and needed in ([], named):
        return factory(**{named[0].name: classes})
    first = parameters[0].kind if parameters else None
    if not named and (first is Parameter.VAR_POSITIONAL or (first in _IN_PLACE and needed == parameters[:1])):
        return factory(classes)
    if not needed and all(each.kind is Parameter.KEYWORD_ONLY for each in parameters):
        return factory()
    raise InvalidType(
        f"model: expected a function of the number of classes, or of nothing, as {name}, got one of "
        f"({', '.join(map(str, parameters))}); call that parameter `classes`, and give all others defaults"
    )
