"""Weights into a network: through its own ``load_state_dict``, and all of them, or none."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from smd_evo.errors import InvalidValue
from smd_evo.zoo.checkpoint import with_metadata
from smd_evo.zoo.renaming import COUNT, renamed
from smd_evo.zoo.tensor_kinds import is_infinite, same_numbers, unusable

__all__ = ["check_usable", "load_weights", "nothing_left"]

_NAMED, _LONGEST = 3, 120


def load_weights(network: nn.Module, weights: Mapping[str, Tensor], source: str | Path) -> None:
    """Load all of a network's tensors, by name.

    The network's own ``load_state_dict`` does it, with whatever that renames or converts. Afterwards each parameter
    that is in ``network.state_dict()`` has come from the weights, or there is an error.

    Args:
        network: changed in place, unless something does not fit.
        weights: what :func:`smd_evo.zoo.checkpoint.read_checkpoint` returned. What DataParallel, torch.compile or
            Lightning put before the names is taken off; batch normalisation's counts, and names of a tensor that
            is there under another name, may be missing.
        source: where they come from, for the error.

    Raises:
        InvalidValue: a tensor is missing, unknown, of another shape or kind of numbers, or holds NaN; the first of
            them are named.
    """
    expected = network.state_dict()
    found, left_out, prefix = renamed(weights, expected)
    check_usable(found, network, source)
    _check_ties(found, network, source)
    _add_known(found, network, expected)
    _take_apart(found, network)
    with nothing_left(network, source):
        try:
            _load(network, found)
        except Exception as error:  # from whatever a module does to load
            raise _misfit(found, expected, source, error, weights) from error
    if left_out:  # what was chosen is told once it is loaded
        what = f"the tensors under {prefix!r}" if prefix else "the network's tensors"
        warnings.warn(
            f"checkpoint: took {what} of {source}, and left out {len(left_out)} others: {_listed(left_out)}; "
            "checkpoint_key chooses others",
            UserWarning,
            stacklevel=2,
        )


def check_usable(weights: Mapping[str, Tensor], network: nn.Module, source: str | Path) -> None:
    """Refuse numbers that a network's tensors would take, and not mean; tell of infinite ones.

    Args:
        weights: by the network's names.
        network: stays as it is.
        source: where the weights come from.

    Raises:
        InvalidValue: see :func:`load_weights`.
    """
    expected, parameters = network.state_dict(), _parameters(network)
    tensors = {name: tensor for name, tensor in weights.items() if isinstance(tensor, Tensor)}  # no extra state
    targets = {name: each for name, each in expected.items() if isinstance(each, Tensor)}
    reasons = {name: unusable(tensor, targets.get(name)) for name, tensor in tensors.items()}
    if problems := [f"{name} {reason}" for name, reason in reasons.items() if reason is not None]:
        raise InvalidValue(
            f"checkpoint: expected finite numbers of the model's own kinds in {source}, got others: "
            f"{_listed(problems, '; ')}; save network.state_dict() of the trained network"
        )
    if infinite := [name for name in tensors if name in parameters and is_infinite(tensors[name])]:
        warnings.warn(f"checkpoint: {source} holds infinite numbers: {_listed(infinite)}", UserWarning, stacklevel=3)


@contextmanager
def nothing_left(network: nn.Module, source: str | Path) -> Iterator[None]:
    """A block that loads all of a network: no parameter may keep its value, and no statistic may go unwritten.

    Parameters are NaN when it begins, because modules may load with ``strict=False``, or fill gaps with what they
    hold: what is NaN at its end did not come from the file.

    Raises:
        InvalidValue: something was left as it was. Then, and if the block fails, the network is as before.
    """
    held = _parameters(network)
    buffers = {name: each for name, each in _held(network).items() if name not in held and each.is_floating_point()}
    before = {name: tensor.detach().clone() for name, tensor in _held(network).items()}
    try:
        written = {name: each._version for name, each in buffers.items()}
        with torch.no_grad():
            for tensor in held.values():
                tensor.fill_(torch.nan)
        yield
        after = _parameters(network)
        left = [name for name in held if name in after and bool(torch.isnan(after[name]).any())]
        after = _held(network)
        left += [n for n, each in buffers.items() if after.get(n) is each and each._version == written[n]]
        if left:
            raise InvalidValue(
                f"checkpoint: expected all of the model's tensors in {source}, got none for {_listed(left)}; "
                "is it of another architecture, or for other classes?"
            )
    except BaseException:
        with torch.no_grad():
            for name, tensor in _held(network).items():
                if name in before and tensor.shape == before[name].shape:
                    tensor.copy_(before[name])
        raise


def _held(network: nn.Module) -> dict[str, Tensor]:
    """The network's own tensors of those that its state dict names, and that have numbers yet."""
    names = network.state_dict().keys()
    tensors = [*network.named_parameters(remove_duplicate=False), *network.named_buffers(remove_duplicate=False)]
    return {name: each for name, each in tensors if name in names and not is_lazy(each) and not each.is_meta}


def _parameters(network: nn.Module) -> dict[str, Tensor]:
    """Of these, the parameters of floating-point numbers."""
    return {
        name: tensor
        for name, tensor in _held(network).items()
        if isinstance(tensor, nn.Parameter) and tensor.is_floating_point() and tensor.element_size() > 1
    }


def _ties(network: nn.Module) -> Iterable[list[str]]:
    """Names of the same tensor."""
    groups: dict[int, list[str]] = {}
    for name, tensor in _held(network).items():
        groups.setdefault(id(tensor), []).append(name)
    return (names for names in groups.values() if len(names) > 1)


def _check_ties(weights: Mapping[str, Tensor], network: nn.Module, source: str | Path) -> None:
    for names in _ties(network):
        present = [name for name in names if name in weights]
        for other in present[1:]:
            if not torch.equal(weights[present[0]], weights[other]):
                raise InvalidValue(
                    f"checkpoint: expected one tensor for {present[0]} and {other}, which the model shares, in "
                    f"{source}, got two that differ; is it of another architecture?"
                )


def _add_known(weights: OrderedDict[str, Tensor], network: nn.Module, expected: Mapping[str, Tensor]) -> None:
    """Add what a file may leave out, and drop constants that networks keep to themselves nowadays."""
    for name in expected:
        if name not in weights and name.endswith(COUNT):
            weights[name] = expected[name].detach().clone()
    for names in _ties(network):
        for present in [name for name in names if name in weights][:1]:
            weights.update({name: weights[present] for name in names if name not in weights})
    for name, constant in network.named_buffers():
        if name in weights and name not in expected and same_numbers(weights[name], constant):
            del weights[name]


def _take_apart(weights: OrderedDict[str, Tensor], network: nn.Module) -> None:
    """Copy what shares memory with the network, which is emptied before it is loaded."""
    own = {tensor.untyped_storage().data_ptr() for tensor in _held(network).values()}
    for name, tensor in weights.items():
        if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() in own:
            weights[name] = tensor.detach().clone()


def _load(network: nn.Module, weights: OrderedDict[str, Tensor]) -> None:
    """By the network's own means; files without versions of modules are old, or else of the present ones."""
    try:
        network.load_state_dict(weights)
    except Exception:
        present = getattr(network.state_dict(), "_metadata", None)
        if not present or getattr(weights, "_metadata", None):
            raise
        network.load_state_dict(with_metadata(OrderedDict(weights), present))


def _misfit(
    weights: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    source: str | Path,
    error: Exception,
    given: Mapping[str, Tensor],
) -> InvalidValue:
    problems = [f"{name} is missing" for name in expected if name not in weights]
    problems += [
        f"{name} is {list(weights[name].shape)} instead of {list(tensor.shape)}"
        for name, tensor in expected.items()
        if isinstance(weights.get(name), Tensor) and not is_lazy(tensor) and weights[name].shape != tensor.shape
    ]
    problems += [f"{name} is unknown" for name in weights if name not in expected]
    told = _listed(problems, "; ") if problems else " ".join(str(error).split())[:_LONGEST]
    return InvalidValue(
        f"checkpoint: expected the {len(expected)} tensors of the model in {source}, got differences: {told}; "
        f"{_mend(given, expected)}"
    )


def _mend(given: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """Where else in the file the network may be."""
    first = next(iter(expected), "")
    for name in given:
        prefix = name.removesuffix(first)
        if prefix != name and prefix.endswith(".") and all(prefix + each in given for each in expected):
            return f"its names are behind {prefix!r}, which checkpoint_key={prefix[:-1]} takes"
    return "is it of another architecture, or for other classes?"


def _listed(texts: list[str], between: str = ", ") -> str:
    more = f" and {len(texts) - _NAMED} more" if len(texts) > _NAMED else ""
    return f"{between.join(texts[:_NAMED])}{more}"
