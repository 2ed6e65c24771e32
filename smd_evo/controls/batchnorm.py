"""Statistics of batch normalisation, blended with those of other samples: no labels, no gradients.

Reference: Schneider et al., "Improving robustness against common corruptions by covariate shift adaptation",
NeurIPS 2020 (equation 2).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from smd_evo.core.copying import whole_copy
from smd_evo.errors import InvalidValue, check_number
from smd_evo.evaluation.batches import Batch, Batches
from smd_evo.evaluation.limit import BatchLimit
from smd_evo.evaluation.randomness import RandomStates

__all__ = ["Statistics", "blended", "has_statistics", "statistics_of"]

Statistics = dict[str, tuple[Tensor, Tensor]]
"""Mean and variance of each normalisation, by its name."""


def has_statistics(network: nn.Module) -> bool:
    """Whether there is anything to blend: some normalisation has seen samples.

    One that is folded into the weights around it has mean 0 and variance 1, but for its epsilon, in all channels: its
    samples' own statistics would undo what was folded.
    """
    return any(bool(mean.any()) or bool((variance != variance[0]).any()) for mean, variance in _seen(network))


def statistics_of(network: nn.Module, batches: Batches, limit: BatchLimit | None = None) -> Statistics:
    """What batch normalisations see of some samples, by one forward pass of each; the network stays as it is.

    Means over the batches, of which each counts by its samples; one of a single sample has no variance and is left
    out. So batches are to be large: each is normalised by itself on the way.

    Args:
        network: with batch normalisations that keep statistics.
        batches: of the samples, on its device.
        limit: of the samples in a forward pass.

    Raises:
        InvalidValue: it has none, or no batch has two samples.
    """
    if not has_statistics(network):
        raise InvalidValue(
            "batchnorm: expected batch normalisations with statistics in the network, got none, or ones that are "
            "folded into its weights; this control is left out"
        )
    twin = whole_copy(network).eval()
    layers, seen = _layers(twin), 0
    for layer in layers.values():
        layer.reset_running_stats()
        layer.train()
    random, limit = RandomStates(twin), limit or BatchLimit()

    def add(some: Sequence[Batch]) -> None:
        """Statistics of some batches to those of the ones before, anew where memory was too small for them."""
        nonlocal seen
        _put(layers, before)
        seen = passed
        for batch in some:
            if batch.count > 1:
                seen += batch.count
                for layer in layers.values():
                    layer.momentum = batch.count / seen
                batch.outputs(twin)

    try:
        random.reseed()
        with torch.no_grad():
            for chunk in batches.chunks():
                before, passed = {name: _copies(layer) for name, layer in layers.items()}, seen
                limit.within(add, chunk)
    finally:
        random.restore()
    if not seen:
        raise InvalidValue("batchnorm: expected batches of two samples or more, got single ones; give a batch size")
    return {name: _pair(layer) for name, layer in layers.items()}


def blended(network: nn.Module, statistics: Statistics, share: float) -> nn.Module:
    """A copy of a network whose statistics are ``(1 - share) old + share new``.

    Args:
        network: the old one.
        statistics: the new ones, of :func:`statistics_of`.
        share: in [0, 1].
    """
    share = check_number("share", share, low=0, high=1, closed=True)
    twin = whole_copy(network)
    with torch.no_grad():
        for name, layer in _layers(twin).items():
            for old, new in zip(_pair(layer), statistics[name], strict=True):
                old.mul_(1 - share).add_(share * new.to(old))
    return twin


def _layers(network: nn.Module) -> dict[str, _BatchNorm]:
    return {
        name: part
        for name, part in network.named_modules()
        if isinstance(part, _BatchNorm) and part.running_mean is not None
    }


def _seen(network: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
    return map(_pair, _layers(network).values())


def _copies(layer: _BatchNorm) -> tuple[Tensor, Tensor]:
    mean, variance = _pair(layer)
    return mean.clone(), variance.clone()


def _put(layers: dict[str, _BatchNorm], statistics: Statistics) -> None:
    for name, layer in layers.items():
        for now, then in zip(_pair(layer), statistics[name], strict=True):
            now.copy_(then)


def _pair(layer: _BatchNorm) -> tuple[Tensor, Tensor]:
    assert layer.running_mean is not None
    assert layer.running_var is not None
    return layer.running_mean, layer.running_var
