"""Rewards: a fitness of what a network writes, from prompts of its own."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from smd_evo.errors import InvalidType, InvalidValue, check_choice, check_flag, check_number, kept, shown
from smd_evo.evaluation.batches import MemoryBatches
from smd_evo.evaluation.data import check_batch_size, make_batches
from smd_evo.evaluation.fitness import ModuleFitness, Sense
from smd_evo.evaluation.timeout import TimedOut, in_time

__all__ = ["RewardFitness"]

_BATCH = 32
"""Prompts that are answered together, unless told otherwise."""

_MOST = 2**20
"""Rewards that are kept."""


@dataclass(frozen=True, init=False, eq=False)
class RewardFitness(ModuleFitness):
    """The mean reward of what a network generates from prompts.

    The prompts are samples, known by their numbers: :attr:`samples` holds these as data, which splits, minibatches
    and races take apart as any other. A child answers each prompt once an evaluation, in batches; random numbers are
    the same for every child and batch. The network is in eval mode, without gradients.

    Args:
        name: what reports call it.
        generate: ``generate(module, prompts)``: a list of texts, one a prompt, or of whatever the reward judges; for
            transformers see :func:`smd_evo.from_transformers`.
        reward: ``reward(texts, references)``: one finite number for each text.
        prompts: all of them, of any kind.
        references: what the reward is told of each prompt; None: the prompts themselves.
        sense: "max" if more is better, "min" if less is.
        cache: whether an answer that a prompt has had before has its reward of then; not for rewards that are random.
        timeout: seconds that the reward has for a batch; None for any number. See :func:`.timeout.in_time`.

    Raises:
        InvalidValue, InvalidType: an unusable argument. When evaluating: another number of texts or rewards than
            prompts, a reward that is not finite, one that took too long, or an exception of its own, which names the
            sample.

    Example:
        >>> def generate(module, prompts):
        ...     return [prompt * round(module.weight.item()) for prompt in prompts]
        >>> def length(texts, references):
        ...     return [-abs(len(text) - reference) for text, reference in zip(texts, references)]
        >>> network = nn.Linear(1, 1)
        >>> _ = nn.init.constant_(network.weight, 3.0)
        >>> RewardFitness("length", generate, length, ["ab", "c"], [6, 1]).of(network)
        -1.0
    """

    generate: Callable[[Any, list[Any]], Any]
    reward: Callable[[list[Any], list[Any]], Any]
    prompts: tuple[Any, ...]
    references: tuple[Any, ...]
    cache: bool
    timeout: float | None

    def __init__(
        self,
        name: str,
        generate: Callable[[Any, list[Any]], Any],
        reward: Callable[[list[Any], list[Any]], Any],
        prompts: Sequence[Any],
        references: Sequence[Any] | None = None,
        *,
        sense: Sense = "max",
        cache: bool = False,
        timeout: float | None = None,
    ) -> None:
        for what, function in (("generate", generate), ("reward", reward)):
            if not callable(function):
                raise InvalidType(f"{what}: expected a function, got {shown(function)}")
        found = _listed("prompts", prompts)
        told = found if references is None else _listed("references", references)
        if not found or len(told) != len(found):
            got = f"{len(found)} and {len(told)} references" if found else "none"
            raise InvalidValue(f"prompts: expected at least one, with a reference each, got {got}")
        kept(
            self,
            name=name,
            sense=check_choice("sense", sense, ("min", "max")),
            function=reward,
            generate=generate,
            reward=reward,
            prompts=found,
            references=told,
            cache=check_flag("cache", cache),
            timeout=None if timeout is None else check_number("timeout", timeout, low=0),
            _known={},
        )

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {self.sense!r}, {len(self.prompts):,} prompts)"

    @property
    def samples(self) -> tuple[Tensor, Tensor]:
        """Numbers of all prompts as inputs [n], and nothing as targets [n]: for ``smd_evo.split`` and the like."""
        count = len(self.prompts)
        return torch.arange(count, device="cpu"), torch.zeros(count, device="cpu")

    def batches(self, data: Any, batch_size: int | str, device: torch.device) -> MemoryBatches:
        """Numbers of prompts in batches.

        Args:
            data: some of :attr:`samples`, or None for all.
            batch_size: prompts that are answered together, or "auto": 32.
            device: of the network.

        Raises:
            InvalidValue, InvalidType: data that are something else.
        """
        size = _BATCH if check_batch_size(batch_size) == "auto" else batch_size
        with contextlib.suppress(InvalidType, InvalidValue):  # a list of prompts, for one
            found = make_batches(self.samples if data is None else data, size, device)
            if isinstance(found, MemoryBatches) and all(map(self._are_numbers, (batch.inputs for batch in found))):
                return found
        raise InvalidValue(
            f"data: expected numbers of the {len(self.prompts)} prompts of {self.name!r}, got other samples; give "
            "its own: fitness.samples, smd_evo.split(fitness.samples), or None for all"
        )

    def _are_numbers(self, inputs: Any) -> bool:
        if not isinstance(inputs, Tensor) or inputs.dim() != 1 or inputs.dtype != torch.int64:
            return False
        return 0 <= int(inputs.min()) <= int(inputs.max()) < len(self.prompts)

    def per_sample(self, module: nn.Module, numbers: Tensor) -> Tensor:
        """Rewards of a network's answers to the prompts of these numbers, all at once: float64 [n]."""
        asked = numbers.tolist()
        texts = _many(self.generate(module, [self.prompts[number] for number in asked]))
        if texts is None or len(texts) != len(asked):
            got = "something else" if texts is None else str(len(texts))
            raise InvalidValue(
                f"{self.name}: expected {len(asked)} texts from generate, one a prompt, got {got}; return a list"
            )
        if not self.cache:
            return torch.tensor(self._rewards(asked, texts), dtype=torch.float64, device="cpu")
        known: dict[Hashable, float] = vars(self)["_known"]  # other threads may empty it
        pairs = list(zip(asked, texts, strict=True))
        try:
            own = {pair: known.get(pair) for pair in pairs}
        except TypeError:
            raise InvalidType(
                f"{self.name}: expected texts that can be compared, got {shown(texts[0])}; leave cache out"
            ) from None
        if new := [pair for pair, value in own.items() if value is None]:
            found = self._rewards([number for number, _ in new], [text for _, text in new])
            own.update(zip(new, found, strict=True))
            if len(known) + len(new) > _MOST:
                known.clear()
            known.update(zip(new, found, strict=True))
        return torch.tensor([own[pair] for pair in pairs], dtype=torch.float64, device="cpu")

    def value(self, totals: Tensor, samples: int) -> Tensor:
        """Fitness of several networks [N] by the sums of their rewards [N]."""
        return totals / samples

    def of(self, module: nn.Module) -> float:
        """Mean reward of all prompts; the network is asked as it is."""
        pieces = self.samples[0].split(_BATCH)
        return float(torch.cat([self.per_sample(module, numbers) for numbers in pieces]).mean())

    def _rewards(self, asked: Sequence[int], texts: list[Any]) -> list[float]:
        """The reward's numbers, checked."""
        try:
            found = self._ask(asked, texts)
        except torch.cuda.OutOfMemoryError:  # of a judge on the device: fewer at a time may fit
            raise
        except TimedOut:
            raise InvalidValue(
                f"{self.name}: expected rewards of {len(asked)} samples within {self.timeout:g} s, got none "
                f"(sample {asked[0]} is the first); give a longer timeout, a smaller batch_size or a faster reward"
            ) from None
        except Exception as error:
            raise self._failed(asked, texts, error) from error
        if found is None or len(found) != len(asked):
            got = "something else" if found is None else str(len(found))
            raise InvalidValue(f"{self.name}: expected {len(asked)} rewards, one a sample, got {got}; return a list")
        values = list(map(_number, found))
        for number, text, given, value in zip(asked, texts, found, values, strict=True):
            if not math.isfinite(value):
                raise InvalidValue(
                    f"{self.name}: expected a finite reward of each sample, got {shown(given)} for "
                    f"{self._one(number, text)}; return a number, for a text that earns nothing the worst one"
                )
        return values

    def _ask(self, asked: Sequence[int], texts: list[Any]) -> list[Any] | None:
        references = [self.references[number] for number in asked]
        return in_time(lambda: _many(self.reward(list(texts), references)), self.timeout)

    def _failed(self, asked: Sequence[int], texts: list[Any], error: Exception) -> InvalidValue:
        """The error for an exception of the reward's, with the first sample that raises it by itself."""
        where = f"samples {asked[0]} to {asked[-1]} together, by themselves none"
        for number, text in zip(asked, texts, strict=True):
            try:
                self._ask([number], [text])
            except Exception as own:
                error, where = own, self._one(number, text)
                break
        reason = " ".join(str(error).split())[:200]
        return InvalidValue(
            f"{self.name}: expected a reward of each sample, got {type(error).__name__}: {reason} for {where}; "
            "mend the reward, or let it catch that"
        )

    def _one(self, number: int, text: Any) -> str:
        return f"sample {number}: prompt {shown(self.prompts[number])}, text {shown(text)}"


def _listed(name: str, given: Any) -> tuple[Any, ...]:
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise InvalidType(f"{name}: expected a list of them, got {shown(given)}; put it in a list")
    if isinstance(given, Mapping | Set):  # keys without what they are for; a set has another order each time
        raise InvalidType(f"{name}: expected a list of them, got a {type(given).__name__}; make a list of it")
    return tuple(given)


def _number(value: Any) -> float:
    """A reward as a float; NaN for what is no number, as a text of one: it may be an answer."""
    try:
        return math.nan if isinstance(value, str | bytes) else float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return math.nan


def _many(found: Any) -> list[Any] | None:
    """A list of what was returned, if it is several."""
    if isinstance(found, str) or getattr(found, "shape", None) == () or not isinstance(found, Iterable):
        return None
    return found.tolist() if isinstance(found, Tensor) else list(found)
