"""Sums as prompts of a language model, and its answers, with what all prompts begin with read once a child."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

__all__ = ["FORM", "Answers", "Form", "Prompted"]

MOST = 4
"""Tokens of an answer: three digits, and what some forms have before them."""

Pair = tuple[int, int]


@dataclass(frozen=True)
class Form:
    """How a sum is asked.

    Args:
        shape: of a question.
        examples: that come before it.
        digits_only: whether nothing but digits, blanks and the end of a line may be answered.
    """

    shape: str
    examples: tuple[Pair, ...]
    digits_only: bool = False

    @property
    def beginning(self) -> str:
        """What is the same for all questions."""
        blank = "" if self.shape.endswith("}=") else " "
        return "".join(f"{self.shape.format(*pair)}{blank}{sum(pair)}\n" for pair in self.examples)


FORM = Form("{}+{}=", ((12, 3), (46, 1), (34, 8)))
"""Chosen before anything was evolved, for its few tokens: a digit is one, and an answer needs three at most."""


class Prompted(nn.Module):
    """A network that is asked in another form."""

    def __init__(self, network: nn.Module, form: Form) -> None:
        super().__init__()
        self.network, self.form = network, form


class Answers:
    """``generate(module, pairs)``: greedy, and as ``generate()`` of transformers answers; tokens are counted.

    Reading the examples once a child and not once a prompt makes a child twice as cheap.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.generated = tokenizer, 0
        self.line = tokenizer("\n")["input_ids"][-1]
        self.ends = torch.tensor([self.line, tokenizer.eos_token_id])
        allowed = ["\n", " ", *"0123456789"]
        self.allowed = torch.tensor([tokenizer(text)["input_ids"][-1] for text in allowed])
        self.known: dict[tuple[Form, Pair | None], list[int]] = {}

    def tokens(self, form: Form, pair: Pair | None = None) -> list[int]:
        """Of the question, or of what is before all of them."""
        if (form, pair) not in self.known:
            text = form.beginning if pair is None else form.shape.format(*pair)
            self.known[form, pair] = self.tokenizer(text)["input_ids"]
        return self.known[form, pair]

    @torch.no_grad()
    def __call__(self, module: nn.Module, pairs: Sequence[Pair]) -> list[str]:
        form = FORM
        if isinstance(module, Prompted):
            module, form = module.network, module.form
        cache = DynamicCache(config=module.config)
        before = torch.tensor([self.tokens(form)])
        module(input_ids=before, cache=cache, use_cache=True, logits_to_keep=1)
        cache.batch_repeat_interleave(len(pairs))
        asked = [self.tokens(form, pair) for pair in pairs]
        width, start = max(map(len, asked)), before.shape[1]
        step = torch.full((len(asked), width), self.line)
        mask = torch.ones(len(asked), start + width, dtype=torch.int64)
        for row, one in enumerate(asked):  # on the right, so the blanks are after the beginning
            step[row, width - len(one) :] = torch.tensor(one)
            mask[row, start : start + width - len(one)] = 0
        places = (mask.cumsum(1) - 1)[:, start:]
        found: list[Tensor] = []
        done = torch.zeros(len(asked), dtype=torch.bool)
        while True:
            logits = module(
                input_ids=step,
                attention_mask=mask,
                position_ids=places,
                cache=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
            best = self.allowed[logits[:, self.allowed].argmax(1)] if form.digits_only else logits.argmax(1)
            self.generated += int((~done).sum())
            found.append(torch.where(done, self.line, best))
            done |= torch.isin(best, self.ends)
            if done.all() or len(found) == MOST:
                return self.tokenizer.batch_decode(torch.stack(found, 1), skip_special_tokens=True)
            step, places = found[-1][:, None], places[:, -1:] + 1
            mask = torch.cat([mask, mask.new_ones(len(asked), 1)], 1)
