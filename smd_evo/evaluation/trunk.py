"""Trunk: what a network computes before its head, where the head is called once and nothing follows it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from smd_evo.core.blocks import Inference, within
from smd_evo.core.checksum import checksum_of
from smd_evo.core.parameters import ParameterSpace
from smd_evo.evaluation.batches import Batch
from smd_evo.evaluation.calls import Call, autocast_now
from smd_evo.evaluation.probe import tensors_in
from smd_evo.evaluation.recording import Parts
from smd_evo.evaluation.reuse import Reuse
from smd_evo.evaluation.watching import DATA, Refused, Watching

__all__ = ["TOLERANCE", "check_rows", "features_of", "layers_of", "survey_head"]

TOLERANCE = 0.5
"""How far the features of a few samples may be from the same rows of a whole batch, as a share of the largest: the
epsilon of their type to this power. Rounding stays far below; what exceeds it depends on the other samples.
"""


def layers_of(space: ParameterSpace, samples: int | None) -> object:
    """What features depend on besides the samples, to be compared; None where that is not known.

    All tensors that modules keep count by their bits, as not everybody who writes to them raises their version.

    Args:
        space: of the network, whose selected parameters do not count.
        samples: at most so many in a forward pass.
    """
    module = space.module
    parts = Parts(module, space.names)
    if not parts.whole[0] or module._forward_hooks:
        return None
    own = {id(parameter) for name, parameter in module.named_parameters() if name in space.names}
    tensors = {id(tensor): tensor for part in parts.all for tensor in tensors_in(vars(part))}
    fixed = [tensor for number, tensor in tensors.items() if number not in own]
    return (
        checksum_of(fixed),
        [(tensor.device, tensor.dtype, tensor.shape, tensor.stride()) for tensor in fixed],
        parts.attributes(),
        [*module._forward_pre_hooks],  # numbers that are never given twice
        autocast_now(),
        torch.get_float32_matmul_precision(),
        torch.get_num_threads(),
        samples,
    )


def survey_head(
    reuse: Reuse, network: nn.Module, head: nn.Module, batch: Batch, state: Callable[[], object]
) -> float:
    """The head's share of a forward pass of the parent, by floating point operations.

    Args:
        reuse: of the network, entered.
        network: the network.
        head: a part of it, in which all selected parameters are.
        batch: of a few samples.
        state: what a forward pass may change besides: random states, buffers.

    Raises:
        Refused: the head is not called once with one tensor; it does not return what the network returns; something
            else reads the selected parameters; or the network does what no features can stand for.
    """
    parts = reuse.parts
    watching = Watching(parts.memory, set(parts.memory), counting=True)
    calls: list[Call] = []
    costs: list[float] = []

    def way(number: int, forward: Callable[..., Any], arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        if parts.all[number] is not head and number:
            return forward(*arguments, **keywords)
        inputs, given = tree_flatten((arguments, keywords))
        call = Call((number, len(calls)), inputs, given, autocast_now())
        if not number:
            watching.give(inputs)
        watching.begin(call)
        calls.append(call)
        before = calls[0].sources
        result = forward(*arguments, **keywords)
        call.outputs, call.returned = tree_flatten(result)
        costs.append(watching.end().cost)
        call.seal()
        if number:
            calls[0].sources = before  # what else reads the selected parameters
        return result

    def ask() -> Any:
        torch.set_grad_enabled(False)  # not inference mode, in which nobody counts changes of what is returned
        torch.clear_autocast_cache()
        return within(watching, lambda: reuse.by(way, lambda: batch.outputs(network)))

    before = state(), parts.attributes()
    leaves, returned = tree_flatten(within(Inference(False), ask))
    if watching.refused:
        raise Refused(watching.refused)
    if len(calls) != 2 or not _is_one(calls[1].inputs, batch.count) or calls[1].given != tree_flatten(((0,), {}))[1]:
        raise Refused("a head that is not called once, with one tensor of as many rows as samples")
    outputs = calls[1].outputs
    if returned != calls[1].returned or not all(map(_is, leaves, outputs)) or not calls[1].intact:
        raise Refused("outputs that are not just what the head returns")
    if calls[0].sources & ~DATA:
        raise Refused("selected parameters that are used outside of the head, too")
    if not all(call.usable for call in calls) or (state(), parts.attributes()) != before:
        raise Refused("modules that draw random numbers, or leave something behind")
    return costs[0] / costs[1] if costs[1] else 1.0


def features_of(reuse: Reuse, network: nn.Module, head: nn.Module, batch: Batch) -> Tensor:
    """What the head is given, [samples, ...]: in memory of its own.

    Raises:
        Refused: the head is not called once, with one tensor of as many rows as samples.
    """
    parts = reuse.parts
    found: list[Any] = []

    def way(number: int, forward: Callable[..., Any], arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        if parts.all[number] is head:  # a copy whose changes are counted, before anybody changes this one
            found.extend(within(Inference(False), partial(_cloned, argument)) for argument in arguments)
        return forward(*arguments, **keywords)

    torch.clear_autocast_cache()
    reuse.by(way, lambda: batch.outputs(network))
    if not _is_one(found, batch.count):
        raise Refused("a head that is not called once, with one tensor of as many rows as samples")
    features: Tensor = found[0]
    return features


def check_rows(few: Tensor, rows: Tensor) -> None:
    """Refuse a network whose features of a sample depend on the other ones in the batch.

    Args:
        few: features of the first samples of a batch, of these alone.
        rows: the same of the whole batch.

    Raises:
        Refused: they differ by more than rounding.
    """
    if few.shape != rows.shape or few.dtype != rows.dtype or not few.is_floating_point():
        raise Refused("features that are no numbers of one sample each")
    most = torch.finfo(few.dtype).eps ** TOLERANCE * float(rows.abs().max())
    if not float((few.double() - rows.double()).abs().max()) <= most:
        raise Refused("features of a sample that depend on the other samples of its batch")


def _cloned(argument: Any) -> Any:
    return argument.detach().clone() if isinstance(argument, Tensor) else argument


def _is_one(inputs: list[Any], count: int) -> bool:
    return len(inputs) == 1 and isinstance(inputs[0], Tensor) and inputs[0].shape[:1] == (count,)


def _is(one: Any, other: Any) -> bool:
    return one is other
