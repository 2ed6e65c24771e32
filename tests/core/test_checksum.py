"""The checksum of a network: it tells apart what an accident would make, and nothing else."""

import copy
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from smd_evo import ParameterSpace
from smd_evo.core.checksum import checksum


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(5, 7).bfloat16())


def flat(module):
    """All bytes of a network, one behind the other: flipped in place."""
    return [tensor.data.view(-1).view(torch.uint8).numpy() for tensor in module.state_dict(keep_vars=True).values()]


def at(parts, place):
    for part in parts:
        if place < len(part):
            return part, place
        place -= len(part)
    raise AssertionError


BYTES = sum(map(len, flat(network())))


def test_it_is_the_crc_of_all_bytes_in_order():
    module = network()
    assert checksum(module) == zlib.crc32(np.concatenate(flat(module)).tobytes())


@given(st.integers(0, 8 * BYTES - 1))
def test_any_single_bit_counts(bit):
    module = network()
    before = checksum(module)
    part, place = at(flat(module), bit // 8)
    part[place] ^= 1 << bit % 8
    assert checksum(module) != before
    part[place] ^= 1 << bit % 8
    assert checksum(module) == before


@given(st.data())
def test_any_two_values_that_change_places_count(data):
    module = network()
    weight = module[0].weight.data.view(-1)
    one, other = (data.draw(st.integers(0, len(weight) - 1)) for _ in range(2))
    if data.draw(st.booleans()):
        weight[other] = -weight[one]  # they differ in their highest bit alone, where a sum modulo 2**n is weak
    before, same = checksum(module), bool(weight[one] == weight[other])
    weight[[one, other]] = weight[[other, one]]
    assert (checksum(module) == before) == same


def test_a_buffer_counts():
    module = network()
    before = checksum(module)
    module[1].running_mean[2] += 1e-30
    assert checksum(module) != before


@pytest.mark.parametrize("change", [nn.Module.train, nn.Module.eval, copy.deepcopy])
def test_modes_and_copies_do_not_count(change):
    assert checksum(change(network())) == checksum(network())


def test_the_memory_format_does_not_count():
    assert checksum(network().to(memory_format=torch.channels_last)) == checksum(network())


LINKS = torch.tensor([[0.0, 2.0, 0.0, 0.0], [1.0, 0.0, 0.0, 3.0]])


@pytest.mark.filterwarnings("ignore:Sparse .* support is in beta:UserWarning")
@pytest.mark.parametrize(
    "sparse",
    [
        torch.Tensor.to_sparse,
        torch.Tensor.to_sparse_csr,
        torch.Tensor.to_sparse_csc,
        lambda dense: dense.to_sparse_bsr((1, 2)),
        lambda dense: dense.to_sparse_bsc((1, 2)),
    ],
    ids=["coo", "csr", "csc", "bsr", "bsc"],
)
def test_a_sparse_buffer_counts_by_its_values_and_their_places(sparse):
    def digests(dense):
        module = nn.Linear(2, 2)
        module.register_buffer("links", sparse(dense))
        nn.init.ones_(module.weight)
        nn.init.ones_(module.bias)
        return checksum(module), ParameterSpace(module).fingerprint()

    first = digests(LINKS)
    assert digests(LINKS.clone()) == first
    for other in (LINKS * 2, LINKS.flip(1)):
        assert all(one != two for one, two in zip(digests(other), first, strict=True))
    wider = torch.cat([LINKS, torch.zeros_like(LINKS)], 1)
    assert digests(wider)[1] != first[1]
