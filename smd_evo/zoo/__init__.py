"""Parents and data by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smd_evo.zoo.loading import load as load

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    if name != "load":
        raise AttributeError(f"module 'smd_evo.zoo' has no attribute {name!r}")
    from smd_evo.zoo.loading import load

    return load
