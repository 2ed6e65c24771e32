"""Files of children and of ensembles: safetensors of what is new in some coordinates of one parent.

Tensors: ``indices`` (all children's, one behind the other, in the smallest unsigned type that holds D), ``values``
(what those coordinates become, in the parameters' own type, so that a child is the same to the bit), ``lengths``
(int64, one a child); a children file has ``fitness`` (float64, one a child), an ensemble file ``weights``
(float64, one a member) and, if wanted, the parent's state under ``parent.``. Metadata, as one entry of
JSON: format, package version, the parent's fingerprint, D, types and shapes of the parameters, recipes, and more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from smd_evo.core.copying import whole_copy
from smd_evo.core.delta import SparseValues
from smd_evo.core.integers import tensors_of
from smd_evo.core.mutation import Lineage, Mutation
from smd_evo.core.parameters import Child, ParameterSpace
from smd_evo.core.selection import Names
from smd_evo.core.wrapped import inner
from smd_evo.ensemble.combine import COMBINES
from smd_evo.ensemble.container import entry, failure, inconsistent, read, shown, write
from smd_evo.ensemble.packed import pack, unpack
from smd_evo.ensemble.weights import check_weights
from smd_evo.errors import InvalidType, InvalidValue, SmdEvoError, WrongParent, check_choice
from smd_evo.evaluation.evaluator import Evaluation

__all__ = [
    "Children",
    "StoredEnsemble",
    "load_children",
    "load_ensemble",
    "recipe_of",
    "save_children",
    "save_ensemble",
]

_CHILDREN, _ENSEMBLE, _PARENT = "smd_evo children 2", "smd_evo ensemble 1", "parent."
_INDEX_TYPES = {2**8: torch.uint8, 2**16: torch.uint16, 2**32: torch.uint32}
_TYPES = {
    "indices": (*_INDEX_TYPES.values(), torch.int64),
    "values": (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int8, torch.uint8, torch.int16),
    "lengths": (torch.int64,),
    "fitness": (torch.float64,),
    "weights": (torch.float64,),
}
_INCONSISTENT = (SmdEvoError, ValueError, TypeError, LookupError, ArithmeticError, RuntimeError)


@dataclass(frozen=True, eq=False)
class Children:
    """What a children file holds.

    Attributes:
        members: one a child, in the file's order (best first).
        recipes: how each was made.
        fitness: float64 [N].
        fitness_name: what the fitness is.
        sense: "min" or "max".
    """

    members: list[SparseValues]
    recipes: list[Lineage]
    fitness: Tensor
    fitness_name: str
    sense: str


@dataclass(frozen=True, eq=False)
class StoredEnsemble:
    """What an ensemble file holds, with the parent's space."""

    space: ParameterSpace
    members: list[SparseValues]
    recipes: list[str | None]
    weights: list[float]
    combine: str
    notes: Any


def recipe_of(child: Child) -> str | None:
    """A child's recipe as text, if it has one."""
    return child.encode() if isinstance(child, Mutation | Lineage) else None


def save_children(
    path: Path | str, space: ParameterSpace, children: Sequence[Child], result: Evaluation, fitness_name: str
) -> None:
    """Write children of a parent, best first; the file appears whole or not at all.

    Args:
        path: where to.
        space: the parent's space.
        children: N recipes or lineages.
        result: their fitness.
        fitness_name: what the fitness is.

    Raises:
        InvalidValue, InvalidType: no children, children that are no recipes, or another number of fitness values.
    """
    if not children or len(children) != len(result.fitness):
        raise InvalidValue(
            f"children: expected one or more, as many as fitness values ({len(result.fitness)}), got {len(children)}"
        )
    order = result.ranking()
    recipes = [recipe_of(children[number]) for number in order]
    if None in recipes:
        kind = type(children[order[recipes.index(None)]]).__name__
        raise InvalidType(f"children: expected recipes or lineages, got {kind}; an ensemble's file takes any child")
    about = {"recipes": recipes, "fitness_name": fitness_name, "sense": result.sense}
    members = [space.values_of(children[number]) for number in order]
    _write(path, _CHILDREN, space, members, {"fitness": result.fitness[order]}, about)


def save_ensemble(
    path: Path | str,
    space: ParameterSpace,
    members: Sequence[SparseValues],
    recipes: Sequence[str | None],
    weights: Sequence[float],
    combine: str,
    *,
    notes: Any = None,
    include_parent: bool = False,
) -> None:
    """Write an ensemble: see :meth:`smd_evo.ensemble.module.SparseEnsemble.save`."""
    for number, member in enumerate(members):
        if not bool(member.values.isfinite().all()):
            raise InvalidValue(f"members: expected finite values, got others in member {number}; leave it out")
    tensors = {"weights": torch.tensor(weights, dtype=torch.float64, device="cpu")}
    if include_parent:
        state = space.module.state_dict()
        odd = [name for name, value in state.items() if not isinstance(value, Tensor) or inner(value)]
        if odd:
            raise InvalidType(f"parent: expected tensors only in its state, got {odd[0]}; save without the parent")
        tensors |= {_PARENT + name: value for name, value in state.items()}
    about = {"recipes": list(recipes), "combine": combine, "notes": notes}
    _write(path, _ENSEMBLE, space, members, tensors, about)


def load_children(path: Path | str, space: ParameterSpace) -> Children:
    """Read a children file for a parent.

    Args:
        path: the file.
        space: space of the same parent with the same selection.

    Raises:
        ChildrenFileError: the file is missing, truncated, of another format or version, or inconsistent.
        WrongParent: its children are of another parent.
    """
    own = {"indices", "values", "lengths", "fitness"}

    def check(about: Mapping[str, Any], shapes: Mapping[str, list[int]]) -> None:
        _check_parent(path, about, space)
        _check_sizes(path, about, shapes, space.size)

    about, tensors = read(path, _CHILDREN, lambda _: own, check)
    try:
        members = _members(tensors, space, "fitness")
        if not bool(tensors["fitness"].isfinite().all()):
            raise InvalidValue("its fitness is not all finite")
        recipes = [Lineage.decode(text) for text in _recipes(about, len(members)) if text is not None]
        if len(recipes) != len(members):
            raise InvalidValue("some of its 'recipes' are none")
        sense = check_choice("sense", entry(about, "sense", str), ("min", "max"))
        return Children(members, recipes, tensors["fitness"], entry(about, "fitness_name", str), sense)
    except _INCONSISTENT as error:
        raise inconsistent(path, error) from None


def load_ensemble(path: Path | str, parent: nn.Module) -> StoredEnsemble:
    """Read an ensemble file: see :meth:`smd_evo.ensemble.module.SparseEnsemble.load`."""
    if not isinstance(parent, nn.Module):
        raise InvalidType(f"parent: expected a torch.nn.Module, got {type(parent).__name__}")
    own = {"indices", "values", "lengths", "weights"}

    def check(about: Mapping[str, Any], shapes: Mapping[str, list[int]]) -> None:
        found = tensors_of(parent)
        _check_architecture(path, about, found)
        size = sum(parameter.numel() for parameter in found.values())
        _check_sizes(path, about, {name: shapes[name] for name in own}, size)

    about, tensors = read(
        path, _ENSEMBLE, lambda present: own | {name for name in present if name.startswith(_PARENT)}, check
    )
    state = {name.removeprefix(_PARENT): tensors.pop(name) for name in sorted(tensors.keys() - own)}
    space = _space(path, about, parent, state)
    _check_parent(path, about, space)
    try:
        members = _members(tensors, space, "weights")
        if not bool(tensors["values"].isfinite().all()):
            raise InvalidValue("its values are not all finite")
        weights = check_weights(tensors["weights"].tolist(), len(members))
        recipes = [None if text is None else Lineage.decode(text).encode() for text in _recipes(about, len(members))]
        combine = check_choice("combine", entry(about, "combine", str), COMBINES)
        return StoredEnsemble(space, members, recipes, weights, combine, about.get("notes"))
    except _INCONSISTENT as error:
        raise inconsistent(path, error) from None


def _write(
    path: Path | str,
    kind: str,
    space: ParameterSpace,
    members: Sequence[SparseValues],
    tensors: Mapping[str, Tensor],
    about: Mapping[str, Any],
) -> None:
    index_type = next((kind for limit, kind in _INDEX_TYPES.items() if space.size <= limit), torch.int64)
    indices, values, lengths = pack(members)
    own = {"indices": indices.to(index_type), "values": values.to(space.dtype), "lengths": lengths}
    parent = {"fingerprint": space.fingerprint(), "size": space.size, "parameters": _parameters(space)}
    write(path, kind, {**parent, **about}, {**own, **tensors})


def _described(tensors: Mapping[str, Any]) -> dict[str, str]:
    """Types and shapes."""
    return {name: f"{t.dtype} {list(t.shape)}" for name, t in tensors.items() if isinstance(t, Tensor)}


def _parameters(space: ParameterSpace) -> dict[str, str]:
    return _described(dict(zip(space.names, space.tensors, strict=True)))


def _check_same(path: Path | str, got: Mapping[str, str], needed: Mapping[str, str]) -> None:
    """Name the first tensor that differs."""
    for name in (*needed, *got):
        if got.get(name) != needed.get(name):
            raise failure(
                WrongParent,
                path,
                f"expected a network with {name!r}: {shown(needed.get(name))}, got {shown(got.get(name))}; "
                "use the network, weights and selection that they were made from",
            )


def _check_parent(path: Path | str, about: Mapping[str, Any], space: ParameterSpace) -> None:
    try:
        size, made_from = entry(about, "size", int), entry(about, "fingerprint", str)
        needed = entry(about, "parameters", dict)
    except InvalidValue as error:
        raise inconsistent(path, error) from None
    _check_same(path, _parameters(space), needed)
    fingerprint = space.fingerprint()
    if (size, made_from) != (space.size, fingerprint):
        raise failure(
            WrongParent,
            path,
            f"expected children of the parent {fingerprint} with D = {space.size}, got those of "
            f"{made_from!r} with D = {size}; use the network, weights and selection that they were made from",
        )


def _space(path: Path | str, about: Mapping[str, Any], parent: nn.Module, state: dict[str, Tensor]) -> ParameterSpace:
    """The parent's space of the parameters that the file names; with a state, that of a copy that takes it."""
    needed = _check_architecture(path, about, tensors_of(parent))
    if state:
        _check_same(path, _described(parent.state_dict()), _described(state))
        parent = whole_copy(parent)
        parent.load_state_dict(state, strict=False)  # extra state that is no tensor stays
    try:
        return ParameterSpace(parent, Names(needed), include_frozen=True)
    except SmdEvoError as error:
        raise failure(WrongParent, path, str(error)) from None


def _check_architecture(
    path: Path | str, about: Mapping[str, Any], parameters: Mapping[str, Tensor]
) -> Mapping[str, str]:
    """The parameters that the file names, if a network has them."""
    try:
        needed = entry(about, "parameters", dict)
    except InvalidValue as error:
        raise inconsistent(path, error) from None
    found = _described(parameters)
    _check_same(path, {name: found[name] for name in needed if name in found}, needed)
    return needed


def _check_sizes(path: Path | str, about: Mapping[str, Any], shapes: Mapping[str, list[int]], size: int) -> None:
    """Raise if tensors are larger than those of as many children as there are recipes, of a parent of that size."""
    recipes = about.get("recipes")
    most = max(1, len(recipes) if isinstance(recipes, list) else 0) * (size + 1)
    for name, shape in shapes.items():
        if prod(shape) > most:
            raise inconsistent(path, InvalidValue(f"{name!r} has the shape {shape}"))


def _recipes(about: Mapping[str, Any], count: int) -> list[str | None]:
    recipes: list[str | None] = entry(about, "recipes", list)
    if len(recipes) != count or not all(text is None or isinstance(text, str) for text in recipes):
        raise InvalidValue(f"its 'recipes' are not {count} texts")
    return recipes


def _members(tensors: Mapping[str, Tensor], space: ParameterSpace, each: str) -> list[SparseValues]:
    """The sparse changes, if all parts agree with each other."""
    for name, tensor in tensors.items():
        if tensor.dim() != 1 or tensor.dtype not in _TYPES[name]:
            raise InvalidValue(f"{name!r} is an unexpected {tensor.dtype} {list(tensor.shape)}")
    if not len(tensors["lengths"]) == len(tensors[each]) > 0:
        raise InvalidValue("its numbers of children differ")
    if tensors["values"].dtype != space.dtype:
        raise InvalidValue(f"its values are {tensors['values'].dtype} where the parameters are {space.dtype}")
    return unpack(tensors["indices"].to(torch.int64), tensors["values"], tensors["lengths"], space.size)
