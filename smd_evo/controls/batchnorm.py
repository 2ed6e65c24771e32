"""Statistics of batch normalisation, blended with those of other samples: no labels, no gradients.

Reference: Schneider et al., "Improving robustness against common corruptions by covariate shift adaptation",
NeurIPS 2020 (equation 2).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from smd_evo.core.copying import whole_copy
from smd_evo.errors import InvalidValue, check_number
from smd_evo.evaluation.batches import Batches

__all__ = ["Statistics", "blended", "has_statistics", "statistics_of"]

Statistics = dict[str, tuple[Tensor, Tensor]]
"""Mean and variance of each normalisation, by its name."""


def has_statistics(network: nn.Module) -> bool:
    """Whether there is anything to blend: some normalisation has seen samples.

    One that is folded into the weights around it has mean 0 and variance 1, but for its epsilon, in all channels: its
    samples' own statistics would undo what was folded.
    """
    return any(bool(mean.any()) or bool((variance != variance[0]).any()) for mean, variance in _seen(network))


def statistics_of(network: nn.Module, batches: Batches) -> Statistics:
    """What batch normalisations see of some samples, by one forward pass of each; the network stays as it is.

    Args:
        network: with batch normalisations that keep statistics.
        batches: of the samples, on its device.

    Raises:
        InvalidValue: it has none.
    """
    if not has_statistics(network):
        raise InvalidValue(
            "batchnorm: expected batch normalisations with statistics in the network, got none, or ones that are "
            "folded into its weights; this control is left out"
        )
    twin = whole_copy(network).eval()
    for layer in _layers(twin).values():
        layer.reset_running_stats()
        layer.momentum = None  # the mean over all batches
        layer.train()
    with torch.no_grad():
        for chunk in batches.chunks():
            for batch in chunk:
                if batch.count > 1:  # a single sample has no variance
                    batch.outputs(twin)
    return {name: _pair(layer) for name, layer in _layers(twin).items()}


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


def _pair(layer: _BatchNorm) -> tuple[Tensor, Tensor]:
    assert layer.running_mean is not None
    assert layer.running_var is not None
    return layer.running_mean, layer.running_var
