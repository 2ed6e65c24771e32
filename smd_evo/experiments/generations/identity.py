"""What a run over generations is of, and whether it may go on like this."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smd_evo import __version__
from smd_evo.documents import parse_json, read_file
from smd_evo.errors import InvalidValue, WrongParent, shown
from smd_evo.experiments.folders.content import CONFIG, IDENTITY, differing, digest
from smd_evo.experiments.generations.settings import MAY_CHANGE, EvolutionConfig
from smd_evo.experiments.settings import is_object, load_settings
from smd_evo.experiments.trust import check_trust

if TYPE_CHECKING:
    from smd_evo.experiments.generations.run import Evolution

__all__ = [
    "IDENTITY",
    "changed_config",
    "check_data",
    "check_parent",
    "check_same",
    "identity_of",
    "read_identity",
    "resumed_config",
]

_FORMAT = 1
_ENTRIES = dict.fromkeys(("smd_evo", "torch", "device", "fingerprint", "data"), str) | {"settings": dict}


def read_identity(run: Path) -> dict[str, Any]:
    """What a run is of.

    Raises:
        InvalidValue: the folder holds no run over generations, or one of another version.
    """
    expected = f"run: expected a folder that finetune --generations wrote, got {run}"
    try:
        identity = parse_json(read_file(run / IDENTITY))
    except OSError:
        raise InvalidValue(f"{expected}, which holds no {IDENTITY}") from None
    except ValueError as error:
        raise InvalidValue(f"{expected}, whose {IDENTITY} is damaged ({error})") from None
    if not isinstance(identity, dict) or identity.get("format") != _FORMAT:
        wrote = identity.get("smd_evo") if isinstance(identity, dict) else None
        raise InvalidValue(
            f"run: expected one of format {_FORMAT}, got {run} of smd_evo {shown(wrote)}; install that instead of "
            f"{__version__}"
        )
    for name, kind in _ENTRIES.items():
        if not isinstance(identity.get(name), kind):
            raise InvalidValue(f"{expected}, whose {IDENTITY} is damaged (its {name} is {shown(identity.get(name))})")
    return identity


def identity_of(evolution: Evolution) -> dict[str, Any]:
    """What must be the same whenever the run goes on."""
    import torch

    return {
        "format": _FORMAT,
        "smd_evo": __version__,
        "torch": str(torch.__version__),
        "device": evolution.config.device,
        "fingerprint": evolution.fingerprint,
        "data": digest(evolution.data),
        "settings": _fixed(evolution.config),
    }


def _fixed(config: EvolutionConfig) -> dict[str, Any]:
    """The settings that must not change."""
    return {name: value for name, value in config.as_dict().items() if name not in MAY_CHANGE}


def _told(stored: Mapping[str, Any], now: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same settings, but that a fitness which a program gave may be told by any name."""
    return {**now, "fitness": stored["fitness"]} if is_object(stored["fitness"]) else now


def resumed_config(run: Path, given: Mapping[str, Any], trust: bool = False, servers: bool = True) -> EvolutionConfig:
    """The settings to go on with.

    Args:
        run: the run directory.
        given: settings that are to be others.
        trust: whether code and servers that the folder names may be imported and contacted.
        servers: whether servers are contacted by who asks.

    Raises:
        InvalidValue, InvalidType: these may not change, or not to that, or the folder names code and is not trusted.
    """
    config = changed_config(run, given, trust, servers)
    try:
        return config.on_device()
    except InvalidValue:  # the run may come from a machine with other devices
        if "device" in given:
            raise
        return replace(config, device="auto").on_device()


def changed_config(run: Path, given: Mapping[str, Any], trust: bool = False, servers: bool = True) -> EvolutionConfig:
    """The same, whether or not its device is there, which takes torch to know."""
    stored = load_settings(run / CONFIG)
    check_trust(run, stored, given, trust, servers)
    before = EvolutionConfig.parsed(stored)
    config = EvolutionConfig.parsed(before.as_dict() | dict(given))
    if differ := differing(before.as_dict(), _told(before.as_dict(), _fixed(config))):
        raise InvalidValue(
            f"resume: expected the run's own settings, got others: {differ}; only {', '.join(MAY_CHANGE)} may change"
        )
    return config


def check_parent(stored: Mapping[str, Any], fingerprint: str) -> None:
    """Raise WrongParent if a run began with another parent than that of this fingerprint."""
    if stored["fingerprint"] != fingerprint:
        raise WrongParent(
            f"parent: expected the run's own, {stored['fingerprint']}, got {fingerprint}; give its --model "
            f"and --checkpoint to resume, or as model and checkpoint in the run's {CONFIG}"
        )


def check_data(stored: Mapping[str, Any], digested: str) -> None:
    """Raise InvalidValue if a run began with other data than that of this digest."""
    if stored["data"] != digested:
        raise InvalidValue(
            "data: expected the samples that the run began with, got others; give its --data as it was"
        )


def check_same(stored: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Raise if a run would go on with another parent or other data; what else is different, in words.

    Raises:
        WrongParent, InvalidValue: of these.
    """
    check_parent(stored, now["fingerprint"])
    if differ := differing(stored["settings"], _told(stored["settings"], now["settings"])):
        raise InvalidValue(f"run: expected the settings that it began with, got {CONFIG} with others: {differ}")
    check_data(stored, now["data"])
    return [
        f"begun with {name} {stored[name]}, going on with {now[name]}: the last bits may differ from those of a run "
        "that was never interrupted"
        for name in ("smd_evo", "torch", "device")
        if stored[name] != now[name]
    ]
