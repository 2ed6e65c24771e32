"""Which text does a first line belong to? A metric of the ranking, which has no gradient, weighs an encoder's words.

The encoder adds up random vectors of a docstring's words, and evolution finds how much each word counts. A sentence
encoder goes in its place: any network that returns a vector for each query and one for its answer.

python examples/finetune_retrieval.py [GENERATIONS] [FOLDER]
"""

import re
import sys
import sysconfig
import zlib
from pathlib import Path

import torch
from torch import nn

import smd_evo

WORDS, LONGEST, generations = 2048, 30, int(sys.argv[1]) if len(sys.argv) > 1 else 20


def pairs(files):
    """First lines of docstrings and what follows, as words [n, 2, 30] with 0 as padding; and numbers of the pairs."""
    found = {}
    for text in (text for file in files for text in re.findall(rb'"""(.+?\n.+?)"""', file.read_bytes(), re.DOTALL)):
        sides = [re.findall(b"[a-z]+", side.lower())[:LONGEST] for side in text.strip().split(b"\n", 1)]
        if len(sides) == 2 and min(map(len, sides)) > 3:
            ids = [[1 + zlib.crc32(word) % (WORDS - 1) for word in side] for side in sides]
            found[tuple((*side, *[0] * (LONGEST - len(side))) for side in ids)] = None
    return torch.tensor([*found]), torch.arange(len(found))


class Encoder(nn.Module):
    """Weighted sums of the words' vectors."""

    def __init__(self):
        super().__init__()
        self.vectors, self.weights = nn.Embedding(WORDS, 64), nn.Parameter(torch.ones(WORDS))

    def forward(self, words):  # [n, 2, 30] -> [n, 2, 64]
        weights = (self.weights[words] * (words > 0))[..., None]
        return nn.functional.normalize((weights * self.vectors(words)).sum(2), dim=2)


def reciprocal_rank(vectors, numbers):
    """Mean over the queries; copies of the right answer, which a bootstrap makes, do not count against it."""
    scores = vectors[:, 0] @ vectors[:, 1].T
    before = (scores >= scores.diagonal()[:, None]) & (numbers[:, None] != numbers)
    return (1 / (1 + before.sum(1))).mean()


torch.manual_seed(0)
files = sorted(Path(sys.argv[2] if len(sys.argv) > 2 else sysconfig.get_path("stdlib")).glob("*.py"))
data = smd_evo.Splits(*(pairs(files[start::3]) for start in range(3)))  # no file is in two of them
mrr = smd_evo.WholeFitness("MRR", "max", reciprocal_rank)
result = smd_evo.evolve(Encoder(), data, fitness=mrr, select="weights", generations=generations, images=100)
before, after = (100 * row["fitness"] for row in result.numbers["rows"][:2])
print(f"mean reciprocal rank on files that chose nothing: parent {before:.1f} %, fine-tuned {after:.1f} %")
