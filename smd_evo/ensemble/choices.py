"""Names of ways to choose and to combine, for whoever checks them before anything heavy is imported."""

from __future__ import annotations

__all__ = ["COMBINES", "METHODS"]

COMBINES = ("probabilities", "logits", "majority")
"""Mean class probabilities, mean outputs (also of regressions), or the most frequent class."""

METHODS = ("top_k", "greedy", "diverse", "all")
"""The best by fitness; those that help most; those that help most and differ; everyone."""
