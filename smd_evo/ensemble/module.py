"""SparseEnsemble: a parent and a few sparse changes of it as one network."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from smd_evo.core.delta import SparseValues
from smd_evo.core.parameters import Child, ParameterSpace
from smd_evo.core.selection import Select
from smd_evo.ensemble import files
from smd_evo.ensemble.combine import COMBINES, combined
from smd_evo.ensemble.soup import soup
from smd_evo.ensemble.weights import check_weights
from smd_evo.errors import InvalidType, InvalidValue, check_choice, check_count

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
        space: its parameter space.
        recipes: how each member was made, as text; None where it was given as numbers.

    Raises:
        InvalidValue, InvalidType: no members, unusable weights, unknown combination.

    Example:
        >>> from smd_evo import RandomSubspace, sample_mutations
        >>> network = nn.Linear(4, 3)
        >>> ensemble = SparseEnsemble(network, sample_mutations(0, 5, subspace=RandomSubspace(0.2), sigma=0.5))
        >>> ensemble(torch.ones(2, 4)).exp().sum(1)
        tensor([1., 1.])
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
        members: Sequence[Child],
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
        space = parent if isinstance(parent, ParameterSpace) else ParameterSpace(parent, select)
        self.combine = check_choice("combine", combine, COMBINES)
        self.per_pass = check_count("per_pass", per_pass)
        self.notes = notes
        shares = check_weights(weights, len(members))
        changes = [space.values_of(member) for member in members]
        self.recipes = [files.recipe_of(member) for member in members]
        self.space = space
        self.parent = space.module.eval()
        self.register_buffer("indices", torch.cat([change.indices for change in changes]))
        self.register_buffer("values", torch.cat([change.values for change in changes]))
        self.register_buffer("lengths", torch.tensor([len(change) for change in changes]))
        self.register_buffer("weights", torch.tensor(shares, device=space.device))
        self._members: list[SparseValues] | None = None
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Number of members."""
        return len(self.lengths)

    @property
    def members(self) -> list[SparseValues]:
        """The members as new values of some of the parent's coordinates."""
        if self._members is None:
            lengths = self.lengths.tolist()
            values = self.values if self.values.dtype == torch.float64 else self.values.float()
            pieces = zip(self.indices.split(lengths), values.split(lengths), strict=True)
            self._members = [SparseValues(*piece) for piece in pieces]
        return self._members

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        """The members' combined prediction."""
        run = self._batched if self.per_pass > 1 else self._one_by_one
        with torch.no_grad(), self._lock:
            depth = self.space.depth
            try:
                return combined(run(inputs, named), self._shares(), self.combine)
            finally:
                self.space.restore(depth)

    def _one_by_one(self, inputs: Any, named: Any) -> Iterator[Tensor]:
        for member in self.members:
            with self.space.applied(member) as module:
                output = module(*inputs, **named)
            yield output  # outside: whoever drops this iterator half-way leaves the parent as it was

    def _batched(self, inputs: Any, named: Any) -> Iterator[Tensor]:
        """Outputs of all members, several in a pass."""
        for start in range(0, len(self), self.per_pass):
            stacks: dict[str, list[Tensor]] = {name: [] for name in self.space.names}
            for member in self.members[start : start + self.per_pass]:
                with self.space.applied(member) as module:
                    for name, copies in stacks.items():
                        copies.append(module.get_parameter(name).detach().clone())
            weights = {name: torch.stack(copies) for name, copies in stacks.items()}

            def run(weights: dict[str, Tensor]) -> Tensor:
                output = functional_call(self.parent, weights, inputs, named)
                if not isinstance(output, Tensor):
                    raise InvalidType(f"outputs: expected one tensor, got {type(output).__name__}")
                return output

            yield from vmap(run, randomness="same")(weights)

    def _shares(self) -> list[float]:
        weights = self.weights.double()
        return (weights / weights.sum()).tolist()

    def soup(self) -> nn.Module:
        """The mean of the members' weights as an independent network, which may be trained or exported."""
        return self.space.make_child(soup(self.space, self.members, self._shares()))

    def member(self, number: int) -> nn.Module:
        """A member as an independent network."""
        return self.space.make_child(self.members[number])

    def save(self, path: Path | str, *, include_parent: bool = False) -> None:
        """Write the members, their weights and recipes as one safetensors file, which appears whole or not at all.

        Args:
            path: where to.
            include_parent: also the parent's weights, so that the file needs only the architecture.
        """
        files.save_ensemble(
            path,
            self.space,
            self.members,
            self.recipes,
            self._shares(),
            self.combine,
            notes=self.notes,
            include_parent=include_parent,
        )

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

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SparseEnsemble:
        self._members = None  # views of what moves now
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def _load_from_state_dict(self, *arguments: Any) -> None:
        self._members = None
        super()._load_from_state_dict(*arguments)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"} | {"_members": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._lock = threading.Lock()
