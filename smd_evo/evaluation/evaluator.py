"""Evaluator: fitness of many children of one parent, predictions of a few."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from smd_evo.core.blocks import within
from smd_evo.core.copying import whole_copy
from smd_evo.core.exclusive import Exclusive
from smd_evo.core.keys import Key
from smd_evo.core.parameters import Child, ParameterSpace
from smd_evo.core.selection import Select
from smd_evo.core.supported import check_device, check_there
from smd_evo.errors import InvalidType, InvalidValue, check_count, nearest, shown
from smd_evo.evaluation.batches import Batch, Batches, MemoryBatches
from smd_evo.evaluation.classification import check_range, class_range, say_if_probabilities
from smd_evo.evaluation.data import check_batch_size, make_batches
from smd_evo.evaluation.features import Features
from smd_evo.evaluation.fitness import CROSS_ENTROPY, BatchFitness, Fitness, ModuleFitness, WholeFitness, get_fitness
from smd_evo.evaluation.limit import BatchLimit
from smd_evo.evaluation.outputs import Outputs
from smd_evo.evaluation.probe import say_if_alike
from smd_evo.evaluation.race import race
from smd_evo.evaluation.randomness import reseed
from smd_evo.evaluation.records import check_fields, pad_of
from smd_evo.evaluation.result import Evaluation, evaluation, is_parent, parents_among
from smd_evo.evaluation.rewards import RewardFitness
from smd_evo.evaluation.stream import StreamBatches
from smd_evo.evaluation.together import Several, several_scored
from smd_evo.evaluation.visit import Visitor, shares_of, visit
from smd_evo.evaluation.whole import Gathered, in_portions
from smd_evo.evaluation.work import Work
from smd_evo.mends import network_mend

__all__ = ["Evaluation", "Evaluator"]

_Children = TypeVar("_Children", bound=Iterable[Child])

_LEAST_COST = 0.02
"""Of a child, in forward passes."""

_TOGETHER = 8, 2**24
"""Children, and bytes of outputs, that are predicted in one go: more than one child only if that saves something."""

_TOGETHER_ON_A_STREAM = 256, 2**30
"""The same where each go reads all of the data once more."""


class Evaluator:
    """Evaluates children of a parent on fixed batches, in eval and inference mode.

    The children are made in place, one after the other. Afterwards the parent's weights, buffers and modes
    and all random states are as they were, bit for bit, also after an exception or Ctrl-C. A network that
    draws random numbers in its forward pass draws the same ones for each child; one that writes to its inputs is
    given copies. Threads take turns.

    Before its first children, four or five forward passes of eight samples show whether the selected weights reach
    the outputs: see :func:`smd_evo.evaluation.probe.probe`.

    Of data in memory each child sees all batches in turn, unless children reuse what they share. Each batch of a
    stream is seen by all children before the next is read, to the same bits, also where a network draws random
    numbers or writes to its buffers.

    Where a batch and what the network makes of it do not fit into the device's memory, batches are halved until
    they do: see :class:`smd_evo.evaluation.limit.BatchLimit`.

    Args:
        parent: the network, or a :class:`ParameterSpace` of it.
        data: see :func:`smd_evo.evaluation.data.make_batches`; None if the fitness brings its own.
        fitness: "cross_entropy", "accuracy", "balanced_accuracy", "macro_f1", a metric's name such as "auroc" (see
            :mod:`smd_evo.evaluation.metrics`), or one of the classes of :mod:`smd_evo.evaluation.fitness`.
        select: which parameters are mutated, if ``parent`` is a network.
        batch_size: samples a forward pass, or "auto".
        device: where to evaluate; a parent that is elsewhere is copied there. Default: where it is.
        reuse: "auto", or True or False: whether children that change only some layers have from their parent what
            they share with it, computed once a batch, to the same bits. With "auto" they have it where it saves at
            least a fifth of a forward pass; with True also where it saves less. The first few kinds of children are
            compared with full forward passes; a network for which the two differ in a bit has those always.
            Where only the head is selected, what it is given is computed once for each sample and kept, to the same
            bits for all samples and but for rounding for some of them: see :mod:`smd_evo.evaluation.features`.
        together: K >= 2 children in each forward pass, for small networks, where they share no layers: see
            :mod:`smd_evo.evaluation.together`. Fitness then differs by rounding from that of one by one.
            None: one by one.

    Attributes:
        limit: of the samples in a forward pass, shared with the evaluators that are made of this one.
        work: what has been computed, shared in the same way.
        features: what the head is given, kept for children that touch only the head; None for a stream. Evaluators on
            some of the samples share it.

    Raises:
        InvalidValue, InvalidType, UnsupportedParameter: unusable parent, data or fitness; when evaluating, also
            selected weights that the outputs do not depend on.
        NetworkInUse: when evaluating, another thread has the network and will not leave it.
        OutOfMemory: when evaluating, the device has not even memory for one sample.

    Example:
        >>> from torch import nn
        >>> from smd_evo import RandomSubspace, sample_mutations
        >>> data = torch.eye(4), torch.arange(4)
        >>> evaluator = Evaluator(nn.Linear(4, 4), data)
        >>> children = sample_mutations(0, 10, subspace=RandomSubspace(0.2), sigma=0.5)
        >>> result = evaluator.evaluate(children)
        >>> best = children[result.ranking()[0]]
        >>> evaluator.predict([best]).shape
        torch.Size([1, 4, 4])
    """

    def __init__(
        self,
        parent: nn.Module | ParameterSpace,
        data: Any = None,
        fitness: str | Fitness = "cross_entropy",
        *,
        select: Select = "all",
        batch_size: int | str = "auto",
        device: torch.device | str | None = None,
        reuse: bool | str = "auto",
        together: int | None = None,
    ) -> None:
        self.fitness = get_fitness(fitness)
        if isinstance(parent, nn.Module):
            parent = ParameterSpace(parent if device is None else _on_device(parent, device), select)
        elif not isinstance(parent, ParameterSpace):
            mend = "; the order is parent, data, fitness" if isinstance(data, nn.Module) else network_mend(parent)
            raise InvalidType(f"parent: expected a torch.nn.Module or ParameterSpace, got {shown(parent)}{mend}")
        elif select != "all" or device is not None:
            raise InvalidValue(
                "parent: expected a torch.nn.Module where select or device is given, got a ParameterSpace"
            )
        check_there(parent.module)
        self.space = parent
        self.batch_size = check_batch_size(batch_size)
        if not isinstance(reuse, bool) and not (isinstance(reuse, str) and reuse == "auto"):
            raise InvalidValue(f"reuse: expected 'auto', True or False, got {shown(reuse)}{nearest(reuse, ['auto'])}")
        self.reuse = reuse
        self.together = (
            None if together is None else check_count("together", together, low=2, mend="give such a number, or None")
        )
        self.limit, self.work = BatchLimit(), Work()
        self._said: set[str] = set()  # shared, as the limit is
        if data is None and not isinstance(self.fitness, ModuleFitness):
            raise InvalidValue(f"data: expected samples for the fitness {self.fitness.name!r}, got None")
        self._batches = self._batches_of(data)
        self.features = Features.of(self._batches)

    def _batches_of(self, data: Any) -> Batches:
        if isinstance(self.fitness, RewardFitness):
            return self.fitness.batches(data, self.batch_size, self.space.device)
        if data is None:
            return MemoryBatches()
        module = self.space.module
        batches = make_batches(data, self.batch_size, self.space.device, pad_of(module))
        if isinstance(batches, MemoryBatches) and batches:
            check_fields(module, batches[0].inputs)
        return batches

    def on(self, data: Any, fitness: str | Fitness | None = None) -> Evaluator:
        """An evaluator of the same parent on other data."""
        fitness = self.fitness if fitness is None else fitness
        other = Evaluator(
            self.space, data, fitness, batch_size=self.batch_size, reuse=self.reuse, together=self.together
        )
        other.limit, other.work, other._said = self.limit, self.work, self._said
        return other

    def on_parent(self, space: ParameterSpace) -> Evaluator:
        """An evaluator of another parent of the same kind, on the same samples and on the same device."""
        other = copy.copy(self)
        other.space, other.features = space, Features.of(self._batches)
        return other

    def on_samples(self, numbers: Tensor) -> Evaluator:
        """An evaluator of the same parent and fitness on some of the samples, by their numbers: a minibatch."""
        other = copy.copy(self)
        other._batches = self._batches.take(numbers)
        other.features = self.features and self.features.take(numbers)
        return other

    def by(self, fitness: Fitness) -> Evaluator:
        """An evaluator of the same parent on the same samples by another fitness; by rewards on their prompts."""
        other = copy.copy(self)
        other.fitness = fitness
        if isinstance(fitness, RewardFitness) and fitness is not self.fitness:  # whose samples are its prompts
            other._batches = other._batches_of(None)
        if not isinstance(fitness, ModuleFitness) and fitness.classes:
            vars(other)["_class_range"] = self._class_range  # looked for once
        return other

    def to(self, device: torch.device | str) -> None:
        """Move the network itself and the samples to a device."""
        within(Exclusive(self.space.module), lambda: self.space.module.to(device))
        self._batches = self._batches.to(device)
        self.features = self.features and self.features.to(device)

    @property
    def batches(self) -> Batches:
        """What children are evaluated on."""
        return self._batches

    @property
    def samples(self) -> int:
        """Number of samples that one child is evaluated on."""
        return self._batches.samples

    def targets(self) -> Tensor:
        """Targets of all samples in order, on the CPU."""
        return self._batches.targets()

    def evaluate(self, children: Iterable[Child], progress: Callable[[], object] | None = None) -> Evaluation:
        """Fitness of each child.

        Args:
            children: recipes, lineages or deltas; ``Lineage()`` is the parent.
            progress: called once for each child, as the work gets on.
        """
        parents: list[int] = []

        def noted() -> Iterator[Child]:
            for number, child in enumerate(_several(children)):
                if is_parent(child):
                    parents.append(number)
                yield child

        totals = self.totals(noted(), progress)
        fitness = self._value(totals) if len(totals) else torch.zeros(0, dtype=torch.float64, device="cpu")
        result = evaluation(fitness, self.fitness.sense, parents)
        if result.parent is not None:
            values, own = result.fitness.tolist(), set(parents)
            self.say_if_alike([value for number, value in enumerate(values) if number not in own], result.parent)
        return result

    def costs(self, parts: Sequence[Collection[str]]) -> list[float]:
        """What children take that touch some tensors each, in forward passes: less where others are their parent's.

        Args:
            parts: names of the tensors that are touched.

        Returns:
            Numbers in [0.02, 1], by floating point operations; below that noise and patches count, too. 1 for a
            fitness of the network, and where nothing is shared.
        """
        if isinstance(self.fitness, ModuleFitness) or self.space.integers or not self._batches.samples:
            return [1.0] * len(parts)
        bits = [sum(2 << number for number, name in enumerate(self.space.names) if name in part) for part in parts]
        return [max(_LEAST_COST, 1 - saved) for saved in shares_of(self.space, bits, self._batches, self.reuse)]

    def race(
        self, children: Iterable[Child], key: Key = 0, progress: Callable[[], object] | None = None
    ) -> Evaluation:
        """Fitness of children of which only the best matter, for 31 % of the images: see :func:`.race.race`."""
        return race(self, list(_several(children)), key, progress)

    def totals(
        self,
        children: Iterable[Child],
        progress: Callable[[], object] | None = None,
        keep: Callable[[int, Batch, Any], object] | None = None,
    ) -> Tensor:
        """What all samples add up to for each child, on the CPU: float64 ``[N, *shape]``, see ``TotalFitness``.

        ``keep`` is called with each child's number, each batch and what the network has returned for it.
        """
        if not self._wholes:
            return self._totals(children, progress, keep)

        def portion(some: Sequence[Child], first: int) -> Tensor:
            return self._totals(some, progress, keep and (lambda number, *rest: keep(first + number, *rest)))

        return in_portions(portion, list(children))

    @property
    def _wholes(self) -> Sequence[WholeFitness]:
        """What all outputs of a child are needed for at once."""
        found: Sequence[WholeFitness] = getattr(self.fitness, "wholes", ())
        return found

    def _totals(
        self,
        children: Iterable[Child],
        progress: Callable[[], object] | None,
        keep: Callable[[int, Batch, Any], object] | None,
    ) -> Tensor:
        gathered = Gathered(self._wholes, self.samples) if self._wholes else None
        keeping = [each for each in (keep, gathered and gathered.keep) if each]
        batches, score = self._scoring(keeping)
        sums: list[Tensor] = []  # on the device, which is not waited for

        def add(number: int, module: nn.Module, some: Sequence[Batch]) -> None:
            total = score(number, module, some[0])
            for batch in some[1:]:
                total = total + score(number, module, batch)
            if gathered:
                gathered.finish(number, some[-1])
            if number == len(sums):
                sums.append(total)
            else:
                sums[number] += total

        scored = None
        if self.together and keep is None and isinstance(self.fitness, BatchFitness):
            scored = several_scored(self.fitness, self._looker(), sums.extend)
        self._visit(add, children, batches, progress, scored)
        totals = torch.stack(sums).cpu() if sums else torch.zeros(0, dtype=torch.float64, device="cpu")
        return torch.cat([totals, gathered.values()], 1) if gathered and sums else totals

    def say_if_alike(self, fitness: Sequence[float], parent: float) -> None:
        """Warn, once, where all of at least eight children have exactly the fitness of their parent."""
        if "alike" not in self._said and say_if_alike(fitness, parent):
            self._said.add("alike")

    def predict(self, children: Iterable[Child]) -> Tensor:
        """Outputs of each child for all samples: float32 [N, samples, ...] on the CPU."""
        if not self._batches.samples or isinstance(self.fitness, RewardFitness):
            raise InvalidValue("data: expected samples to predict, got none; use evaluator.on(data)")
        children = list(_several(children))
        if not children:
            raise InvalidValue("children: expected at least one, got none")
        outputs = Outputs(len(children), self.samples)

        def predict(number: int, module: nn.Module, some: Sequence[Batch]) -> None:
            for batch in some:
                outputs.keep(number, batch, batch.outputs(module))

        self._visit(predict, children, self._batches)
        return outputs.all()

    def scores(self, children: Iterable[Child], progress: Callable[[], object] | None = None) -> Tensor:
        """Score of each child for each sample, of which its fitness is the mean: float64 [N, samples] on the CPU.

        Args:
            children: recipes, lineages or deltas.
            progress: see :meth:`evaluate`.

        Raises:
            InvalidType: the fitness is no mean over samples.
        """
        fitness = self.fitness
        if not isinstance(fitness, BatchFitness | RewardFitness):
            raise InvalidType(f"fitness: expected a BatchFitness or a RewardFitness, got {fitness.name!r}")
        children = list(_several(children))
        found = torch.zeros(len(children), self.samples, dtype=torch.float64, device="cpu")

        def look(number: int, module: nn.Module, some: Sequence[Batch]) -> None:
            for batch in some:
                if isinstance(fitness, RewardFitness):
                    own = _rewards(fitness, module, batch)
                else:
                    own = fitness.per_sample(batch.outputs(module), batch.targets, batch.count)
                found[number, batch.start : batch.start + batch.count] = own

        self._visit(look, children, self._batches, progress)
        return found

    def observe(
        self, children: Iterable[Child], progress: Callable[[], object] | None = None, most: int | None = None
    ) -> tuple[Evaluation, Tensor]:
        """What :meth:`evaluate` and :meth:`predict` return, to the same bits, for the forward passes of one of them.

        Args:
            children: at least one.
            progress: see :meth:`evaluate`.
            most: bytes that the outputs may take, None for any.

        Raises:
            InvalidValue: no children, a fitness that is not of outputs, or outputs of more bytes.
        """
        children = list(_several(children))
        if isinstance(self.fitness, ModuleFitness) or not children:
            got = "no children" if not children else f"a ModuleFitness, {self.fitness.name!r}"
            raise InvalidValue(f"children: expected some, and a fitness of their outputs, got {got}")
        outputs = Outputs(len(children), self.samples, most)
        fitness = self._value(self.totals(children, progress, outputs.keep))
        return evaluation(fitness, self.fitness.sense, parents_among(children)), outputs.all()

    def outputs(self, children: Iterable[Child]) -> Iterator[Tensor]:
        """What :meth:`predict` returns, one child after the other, for more children than memory holds at once."""
        waiting = iter(_several(children))
        some = list(islice(waiting, 1))
        if some and isinstance(self._batches, StreamBatches):  # one batch tells how many fit into one pass
            first = self.on_samples(torch.arange(min(self._batches.size, self.samples), device="cpu")).predict(some)
            some += islice(waiting, self._at_once(first.nbytes // first.shape[1] * self.samples) - 1)
        while some:
            outputs = self.predict(some)
            yield from outputs
            some = list(islice(waiting, self._at_once(outputs[0].nbytes)))

    def _at_once(self, nbytes: int) -> int:
        """How many children to predict together, given the bytes of one's outputs."""
        most, most_bytes = _TOGETHER if isinstance(self._batches, MemoryBatches) else _TOGETHER_ON_A_STREAM
        return max(1, min(most, most_bytes // max(1, nbytes)))

    def _value(self, totals: Tensor) -> Tensor:
        """Fitness by the totals of all children."""
        return self.fitness.value(totals, self.samples)

    def _scoring(
        self, keeping: Sequence[Callable[[int, Batch, Any], object]]
    ) -> tuple[Batches, Callable[[int, nn.Module, Batch], Tensor]]:
        """What to score, and what a batch adds to a child's total."""
        fitness = self.fitness
        if isinstance(fitness, RewardFitness):
            return self._batches, lambda _, module, batch: _rewards(fitness, module, batch).sum()
        if isinstance(fitness, ModuleFitness):
            own = fitness
            once = MemoryBatches([Batch(None, None, count=1, start=0)])
            return once, lambda _, module, __: torch.tensor(own.of(module), dtype=torch.float64, device="cpu")
        look = self._looker()

        def score(number: int, module: nn.Module, batch: Batch) -> Tensor:
            outputs = batch.outputs(module)
            for keep in keeping:
                keep(number, batch, outputs)
            look(outputs)
            return fitness.total(outputs, batch.targets, batch.count)

        return self._batches, score

    def _looker(self) -> Callable[[Any], None]:
        """What looks at a child's outputs for a batch before they are scored: of the first ones of all closely."""
        fitness = self.fitness
        known = self._class_range if getattr(fitness, "classes", False) else None
        logits = CROSS_ENTROPY in getattr(fitness, "parts", (fitness,))

        def look(outputs: Any) -> None:
            if known is not None:
                check_range(known, outputs)
            if logits and "looked" not in self._said:
                self._said.add("looked")
                say_if_probabilities(outputs)

        return look

    @cached_property
    def _class_range(self) -> tuple[int, int] | None:
        """Of the targets: looked for once, also for evaluators on some of the samples that are made later."""
        batches = self._batches
        if isinstance(batches, MemoryBatches):  # which need not fit together
            return class_range(batch.targets for batch in batches)
        return class_range([batches.targets()])

    def _visit(
        self,
        function: Visitor,
        children: Iterable[Child],
        batches: Batches,
        progress: Callable[[], object] | None = None,
        scored: Several | None = None,
    ) -> None:
        free = isinstance(self.fitness, ModuleFitness)
        visit(
            self.space,
            children,
            batches,
            function,
            self.limit,
            self.work,
            free=free,
            reuse=self.reuse,
            features=self.features,
            progress=progress,
            together=self.together,
            function_of_several=scored,
        )


def _rewards(fitness: RewardFitness, module: nn.Module, batch: Batch) -> Tensor:
    """Of a batch of prompts, however many random numbers a child has drawn for those before it."""
    reseed()
    return fitness.per_sample(module, batch.inputs)


def _several(children: _Children) -> _Children:
    """The children, if they are not one that was forgotten to be put in a list."""
    if not isinstance(children, Iterable):
        kind = type(children).__name__
        raise InvalidType(f"children: expected a list of them, got one {kind}; put it in a list")
    return children


def _on_device(module: nn.Module, device: torch.device | str) -> nn.Module:
    """The network itself if it is all there, or a copy that is."""
    place = check_device(device)
    tensors = (*module.parameters(), *module.buffers())
    return module if all(tensor.device == place for tensor in tensors) else whole_copy(module).to(place)
