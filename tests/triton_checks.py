"""Triton's kernels against the tensor operations, on one device: bits of everything they make.

As a script, under TRITON_INTERPRET=1, on tensors on the CPU: prints a line of JSON, the complaints of each check.
"""

import json
import sys

import torch

from smd_evo import Dense, Layout, LowRank, PartitionSubspace, RandomSubspace, gaussian, permutation, sample_mutations
from smd_evo.core import compiled_cuda, fast
from smd_evo.core.gradient import es_gradient
from smd_evo.core.keys import key_to_int64

KEYS = [0, 1, 2, 7, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1, 0x0123456789ABCDEF]
ENDS = [-(2**63), -(2**63) + 1, -(2**33), -(2**32), -2, -1, 0, 1, 2, 2**32, 2**33 - 1, 2**33, 2**63 - 2, 2**63 - 1]
SIZES = [1, 2, 3, 1000, 2**10, 2**10 + 1, 65_537, 10**6 + 3, 2**31, 2**40 - 1, 2**40]


def same(one, other):
    """Also the signs of zeros."""
    words = torch.int32 if one.dtype == torch.float32 else torch.int64
    return (one.dtype, one.shape, one.device) == (other.dtype, other.shape, other.device) and torch.equal(
        one.view(words), other.view(words)
    )


def eager(function, *arguments, **options):
    before = fast._state.off, fast._on_cuda.off
    fast._state.off = fast._on_cuda.off = True
    try:
        return function(*arguments, **options)
    finally:
        fast._state.off, fast._on_cuda.off = before


def places(device, count):
    generator = torch.Generator().manual_seed(1)
    anywhere = torch.randint(-(2**63), 2**63 - 1, (count,), generator=generator)
    return torch.cat([torch.tensor(ENDS), torch.arange(-3, count), anywhere]).to(device)


def field(device, count):
    some, width = places(device, count), compiled_cuda._BLOCK
    for dtype, name in ((torch.float32, "gaussian32"), (torch.float64, "gaussian64")):
        for key in KEYS:
            for part in (some, some[:1], some[:width], some[: width + 1], some[:0]):
                out = torch.empty(len(part), dtype=dtype, device=device)
                compiled_cuda.launcher(name)(key_to_int64(key), part, out)
                if not same(out, eager(gaussian, key, part, dtype)):
                    yield f"{dtype}, key {key}, {len(part)} coordinates"


def field_of_many_keys(device, count):
    some = places(device, count)
    keys = torch.cat([torch.tensor([key_to_int64(key) for key in KEYS], device=device), some])[: len(some)]
    for dtype, name in ((torch.float32, "gaussian_keyed32"), (torch.float64, "gaussian_keyed64")):
        for own in (keys, keys.flip(0)):
            out = torch.empty(len(some), dtype=dtype, device=device)
            compiled_cuda.launcher(name)(own, some, out)
            if not same(out, eager(gaussian, own, some, dtype)):
                yield f"{dtype}"


def positions_of(size, device, count):
    some = torch.randint(0, size, (count,), generator=torch.Generator().manual_seed(3))
    return torch.cat([torch.arange(min(size, count)), torch.arange(max(0, size - count), size), some]).to(device)


def arguments(size):
    return 7 if size > 2**10 else 24, size, (size - 1).bit_length() // 2


def permutations(device, count):
    move = compiled_cuda.launcher("permutation")
    for size in SIZES:
        positions, (rounds, _, bits) = positions_of(size, device, count), arguments(size)
        for key in KEYS[:: 1 if count > 10_000 else 4]:
            for part in (positions, positions[:0]):
                out = torch.empty_like(part)
                inside = move(key_to_int64(key), rounds, part, size, bits, out)
                if not inside or not same(out, eager(permutation, key, part, size)):
                    yield f"size {size}, key {key}, {len(part)} positions"


def permutations_of_many_keys(device, count):
    move = compiled_cuda.launcher("permutation_keyed")
    for size in SIZES:
        positions, (rounds, _, bits) = positions_of(size, device, count), arguments(size)
        keys = places(device, len(positions))[: len(positions)]
        out = torch.empty_like(positions)
        inside = move(keys, rounds, positions, size, bits, out)
        if not inside or not same(out, eager(permutation, keys, positions, size)):
            yield f"size {size}"


def positions_out_of_range(device, count):
    for name in ("permutation", "permutation_keyed"):
        for size in (1, 2**10 + 1, 2**40):
            for wrong in (-1, size, -(2**63), 2**63 - 1):
                positions = torch.zeros(compiled_cuda._BLOCK + 3, dtype=torch.int64, device=device)
                positions[-1] = wrong
                rounds, _, bits = arguments(size)
                key = positions if name.endswith("keyed") else 7
                if compiled_cuda.launcher(name)(key, rounds, positions, size, bits, torch.empty_like(positions)):
                    yield f"{name}: {wrong} of {size} was let through"


def sums(device, count):
    """Sums of fields whose shares go over all of float32's range, at all coordinates, at some, and as gradients."""
    shares = [1e-40, -3.3, 1 / 3, 0.0, 1e37, -0.0, 0.1, 5e-324, 1e-3, 7.0, 2.5]
    words = torch.tensor([key_to_int64(key) for key in KEYS], device=device)
    weights = torch.tensor(shares, dtype=torch.float64).float().to(device)
    start = torch.linspace(-2, 2, count, device=device)
    some = torch.arange(1, count, 3, device=device)
    anywhere = places(device, count)
    for children in (0, 1, len(KEYS)):
        own = words[:children], weights[:children]
        whole, at = start.clone(), start.repeat(3)[: len(anywhere)].clone()
        within, part = start.clone(), start[some]
        compiled_cuda.launcher("add_run")(*own, whole)
        compiled_cuda.launcher("add_at")(*own, anywhere, at)
        if not compiled_cuda.launcher("add_within")(*own, some, within):
            yield "ascending coordinates are refused"
        expected = start.clone(), start.repeat(3)[: len(anywhere)].clone()
        for key, share in zip(KEYS[:children], shares, strict=False):
            expected[0].add_(eager(gaussian, key, torch.arange(count, device=device)).mul_(share))
            expected[1].add_(eager(gaussian, key, anywhere).mul_(share))
            part.add_(eager(gaussian, key, some).mul_(share))
        third = start.clone()
        third[some] = part
        for name, made, wanted in (("run", whole, expected[0]), ("at", at, expected[1]), ("within", within, third)):
            if not same(made, wanted):
                yield f"{name} of {children} children"


def sums_of_few(device, count):
    width = compiled_cuda._BLOCK
    for length in (0, 1, 2, 3, width - 1, width, width + 1, 2 * width + 1):
        total = torch.ones(length, device=device)
        words, weights = torch.tensor([5], device=device), torch.tensor([0.7], device=device)
        compiled_cuda.launcher("add_run")(words, weights, total)
        noise = eager(gaussian, 5, torch.arange(length, device=device)).mul_(0.7)
        if not same(total, torch.ones(length, device=device).add_(noise)):
            yield f"{length}"


def sums_write_only_where_they_may(device, count):
    total = torch.zeros(10, device=device)
    words, weights = torch.tensor([5], device=device), torch.tensor([0.7], device=device)
    for wrong in ([-1, 3], [3, 10], [3, 3], [5, 4], [2**62, 2**63 - 1]):
        added = compiled_cuda.launcher("add_within")(words, weights, torch.tensor(wrong, device=device), total)
        if added or total.any():
            yield f"{wrong}"
    if not compiled_cuda.launcher("add_within")(words, weights, torch.tensor([], device=device).long(), total):
        yield "none"


def whole_path(device, count):
    """As users ask: through the choice between the two, whatever the shape, and gradients of subspaces."""
    before = len(fast._on_cuda.kernels)
    grid = places(device, 300)[:600].view(2, -1)
    for function, last in ((gaussian, torch.float32), (gaussian, torch.float64), (gaussian, torch.bfloat16)):
        for key in (3, torch.tensor([[5], [-6]]), grid * 3):
            if not torch.equal(function(key, grid.t().t(), last), eager(function, key, grid, last)):
                yield f"field of {last}"
        if function(3, grid[0, 0], last) != eager(function, 3, grid[0, 0], last):
            yield "a single coordinate"
    positions = torch.arange(600, device=device).view(2, -1)
    for key in (3, torch.tensor([[5], [-6]]), positions[:, :150]):
        if not same(permutation(key, positions[:, ::2], 601), eager(permutation, key, positions[:, ::2], 601)):
            yield "permutation"
    for subspace in (
        Dense(),
        RandomSubspace(0.3),
        RandomSubspace(0.3, static=True),
        PartitionSubspace(5),
        LowRank(1),
    ):
        layout = Layout.flat(count + 1)
        children = sample_mutations(4, 6, subspace=subspace, sigma=0.37)
        weights = torch.linspace(-0.5, 0.7, 6, dtype=torch.float64)
        made, wanted = (
            ask(es_gradient, children, weights, layout, device=device)
            for ask in (lambda f, *a, **o: f(*a, **o), eager)
        )
        if not same(made, wanted):
            yield f"gradient of {subspace.spec}"
        if subspace.static:
            own = {"coordinates": subspace.coordinates(children[0].draw, layout, device), "device": device}
            if not same(
                es_gradient(children, weights, layout, **own), eager(es_gradient, children, weights, layout, **own)
            ):
                yield f"gradient in {subspace.spec}"
    if fast._on_cuda.off or len(fast._on_cuda.kernels) <= before:
        yield f"only {list(fast._on_cuda.kernels)} were used"


CHECKS = [
    field,
    field_of_many_keys,
    permutations,
    permutations_of_many_keys,
    positions_out_of_range,
    sums,
    sums_of_few,
    sums_write_only_where_they_may,
    whole_path,
]


def everything_on_the_cpu(patch=setattr):
    """As if the CPU were a GPU: all goes to Triton's kernels, however little."""
    patch(fast, "_PAYS_CUDA", 0)
    patch(fast, "_state_of", lambda device: fast._on_cuda)
    patch(fast, "_array", lambda tensor: tensor.reshape(-1).contiguous())
    patch(compiled_cuda, "build", compiled_cuda.launcher)


def main():
    everything_on_the_cpu()
    compiled_cuda._BLOCK = 4096  # few turns of the interpreter
    json.dump({check.__name__: list(check(torch.device("cpu"), 3000)) for check in CHECKS}, sys.stdout)


if __name__ == "__main__":
    main()
