"""From settings to a parent and its data."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import nn

from smd_evo.experiments.progress import Logged, Progress
from smd_evo.experiments.settings import ExperimentConfig
from smd_evo.zoo import load
from smd_evo.zoo.data import Data

__all__ = ["in_precision", "load_parent"]


def load_parent(config: ExperimentConfig, progress: Progress | None = None) -> tuple[nn.Module, Data]:
    """The parent on the settings' device, and its data.

    Raises:
        InvalidValue, InvalidType: see :func:`smd_evo.zoo.loading.load`.
    """
    progress = progress or Logged()
    progress.start("preparing the parent and its data", None)
    network, data = load(
        config.model,
        config.data,
        checkpoint=config.checkpoint,
        checkpoint_key=config.checkpoint_key,
        data_dir=config.data_dir,
        download=config.download,
        sizes=config.sizes,
        memory=config.memory,
        seed=config.seed,
        skip_unreadable=config.skip_unreadable,
        progress=progress.advance,
    )
    return network.to(config.device), data


def in_precision(config: ExperimentConfig) -> AbstractContextManager[object]:
    """A block in which networks compute in the settings' precision, by autocast."""
    kind = torch.device(config.device).type
    return torch.autocast(kind, torch.bfloat16, enabled=config.precision == "bfloat16")
