"""Facts that pages tell of all kinds of runs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from smd_evo.experiments.scores import Row
from smd_evo.experiments.sections import estimate
from smd_evo.experiments.settings import fitness_name

__all__ = ["data_facts", "environment", "fitness_fact", "listed", "stored_rows"]


def data_facts(config: Mapping[str, Any], results: Mapping[str, Any], roles: Mapping[str, str]) -> dict[str, str]:
    """The parent and the data of any run; ``roles`` tells what it does with each split that it reads."""
    data = results["data"]
    file = f", weights from {config['checkpoint']}" if config.get("checkpoint") else ""
    classes = f"; {data['classes']:,} classes" if data["classes"] else ""
    sizes = [f"{name} {data['samples'][name]:,} ({role})" for name, role in roles.items()]
    return {
        "Parent": f"{config['model']}{file}",
        "Mutated": f"{results['parameters']:,} parameters (select: {config.get('select', 'all')})",
        "Data": f"{data['description']}{classes}",
        "Samples": f"{', '.join(sizes)}; no sample is in two of them",
    }


def environment(results: Mapping[str, Any]) -> dict[str, str]:
    """With what a run was made: versions, the platform, its time."""
    names = {"smd_evo": "smd-evo", "python": "Python", "torch": "PyTorch", "seconds": "time"} | _LIBRARIES
    found = {names.get(name, name): str(value) for name, value in results["environment"].items()}
    return found | ({"time": f"{found['time']} s"} if "time" in found else {})


_LIBRARIES = {"numpy": "NumPy", "evotorch": "EvoTorch"}


def fitness_fact(name: str, sense: str | None = None) -> str:
    """What ranks children, in words.

    >>> fitness_fact("macro_f1")
    'macro F1, higher is better'
    """
    lower = name == "cross_entropy" if sense is None else sense == "min"
    return f"{fitness_name(name)}, {'lower' if lower else 'higher'} is better"


def stored_rows(results: Mapping[str, Any], table: str = "rows") -> list[Row]:
    """The rows of a fine-tuning run's table, or of the same on other data, as they were before they became JSON."""
    own = any(row.get("fitness") is not None for row in results[table])
    return [Row(**row | _row(row, own)) for row in results[table]]


def _row(row: Mapping[str, Any], own: bool) -> dict[str, Any]:
    gains = ("accuracy_gain", "loss_gain", *(["fitness_gain"] if "fitness_gain" in row else []))
    found = {name: row[name] and estimate(row[name]) for name in gains}
    if own and row["fitness"] is None:  # JSON has no number for one that is not finite
        found["fitness"] = math.nan
    return found | {"candidate": str(row["candidate"])}  # the terminal's tables take texts alone


def listed(values: object) -> str:
    """Numbers or words with commas between them.

    >>> listed([0.3, 0.0001]), listed("cpu")
    ('0.3, 0.0001', 'cpu')
    """
    items = values if isinstance(values, list | tuple) else [values]
    return ", ".join(f"{item:g}" if isinstance(item, float) else str(item) for item in items)
