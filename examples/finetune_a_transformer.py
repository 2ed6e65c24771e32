"""A transformer as it is: from a model of Hugging Face and a metric to a better model, in fifteen lines.

The model is a tiny one that is trained here for a moment, so that the script runs offline in seconds; your own comes
from ``AutoModelForSequenceClassification.from_pretrained(NAME)``, and its samples from its tokenizer. The metric is
the share of right answers, which has no gradient. Needs smd-evo[hf].

    python examples/finetune_a_transformer.py [GENERATIONS]
"""

import sys

import torch
from transformers import BertConfig, BertForSequenceClassification

from smd_evo import BatchFitness, evolve, split


def samples(count, words):
    """Texts of other lengths, as a tokenizer gives them; the class says whether one of these words is in them."""
    ids = [torch.randint(8, 30, (5 + number % 8,)) for number in range(count)]
    for number, sample in enumerate(ids[::2]):
        sample[len(sample) // 2] = words[number % len(words)]
    return [{"input_ids": each.tolist(), "labels": 1 - number % 2} for number, each in enumerate(ids)]


def pretrained(steps=4):
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    network = BertForSequenceClassification(BertConfig(**sizes, vocab_size=30, num_labels=2))
    adam = torch.optim.Adam(network.parameters(), 0.003)
    for sample in (sample for _ in range(steps) for sample in samples(16, [7])):
        adam.zero_grad()
        network(**{name: torch.tensor([value]) for name, value in sample.items()}).loss.backward()
        adam.step()
    return network


torch.manual_seed(0)
generations = int(sys.argv[1]) if len(sys.argv) > 1 else 30

network = pretrained()
data = split(samples(900, [6, 7]), fitness=300, validation=300)
right = BatchFitness("accuracy", "max", lambda logits, labels: (logits.argmax(1) == labels).float())
result = evolve(network, data, fitness=right, generations=generations, children=32)
print(result)
result.best.save_pretrained("better")
