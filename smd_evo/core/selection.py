"""Which parameters of a network may be mutated: by kind, by layer, by name pattern."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable

from torch import nn

from smd_evo.core.layout import named
from smd_evo.core.subspace import Subspace
from smd_evo.core.within import Within, shortest_names
from smd_evo.errors import InvalidType, InvalidValue

__all__ = ["KINDS", "Select", "head_of", "select_names", "within_kinds"]

KINDS = ("all", "weight", "bias", "norm", "head", "lora")
"""Kinds that a selection may name."""

Select = str | Iterable[str] | Callable[[str, nn.Parameter], bool]

_LISTED = 6
"""Modules that a message names."""

_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)


def select_names(module: nn.Module, names: Iterable[str], select: Select) -> list[str]:
    """Those of ``names`` that a selection names, in their order.

    A selection is one term or several (joined by commas, or an iterable); a parameter is selected if any
    term names it:

    - ``all``;
    - ``norm``: parameters of normalisation layers (batch, layer, group, instance, RMS);
    - ``weight``, ``bias``: the parameters outside normalisation layers whose own name ends so
      (``in_proj_weight`` of attention, too); a parameter of another name, such as a position embedding,
      counts as weight;
    - ``head``: the classifier, as timm's ``get_classifier()`` gives it, else the last linear or
      convolutional layer, also where another layer has its weights, too;
    - ``lora``: adapters' parameters, as PEFT names them: ``lora_A``, ``lora_B``, ``lora_...``;
    - a module's name (``layer1.0``): everything below it;
    - a pattern with ``*``, ``?`` or ``[...]`` for the whole name (``blocks.*.attn.*``).

    Args:
        module: the network.
        names: names of the parameters to choose from.
        select: terms, or ``f(name, parameter) -> bool``.

    Raises:
        InvalidValue: a term names nothing.
        InvalidType: ``select`` is of another kind.
    """
    names = list(names)
    if callable(select):
        parameters = dict(module.named_parameters(remove_duplicate=False))
        return [name for name in names if select(name, parameters[name])]
    if not isinstance(select, str | Iterable):
        raise InvalidType(f"select: expected kinds, names or patterns, got {select!r}")
    terms = select.split(",") if isinstance(select, str) else list(select)
    chosen: set[str] = set()
    for term in (term.strip() for term in terms):
        hits = _named(module, names, term)
        if not hits:
            hint = _hint(module, names, term)
            raise InvalidValue(
                f"select: expected one of {', '.join(KINDS)}, a layer or a name pattern that some trainable "
                f"parameter has, got {term!r}{hint}"
            )
        chosen |= hits
    return [name for name in names if name in chosen]


def within_kinds(module: nn.Module, names: Iterable[str], select: Select, rule: Subspace) -> Within:
    """A rule within the selected ones of some parameters, by their names: recipes know nothing of kinds.

    Args:
        module: the network.
        names: of the parameters that may be mutated, in order.
        select: kinds, names or patterns: see :func:`select_names`.
        rule: of the coordinates in them.

    Raises:
        InvalidValue, InvalidType: as :func:`select_names` and :class:`smd_evo.core.within.Within`.

    Example:
        >>> from smd_evo import Dense, ParameterSpace
        >>> space = ParameterSpace(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)))
        >>> within_kinds(space.module, space.names, "head,bias", Dense()).spec
        'within:0.bias,2:dense'
    """
    names = list(names)
    chosen = select_names(module, names, select)
    if not chosen:  # a function may choose none
        raise InvalidValue("select: expected some of the parameters that may be mutated, got none")
    return Within(shortest_names(chosen, names), rule)


def _named(module: nn.Module, names: list[str], term: str) -> set[str]:
    """Those of ``names`` that one term names."""
    owners = {name: name.rpartition(".")[0] for name in names}
    if term == "all":
        return set(names)
    if term == "head":
        parameters = dict(module.named_parameters(remove_duplicate=False))
        own = {id(parameter) for parameter in head_of(module).parameters()}
        return {name for name in names if id(parameters[name]) in own}
    if term == "lora":
        return {name for name in names if any(part.startswith("lora_") for part in name.split("."))}
    if term in ("norm", "weight", "bias"):
        norms = {name for name in names if _is_norm(module.get_submodule(owners[name]))}
        if term == "norm":
            return norms
        return {name for name in names if name not in norms and name.endswith("bias") == (term == "bias")}
    return named(names, term)


def _is_norm(layer: nn.Module) -> bool:
    """Also what is no subclass of torch's own: timm and transformers have several RMSNorm classes."""
    return isinstance(layer, _NORMS) or "norm" in type(layer).__name__.lower()


def head_of(module: nn.Module) -> nn.Module:
    """The classifier: what ``select="head"`` means; an empty module where there is none."""
    classifier = getattr(module, "get_classifier", None)
    head = classifier() if callable(classifier) else None
    if not isinstance(head, nn.Module) or next(head.parameters(), None) is None:
        kinds = nn.Linear | nn.modules.conv._ConvNd
        layers = [layer for layer in module.modules() if isinstance(layer, kinds)]
        head = layers[-1] if layers else nn.Module()
    return head


def _hint(module: nn.Module, names: list[str], term: str) -> str:
    """The end of a message on a term that names nothing: what was meant, or what there is."""
    modules = dict(module.named_modules())
    near = difflib.get_close_matches(term, [*KINDS, *names, *modules], n=1)
    if near and near[0] != term:
        return f"; did you mean {near[0]!r}?"
    if term in modules and next(modules[term].parameters(), None) is None:
        return f"; it is {type(modules[term]).__name__}, which has no parameters; packed weights are none"
    frozen = [name for name, _ in module.named_parameters() if name not in names]
    if count := len(_named(module, frozen, term)):
        return f"; {count} frozen ones have it: requires_grad_(True), is_trainable=True for an adapter of PEFT"
    there = list(dict.fromkeys(name.split(".")[0] for name in names))
    more = ", ..." if len(there) > _LISTED else ""
    return f"; there are {', '.join(there[:_LISTED])}{more}" if there else ""
