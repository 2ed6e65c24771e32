"""What a user gives problems: keywords of EvoTorch's, a parent, a seed, the size of minibatches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from smd_evo.core.keys import Key, check_key, derive
from smd_evo.core.parameters import ParameterSpace
from smd_evo.core.selection import Select
from smd_evo.core.supported import check_device
from smd_evo.errors import InvalidType, InvalidValue, check_choice, check_count, check_number, nearest, shown
from smd_evo.mends import network_mend

__all__ = ["checked_host", "checked_size", "key_of", "space_of"]

_HOST = (
    *("seed", "device", "num_actors", "actor_config", "num_gpus_per_actor", "num_subbatches", "subbatch_size"),
    *("store_solution_stats", "vectorized"),
)
"""Keywords of ``evotorch.Problem`` that say nothing which the network says."""


def key_of(seed: int | None) -> Key:
    """The key of a problem's seed; without one it comes from torch's global generator, as EvoTorch's numbers do."""
    drawn = int(torch.randint(2**63 - 1, (), device="cpu")) if seed is None else check_key(seed, "seed")
    return derive(drawn, "problem")


def checked_host(host: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords of ``evotorch.Problem`` with plain numbers, where they are numbers."""
    checks: dict[str, Callable[[str, Any], Any]] = {
        "seed": lambda name, value: check_key(value, name),
        "device": lambda _, value: check_device(value) and value,
        "num_actors": lambda name, value: check_count(name, value, low=0),
        "num_gpus_per_actor": lambda name, value: check_number(name, value, low=0, closed=True),
        "num_subbatches": check_count,
        "subbatch_size": check_count,
    }
    words = {"num_actors": ("max", "num_cpus", "num_gpus", "num_devices"), "num_gpus_per_actor": ("max", "all")}
    found = dict(host)
    for name in host:
        if name not in _HOST:
            raise InvalidType(f"{name}: expected a keyword of this problem or evotorch.Problem{nearest(name, _HOST)}")
    for name, check in checks.items():
        value = host.get(name)
        if isinstance(value, str) and name in words:
            found[name] = check_choice(name, value, words[name])
        elif value is not None:
            found[name] = check(name, value)
    return found


def space_of(parent: nn.Module | ParameterSpace, select: Select) -> ParameterSpace:
    """The selected parameters of a network, or the space of them that is given."""
    if isinstance(parent, nn.Module):
        return ParameterSpace(parent, select)
    if not isinstance(parent, ParameterSpace):
        mend = network_mend(parent) or "; the order is parent, data, fitness"
        raise InvalidType(f"parent: expected a torch.nn.Module or ParameterSpace, got {shown(parent)}{mend}")
    if select != "all":
        raise InvalidValue("select: expected it with a torch.nn.Module, got it with a ParameterSpace")
    return parent


def checked_size(size: int | None, samples: int) -> int | None:
    """A minibatch's size, or an error if it is no whole number of at most the samples."""
    if size is None:
        return None
    size = check_count("minibatch_size", size, mend="or None for all samples")
    if size > samples:
        raise InvalidValue(f"minibatch_size: expected at most the {samples} samples, got {size}")
    return size
