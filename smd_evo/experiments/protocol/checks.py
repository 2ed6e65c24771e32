"""What is wrong with the parents of a protocol, before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping

from smd_evo.experiments.finetune.settings import FinetuneConfig
from smd_evo.experiments.protocol.naming import naming
from smd_evo.zoo.checking import check_buildable, check_known, count_classes

__all__ = ["check_parents"]


def check_parents(asked: Mapping[str, FinetuneConfig], missing: Mapping[str, FinetuneConfig]) -> None:
    """Raise InvalidValue for the first parent that is wrong, naming it; names first, then networks.

    Args:
        asked: settings of a run of each parent by the parent's name.
        missing: likewise, of those that have runs to come; their networks are built once to try it.
    """
    for name, config in asked.items():
        with naming(name):
            check_known(config.model, config.data)
    for number, (name, config) in enumerate(missing.items()):
        if not number:
            classes = count_classes(config.data, config.data_dir, config.download)
        with naming(name):
            check_buildable(config.model, classes, config.checkpoint, config.checkpoint_key)
