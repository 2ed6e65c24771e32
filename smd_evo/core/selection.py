"""Which parameters of a network may be mutated: by kind, by layer, by name pattern."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Container, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import Tensor, nn

from smd_evo.core.layout import named
from smd_evo.core.subspace import Subspace
from smd_evo.core.within import Within, shortest_names
from smd_evo.errors import InvalidType, InvalidValue, shown

__all__ = ["KINDS", "Names", "Select", "head_of", "select_names", "settled", "spelt_out", "within_kinds"]

KINDS = ("all", "weight", "bias", "norm", "head", "lora")
"""Kinds that a selection may name."""

Select = str | Iterable[str] | Callable[[str, nn.Parameter], bool]

_LISTED = 6
"""Modules that a message names."""

_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)


@dataclass(frozen=True)
class Names:
    """A selection by whole names, where a name that is also a kind, or looks like a pattern, is a name.

    Args:
        names: of parameters, and of integers.
    """

    names: Collection[str]

    def __call__(self, name: str, parameter: Tensor) -> bool:
        """Whether it is one of them."""
        return name in self.names


def settled(select: Select) -> str | tuple[str, ...] | Callable[[str, nn.Parameter], bool]:
    """A selection that may be read as often as one likes, which an iterator may not.

    Raises:
        InvalidValue: no terms.
        InvalidType: it is of another kind, or a term is.

    Example:
        >>> settled(name for name in ("head", "norm"))
        ('head', 'norm')
    """
    if isinstance(select, nn.Module | type) or not (callable(select) or isinstance(select, Iterable)):
        mend = "; give the name that it has in the network" if isinstance(select, nn.Module) else ""
        raise InvalidType(f"select: expected kinds, names or patterns, got {shown(select)}{mend}")
    if isinstance(select, str) or callable(select):
        return select
    terms = tuple(select)
    if not terms:
        raise InvalidValue('select: expected one kind, name or pattern or more, got none; try "all"')
    for term in terms:
        if not isinstance(term, str):
            raise InvalidType(f"select: expected kinds, names or patterns, got {shown(term)} among {len(terms)}")
    return terms


def select_names(module: nn.Module, names: Iterable[str], select: Select, integers: Iterable[str] = ()) -> list[str]:
    """Those of ``names`` that a selection names, in their order.

    A selection is one term or several (joined by commas, or an iterable); a parameter is selected if any
    term names it. Of kinds that stand beside others a network need not have all: ``norm,bias`` is the biases where
    there are no normalisations.

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
        integers: names of tensors of integers, which are no parameters to choose from unless they are spelt out: see
            :func:`spelt_out`.

    Raises:
        InvalidValue: there are no terms, a name or a pattern names nothing, or none of the kinds does.
        InvalidType: ``select`` or a term is of another kind.
    """
    select = settled(select)
    names, integers = list(names), list(integers)
    everything = dict.fromkeys([*names, *integers])
    if callable(select):
        parameters = dict(module.named_parameters(remove_duplicate=False))
        spelt = spelt_out(integers, select)
        return [name for name in everything if name in spelt or (name in names and select(name, parameters[name]))]
    terms = select.split(",") if isinstance(select, str) else list(select)
    chosen: set[str] = set()
    for term in (term.strip() for term in terms):
        hits = _named(module, names, term) | spelt_out(integers, term)
        if not hits and term not in KINDS:
            hint = _hint(module, names, integers, term)
            raise InvalidValue(
                f"select: expected one of {', '.join(KINDS)}, a layer or a name pattern that some trainable "
                f"parameter has, got {term!r}{hint}"
            )
        chosen |= hits
    if not chosen:
        has = ", ".join(kind for kind in KINDS if _named(module, names, kind)) or "no trainable parameter"
        got = ", ".join(map(str, terms))
        hint = _hint(module, names, integers, terms[0])
        raise InvalidValue(f"select: expected kinds that the network has ({has}), got {got}{hint}")
    return [name for name in everything if name in chosen]


def spelt_out(integers: Iterable[str], select: Select) -> set[str]:
    """Those of some tensors of integers that a selection names: most integers of a network are no weights.

    A term must be the whole name, or a pattern whose last part is more than ``*``; neither ``all`` and ``weight`` nor
    a module's name nor a function names integers.

    Example:
        >>> names = ["fc.weight_q", "fc.mask"]
        >>> sorted(spelt_out(names, "*.weight_q")), spelt_out(names, "all,fc,fc.*")
        (['fc.weight_q'], set())
    """
    if isinstance(select, Names):
        return {name for name in integers if name in select.names}
    if callable(select) or not isinstance(select, str | Iterable):
        return set()
    terms = [term.strip() for term in (select.split(",") if isinstance(select, str) else select)]
    terms = [term for term in terms if term.rpartition(".")[2].strip("*?")]
    return {
        name for name in integers for term in terms if term not in KINDS and (name == term or fnmatchcase(name, term))
    }


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
    parameters = dict(module.named_parameters(remove_duplicate=False))
    # What has no element has no coordinate either, and layouts find no such name.
    names = [name for name in names if name not in parameters or parameters[name].numel()]
    chosen = select_names(module, names, select)
    if not chosen:  # a function may choose none
        raise InvalidValue("select: expected some of the parameters that may be mutated, got none")
    return Within(shortest_names(chosen, names), rule)


def _named(module: nn.Module, names: list[str], term: str) -> set[str]:
    """Those of ``names`` that one term names."""
    modules = dict(module.named_modules())
    owners = {name: _owner(name, modules) for name in names}
    parameters = dict(module.named_parameters(remove_duplicate=False))
    if term == "all":
        return set(names)
    if term == "head":  # also a tied one, by another name, and integers that lie in it
        head = head_of(module)
        inside, tied = set(head.modules()), {id(parameter) for parameter in head.parameters()}
        return {name for name in names if modules[owners[name]] in inside or id(parameters.get(name)) in tied}
    if term == "lora":
        return {name for name in names if any(part.startswith("lora_") for part in name.split("."))}
    if term in ("norm", "weight", "bias"):
        own = [name for name in names if name in parameters]  # integers are neither
        norms = {name for name in own if _is_norm(module.get_submodule(owners[name]))}
        if term == "norm":
            return norms
        return {name for name in own if name not in norms and name.endswith("bias") == (term == "bias")}
    return named(names, term)


def _owner(name: str, modules: Container[str]) -> str:
    """Name of the module that a tensor is of, also if it lies inside of a parameter."""
    owner = name.rpartition(".")[0]
    while owner not in modules:
        owner = owner.rpartition(".")[0]
    return owner


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


def _hint(module: nn.Module, names: list[str], integers: list[str], term: str) -> str:
    """The end of a message on a term that names nothing: what was meant, or what there is."""
    modules = dict(module.named_modules())
    near = sorted(named(integers, term))
    if not near and term not in KINDS:
        near = difflib.get_close_matches(term, sorted({*KINDS, *names, *integers, *modules} - {term}), n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    if term in modules and next(modules[term].parameters(), None) is None:
        return f"; it is {type(modules[term]).__name__}, which has no parameters; packed weights are none"
    frozen = [name for name, _ in module.named_parameters() if name not in names]
    if count := len(_named(module, frozen, term)):
        return f"; {count} frozen ones have it: requires_grad_(True), is_trainable=True for an adapter of PEFT"
    if integers:
        return f"; integers have to be spelt out, as {integers[0]!r}"
    buffers = {name: each.dtype for name, each in module.named_buffers()}
    if term in buffers:
        return f"; it is a buffer of {buffers[term]}, of which int8 and uint8 alone are weights"
    adapters = dict.fromkeys(name.rpartition(".lora_")[2].split(".")[1] for name in names if ".lora_" in name)
    if adapters and "lora" in term:
        return f"; of adapters there are {', '.join(adapters)}, as in select='*.lora_?.{next(iter(adapters))}.*'"
    there = [] if term in KINDS else list(dict.fromkeys(name.split(".")[0] for name in names))
    more = ", ..." if len(there) > _LISTED else ""
    return f"; there are {', '.join(there[:_LISTED])}{more}" if there else ""
