"""The runs of a protocol: each parent with each seed, in a folder of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smd_evo.errors import InvalidValue, check_choice
from smd_evo.experiments import readers
from smd_evo.experiments.folders.content import RESULTS
from smd_evo.experiments.protocol.parents import PROTOCOLS, Parents, read_parents
from smd_evo.zoo.names import MODELS

__all__ = ["Part", "Plan", "planned"]

_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


@dataclass(frozen=True)
class Part:
    """One run: a parent with a seed.

    Attributes:
        name: the parent's.
        seed: None where none was asked for by ``seeds``.
    """

    name: str
    seed: int | None = None

    @property
    def folder(self) -> str:
        """The name of its folder.

        >>> Part("resnet18").folder, Part("nets:first", 3).folder
        ('resnet18', 'nets-first-seed3')
        """
        return self.name.replace(":", "-") + ("" if self.seed is None else f"-seed{self.seed}")


@dataclass(frozen=True)
class Plan:
    """What a command asks for.

    Attributes:
        parents: all that it knows.
        names: of those that it asks for, in their order.
        seeds: that it asks for; None if no ``seeds`` were given.
        given: settings of the command.
        protocol: where the parents are from, if anywhere.
    """

    parents: Parents
    names: Sequence[str]
    seeds: tuple[int, ...] | None
    given: Mapping[str, Any]
    protocol: str | None = None

    @property
    def parts(self) -> list[Part]:
        """All runs that are asked for: every network with the first seed, then with the next."""
        return [Part(name, seed) for seed in self.seeds or (None,) for name in self.names]

    @property
    def common(self) -> dict[str, Any]:
        """Settings of all runs, but for the weights."""
        return {name: value for name, value in self._all().items() if name != "checkpoint"}

    def settings(self, part: Part) -> dict[str, Any]:
        """The settings of a run, but for its weights if they are those of a folder: see :meth:`weights`."""
        seed = {} if part.seed is None else {"seed": part.seed}
        return {**self.common, **seed, **self.parents.own[part.name]}

    def weights(self, part: Part) -> dict[str, Any]:
        """The file of a run's weights, where a folder for all was given and the parent names none.

        Raises:
            InvalidValue: there is none in that folder.
        """
        folder = self._all().get("checkpoint")
        if folder is None or "checkpoint" in self.parents.own[part.name]:
            return {}
        return {"checkpoint": str(_checkpoint(part.name, Path(folder)))}

    def found(self, folder: Path) -> list[Part]:
        """The runs of this protocol that are finished there, by their seeds, and of each in the protocol's order."""
        if self.seeds is None:
            seeds: list[int | None] = [None]
        else:
            ends = (re.search(r"-seed(0|[1-9][0-9]{0,19})$", entry.name) for entry in folder.glob("*-seed*"))
            seeds = [*sorted({int(end[1]) for end in ends if end})]
        parts = [Part(name, seed) for seed in seeds for name in self.parents.own]
        return [part for part in parts if (folder / part.folder / RESULTS).is_file()]

    def command(self, parts: Sequence[Part]) -> dict[str, Any]:
        """What the command was that asks for these parts, to be stored."""
        names = list(dict.fromkeys(part.name for part in parts))
        every = self.protocol is not None and set(names) == set(self.parents.own)
        return {
            "protocol": self.protocol,
            "models": None if every else names,
            "seeds": None if self.seeds is None else list(dict.fromkeys(part.seed for part in parts)),
            "settings": dict(self.given),
        }

    def _all(self) -> dict[str, Any]:
        return {**self.parents.settings, **self.given}


def planned(given: Mapping[str, Any], models: str | None, protocol: str | None, seeds: str | None = None) -> Plan:
    """What a command asks for.

    Args:
        given: settings; ``checkpoint`` is a folder with a file for each network.
        models: names with commas between them, those of timm without a prefix; None: the protocol's.
        protocol: see :func:`smd_evo.experiments.protocol.parents.read_parents`.
        seeds: different ones with commas between them.

    Raises:
        InvalidValue, InvalidType: an unknown name, or settings that do not go together.
    """
    if "model" in given:
        raise InvalidValue(f"model: expected none beside models or a protocol, got {given['model']!r}; leave it out")
    if seeds is not None and "seed" in given:
        raise InvalidValue(f"seed: expected none beside seeds, got {given['seed']!r}; leave it out")
    numbers = None if seeds is None else readers.seeds("seeds", seeds)
    names = None if models is None else _names(models)
    parents = Parents({}) if protocol is None else read_parents(protocol)
    if protocol in PROTOCOLS and not str(given.get("data", "")).startswith(f"{protocol}:"):
        raise InvalidValue(f"data: expected {protocol}:PATH with the protocol, got {given.get('data')!r}")
    if protocol is None or protocol in PROTOCOLS:
        more = {name: {"model": _model(name)} for name in names or () if name not in parents.own}
        parents = Parents({**parents.own, **more}, parents.settings)
    for name in names or ():
        check_choice("models", name, parents.own)
    plan = Plan(parents, names or tuple(parents.own), numbers, given, protocol)
    folders: dict[str, str] = {}
    for part in plan.parts:
        if folders.setdefault(part.folder, part.name) != part.name:
            other = folders[part.folder]
            raise InvalidValue(f"models: expected different folders, got {part.folder} of {other} and {part.name}")
    return plan


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if not all(names) or len(set(names)) < len(names):
        raise InvalidValue(f"models: expected different names with commas between them, got {text!r}")
    return names


def _model(name: str) -> str:
    return name if ":" in name or name in MODELS else f"timm:{name}"


def _checkpoint(model: str, folder: Path) -> Path:
    """The file of a model's weights: its name without the library's, and any usual suffix."""
    name = model.rpartition(":")[2]
    for suffix in _SUFFIXES:
        if (folder / f"{name}{suffix}").is_file():
            return folder / f"{name}{suffix}"
    raise InvalidValue(f"checkpoint: expected a file {name}{{{','.join(_SUFFIXES)}}} in {folder}, got none")
