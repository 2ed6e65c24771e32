"""Work: what evaluating children has really computed."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Work"]


@dataclass
class Work:
    """What an evaluator, and those made of it, have computed so far.

    Not counted are the few passes that try a network for the first time, and the noise, which is none.

    Attributes:
        images: samples that children were evaluated on, counted once for each child.
        forwards: what that took, in forward passes of one sample through the whole network, by floating point
            operations: a child that has some layers' outputs from its parent counts with the others, and what the
            parent computed for all of them once; where features of samples are kept, what is before the head once for
            each sample.
    """

    images: int = 0
    forwards: float = 0.0

    def count(self, images: int, share: float = 1.0) -> None:
        """Take note of samples that a child was evaluated on, each for a share of a forward pass."""
        self.images += images
        self.forwards += images * share
