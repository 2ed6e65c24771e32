"""Which of 20 standard modules does a text document? Macro-F1, which has no gradient, fine-tunes a small transformer.

python examples/finetune_a_text_classifier.py [GENERATIONS]
"""

import re
import sys
import sysconfig
import zlib
from pathlib import Path

import torch
from torchmetrics.functional.classification import multiclass_f1_score

from smd_evo import FinetuneProblem, ModuleFitness, SubspaceES

MODULES = """asyncio doctest email http imaplib importlib inspect ipaddress logging mailbox
multiprocessing pathlib statistics tarfile threading typing unittest urllib wsgiref xml"""
generations = int(sys.argv[1]) if len(sys.argv) > 1 else 30
seed, texts, library = 1, {}, Path(sysconfig.get_path("stdlib"))
torch.manual_seed(seed)
for number, module in enumerate(MODULES.split()):  # of every other one the parent is trained with few texts
    for path in sorted([*library.glob(f"{module}.py"), *library.glob(f"{module}/**/*.py")]):
        for docstring in re.findall(b'"""(.*?)"""', path.read_bytes().lower(), re.DOTALL):
            split = int(torch.tensor([0.4, 0.3, 0.1, 0.2]).multinomial(1))  # the same for all its paragraphs
            for paragraph in re.split(rb"\n\s*\n", docstring):
                ids = [1 + zlib.crc32(word) % 4095 for word in re.findall(b"[a-z]+", paragraph)]
                if len(ids) > 3 and (split > 0 or number % 2 == 0 or torch.rand(()) < 0.1):
                    texts[(*ids, *[0] * 20)[:20]] = split, number  # 20 words; 0 is padding
inputs, (splits, targets) = torch.tensor([*texts]), torch.tensor([*texts.values()]).T
train, fit, validation, test = ((splits == split).nonzero().flatten() for split in range(4))


class Classifier(torch.nn.ModuleDict):
    """An embedding, an encoder, and a head that sees the mean word, without the padding."""

    def forward(self, ids):
        there = (ids != 0).unsqueeze(2)
        words = self["encoder"](self["embedding"](ids), src_key_padding_mask=ids == 0)
        return self["head"]((words * there).sum(1) / there.sum(1))

    def macro_f1(self, numbers=fit):
        return multiclass_f1_score(self(inputs[numbers]), targets[numbers], num_classes=20).item()


encoder = torch.nn.TransformerEncoderLayer(64, nhead=4, dim_feedforward=128, dropout=0.2, batch_first=True)
parent = Classifier({"embedding": torch.nn.Embedding(4096, 64), "encoder": encoder, "head": torch.nn.Linear(64, 20)})
optimizer = torch.optim.Adam(parent.parameters(), lr=0.002)
for batch in torch.cat([train[torch.randperm(len(train))] for _ in range(8)]).split(64):
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(parent(inputs[batch]), targets[batch]).backward()
    optimizer.step()
best = parent.eval()
problem = FinetuneProblem(parent, None, ModuleFitness("F1", "max", Classifier.macro_f1), select="head", seed=seed)
searcher = SubspaceES(problem, popsize=32, density=0.1, sigma=0.3, center_learning_rate=0.02)
for _ in range(generations):
    searcher.run(1)
    best = max(best, problem.make_net(), key=lambda network: network.macro_f1(validation))
print(f"test macro-F1: parent {100 * parent.macro_f1(test):.1f} %, fine-tuned {100 * best.macro_f1(test):.1f} %")
