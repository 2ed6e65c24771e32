"""A language model knows sums but answers in two ways; a reward for the plain one, and no gradient, makes it choose.

python examples/reward_a_language_model.py [GENERATIONS]
"""

import sys

import torch
from transformers import GPT2Config, GPT2LMHeadModel

import smd_evo
from smd_evo import RewardFitness, from_transformers

generations = int(sys.argv[1]) if len(sys.argv) > 1 else 30
CHARACTERS = "\n0123456789+=? "


class Tokenizer:
    """One token a character; of a model of your own it is AutoTokenizer.from_pretrained(...)."""

    pad_token_id = eos_token_id = 0

    def __call__(self, texts):
        return {"input_ids": [[CHARACTERS.index(each) for each in text] for text in texts]}

    def batch_decode(self, rows, skip_special_tokens):
        return ["".join(CHARACTERS[number] for number in row if number) for row in rows.tolist()]


torch.manual_seed(0)
tokenizer = Tokenizer()
config = GPT2Config(vocab_size=15, n_positions=16, n_embd=64, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0)
model = GPT2LMHeadModel(config)
questions = [(f"{one}+{other}=", f"{one + other}") for one in range(10) for other in range(10)]
texts = [f"{question}{answer}\n" for question, sum_ in questions for answer in (sum_, f"?{sum_}")]
rows = torch.tensor([row + [0] * (9 - len(row)) for row in tokenizer(texts)["input_ids"]])
optimizer = torch.optim.AdamW(model.parameters(), 0.003)
for _ in range(300):
    some = rows[torch.randperm(len(rows))[:64]]
    optimizer.zero_grad()
    model(some, labels=some).loss.backward()
    optimizer.step()


def right(texts, references):
    return [float(text == reference) for text, reference in zip(texts, references, strict=True)]


generate = from_transformers(tokenizer, max_new_tokens=4)
fitness = RewardFitness("right answers", generate, right, *zip(*questions, strict=True), cache=True)
result = smd_evo.evolve(model, fitness=fitness, generations=generations, children=32, sigma=0.03, images=32)
before, after = (100 * row["fitness"] for row in result.numbers["rows"])
print(f"right answers to sums that chose nothing: parent {before:.0f} %, fine-tuned {after:.0f} %")
