"""Keys: derivation never collides by accident, and its tensor form is the same function."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smd_evo.core.keys import check_key, derive, derive_tensor, folded, key_from_int64, key_to_int64

KEYS = st.integers(0, 2**64 - 1)


def test_derive_is_splitmix64():
    """The first outputs of the reference implementation for seed 1234567 (Vigna, splitmix64.c)."""
    expected = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert [derive(1234567, number) for number in range(5)] == expected


@given(KEYS, st.lists(st.integers(0, 2**64 - 1), min_size=2, max_size=2, unique=True))
def test_two_parts_of_one_key_never_collide(key, parts):
    assert derive(key, parts[0]) != derive(key, parts[1])


def test_generations_children_tensors_and_names_do_not_collide():
    names = ("noise", "subspace", "camera", "child")
    parts = [
        (name, *numbers)
        for name in names
        for depth in range(4)
        for numbers in itertools.product(range(12), repeat=depth)
    ]
    keys = {derive(seed, *part) for seed in range(5) for part in parts}
    assert len(keys) == 5 * len(parts)


@given(KEYS, st.integers(0, 2**40))
def test_tensor_form_agrees(key, part):
    tensor = derive_tensor(torch.tensor([key_to_int64(key)]), part)
    assert key_from_int64(int(tensor)) == derive(key, part)


PARTS = st.one_of(st.integers(-(2**63), 2**63 - 1), st.sampled_from([-(2**63), -1, 0, 2**63 - 1]))


@given(st.lists(KEYS, min_size=1, max_size=4), st.lists(PARTS, min_size=1, max_size=4))
def test_tensor_form_agrees_for_parts_keys_and_both(keys, parts):
    signed = [key_to_int64(key) for key in keys]
    column, row = torch.tensor(signed)[:, None], torch.tensor(parts)
    # A negative part counts modulo 2**64, as its bit pattern does.
    expected = torch.tensor([[key_to_int64(derive(key, part)) for part in parts] for key in keys])
    assert torch.equal(derive_tensor(column, row), expected)
    assert torch.equal(torch.stack([derive_tensor(key, row) for key in keys]), expected)
    assert torch.equal(torch.cat([derive_tensor(column, part % 2**64) for part in parts], dim=1), expected)


def test_devices_derive_alike(devices):
    keys, parts = torch.tensor([[-1], [0], [2**63 - 1]]), torch.tensor([-5, 0, 2**62])
    for device in devices:
        there = derive_tensor(keys.to(device), parts.to(device))
        assert torch.equal(there.cpu(), derive_tensor(keys, parts))


@given(KEYS)
def test_signed_form_is_the_same_bits(key):
    assert -(2**63) <= key_to_int64(key) < 2**63
    assert key_from_int64(key_to_int64(key)) == key


@pytest.mark.parametrize("bad", [-1, 2**64, 1.0, "7", None, True])
def test_bad_keys_are_refused(bad):
    with pytest.raises((ValueError, TypeError), match=r"key: expected an int in \[0, 2\*\*64\)"):
        check_key(bad)


class TestFolded:
    @given(st.integers(0, 2**32 - 1))
    def test_a_seed_of_32_bits_stays(self, seed):
        assert folded(seed) == seed

    @given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 2**32 - 1), min_size=2, max_size=9, unique=True))
    def test_seeds_of_one_high_half_never_become_the_same(self, high, lows):
        found = {folded(high << 32 | low) for low in lows}
        assert len(found) == len(lows)
        assert all(0 <= seed < 2**32 for seed in found)

    def test_each_high_bit_counts(self):
        assert len({folded(5 | 2**bit) for bit in range(32, 64)} | {folded(5)}) == 33
