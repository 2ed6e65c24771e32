"""The children file: sparse deltas of one parent in one safetensors file, with where they come from.

Tensors: ``indices`` (all children's, one behind the other, in the smallest unsigned type that holds D),
``values`` (float32), ``lengths`` (int64, one a child), ``fitness`` (float64, one a child). Metadata: format,
package version, the parent's fingerprint, D, the recipes and what the fitness is. Reading one executes
nothing, and trusts nothing that it says.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from smd_evo import __version__
from smd_evo.atomic import write_whole
from smd_evo.core.delta import SparseDelta
from smd_evo.core.mutation import Mutation
from smd_evo.core.parameters import ParameterSpace
from smd_evo.errors import ChildrenFileError, InvalidValue, SmdEvoError, WrongParent, check_choice
from smd_evo.evaluation.evaluator import Evaluation

__all__ = ["Children", "load_children", "save_children"]

_ENTRY, _FORMAT = "smd_evo", "smd_evo children 1"
_INDEX_TYPES = {2**8: torch.uint8, 2**16: torch.uint16, 2**32: torch.uint32}
_TYPES = {
    "indices": (*_INDEX_TYPES.values(), torch.int64),
    "values": (torch.float32,),
    "lengths": (torch.int64,),
    "fitness": (torch.float64,),
}


@dataclass(frozen=True, eq=False)
class Children:
    """What a children file holds.

    Attributes:
        deltas: one a child, in the file's order (best first).
        recipes: how each was made.
        fitness: float64 [N].
        fitness_name: what the fitness is.
        sense: "min" or "max".
    """

    deltas: list[SparseDelta]
    recipes: list[Mutation]
    fitness: Tensor
    fitness_name: str
    sense: str


def save_children(
    path: Path | str, space: ParameterSpace, recipes: Sequence[Mutation], result: Evaluation, fitness_name: str
) -> None:
    """Write children of a parent, best first; the file appears whole or not at all.

    Args:
        path: where to.
        space: the parent's space.
        recipes: N children.
        result: their fitness.
        fitness_name: what the fitness is.
    """
    if not recipes or len(recipes) != len(result.fitness):
        raise InvalidValue(
            f"recipes: expected one or more, as many as fitness values ({len(result.fitness)}), got {len(recipes)}"
        )
    order = result.ranking()
    deltas = [recipes[number].delta(space.layout) for number in order]
    index_type = next((kind for limit, kind in _INDEX_TYPES.items() if space.size <= limit), torch.int64)
    tensors = {
        "indices": torch.cat([delta.indices for delta in deltas]).to(index_type),
        "values": torch.cat([delta.values for delta in deltas]),
        "lengths": torch.tensor([len(delta) for delta in deltas]),
        "fitness": result.fitness[order],
    }
    metadata = {
        "format": _FORMAT,
        "version": __version__,
        "fingerprint": space.fingerprint(),
        "size": space.size,
        "recipes": [recipes[number].encode() for number in order],
        "fitness_name": fitness_name,
        "sense": result.sense,
    }
    # One entry: several would be written in an order that changes from run to run.
    write_whole(Path(path), save(tensors, {_ENTRY: json.dumps(metadata)}))


def load_children(path: Path | str, space: ParameterSpace) -> Children:
    """Read a children file for a parent.

    Args:
        path: the file.
        space: space of the same parent with the same selection.

    Raises:
        ChildrenFileError: the file is missing, truncated, of another format, or inconsistent.
        WrongParent: its children are of another parent.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata, present = _metadata(file.metadata()), set(file.keys())
            if metadata.get("format") != _FORMAT:
                raise ChildrenFileError(
                    f"{path}: expected format {_FORMAT!r}, got {metadata.get('format')!r}; it is no children file"
                )
            if present != set(_TYPES):
                raise ChildrenFileError(f"{path}: expected tensors {sorted(_TYPES)}, got {sorted(present)}")
            tensors = {name: file.get_tensor(name) for name in _TYPES}
    except (OSError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise ChildrenFileError(
            f"{path}: expected a whole children file, got {reason or type(error).__name__}; write it again"
        ) from None
    fingerprint = space.fingerprint()
    if metadata.get("size") != space.size or metadata.get("fingerprint") != fingerprint:
        raise WrongParent(
            f"{path}: expected children of the parent {fingerprint} with D = {space.size}, got those of "
            f"{metadata.get('fingerprint')} with D = {metadata.get('size')}; use the network, weights and selection "
            "that they were made from"
        )
    return _checked(path, metadata, tensors)


def _metadata(entries: dict[str, str] | None) -> dict[str, Any]:
    """What the file says of itself, or nothing."""
    try:
        metadata = json.loads((entries or {}).get(_ENTRY, "{}"))
    except ValueError:
        return {}
    return metadata if isinstance(metadata, dict) else {}


def _checked(path: Path | str, metadata: dict[str, Any], tensors: dict[str, Tensor]) -> Children:
    """The contents, if all parts agree with each other."""
    for name, tensor in tensors.items():
        if tensor.dim() != 1 or tensor.dtype not in _TYPES[name]:
            raise ChildrenFileError(f"{path}: {name}: got an unexpected {tensor.dtype} {list(tensor.shape)}")
    lengths, total = tensors["lengths"], len(tensors["indices"])
    try:
        recipes = [Mutation.decode(text) for text in metadata["recipes"]]
        if not len(lengths) == len(tensors["fitness"]) == len(recipes) > 0:
            raise InvalidValue("its numbers of children differ")
        if bool((lengths < 0).any()) or not int(lengths.sum()) == len(tensors["values"]) == total:
            raise InvalidValue("its deltas' lengths do not add up")
        if not bool(tensors["values"].isfinite().all()):
            raise InvalidValue("its values are not all finite")
        indices = tensors["indices"].to(torch.int64)
        if total and int(indices.max()) >= metadata["size"]:
            raise InvalidValue("its indices go beyond the network's parameters")
        pieces = zip(indices.split(lengths.tolist()), tensors["values"].split(lengths.tolist()), strict=True)
        deltas = [SparseDelta(*piece) for piece in pieces]
        fitness_name, sense = str(metadata["fitness_name"]), check_choice("sense", metadata["sense"], ("min", "max"))
    except (SmdEvoError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ChildrenFileError(f"{path}: expected a consistent children file, but {error}; write it again") from None
    return Children(deltas, recipes, tensors["fitness"], fitness_name, sense)
