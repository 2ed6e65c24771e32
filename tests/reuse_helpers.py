"""Networks that do what makes it hard to return what was computed before."""

from functools import partial
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional

from smd_evo import Evaluator, Lineage, RandomSubspace, sample_mutations
from smd_evo.core.parameters import Child
from smd_evo.evaluation.classification import logits_of


class Net(nn.Module):
    """A stem and a head around what a test is about, which does most of the work."""

    def __init__(self, *body, width=16):
        super().__init__()
        self.stem = nn.Sequential(nn.Flatten(), nn.Linear(192, width), nn.Tanh())
        self.body = nn.Sequential(*body)
        self.head = nn.Linear(width, 4)

    def forward(self, x):
        return self.head(self.body(self.stem(x)))


def mlp():
    return Net(nn.Linear(16, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 16), nn.ReLU(inplace=True))


class Cnn(nn.Module):
    """Batch normalisation, activations in place, a shortcut."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(x))
        y += x
        return self.head(self.relu(y).mean((2, 3)))


class Vit(nn.Module):
    """A token that is a parameter is expanded and put before the others."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 4, 4)
        self.cls_token = nn.Parameter(torch.randn(1, 1, 16))
        self.pos_embed = nn.Parameter(torch.randn(1, 5, 16))
        self.blocks = nn.Sequential(
            *(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=True) for _ in range(3))
        )
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 4)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        return self.head(self.norm(self.blocks(x))[:, 0])


class ClassAttention(nn.Module):
    """Blocks are given the expanded token itself, a view of a parameter; and the other tokens beside it."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(16, 16)

        def forward(self, tokens, token):
            return token + self.layer(tokens).mean(1, keepdim=True) * token

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 4, 4)
        self.cls_token = nn.Parameter(torch.randn(1, 1, 16))
        self.blocks = nn.ModuleList([self.Block(), self.Block()])
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 4)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        token = self.cls_token.expand(len(x), -1, -1)
        for block in self.blocks:
            token = block(x, token)
        return self.head(self.norm(token)[:, 0])


class Twice(nn.Module):
    """A module that is called twice, once inside of another."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(192, 16)
        self.shared = nn.Sequential(nn.Linear(16, 16), nn.Tanh())
        self.outer = nn.Sequential(self.shared, nn.Linear(16, 16))
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        x = self.stem(x.flatten(1))
        return self.head(self.shared(self.outer(self.shared(x))))


class Tied(nn.Module):
    """The head's weight is the embedding's."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(4, 16)
        self.body = nn.Sequential(nn.Linear(192, 16), nn.ReLU(), nn.Linear(16, 16))
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 4, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x):
        numbers = (x[:, 0, 0] > 0).sum(1) % 4
        return self.head(self.norm(self.body(x.flatten(1)) + self.embedding(numbers)))


class Borrows(nn.Module):
    """Uses a weight of another module, which nobody tells from its arguments."""

    class Borrower(nn.Module):
        def __init__(self, lender):
            super().__init__()
            self.lender = [lender]
            self.own = nn.Linear(16, 16)

        def forward(self, x):
            return functional.linear(self.own(x), self.lender[0].weight).tanh()

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(192, 16)
        self.lender = nn.Linear(16, 16)
        self.borrower = self.Borrower(self.lender)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        return self.head(self.borrower(self.stem(x.flatten(1))))


class Gives(nn.Module):
    """A module that returns its own parameter, and one that returns somebody else's, and a view of its input."""

    class Scale(nn.Module):
        def __init__(self, scale):
            super().__init__()
            self.scale = scale

        def forward(self, x):
            return self.scale, x[:, :8], x[:, 8:]

    class Foreign(nn.Module):
        def __init__(self, other):
            super().__init__()
            self.other = [other]

        def forward(self, x):
            return self.other[0].weight[0]

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(192, 16)
        self.give = self.Scale(nn.Parameter(torch.randn(8)))
        self.foreign = self.Foreign(self.stem)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = x.flatten(1)
        scale, one, other = self.give(self.stem(x))
        one += 1  # in place, of what the stem has returned
        return self.head(one * other * scale + self.foreign(one)[:8])


class Alias(nn.Module):
    """What dropout returns in eval mode is its input, and changes with it."""

    def __init__(self):
        super().__init__()
        self.stem, self.drop = nn.Linear(192, 16), nn.Sequential(nn.Dropout(), nn.Identity())
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        x = self.stem(x.flatten(1))
        y = self.drop(x)
        x += 1
        return self.head(x * y)


class Random(nn.Module):
    """Dropout that is always on."""

    def __init__(self):
        super().__init__()
        self.stem, self.body, self.head = nn.Linear(192, 16), nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x):
        x = functional.dropout(self.stem(x.flatten(1)), 0.3, training=True)
        return self.head(functional.dropout(self.body(x), 0.3, training=True))


class Dropping(nn.Module):
    """A module that switches itself to train mode."""

    class Dropped(nn.Dropout):
        def forward(self, x):
            self.train()
            return super().forward(x)

    def __init__(self):
        super().__init__()
        self.stem, self.drop, self.head = nn.Linear(192, 16), self.Dropped(0.3), nn.Linear(16, 4)

    def forward(self, x):
        return self.head(self.drop(self.stem(x.flatten(1))))


class Counts(nn.Module):
    """Modules that write to buffers: in place, by another object, past the count of changes; one reads another's."""

    class Counter(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.norm = nn.Linear(16, 16), nn.BatchNorm1d(16)
            self.register_buffer("calls", torch.zeros(()))
            self.register_buffer("last", torch.zeros(16))

        def forward(self, x):
            self.calls += 1
            self.last = 0.5 * self.last + x.mean(0)
            x = functional.batch_norm(
                x, self.norm.running_mean, self.norm.running_var, self.norm.weight, self.norm.bias, training=True
            )
            return self.layer(x) + self.calls + self.last

    def __init__(self):
        super().__init__()
        self.stem, self.counter, self.head = nn.Linear(192, 16), self.Counter(), nn.Linear(16, 4)
        self.after = nn.Linear(16, 16)

    def forward(self, x):
        x = self.counter(self.stem(x.flatten(1)))
        return self.head(self.after(x) * self.counter.norm(x) + self.counter.calls)


class Leaves(nn.Module):
    """Modules that leave something behind for others."""

    class Leaver(nn.Linear):
        def forward(self, x):
            self.left = super().forward(x)
            return self.left.tanh()

    class Finder(nn.Module):
        def __init__(self, leaver):
            super().__init__()
            self.leaver = [leaver]
            self.layer = nn.Linear(16, 16)

        def forward(self, x):
            return self.layer(x) * self.leaver[0].left

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(192, 16)
        self.leaver = self.Leaver(16, 16)
        self.finder = self.Finder(self.leaver)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        return self.head(self.finder(self.leaver(self.stem(x.flatten(1)))))


class Whispers(nn.Module):
    """One tells another a number by an attribute, which is what it was before where the parent was there last."""

    class Loud(nn.Linear):
        def forward(self, x):
            x = super().forward(x)
            self.level = float(x.abs().max())
            return x

    class Hears(nn.Module):
        def __init__(self, loud):
            super().__init__()
            self.loud = [loud]
            self.layer = nn.Linear(16, 16)

        def forward(self, x):
            return self.layer(x) * self.loud[0].level

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(192, 16)
        self.loud = self.Loud(16, 16)
        self.hears = self.Hears(self.loud)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        return self.head(self.hears(self.loud(self.stem(x.flatten(1)))))


class Note:
    """What everybody may write on."""

    def write(self, level):
        self.level = level

    def read(self):
        return self.level


class Notes(nn.Module):
    """One leaves a number where its caller finds it: in a list or a dict that it keeps, or in what it was given."""

    WAYS: ClassVar = {
        "list": (list, lambda note, level: (note.clear(), note.append(level)), lambda note: note[0]),
        "dict": (dict, lambda note, level: note.update(level=level), lambda note: note["level"]),
        "number": (dict, lambda note, level: note.update(level=float(level)), lambda note: note["level"]),
        "object": (Note, Note.write, Note.read),
        "argument": (list, lambda note, level: note.append(level), sum),
    }

    class Loud(nn.Linear):
        def __init__(self, note, write):
            super().__init__(16, 16)
            self.note, self.write = note, write

        def forward(self, x, note=None):
            x = super().forward(x)
            self.write(self.note if note is None else note, x.abs().max())
            return x

    class Hears(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(16, 16)

        def forward(self, x, level):
            return self.layer(x) * level

    def __init__(self, way):
        super().__init__()
        self.given = way == "argument"
        self.kind, write, self.read = self.WAYS[way]
        self.stem = nn.Linear(192, 16)
        self.loud, self.hears = self.Loud(self.kind(), write), self.Hears()
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        x, note = self.stem(x.flatten(1)), self.kind() if self.given else self.loud.note
        x = self.loud(x, note) if self.given else self.loud(x)
        return self.head(self.hears(x, self.read(note)))


class Pair(nn.Module):
    """Its input and what it makes of it."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(16, 16)

    def forward(self, x):
        return x, self.layer(x).tanh()


class Halves(nn.Module):
    """Two outputs in one memory."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(16, 32)

    def forward(self, x):
        return self.layer(x).tanh().chunk(2, 1)


class Program(nn.Module):
    """Calls modules and writes to tensors in an order that is given: what, by which module, to which, with which."""

    def __init__(self, steps):
        super().__init__()
        inner = nn.Linear(16, 16)
        self.parts = nn.ModuleList(
            [
                inner,
                nn.Sequential(inner, nn.ReLU(inplace=True), nn.Linear(16, 16)),
                nn.Sequential(nn.Dropout(), nn.Identity()),
                nn.Sequential(nn.Linear(16, 16), nn.ReLU(inplace=True)),
                nn.ReLU(inplace=True),
                Pair(),
                Halves(),
            ]
        )
        self.stem, self.head = nn.Linear(192, 16), nn.Linear(16, 4)
        self.steps = steps

    def forward(self, x):
        pool = [self.stem(x.flatten(1))]
        for what, module, one, other in self.steps:
            one, other = one % len(pool), other % len(pool)
            if what == "call":
                found = self.parts[module](pool[one])
                pool += found if isinstance(found, tuple) else [found]
            elif what == "add":
                pool.append(pool[one] + pool[other])
            elif what == "write":
                pool[one] += pool[other]
            else:
                pool.append(pool[one].view(-1, 16))
        return self.head(sum(tensor / (1 + number) for number, tensor in enumerate(pool)))


class Structures(nn.Module):
    """Dictionaries and tuples in and out; arguments that are no tensors."""

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(16, 16)

        def forward(self, pair, *, scale=1.0, more=None):
            features, state = pair
            state = {**state, "count": state["count"] + 1}
            return self.layer(features["x"]) * scale + state["count"], {"pair": (features, state), "more": more}

    class Thing:
        def __init__(self):
            self.factor = 2.0

    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(16, 16)

        def forward(self, x, thing):
            thing.factor += float(x.mean())
            return self.layer(x) * thing.factor

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(192, 16)
        self.one, self.two, self.odd, self.head = self.Layer(), self.Layer(), self.Odd(), nn.Linear(16, 4)

    def forward(self, x):
        x, rest = self.one(({"x": self.stem(x.flatten(1))}, {"count": 1}), scale=2.0, more=("a", None))
        x, rest = self.two(({"x": x}, rest["pair"][1]), scale=-0.0)
        return {"logits": self.head(self.odd(x, self.Thing())), "rest": rest}


class Hooked(nn.Module):
    """Old weight normalisation is a hook; another hook changes outputs in place, inside of a container."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(192, 16)
        self.body = nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 16))
        self.seen = []
        self.body[2].register_forward_hook(self.hook)
        self.body[0].register_forward_pre_hook(lambda module, arguments: (arguments[0] * 2,))
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(16, 16))
        self.head = nn.Linear(16, 4)

    def hook(self, module, arguments, output):
        output.mul_(2)
        self.seen.append(1)

    def forward(self, x):
        return self.head(self.normed(self.body(self.stem(x.flatten(1)))))


class Autocast(nn.Module):
    """One layer twice, in low precision and in full."""

    def __init__(self):
        super().__init__()
        self.stem, self.layer, self.head = nn.Linear(192, 16), nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x):
        x = self.stem(x.flatten(1)).float()
        with torch.autocast("cpu", torch.bfloat16):
            low = self.layer(x)
        with torch.autocast("cpu", enabled=False):
            return self.head(low.float() + self.layer(x))


NETWORKS = [
    mlp, Cnn, Vit, ClassAttention, Twice, Tied, Borrows, Gives, Alias, Random, Dropping, Counts, Leaves, Whispers,
    Structures,
    Hooked, Autocast,
]  # fmt: skip


NOTES = [partial(Notes, way) for way in Notes.WAYS]


def made(kind):
    torch.manual_seed(3)
    network = kind()
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.running_mean)
            nn.init.uniform_(part.running_var)
            nn.init.uniform_(part.weight)
    return network.eval()


def children(count=4, density=0.3) -> list[Child]:
    return [*sample_mutations(0, count, subspace=RandomSubspace(density), sigma=0.3), Lineage()]


def images(count=12, size=8, channels=3):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, channels, size, size, generator=generator), torch.arange(count) % 4


def slow(space, recipes, batches):
    """Outputs of a deep copy of the network for each child, batch after batch; nothing is shared."""
    found = []
    for recipe in recipes:
        child = space.make_child(recipe).eval()
        torch.manual_seed(0)
        with torch.inference_mode():
            found.append(torch.cat([logits_of(child(inputs)).float() for inputs, _ in batches]))
    return torch.stack(found)


def parts(samples, *sizes):
    return list(zip(*(tensor.split(list(sizes)) for tensor in samples), strict=True))


class Counting(nn.Module):
    """A layer that counts its calls, where nothing that is compared sees it."""

    def __init__(self, calls):
        super().__init__()
        self.layer = nn.Linear(16, 16)
        self.calls = calls

    def forward(self, x):
        self.calls.append(len(x))
        return self.layer(x)

    def __deepcopy__(self, memo):
        return self


class Calls:
    """A list that grows unseen."""

    def __init__(self):
        self.sizes = []

    def append(self, size):
        self.sizes.append(size)


def counting():
    calls = Calls()
    torch.manual_seed(0)
    network = Net(Counting(calls), nn.Tanh()).eval()
    Evaluator(network, images(), select="head", reuse=False).evaluate([])  # tries the weights
    return network, calls.sizes
