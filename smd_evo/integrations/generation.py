"""Generation by transformers' language models, for rewards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from smd_evo.errors import InvalidType, check_count, shown

__all__ = ["FromTransformers", "from_transformers"]


@dataclass(frozen=True, eq=False)
class FromTransformers:
    """What :func:`from_transformers` returns."""

    tokenizer: Any
    max_new_tokens: int
    options: dict[str, Any] = field(default_factory=dict)

    def __call__(self, module: Any, prompts: Sequence[Any]) -> list[str]:
        """The texts behind the prompts.

        Raises:
            InvalidType: a network that does not generate, or one text for several.
        """
        if not callable(getattr(module, "generate", None)):
            kind = type(module).__name__
            raise InvalidType(f"parent: expected a network with generate(), got {kind}; load it as a ...ForCausalLM")
        if isinstance(prompts, str):
            raise InvalidType(f"prompts: expected a list of texts, got {shown(prompts)}; put it in a list")
        asked: list[list[int]] = self.tokenizer([*prompts])["input_ids"]
        ends = (getattr(self.tokenizer, f"{name}_token_id", None) for name in ("pad", "eos"))
        pad = next((number for number in ends if number is not None), 0)
        width = max(1, *map(len, asked))
        device = next(module.parameters()).device
        apart = getattr(getattr(module, "config", None), "is_encoder_decoder", False)
        numbers = torch.full((len(asked), width), pad, device="cpu")
        mask = torch.zeros_like(numbers)
        for row, one in enumerate(asked):
            # Encoders count positions from the left, whatever is padding; answers follow prompts where there is none.
            begin = 0 if apart else width - len(one)
            numbers[row, begin : begin + len(one)] = torch.tensor(one, dtype=torch.int64, device="cpu")
            mask[row, begin : begin + len(one)] = 1
        found = module.generate(
            input_ids=numbers.to(device),
            attention_mask=mask.to(device),
            **{"do_sample": False, "pad_token_id": pad, "max_new_tokens": self.max_new_tokens, **self.options},
        )
        answers = found if apart else found[:, width:]
        texts: list[str] = self.tokenizer.batch_decode(answers, skip_special_tokens=True)
        return texts


def from_transformers(tokenizer: Any, *, max_new_tokens: int, **options: Any) -> FromTransformers:
    """A ``generate(module, prompts)`` for :class:`smd_evo.RewardFitness`, of a transformers model or adapter.

    Prompts of a batch are padded on the left, those of a network with an encoder on the right. The most likely token
    is taken each time; with ``do_sample=True`` they are drawn, with the same random numbers for every child.

    Args:
        tokenizer: the model's; it stays as it is.
        max_new_tokens: of an answer, at most.
        options: further ones of ``generate()``.

    Raises:
        InvalidType: it is no tokenizer.
    """
    if not callable(tokenizer) or not hasattr(tokenizer, "batch_decode"):
        raise InvalidType(f"tokenizer: expected one of transformers, got {shown(tokenizer)}")
    return FromTransformers(tokenizer, check_count("max_new_tokens", max_new_tokens), options)
