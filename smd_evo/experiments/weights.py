"""Weights as files that load with plain ``load_state_dict``, where no smd_evo is installed."""

from __future__ import annotations

import io

import torch
from safetensors.torch import save
from torch import Tensor, nn

from smd_evo.errors import check_choice
from smd_evo.experiments.settings import FORMATS

__all__ = ["encode_weights", "plain_state"]


def plain_state(module: nn.Module) -> dict[str, Tensor]:
    """A state of independent tensors."""
    return {name: value.detach().cpu().contiguous().clone() for name, value in module.state_dict().items()}


def encode_weights(state: dict[str, Tensor], how: str, kind: str) -> bytes:
    """A file's content.

    Args:
        state: the weights.
        how: what they are; safetensors keeps it as metadata.
        kind: one of :data:`FORMATS`.
    """
    if check_choice("format", kind, FORMATS) == "safetensors":
        return save(state, {"smd_evo": how})
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()
