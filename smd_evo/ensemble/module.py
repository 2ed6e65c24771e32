"""SparseEnsemble: a parent and a few sparse changes of it as one network."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.utils._pytree import tree_map

from smd_evo.core.blocks import within
from smd_evo.core.delta import SparseValues
from smd_evo.core.exclusive import AloneState, Exclusive, memory_of
from smd_evo.core.integers import tensors_of
from smd_evo.core.parameters import Child, ParameterSpace
from smd_evo.core.selection import Names, Select
from smd_evo.ensemble import files
from smd_evo.ensemble.combine import COMBINES, combined
from smd_evo.ensemble.packed import pack, unpack
from smd_evo.ensemble.soup import soup
from smd_evo.ensemble.weights import check_weights
from smd_evo.errors import InvalidType, InvalidValue, SmdEvoError, check_choice, check_count
from smd_evo.evaluation.buffers import Buffers
from smd_evo.evaluation.calls import copied
from smd_evo.evaluation.classification import logits_of
from smd_evo.evaluation.guard import Predicting
from smd_evo.markup import html_table

__all__ = ["SparseEnsemble"]


class SparseEnsemble(nn.Module):
    """Children of one parent that predict together: the memory of the parent and of a few sparse changes.

    ``forward`` takes what the parent takes and returns log-probabilities (or mean outputs, for "logits"), without
    gradients. The parent is turned into each member in place, one thread at a time, and is afterwards as before to
    the bit. It stays in eval mode and belongs to the ensemble: it moves with it, and to train it would change the
    members.

    Args:
        parent: the network, or its :class:`ParameterSpace`.
        members: children of it.
        weights: one a member, > 0, adding up to one; by default all alike.
        combine: "probabilities" (mean), "logits" (mean of the outputs) or "majority" (vote).
        select: which parameters the members change, if ``parent`` is a network.
        per_pass: members in one forward pass. More than one takes ``torch.func.vmap`` and the memory of as many whole
            networks; it pays on a GPU with small networks or batches.
        notes: what the ensemble's file is to say beside the members: any JSON.

    Attributes:
        parent: the network.
        recipes: how each member was made from the parent as it was then, as text; None where it was given as numbers.
        weights: buffer, float64 in any precision.

    Raises:
        InvalidValue, InvalidType: no members, unusable weights, unknown combination.

    Example:
        >>> from smd_evo import RandomSubspace, sample_mutations
        >>> network = nn.Linear(4, 3)
        >>> ensemble = SparseEnsemble(network, sample_mutations(0, 5, subspace=RandomSubspace(0.2), sigma=0.5))
        >>> ensemble(torch.ones(2, 4)).shape
        torch.Size([2, 3])
        >>> len(ensemble), type(ensemble.soup()).__name__
        (5, 'Linear')
    """

    indices: Tensor
    values: Tensor
    lengths: Tensor
    weights: Tensor

    def __init__(
        self,
        parent: nn.Module | ParameterSpace,
        members: Iterable[Child],
        weights: Sequence[float] | None = None,
        *,
        combine: str = "probabilities",
        select: Select = "all",
        per_pass: int = 1,
        notes: Any = None,
    ) -> None:
        super().__init__()
        if isinstance(parent, ParameterSpace) and select != "all":
            raise InvalidValue("parent: expected a torch.nn.Module where select is given, got a ParameterSpace")
        if not isinstance(members, Iterable):
            raise InvalidType(
                f"members: expected a sequence of children, got {type(members).__name__}; put it in a list"
            )
        space = parent if isinstance(parent, ParameterSpace) else ParameterSpace(parent, select)
        self.combine = check_choice("combine", combine, COMBINES)
        self.per_pass = check_count("per_pass", per_pass)
        self.notes = notes
        members = list(members)
        shares = check_weights(weights, len(members))
        self.recipes = [files.recipe_of(member) for member in members]
        indices, values, lengths = pack([space.values_of(member) for member in members])
        self.parent = space.module.eval()
        self.register_buffer("indices", indices)
        self.register_buffer("values", values.to(space.dtype))
        self.register_buffer("lengths", lengths)
        self.register_buffer("weights", torch.tensor(shares, dtype=torch.float64, device=space.device))
        self._names = space.names
        self._space: ParameterSpace | None = space
        self._members: list[SparseValues] | None = None

    def _repr_html_(self) -> str:
        rows = [[number, f"{100 * weight:.1f}"] for number, weight in enumerate(self.weights.tolist())]
        kind = type(self.parent).__name__
        return html_table(f"{len(self)} children of {kind}, {self.combine} combined", ["member", "weight, %"], rows)

    def __len__(self) -> int:
        """Number of members."""
        return len(self.lengths)

    @property
    def space(self) -> ParameterSpace:
        """The parent's parameter space."""
        if self._space is None:
            self._space = ParameterSpace(self.parent, Names(self._names), include_frozen=True)
        return self._space

    @property
    def members(self) -> list[SparseValues]:
        """The members as new values of some of the parent's coordinates."""
        if self._members is None:
            tensors = tensors_of(self.parent)
            size = sum(tensors[name].numel() for name in self._names)
            self._members = unpack(self.indices, self.values, self.lengths, size)
        return self._members

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        """The members' combined prediction."""
        run = self._batched if self.per_pass > 1 else self._one_by_one
        guard = Predicting(self.space)
        return within(guard, lambda: combined(run(guard.buffers, inputs, named), self.weights.tolist(), self.combine))

    def _one_by_one(self, buffers: Buffers, inputs: Any, named: Any) -> Iterator[Tensor]:
        for member in self.members:
            given, by_name = tree_map(copied, (inputs, named))  # a forward pass may write to what it is given
            with self.space.applied(member) as module:
                output = logits_of(module(*given, **by_name)).clone()  # it may be a weight or a buffer
            buffers.restore()
            yield output  # outside: whoever drops this iterator half-way leaves the parent as it was

    def _batched(self, buffers: Buffers, inputs: Any, named: Any) -> Iterator[Tensor]:
        """Outputs of all members, several in a pass."""

        def run(weights: dict[str, Tensor]) -> Tensor:
            return logits_of(functional_call(self.parent, weights, *tree_map(copied, (inputs, named))))

        own = [(part, name, tensor) for part in self.parent.modules() for name, tensor in part._parameters.items()]
        changing = self._changing()
        for start in range(0, len(self), self.per_pass):
            some = self.members[start : start + self.per_pass]
            stacks = {name: tensor.new_empty((len(some), *tensor.shape)) for name, tensor in changing.items()}
            for number, member in enumerate(some):
                with self.space.applied(member):
                    for name, tensor in changing.items():
                        stacks[name][number].copy_(tensor)
            try:
                outputs = vmap(run, randomness="same")(stacks)
            finally:  # functional_call does so, but for an interrupt in that moment
                for part, name, parameter in own:
                    part._parameters[name] = parameter
            buffers.restore()
            yield from outputs

    def _changing(self) -> dict[str, Tensor]:
        """The selected parameters, and all parameters and buffers that share memory with one."""
        tensors = dict(chain(self.parent.named_parameters(), self.parent.named_buffers()))
        if inside := [name for name in self._names if name not in tensors]:
            raise InvalidValue(
                f"per_pass: expected 1 where weights lie inside of a tensor subclass, as {inside[0]}, "
                f"got {self.per_pass}; leave it out"
            )
        memory = {memory_of(tensors[name]) for name in self._names}
        return {name: tensor for name, tensor in tensors.items() if memory_of(tensor) in memory}

    def soup(self) -> nn.Module:
        """The mean of the members' weights as an independent network, which may be trained or exported."""
        return within(
            Exclusive(self.parent),
            lambda: self.space.make_child(soup(self.space, self.members, self.weights.tolist())),
        )

    def member(self, number: int) -> nn.Module:
        """A member as an independent network."""
        return self.space.make_child(self.members[number])

    def save(self, path: Path | str, *, include_parent: bool = False) -> None:
        """Write the members, their weights and recipes as one safetensors file, which appears whole or not at all.

        Args:
            path: where to.
            include_parent: also the parent's weights, so that the file needs only the architecture.

        Raises:
            InvalidValue, InvalidType: members or notes that no file can hold.
        """
        save = partial(
            files.save_ensemble,
            path,
            self.space,
            self.members,
            self.recipes,
            self.weights.tolist(),
            self.combine,
            notes=self.notes,
            include_parent=include_parent,
        )
        within(Exclusive(self.parent), save)

    @classmethod
    def load(cls, path: Path | str, parent: nn.Module, *, per_pass: int = 1) -> SparseEnsemble:
        """An ensemble from its file, bit for bit.

        Args:
            path: the file.
            parent: the very parent, which becomes part of the ensemble; or, if the file holds the parent's weights, a
                network of the same architecture, of which a copy takes them.
            per_pass: see above.

        Raises:
            ChildrenFileError: the file is missing, truncated, of another format or version, or inconsistent.
            WrongParent: it is of another parent or architecture.
        """
        stored = files.load_ensemble(path, parent)
        ensemble = cls(stored.space, stored.members, stored.weights, combine=stored.combine, per_pass=per_pass)
        ensemble.notes = stored.notes
        ensemble.recipes = stored.recipes
        return ensemble

    def train(self, mode: bool = True) -> SparseEnsemble:
        """Nothing is trained: the parent stays in eval mode."""
        super().train(mode)
        self.parent.eval()
        return self

    def state_dict(self, *arguments: Any, **named: Any) -> dict[str, Any]:  # type: ignore[override]
        """The network's own tensors, as of any module, when no other thread has a member applied."""
        return within(Exclusive(self.parent), lambda: super(SparseEnsemble, self).state_dict(*arguments, **named))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SparseEnsemble:
        weights = self.weights
        self._forget()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.weights.dtype != weights.dtype:  # the vote has a precision of its own
            self.weights = weights.to(self.weights.device)
        return self

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """The members of another ensemble of as many coordinates; how they were made, a state does not tell."""
        self._forget()
        if any(prefix + name in state_dict for name in ("indices", "values", "lengths")):
            self.recipes = [None] * len(self)
        known = len(error_msgs)
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        try:
            if len(error_msgs) == known and self.members:
                check_weights(self.weights.tolist(), len(self))
        except SmdEvoError as error:
            error_msgs.append(str(error))

    def _forget(self) -> None:
        """What follows from tensors that change now."""
        self._members = self._space = None

    def __getstate__(self) -> dict[str, Any]:
        return AloneState(self.parent, self.__dict__ | {"_members": None, "_space": None})


def _by_value(ensemble: SparseEnsemble) -> tuple[Any, ...]:
    """To another process as a copy: torch would share the memory, and the processes patch one network at a time."""
    return pickle.loads, (pickle.dumps(ensemble),)


ForkingPickler.register(SparseEnsemble, _by_value)
