"""Facts that pages tell of all kinds of runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["data_facts", "environment", "listed"]


def data_facts(config: Mapping[str, Any], results: Mapping[str, Any], roles: Mapping[str, str]) -> dict[str, str]:
    """The parent and the data of any run; ``roles`` tells what it does with each split that it reads."""
    data = results["data"]
    file = f", weights from {config['checkpoint']}" if config.get("checkpoint") else ""
    sizes = [f"{name} {data['samples'][name]:,} ({role})" for name, role in roles.items()]
    return {
        "Parent": f"{config['model']}{file}",
        "Mutated": f"{results['parameters']:,} parameters (select: {config.get('select', 'all')})",
        "Data": f"{data['description']}; {data['classes']:,} classes",
        "Samples": f"{', '.join(sizes)}; no sample is in two of them",
    }


def environment(results: Mapping[str, Any]) -> dict[str, str]:
    """With what a run was made: versions, the platform, its time."""
    names = {"smd_evo": "smd-evo", "python": "Python", "torch": "PyTorch", "seconds": "time"}
    found = {names.get(name, name): str(value) for name, value in results["environment"].items()}
    return found | ({"time": f"{found['time']} s"} if "time" in found else {})


def listed(values: object) -> str:
    """Numbers or words with commas between them.

    >>> listed([0.3, 0.0001]), listed("cpu")
    ('0.3, 0.0001', 'cpu')
    """
    items = values if isinstance(values, list | tuple) else [values]
    return ", ".join(f"{item:g}" if isinstance(item, float) else str(item) for item in items)
