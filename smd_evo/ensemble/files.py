"""Files of children and of ensembles: safetensors of what is new in some coordinates of one parent.

Tensors: ``indices`` (all children's, one behind the other, in the smallest unsigned type that holds D), ``values``
(what those coordinates become, in the parameters' own type, so that a child is the same to the bit), ``lengths``
(int64, one a child); a children file has ``fitness`` (float64, one a child), an ensemble file ``weights``
(float64, one a member) and, if wanted, the parent's state under ``parent.``. Metadata, as one entry of
JSON: format, package version, the parent's fingerprint, D, the names of the parameters, recipes, and more.
Reading one executes nothing, and trusts nothing that it says.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from smd_evo import __version__
from smd_evo.atomic import write_whole
from smd_evo.core.delta import SparseValues
from smd_evo.core.mutation import Lineage, Mutation
from smd_evo.core.parameters import Child, ParameterSpace
from smd_evo.ensemble.combine import COMBINES
from smd_evo.ensemble.weights import check_weights
from smd_evo.errors import (
    ChildrenFileError,
    InvalidType,
    InvalidValue,
    SmdEvoError,
    WrongParent,
    check_choice,
)
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

_ENTRY, _CHILDREN, _ENSEMBLE, _PARENT = "smd_evo", "smd_evo children 2", "smd_evo ensemble 1", "parent."
_INDEX_TYPES = {2**8: torch.uint8, 2**16: torch.uint16, 2**32: torch.uint32}
_TYPES = {
    "indices": (*_INDEX_TYPES.values(), torch.int64),
    "values": (torch.float16, torch.bfloat16, torch.float32, torch.float64),
    "lengths": (torch.int64,),
    "fitness": (torch.float64,),
    "weights": (torch.float64,),
}


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
    """
    if not children or len(children) != len(result.fitness):
        raise InvalidValue(
            f"children: expected one or more, as many as fitness values ({len(result.fitness)}), got {len(children)}"
        )
    order = result.ranking()
    about = {
        "recipes": [recipe_of(children[number]) for number in order],
        "fitness_name": fitness_name,
        "sense": result.sense,
    }
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
    tensors = {"weights": torch.tensor(weights, dtype=torch.float64)}
    if include_parent:
        state = space.module.state_dict()
        odd = [name for name, value in state.items() if not isinstance(value, Tensor)]
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
        ChildrenFileError: the file is missing, truncated, of another format, or inconsistent.
        WrongParent: its children are of another parent.
    """
    about, tensors = _read(path, _CHILDREN, ("fitness",))
    _check_parent(path, about, space)
    try:
        members = _members(about, tensors, space, "fitness")
        recipes = [Lineage.decode(text) for text in about["recipes"]]
        if len(recipes) != len(members):
            raise InvalidValue("its numbers of children differ")
        sense = check_choice("sense", about["sense"], ("min", "max"))
        return Children(members, recipes, tensors["fitness"], str(about["fitness_name"]), sense)
    except _INCONSISTENT as error:
        raise _inconsistent(path, error) from None


def load_ensemble(path: Path | str, parent: nn.Module) -> StoredEnsemble:
    """Read an ensemble file: see :meth:`smd_evo.ensemble.module.SparseEnsemble.load`."""
    about, tensors = _read(path, _ENSEMBLE, ("weights",))
    state = {name.removeprefix(_PARENT): tensors.pop(name) for name in list(tensors) if name.startswith(_PARENT)}
    if state:
        parent = _with_state(path, parent, state)
    try:
        names = set(map(str, about["parameters"]))
    except _INCONSISTENT as error:
        raise _inconsistent(path, error) from None
    missing = sorted(names - set(dict(parent.named_parameters())))
    if missing or not names:
        raise WrongParent(
            f"{path}: expected a network with the parameter {', '.join(missing[:3]) or '(none)'}, got "
            f"{type(parent).__name__} without; use the architecture that the ensemble was made from"
        )
    space = ParameterSpace(parent, lambda name, _: name in names, include_frozen=True)
    _check_parent(path, about, space)
    try:
        members = _members(about, tensors, space, "weights")
        if not bool(tensors["values"].isfinite().all()):
            raise InvalidValue("its values are not all finite")
        weights = check_weights(tensors["weights"].tolist(), len(members))
        recipes = [None if text is None else Lineage.decode(text).encode() for text in about["recipes"]]
        if len(recipes) != len(members):
            raise InvalidValue("its numbers of members differ")
        combine = check_choice("combine", about["combine"], COMBINES)
        return StoredEnsemble(space, members, recipes, weights, combine, about.get("notes"))
    except _INCONSISTENT as error:
        raise _inconsistent(path, error) from None


_INCONSISTENT = (SmdEvoError, ValueError, KeyError, TypeError, AttributeError)


def _inconsistent(path: Path | str, error: Exception) -> ChildrenFileError:
    return ChildrenFileError(f"{path}: expected a consistent file, but {error}; write it again")


def _write(
    path: Path | str,
    kind: str,
    space: ParameterSpace,
    members: Sequence[SparseValues],
    tensors: Mapping[str, Tensor],
    about: Mapping[str, Any],
) -> None:
    index_type = next((kind for limit, kind in _INDEX_TYPES.items() if space.size <= limit), torch.int64)
    content = {
        "indices": torch.cat([member.indices for member in members]).to(index_type),
        "values": torch.cat([member.values for member in members]).to(space.dtype),
        "lengths": torch.tensor([len(member) for member in members]),
        **tensors,
    }
    metadata = {
        "format": kind,
        "version": __version__,
        "fingerprint": space.fingerprint(),
        "size": space.size,
        "parameters": list(space.names),
        **about,
    }
    # Tied tensors apart, and one entry of metadata: several would be written in an order that changes.
    whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in content.items()}
    write_whole(Path(path), save(whole, {_ENTRY: json.dumps(metadata)}))


def _read(path: Path | str, kind: str, own: Sequence[str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What the file says of itself, and its tensors."""
    expected = {"indices", "values", "lengths", *own}
    try:
        with safe_open(path, "pt") as file:
            about = _about(file.metadata())
            if about.get("format") != kind:
                raise ChildrenFileError(
                    f"{path}: expected the format {kind!r}, got {about.get('format')!r} of smd_evo "
                    f"{about.get('version')}; it is another kind of file, or of another version than {__version__}"
                )
            present = set(file.keys())
            strange = {name for name in present - expected if not name.startswith(_PARENT)}
            if not expected <= present or strange or (kind == _CHILDREN and present != expected):
                raise ChildrenFileError(f"{path}: expected tensors {sorted(expected)}, got {sorted(present)[:9]}")
            return about, {name: file.get_tensor(name) for name in present}
    except (OSError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise ChildrenFileError(
            f"{path}: expected a whole safetensors file, got {reason or type(error).__name__}; write it again"
        ) from None


def _about(entries: dict[str, str] | None) -> dict[str, Any]:
    """What the file says of itself, or nothing."""
    try:
        about = json.loads((entries or {}).get(_ENTRY, "{}"))
    except (ValueError, RecursionError):
        return {}
    return about if isinstance(about, dict) else {}


def _check_parent(path: Path | str, about: Mapping[str, Any], space: ParameterSpace) -> None:
    fingerprint = space.fingerprint()
    if about.get("size") != space.size or about.get("fingerprint") != fingerprint:
        raise WrongParent(
            f"{path}: expected children of the parent {fingerprint} with D = {space.size}, got those of "
            f"{about.get('fingerprint')} with D = {about.get('size')}; use the network, weights and selection "
            "that they were made from"
        )


def _with_state(path: Path | str, network: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    """A copy of a network with the weights that the file holds."""
    own = {name: value for name, value in network.state_dict().items() if isinstance(value, Tensor)}
    for name in sorted({*own, *state}):
        got, needed = (
            f"{found.dtype} {list(found.shape)}" if found is not None else "none"
            for found in (own.get(name), state.get(name))
        )
        if got != needed:
            raise WrongParent(
                f"{path}: expected a network with {name} {needed}, got {got}; "
                "use the architecture that the ensemble was made from"
            )
    network = copy.deepcopy(network)
    network.load_state_dict(state, strict=False)  # extra state that is no tensor stays
    return network


def _members(
    about: Mapping[str, Any], tensors: Mapping[str, Tensor], space: ParameterSpace, each: str
) -> list[SparseValues]:
    """The sparse changes, if all parts agree with each other."""
    for name, tensor in tensors.items():
        if tensor.dim() != 1 or tensor.dtype not in _TYPES[name]:
            raise InvalidValue(f"{name} is an unexpected {tensor.dtype} {list(tensor.shape)}")
    lengths = tensors["lengths"].tolist()
    indices, values = tensors["indices"].to(torch.int64), tensors["values"]
    if not len(lengths) == len(tensors[each]) > 0:
        raise InvalidValue("its numbers of children differ")
    if min(lengths) < 0 or not sum(lengths) == len(values) == len(indices):
        raise InvalidValue("its children's lengths do not add up")
    if values.dtype != space.dtype:
        raise InvalidValue(f"its values are {values.dtype} where the parameters are {space.dtype}")
    if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < space.size:
        raise InvalidValue("its indices go beyond the network's parameters")
    wide = values.to(torch.promote_types(values.dtype, torch.float32))
    return [SparseValues(*piece) for piece in zip(indices.split(lengths), wide.split(lengths), strict=True)]
