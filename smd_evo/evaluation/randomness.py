"""Random states: those of the process, and those of generators that a network keeps."""

from __future__ import annotations

import pickle
import random
import sys
from typing import Any

import torch
from torch import nn

from smd_evo.evaluation.attributes import attributes_of

__all__ = ["RandomStates", "reseed"]


def reseed() -> None:
    """The same random numbers for each child, so that one that draws some does not depend on the order."""
    random.seed(0)
    torch.default_generator.manual_seed(0)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)


class RandomStates:
    """The random states that a network's forward pass may move, as they are now.

    Those of torch (CPU, and CUDA once it is in use), of ``random`` and of numpy's global generator; and of each
    ``torch.Generator``, ``numpy.random.Generator``, ``RandomState`` or ``random.Random`` that a module keeps as an
    attribute, or in a list, tuple or dict that is one.
    """

    def __init__(self, module: nn.Module) -> None:
        self._kept = _kept_by(module)
        self._before = self.now()

    def now(self) -> bytes:
        """All of them."""
        numpy = sys.modules.get("numpy")
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        of_torch = [state.numpy() for state in (torch.get_rng_state(), *cuda)]
        kept = [_state_of(generator) for generator in self._kept]
        return pickle.dumps((random.getstate(), numpy and numpy.random.get_state(), of_torch, kept))

    def set(self, states: bytes) -> None:
        """Set all of them to what they were some time."""
        of_python, of_numpy, of_torch, kept = pickle.loads(states)
        random.setstate(of_python)
        if of_numpy:
            sys.modules["numpy"].random.set_state(of_numpy)
        cpu, *cuda = map(torch.from_numpy, of_torch)
        torch.set_rng_state(cpu)
        for device, state in enumerate(cuda):
            torch.cuda.set_rng_state(state, device)
        self._set_kept(kept)

    def reseed(self) -> None:
        """Those of the process become the same always, those that the network keeps as they were."""
        if self._kept:
            self._set_kept(pickle.loads(self._before)[-1])
        reseed()

    def restore(self) -> None:
        """All of them become as they were."""
        self.set(self._before)

    def _set_kept(self, states: list[Any]) -> None:
        for generator, state in zip(self._kept, states, strict=True):
            _set_state_of(generator, state)


def _kept_by(module: nn.Module) -> list[Any]:
    """The generators that modules keep, each once; not the process's own."""
    numpy = sys.modules.get("numpy")
    kinds: tuple[type, ...] = (torch.Generator, random.Random)
    own = [torch.default_generator, random.getstate.__self__]  # type: ignore[attr-defined]
    if torch.cuda.is_initialized():
        own += torch.cuda.default_generators
    if numpy:
        kinds += numpy.random.Generator, numpy.random.RandomState, numpy.random.BitGenerator
        own.append(numpy.random.get_state.__self__)
    found: dict[int, Any] = {}
    known: dict[type, bool] = {}  # modules have many attributes of few types
    for part in module.modules():
        for _, _, _, value in attributes_of(part):
            kind = type(value)
            if kind not in known:
                known[kind] = issubclass(kind, kinds) and not issubclass(kind, random.SystemRandom)
            if known[kind]:
                found[id(value)] = value
    return [value for number, value in found.items() if number not in map(id, own)]


def _state_of(generator: Any) -> Any:
    if isinstance(generator, torch.Generator):
        return generator.get_state().numpy()
    if isinstance(generator, random.Random):
        return generator.getstate()
    if hasattr(generator, "get_state"):  # RandomState
        return generator.get_state()
    return getattr(generator, "bit_generator", generator).state


def _set_state_of(generator: Any, state: Any) -> None:
    if isinstance(generator, torch.Generator):
        generator.set_state(torch.from_numpy(state))
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    elif hasattr(generator, "set_state"):
        generator.set_state(state)
    else:
        getattr(generator, "bit_generator", generator).state = state
