"""The state of a run over generations as it comes from files: whether it can be one of this network and this data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from smd_evo.core.keys import check_key
from smd_evo.errors import InvalidValue, WrongParent, check_count, check_number, shown

__all__ = ["check_state", "present_searcher"]

_COUNTS = ("generation", "calibration", "image_evaluations", "without")

_START: dict[str, Any] = {"accuracy": None, "loss": None, "best": True, "fitness": None}
"""How the pre-trained parent was validated: of classes by the first two, else by a fitness, or by all."""


def check_state(state: Mapping[str, Any], parameters: Mapping[str, Tensor]) -> None:
    """Raise if numbers, shapes or types are not what they must be; the searcher's own part is checked by it.

    Args:
        state: of :meth:`smd_evo.experiments.generations.run.Evolution.state_dict`.
        parameters: those that are mutated, by their names.

    Raises:
        InvalidValue, InvalidType: something is not what it must be.
        LookupError, TypeError, AttributeError: something is missing, or is of another kind.
    """
    for name in _COUNTS:
        check_count(f"state: {name}", state[name], low=0)
    _check(isinstance(state["sigmas"], list), "sigmas", state["sigmas"])
    for sigma in state["sigmas"]:
        check_number("state: sigma", sigma, low=0)
    _check(isinstance(state["best_score"], int | float), "best_score", state["best_score"])
    if state["batch_limit"] is not None:
        check_count("state: batch_limit", state["batch_limit"])
    start = state["start"]
    _check(isinstance(start, Mapping) and start.keys() <= _START.keys() and _measured(start), "start", start)
    _check(isinstance(state["late"], list), "late", state["late"])
    for name, found in (("best", state["best"]), *(("late", found) for found in state["late"])):
        _check_parameters(name, found, parameters)
    whole = state["searcher"]
    if "stage" in whole:
        check_count("state: generation", whole["generation"], low=0)
        check_count("state: stage", whole["stage"], low=0)
    searcher = present_searcher(state)
    problem = searcher["problem"]
    for name in ("changes", "minibatches", "evaluations"):
        check_count(f"state: {name}", problem[name], low=0)
    _check(isinstance(problem["checked"], bool), "checked", problem["checked"])
    seen = problem["seen"].values()
    _check(all(isinstance(value, int | float) for value in seen), "fitness", seen)
    check_count("state: generation", searcher["generation"], low=0)
    check_number("state: sigma", searcher["sigma"], low=0)
    check_key(searcher["key"], "state: key")


def present_searcher(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """The state of the searcher of the present stage, in that of a run."""
    searcher: Mapping[str, Any] = state["searcher"]
    return searcher["searcher"] if "stage" in searcher else searcher


def _measured(start: Mapping[str, Any]) -> bool:
    """Whether it has numbers of classes, or of a fitness, and nothing that is no number."""
    found = {**_START, **start}
    numbers = [isinstance(value, int | float) for value in (found["accuracy"], found["loss"], found["fitness"])]
    whole = all(value is None or isinstance(value, int | float) for value in found.values())
    return whole and numbers[0] == numbers[1] and (numbers[0] or numbers[2])


def _check_parameters(what: str, found: Any, parameters: Mapping[str, Tensor]) -> None:
    _check(isinstance(found, Mapping), what, found)
    if found.keys() != parameters.keys():
        raise WrongParent(
            f"values: expected the {len(parameters)} selected parameters, got {len(found)} others in the state's "
            f"{what}; take the network and the selection that it is of"
        )
    for name, tensor in parameters.items():
        same = (
            isinstance(found[name], Tensor)
            and found[name].shape == tensor.shape
            and found[name].dtype == tensor.dtype
        )
        _check(same, f"{what}: {name}", found[name])


def _check(right: bool, what: str, got: object) -> None:
    if not right:
        raise InvalidValue(f"state: expected another {what}, got {shown(got)}; it is of another run, or was changed")
