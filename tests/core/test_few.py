"""The noise of few values in Python's own numbers, and of plain vectors: the bits of the tensor operations."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from evotorch import Problem
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from smd_evo import (
    Layout,
    LineageIndividual,
    RandomSubspace,
    SparseGaussianMutation,
    gaussian,
    mutSparseGaussian,
    permutation,
)
from smd_evo.core import fast
from smd_evo.core.keys import derive, key_to_int64
from smd_evo.core.vectors import sparse_noise

KEYS = st.integers(0, 2**64 - 1)
PLACES = st.integers(-(2**63), 2**63 - 1)
SIZES = st.one_of(st.integers(1, 70), st.integers(1000, 1050), st.integers(1, 2**40))
WAYS = {"few": (2**60, 64), "kernels": (0, 64), "tensor operations": (2**60, -1)}
"""When kernels pay, and how many values are few."""


def made(way, function, *arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fast, "_state", fast._State())
        pays, few = WAYS[way]
        patch.setattr(fast, "_PAYS", pays)
        patch.setattr(fast, "_FEW", few)
        patch.setattr(fast, "_build", KERNELS.get if pays == 0 else None)
        return function(*arguments)


class Built(dict):
    """Each kernel is loaded once, however many processes are played."""

    def get(self, name, state):
        if name not in self:
            self[name] = BUILD(name, state)
        return self[name]


BUILD, KERNELS = fast._build, Built()


def agree(function, *arguments):
    results = [made(way, function, *arguments) for way in ("few", "tensor operations")]
    assert results[0].dtype == results[1].dtype
    assert results[0].shape == results[1].shape
    assert torch.equal(*(result.contiguous().view(torch.uint8) for result in results if result.dim()))


@given(KEYS, st.lists(PLACES, max_size=8), st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
def test_the_field(key, places, dtype):
    places = torch.tensor(places, dtype=torch.int64)
    agree(gaussian, key, places, dtype)
    agree(gaussian, places ^ key_to_int64(key), places, dtype)
    agree(gaussian, places[:, None] ^ key_to_int64(key), places, dtype)


@given(KEYS, SIZES, st.data())
def test_the_permutation(key, size, data):
    places = torch.tensor(data.draw(st.lists(st.integers(0, size - 1), max_size=8)), dtype=torch.int64)
    agree(permutation, key, places, size)
    keys = torch.tensor(data.draw(st.lists(PLACES, min_size=len(places), max_size=len(places))), dtype=torch.int64)
    agree(permutation, keys, places, size)
    agree(permutation, keys[:, None], places, size)


def test_words_and_radii_at_their_ends():
    """Halves of square roots and ones are where the logarithm's pieces meet: many values pass them all."""
    generator = torch.Generator().manual_seed(1)
    places = torch.randint(-(2**63), 2**63 - 1, (2000,), generator=generator)
    few = torch.cat([made("few", gaussian, 3, piece, torch.float64) for piece in places.split(50)])
    assert torch.equal(few, made("tensor operations", gaussian, 3, places, torch.float64))


@pytest.mark.parametrize("positions", [[5], [-1], [0, 2**62]])
def test_positions_out_of_range(positions):
    with pytest.raises(ValueError, match="positions: expected values in"):
        made("few", permutation, 1, torch.tensor(positions), 5)


@given(KEYS, KEYS, st.integers(1, 150), st.floats(0.001, 1))
def test_noise_of_a_vector(draw, key, size, density):
    """The subspace's coordinates and the field there, whichever code makes them."""
    rule = RandomSubspace(density)
    places = made("tensor operations", rule.coordinates, draw, Layout.flat(size))
    noise = made("tensor operations", gaussian, key, places)
    for way in WAYS:
        own_places, own_noise = made(way, sparse_noise, rule, draw, key, size)
        assert (own_places.dtype, own_noise.dtype) == (np.int64, np.float32)
        assert own_places.tolist() == places.tolist()
        assert own_noise.tobytes() == noise.numpy().tobytes()


@given(KEYS, st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1), st.booleans())
def test_one_draw_is_that_of_many(key, generation, index, static):
    rule = RandomSubspace(0.3, static=static)
    (expected,) = rule.draws(key, generation, torch.tensor([index])).tolist()
    assert key_to_int64(rule.draw(key, generation, index)) == expected


def test_names_of_keys_are_hashed_once_and_right():
    assert derive(1, "noise", "noise") == derive(derive(1, "noise"), "noise") != derive(1, "noise", "Noise")


class Operations(TorchDispatchMode):
    """How many tensor operations there are: each costs microseconds, which small genomes have not got."""

    count = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        self.count += 1
        return function(*arguments, **(keywords or {}))


def operations(way, function, *arguments, **options):
    with Operations() as operations:
        made(way, lambda: function(*arguments, **options))
    return operations.count


@pytest.mark.parametrize("way", ["few", "kernels"])
def test_a_small_genome_takes_no_tensor_operations(way):
    for genes in ([0.0] * 10, np.zeros(50)):
        assert operations(way, mutSparseGaussian, genes, 0, 1, 0.3) == 0
    assert operations(way, mutSparseGaussian, LineageIndividual(), 0, 1, 0.3) == 0


def test_a_small_population_takes_dozens():
    problem = Problem("min", torch.linalg.norm, solution_length=3, initial_bounds=(-1, 1), seed=1)
    mutate, parents = SparseGaussianMutation(problem, stdev=0.1, density=0.4), problem.generate_batch(200)
    with_kernels, without = (operations(way, mutate, parents) for way in ("kernels", "tensor operations"))
    assert with_kernels < 120 < 600 < without


def test_a_thousand_small_mutations_load_no_kernels():
    code = """
import random, sys, torch
from smd_evo import mutSparseGaussian
random.seed(1)
for _ in range(1000):
    mutSparseGaussian([0.0] * 10, 0, 1, 0.1)
print("numba" in sys.modules)
for _ in range(300):
    mutSparseGaussian([0.0] * 1000, 0, 1, 0.1)
from smd_evo.core import fast
print("numba" in sys.modules or fast._state.off)
"""
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == ["False", "True"]
