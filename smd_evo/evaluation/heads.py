"""Heads: the turns of children that touch only the head, which is all that is called for them."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from smd_evo.core.blocks import within
from smd_evo.core.parameters import Child, ParameterSpace
from smd_evo.core.selection import head_of
from smd_evo.evaluation import sharing
from smd_evo.evaluation.batches import Batch, tensors_of
from smd_evo.evaluation.calls import alike, copied
from smd_evo.evaluation.features import Features, joined
from smd_evo.evaluation.guard import Evaluating
from smd_evo.evaluation.limit import BatchLimit
from smd_evo.evaluation.recording import Spoiled, TooLarge
from smd_evo.evaluation.reuse import Reuse, unfit
from smd_evo.evaluation.sharing import Deltas, Visitor
from smd_evo.evaluation.trunk import check_rows, features_of, layers_of, survey_head
from smd_evo.evaluation.turns import Turns
from smd_evo.evaluation.watching import Refused
from smd_evo.evaluation.work import Work
from smd_evo.evaluation.worth import pays, touched_by

__all__ = ["Heads"]

_log = logging.getLogger(__name__)

_VISITS = 50
"""With "auto" data may be as many times as large as a minibatch, as features of all cost as much as so many."""

_SAMPLES = 8
"""Samples that a network is surveyed with."""

_FIRST = 8
"""Kinds of children that are compared with full forward passes."""


@dataclass
class _Known:
    """What was found out about a network with these layers before its head.

    Attributes:
        layers: what there is to the network besides its selected parameters; None: it may be another one each time.
        off: why there are no features, if so.
        share: of the head in a forward pass; None before it is surveyed.
        checked: for each shape of inputs, the bits of children whose outputs were those of full forward passes.
    """

    layers: object
    off: str = ""
    share: float | None = None
    checked: dict[Any, set[int]] = field(default_factory=dict)


_known: weakref.WeakKeyDictionary[ParameterSpace, _Known] = weakref.WeakKeyDictionary()


class Heads:
    """The turns of the children of one visit, where these touch only the head and there are features.

    Args:
        features: of the samples of this visit.
        guard: of the network, entered.
        turns: of the children.
        option: "auto", or whether to use features however little that saves.
        limit: of the samples in a forward pass.
        work: takes note of what is computed.

    Attributes:
        on: whether they have their turns here.
    """

    def __init__(
        self,
        features: Features | None,
        guard: Evaluating,
        turns: Turns,
        option: bool | str,
        limit: BatchLimit,
        work: Work,
    ) -> None:
        self._space, self._turns, self._limit, self._work = guard.space, turns, limit, work
        self._features, self._option = features, option
        self._state = partial(sharing.state_of, guard)
        self._known = _known.setdefault(self._space, _Known(None))
        self._rows: dict[tuple[int, int], Batch] = {}
        self.on = False

    def begin(self, children: Iterable[Child], batches: Sequence[Batch]) -> Iterable[Child]:
        """Find out whether there are features, and compute those that are missing; the same children."""
        if self._features is None or self._option is False or not self._touches_only_the_head():
            return children
        waiting = iter(children)
        first = list(islice(waiting, 1))
        self._kept = self._features.kept
        large = self._option == "auto" and self._kept.batches.samples > _VISITS * len(self._features.numbers)
        if first and not large and not self._kept.off:
            try:
                self.on = self._prepare(batches)
            except (TooLarge, torch.cuda.OutOfMemoryError):
                self._kept.drop(None)
                self._kept.off = True
                _log.info("features: they do not fit into memory; each evaluation computes what is before the head")
            except Exception as error:
                self._stop(error)
        return chain(first, waiting)

    def turn(self, number: int, deltas: Deltas, function: Visitor, some: Sequence[Batch]) -> bool:
        """A child's turn on some batches; see :meth:`smd_evo.evaluation.sharing.Sharing.turn`.

        Returns:
            whether it has had it.
        """
        if not self.on or not self._is_right(number, deltas):
            return False
        rows = [self._batch(batch) for batch in some]
        self._turns.begin(number)
        try:
            function(number, cast(nn.Module, self._from_features), rows)
        except Spoiled as error:
            self._stop(error)
            return False
        self._work.count(sum(batch.count for batch in some), self._share)
        return True

    def _from_features(self, features: Tensor) -> Any:
        """What the network returns."""
        version = features._version
        outputs = self._head(features)
        if features._version != version:
            raise Spoiled("a head that writes to what it is given")
        return outputs

    def _touches_only_the_head(self) -> bool:
        module = self._space.module
        self._head = head_of(module)
        inside = set(map(id, self._head.parameters()))
        parameters = dict(module.named_parameters(remove_duplicate=False))
        return self._head is not module and all(id(parameters[name]) in inside for name in self._space.names)

    def _prepare(self, batches: Sequence[Batch]) -> bool:
        """Whether there are features of these batches, once they are computed."""
        layers = layers_of(self._space, self._limit.samples)
        if self._known.layers != layers:
            self._known = _known[self._space] = _Known(layers)
        known = self._known
        if known.off:
            return False
        if layers is None:
            raise Refused("hooks, or modules that set attributes")
        if reason := unfit(self._space.module):
            raise Refused(reason)
        if self._kept.layers != layers:
            self._kept.drop(layers)
        first = self._kept.batches[0]
        few = first.split(min(_SAMPLES, -(-first.count // 2), self._limit.samples or _SAMPLES))[0]
        new = known.share is None
        self._share = known.share = self._survey(few) if known.share is None else known.share
        if self._option == "auto" and not pays([1 - self._share], more=True):
            return False
        shape = tuple((tensor.shape, tensor.dtype) for tensor in tensors_of(first.inputs))
        if shape not in known.checked:
            check_rows(self._trunk(few), self._kept.block(0, self._computed)[: few.count])
        self._checked = known.checked.setdefault(shape, set())
        for batch in batches:
            for piece in batch.split(self._limit.samples or batch.count):
                self._batch(piece)
        if new:
            _log.info("features: the %.0f %% before the head are computed once a sample", 100 * (1 - self._share))
        return True

    def _survey(self, few: Batch) -> float:
        reuse = self._reuse()
        self._turns.fresh()
        return within(reuse, lambda: survey_head(reuse, self._space.module, self._head, few, self._state))

    def _trunk(self, batch: Batch) -> Tensor:
        """Features of a batch, which is halved as the limit says."""
        reuse, found = self._reuse(), []
        for piece in batch.split(self._limit.samples or batch.count):
            self._turns.fresh()
            found.append(within(reuse, partial(features_of, reuse, self._space.module, self._head, piece)))
        return joined(found)

    def _reuse(self) -> Reuse:
        return Reuse(self._space.module, self._space.names, self._turns.fresh, self._state)

    def _computed(self, batch: Batch) -> Tensor:
        """Features of one of the batches of all of the data, where there is room for all of them."""
        found = self._trunk(batch)
        if found.nbytes // batch.count * self._kept.batches.samples > sharing.room(self._space.device):
            raise TooLarge
        if batch.start not in self._kept.counted:
            self._kept.counted.add(batch.start)
            self._work.forwards += batch.count
        return found

    def _batch(self, batch: Batch) -> Batch:
        """The features of some samples of this visit, with their targets."""
        place = batch.start, batch.count
        if place not in self._rows:
            assert self._features is not None
            rows = self._features.rows(*place, self._computed)
            self._rows[place] = Batch(rows, batch.targets, batch.count, batch.start)
        return self._rows[place]

    def _is_right(self, number: int, deltas: Deltas) -> bool:
        """Whether such a child has the outputs of a full forward pass on one batch; of the first few kinds."""
        if len(self._checked) >= min(_FIRST, 2 ** len(self._space.names)):
            return True
        touched = touched_by(deltas, self._space.layout)
        if touched in self._checked:
            return True
        batch = self._kept.batches[0]
        batch = batch.split(self._limit.samples or batch.count)[0]
        rows = Batch(self._kept.block(0, self._computed)[: batch.count], None, batch.count, 0)

        def asked(batch: Batch, module: Any) -> tuple[Any, object]:
            self._turns.begin(number)
            return tree_map(copied, batch.outputs(module)), self._state()

        try:
            full, cut = asked(batch, self._space.module), asked(rows, self._from_features)
        except Spoiled as error:
            self._stop(error)
            return False
        if alike(full[0], cut[0]) and full[1] == cut[1]:
            self._checked.add(touched)
            return True
        self._stop(Refused("outputs that are not those of a full forward pass"))
        return False

    def _stop(self, error: Exception) -> None:
        """There are no features of this network from now on, while it is as it is."""
        self.on = False
        self._kept.drop(None)
        self._rows = {}
        told, self._known.off = self._known.off, str(error).partition("\n")[0] or type(error).__name__
        if not told:
            _log.info("features: each evaluation computes what is before the head, because of %s", self._known.off)
