"""Modes: a network is switched to eval and back, also where that is work and not just a flag."""

from __future__ import annotations

from itertools import chain
from types import CodeType
from typing import Any

from torch import Tensor, nn

from smd_evo.evaluation.buffers import same_bits

__all__ = ["Modes"]

_FLAG = {"super", "train", "eval", "training"}
"""Names in a switch that sets flags and hands them down, and does nothing else."""

_KERNELS = {"use_kernels", "set_use_kernels", "kernelize"}
"""Further names in that of transformers' models, whose kernels are changed where ``use_kernels`` is set."""


class Modes:
    """Train or eval of each module, and which parameters take gradients, as they are now.

    Where a module has a ``train`` or ``eval`` of its own, a switch may be work: merge weights (loralib), freeze
    statistics, keep a cache. Such modules go back through their own ``train``, and then their weights, buffers
    and plain attributes are made what they were, to the bit: of these there are copies meanwhile. A network in eval
    mode is not switched at all. A switch whose code names nothing but the flag, as that of transformers' models, is
    none of these.

    Args:
        module: the network.
        free: whether something else may switch its modes meanwhile, such as a fitness of the network itself.
    """

    def __init__(self, module: nn.Module, free: bool = False) -> None:
        self._module = module
        self._modes = [(part, part.training) for part in module.modules()]
        self._during: list[tuple[nn.Module, bool]] | None = None
        self._gradients = [(weight, weight.requires_grad) for weight in module.parameters()]
        working = [part for part, _ in self._modes if _works(part)]
        self._plain = [(part, _plain(part)) for part in working]
        self._moved: list[tuple[Tensor, Tensor]] = []
        if working and (free or self._switches):
            tensors = {id(tensor): tensor for part in working for tensor in chain(part.parameters(), part.buffers())}
            self._moved = [(tensor, tensor.detach().clone()) for tensor in tensors.values()]
        self._free = free

    @property
    def _switches(self) -> bool:
        return any(training for _, training in self._modes)

    def eval(self) -> None:
        """Switch to eval."""
        if self._switches:
            self._module.eval()
        self._during = [(part, part.training) for part, _ in self._modes]
        if not self._free:  # then nothing else moves: no need to hold on to the copies
            self._moved = [(tensor, value) for tensor, value in self._moved if not same_bits(tensor, value)]

    def keep(self) -> None:
        """Switch what a child has switched: the next one is to find modes and gradients as it did."""
        failure = _switch(self._during) if self._during is not None else None
        self._keep_gradients()
        if failure is not None:
            raise failure

    def restore(self) -> None:
        """Switch back."""
        failure = _switch(self._modes)
        for part, attributes in self._plain:
            for name, value in attributes.items():
                now = vars(part).get(name, self)
                if type(now) is not type(value) or now != value:
                    vars(part)[name] = value
        for tensor, value in self._moved:
            if not same_bits(tensor, value):
                tensor.data.copy_(value)
        self._keep_gradients()
        if failure is not None:
            raise failure

    def _keep_gradients(self) -> None:
        if [weight.requires_grad for weight, _ in self._gradients] == [wanted for _, wanted in self._gradients]:
            return
        for weight, wanted in self._gradients:
            if weight.requires_grad != wanted:
                weight.requires_grad_(wanted)


def _switch(modes: list[tuple[nn.Module, bool]]) -> Exception | None:
    """Give modules their modes, outer ones first, as they hand theirs down; what has failed at its own switch."""
    failure: Exception | None = None
    if [part.training for part, _ in modes] == [training for _, training in modes]:  # of each child: twice as fast
        return None
    for part, training in modes:
        if part.training != training and _works(part):
            try:
                part.train(training)
            except Exception as caught:
                failure = caught
        elif part.training != training:
            part.training = training
    for part, training in modes:  # also where an outer one has handed down another
        if part.training != training:
            part.training = training
    return failure


def _works(part: nn.Module) -> bool:
    """Whether a module switches its mode in a way of its own, which may be more than to set the flag."""
    kind = type(part)
    if not vars(part).keys().isdisjoint(("train", "eval")):
        return True
    if kind.train is nn.Module.train and kind.eval is nn.Module.eval:
        return False
    own = [vars(base) for base in kind.__mro__[: kind.__mro__.index(nn.Module)]]
    named = [_named(each[name]) for each in own for name in ("train", "eval") if name in each]
    kernels = _KERNELS if getattr(part, "use_kernels", False) is False else set()
    return any(names is None or not names <= _FLAG | kernels for names in named)


def _named(switch: Any) -> set[str] | None:
    """What the code of a switch names; None where it is no plain function, or reaches what it does not name."""
    code = getattr(switch, "__code__", None)
    if (
        code is None
        or {*code.co_freevars} - {"__class__"}
        or any(isinstance(each, CodeType) for each in code.co_consts)
    ):
        return None
    return {*code.co_names}


def _plain(part: nn.Module) -> dict[str, Any]:
    """The attributes of a module that are mere values, whether it has merged for instance."""
    return {name: value for name, value in vars(part).items() if isinstance(value, bool | int | float | str | None)}
