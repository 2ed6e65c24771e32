"""Methods by their names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from smd_evo.errors import InvalidType, InvalidValue, shown
from smd_evo.zoo.names import user_object

if TYPE_CHECKING:
    from smd_evo.experiments.compare.methods.base import Method

__all__ = ["CONTROLS", "METHODS", "REFERENCE", "TRIALS", "check_trials", "find_method", "tries"]

_HERE = "smd_evo.experiments.compare.methods"
METHODS = {
    "smd": f"{_HERE}.oneshot:Smd",
    "smd-ensemble": f"{_HERE}.oneshot:SmdEnsemble",
    "sparse-es": f"{_HERE}.strategies:SparseES",
    "static-sparse-es": f"{_HERE}.strategies:StaticSparseES",
    "norm-bias-es": f"{_HERE}.strategies:NormBiasES",
    "head-es": f"{_HERE}.strategies:HeadES",
    "staged-es": f"{_HERE}.stages:StagedES",
    "unit-es": f"{_HERE}.strategies:UnitES",
    "newton": f"{_HERE}.newton:Newton",
    "norm-newton": f"{_HERE}.newton:NormBiasNewton",
    "head-newton": f"{_HERE}.newton:HeadNewton",
    "early-newton": f"{_HERE}.newton:EarlyNewton",
    "adapted-es": f"{_HERE}.adapted:AdaptedES",
    "adapted-norm-bias-es": f"{_HERE}.adapted:AdaptedNormBiasES",
    "adapted-newton": f"{_HERE}.adapted:AdaptedNewton",
    "openai-es": f"{_HERE}.strategies:OpenAIESMethod",
    "pgpe": f"{_HERE}.numeric:Pgpe",
    "snes": f"{_HERE}.numeric:Snes",
    "deep-ga": f"{_HERE}.genetic:DeepGA",
    "randopt": f"{_HERE}.oneshot:RandOpt",
    "eggroll": f"{_HERE}.strategies:Eggroll",
    "subspace-cmaes": f"{_HERE}.numeric:SubspaceCmaes",
    "deap-mu-plus-lambda": f"{_HERE}.genetic:DeapMuPlusLambda",
    "sgd": f"{_HERE}.gradient:Sgd",
    "temperature": f"{_HERE}.free:Temperature",
    "class-bias": f"{_HERE}.free:ClassBias",
    "calibrated": f"{_HERE}.free:Calibrated",
    "head-refit": f"{_HERE}.free:HeadRefit",
    "head-tuned": f"{_HERE}.free:HeadTuned",
    "prior-match": f"{_HERE}.free:PriorMatch",
    "batchnorm-blend": f"{_HERE}.free:BatchNormBlend",
    "views": f"{_HERE}.free:Views",
}
"""Where each is; they are imported on use, as EvoTorch takes seconds."""

CONTROLS = (
    "temperature",
    "class-bias",
    "calibrated",
    "head-refit",
    "head-tuned",
    "prior-match",
    "batchnorm-blend",
    "views",
)
"""What is nearly free: evolution is to be better than the best of these, too."""

REFERENCE = "openai-es"
"""The method that the others are compared with."""


TRIALS = 4
"""Settings that each of these has to try."""


def tries(name: str, trials: int) -> int:
    """How many settings a method tries: what is free costs so little that it tries all, and is at its best."""
    return len(find_method(name).grid) if name in CONTROLS else trials


def check_trials(name: str, tries: int, trials: int) -> None:
    """Raise InvalidValue if a method has fewer settings to try than it is to try."""
    if tries < trials:
        raise InvalidValue(
            f"trials: expected at most the {tries} settings that {name} has to try, got {trials}; all methods get as "
            "many"
        )


def find_method(name: str) -> type[Method]:
    """The class of a method of these, or of a user's own, ``module.path:Class``.

    Raises:
        InvalidValue, InvalidType: there is no such method, or the class is none.
    """
    from smd_evo.experiments.compare.methods.base import Method

    found = user_object("methods", METHODS.get(name, name), [*METHODS])
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise InvalidType(f"methods: expected a subclass of {Method.__module__}.Method, got {found!r}")
    check_method(name, found)
    return found


def check_method(name: str, kind: type[Method]) -> None:
    """Raise in one line if a class lacks something that a method has.

    Raises:
        InvalidValue, InvalidType: that is so.
    """
    if missing := sorted(kind.__abstractmethods__):
        raise InvalidType(f"methods: expected {', '.join(missing)} in {name}, got none; see smd_evo's Method")
    if not isinstance(about := getattr(kind, "about", None), str):
        raise InvalidType(f"methods: expected a line of text as {name}.about, got {shown(about)}")
    grid = getattr(kind, "grid", None)
    if not isinstance(grid, list | tuple) or not grid or not all(isinstance(each, Mapping) for each in grid):
        raise InvalidValue(
            f"methods: expected dicts of settings to try as {name}.grid, got {shown(grid)}; [{{}}], one empty dict, "
            "will do"
        )
