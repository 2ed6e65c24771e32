"""Twins: networks that share the memory of what is not selected, and nothing that may be written to."""

import copy

import pytest
import torch
from helpers import SmallNet, same_bits, state_bits
from torch import nn

from smd_evo import Mutation, ParameterSpace, RandomSubspace
from smd_evo.core.exclusive import memory_of
from smd_evo.core.twins import sharing

CHILD = Mutation(1, 0.5, RandomSubspace(0.5), 2)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("levels", torch.arange(8, dtype=torch.int8))
        self.register_buffer("seen", torch.zeros(3))

    def forward(self, x):
        return self.head(self.norm(self.embedding(x)))


def shared(one, other):
    """Names of what lies in the same memory."""
    pairs = zip(one.state_dict(keep_vars=True).items(), other.state_dict(keep_vars=True).values(), strict=True)
    return {name for (name, own), theirs in pairs if memory_of(own) == memory_of(theirs)}


def test_share_the_weights_that_are_not_selected_and_keep_ties():
    network = Tied()
    twin = ParameterSpace(network, "norm").twin().module
    assert shared(network, twin) == {"embedding.weight", "head.weight", "levels"}
    assert twin.head.weight is twin.embedding.weight
    assert twin.head.weight is not network.head.weight
    assert same_bits(state_bits(network), state_bits(twin))
    everything = ParameterSpace(network).twin().module
    assert shared(network, everything) == {"levels"}
    assert everything.head.weight is everything.embedding.weight
    assert shared(network, copy.deepcopy(network, sharing(network))) == {*network.state_dict()} - {"seen"}


def test_a_selected_tensor_takes_what_lies_in_its_memory_with_it():
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    both = torch.randn(2, 3, 3)
    network[0].weight.data, network[1].weight.data = both[0], both[1]
    assert shared(network, ParameterSpace(network, "0.weight").twin().module) == {"0.bias", "1.bias"}


def test_selected_integers_are_apart():
    network = Tied()
    twin = ParameterSpace(network, "levels").twin()
    assert shared(network, twin.module) == {"embedding.weight", "head.weight", "norm.weight", "norm.bias"}
    before = state_bits(network)
    twin.fold(Mutation(1, 3.0, RandomSubspace(1.0), 2))
    assert same_bits(before, state_bits(network))
    assert not same_bits(before, state_bits(twin.module))


@pytest.mark.parametrize("select", ["bn", "head", "all"])
def test_move_on_their_own(select):
    """The same child to the bit, and neither the parent nor a network that was handed out knows of it."""
    network = SmallNet().eval()
    network.conv.weight.requires_grad_(False)
    space = ParameterSpace(network, select)
    twin, before, handed = space.twin(), state_bits(network), space.make_child(CHILD)
    assert [each.requires_grad for each in network.parameters()] == [
        each.requires_grad for each in twin.module.parameters()
    ]
    twin.fold(CHILD)
    assert same_bits(state_bits(handed), state_bits(twin.module))
    assert same_bits(before, state_bits(network))
    assert not shared(handed, network)
    assert not shared(twin.make_child(CHILD), network)
