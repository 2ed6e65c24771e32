"""Parents and data by name."""

from smd_evo.zoo.loading import load

__all__ = ["load"]
