"""Files as chance or malice changes them: bytes, plain values, safetensors; and what may come of reading one."""

import contextlib
import copy
import json
import random
import sys

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save

from smd_evo.errors import SmdEvoError

CODE = "junk_sentinel"
"""A module that is there to be found; nothing may import it."""

ODD = (
    *(None, True, False, 0, 1, -1, 2**31, 2**63, -(2**63) - 1, 10**60, 1e-320, 1e308, float("inf"), float("nan")),
    *("", "x", "a\nb", "\x1b[31m", "\ud800", "\0", "x" * 5000, "2024-01-01", "1e400", f"{CODE}:make"),
    *([], {}, [[[1]]], {"a": {"b": []}}, [None], [1, "a"], {"$tensor": []}, list(range(300))),
)
_BYTES = (
    b"",
    b"\0",
    b"\xff",
    b"[",
    b"{",
    b'"',
    b"-",
    b"9" * 400,
    b"\n",
    b": ",
    b"null",
    b"!!int ",
    b"&a ",
    b"*a",
    b"[" * 3000,
)


def changed_bytes(chance: random.Random, content: bytes) -> bytes:
    """A few bytes deleted, doubled, or written over."""
    for _ in range(chance.choice((1, 1, 2, 4))):
        start = chance.randrange(len(content) + 1)
        end = min(len(content), start + chance.choice((0, 1, 1, 3, 8, 40, 1000)))
        piece = chance.choice((*_BYTES, bytes([chance.randrange(256)]), content[start:end] * 2))
        content = content[:start] + piece + content[end:]
    return content


def changed(chance: random.Random, value):
    """A copy of plain values with one of them, somewhere inside, gone or something else."""
    value = copy.deepcopy(value)
    while isinstance(value, dict | list) and value:
        parent, place = value, chance.choice(list(value) if isinstance(value, dict) else range(len(value)))
        inside = parent[place]
        while isinstance(inside, dict | list) and inside and chance.random() < 0.8:
            parent, place = inside, chance.choice(list(inside) if isinstance(inside, dict) else range(len(inside)))
            inside = parent[place]
        if chance.random() < 0.25:
            del parent[place]
        else:
            parent[place] = copy.deepcopy(chance.choice(ODD))
        return value
    return copy.deepcopy(chance.choice(ODD))


def changed_tensor(chance: random.Random, tensor):
    """Another type, another shape, or other numbers."""
    if tensor.is_floating_point():
        numbers = (float("nan"), float("inf"), -1.0, 0.0, 1e30)
    else:
        numbers = (-1, 0, 2**31, 2**62)
    how = chance.randrange(5)
    if how == 0:
        return tensor.to(chance.choice((torch.float16, torch.float64, torch.int8, torch.bool, torch.int64)))
    if how == 1:
        return tensor.flatten()[: chance.randrange(tensor.numel() + 1)].clone()
    if how == 2:
        return torch.cat([tensor.flatten(), tensor.flatten()[:3]])
    if how == 3:
        return tensor[None].clone()
    found = tensor.clone().flatten()
    if found.numel():
        limits = torch.iinfo(found.dtype) if not found.is_floating_point() and found.dtype != torch.bool else None
        number = chance.choice(numbers)
        found[chance.randrange(found.numel())] = min(max(number, limits.min), limits.max) if limits else number
    return found.view(tensor.shape)


def changed_safetensors(chance: random.Random, path, entry="smd_evo", keep_checksum=False):
    """The content of such a file with something else in its tensors, in what it says of itself, or in its bytes."""
    how = chance.random()
    if how < 0.3:
        return changed_bytes(chance, path.read_bytes())
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()[entry])
    if not keep_checksum:
        about.pop("checksum", None)
    if how < 0.6:
        name = chance.choice(sorted(tensors))
        tensors[name] = changed_tensor(chance, tensors[name])
    else:
        about = changed(chance, about)
    text = (
        json.dumps(about)
        if chance.random() < 0.9
        else changed_bytes(chance, json.dumps(about).encode()).decode("latin1")
    )
    return save(tensors, {entry: text})


def settled(read, *arguments):
    """What reading something ends with: an object, or an error of this package's that is one line."""
    try:
        found = read(*arguments)
    except SmdEvoError as error:
        found = error
    if isinstance(found, SmdEvoError):
        text = str(found)
        assert len(text.splitlines()) == 1, text
        assert len(text) < 3000, text[:3000]
    assert CODE not in sys.modules
    return found


@contextlib.contextmanager
def little_memory(most=2**30):
    """A block in which this process gets no more than so many bytes of new memory, where the system sees to that."""
    try:
        import resource

        with open("/proc/self/statm", encoding="ascii") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
    except (ImportError, OSError):
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
