"""The field and the permutation against published vectors, slow references and statistics.

Every statistical test has a fixed key, so it passes or fails for good; its threshold is what a right
generator would miss once in a thousand keys.
"""

import math
import struct

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from smd_evo.core import fast, noise
from smd_evo.core.keys import derive, key_to_int64
from smd_evo.core.noise import MAX_SIZE, gaussian, permutation, philox4x32

KEYS = st.integers(0, 2**64 - 1)
MASK = 2**32 - 1
P = 1e-3


@pytest.fixture(scope="module", autouse=True)
def _tensor_operations():
    """The reference; test_compiled and test_few compare what else makes the noise with it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fast, "_FEW", -1)
        yield


def words(*values):
    return tuple(torch.tensor([value]) for value in values)


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((MASK,) * 4, (MASK,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_known_answers(counter, key, expected, devices):
    """Vectors of the Random123 distribution (kat_vectors, philox4x32-10)."""
    for device in devices:
        result = philox4x32(
            tuple(word.to(device) for word in words(*counter)), tuple(word.to(device) for word in words(*key))
        )
        assert tuple(int(word) for word in result) == expected


def slow_philox(counter, key):
    """Philox in Python's unbounded integers, from the paper's description."""
    c, k = list(counter), list(key)
    for number in range(10):
        if number:
            k = [(k[0] + 0x9E3779B9) & MASK, (k[1] + 0xBB67AE85) & MASK]
        first, second = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [(second >> 32) ^ c[1] ^ k[0], second & MASK, (first >> 32) ^ c[3] ^ k[1], first & MASK]
    return c


def slow_gaussian(key, coordinate):
    block = (coordinate // 2) % 2**64
    x = slow_philox((block & MASK, block >> 32, 0, 0), (key & MASK, key >> 32))
    u = ((x[0] << 21) + (x[1] >> 11) + 1) / 2**53
    turn = x[2] / 2**32 + (coordinate % 2) / 4
    return math.sqrt(-2 * math.log(u)) * math.cos(2 * math.pi * turn)


def exact_gaussian(key, coordinate):
    """The documented series in Python's floats, each operation rounded once as IEEE 754 says: every bit is fixed."""
    block = (coordinate // 2) % 2**64
    x = slow_philox((block & MASK, block >> 32, 0, 0), (key & MASK, key >> 32))
    u = ((x[0] << 21) + (x[1] >> 11) + 1) * 2.0**-53
    turn = ((x[2] + ((coordinate & 1) << 30)) & MASK) * 2.0**-32
    return math.sqrt(exact_log(u) * -2.0) * exact_cos(turn)


def horner(x, coefficients):
    result = coefficients[-1]
    for coefficient in reversed(coefficients[:-1]):
        result = result * x
        result = result + coefficient
    return result


def exact_log(u):
    mantissa, exponent = math.frexp(u)  # in [1/2, 1)
    if mantissa < struct.unpack("d", struct.pack("q", noise._SQRT_HALF_BITS))[0]:
        mantissa, exponent = 2 * mantissa, exponent - 1
    s = (mantissa - 1.0) / (mantissa + 1.0)
    return horner(s * s, [2.0 / (2 * j + 1) for j in range(6)]) * s + exponent * math.log(2.0)


def exact_cos(turn):
    w = abs(turn - 0.5) - 0.25
    return horner(w * w, [(-1) ** j * math.tau ** (2 * j + 1) / math.factorial(2 * j + 1) for j in range(8)]) * w


def slow_permutation(key, position, size):
    """The documented Feistel network, one position at a time, in Python's integers."""

    def fmix(h):
        h ^= h >> 16
        h = h * 0x85EBCA6B & MASK
        h ^= h >> 13
        h = h * 0xC2B2AE35 & MASK
        return h ^ h >> 16

    bits = (size - 1).bit_length() // 2
    rows = math.ceil(size / 2**bits)
    while True:
        high, low = divmod(position, 2**bits)
        for number in range(7 if size > 1024 else 24):
            round_key = derive(key, number) & MASK
            if number % 2:
                low ^= fmix(high ^ round_key) % 2**bits
            else:
                high = (high + (fmix(low ^ round_key) % 2**31) * rows // 2**31) % rows
        position = high * 2**bits + low
        if position < size:
            return position


@given(KEYS, st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20))
def test_field_agrees_with_slow_reference(key, coordinates):
    values = gaussian(key, torch.tensor(coordinates), torch.float64).tolist()
    expected = [slow_gaussian(key, coordinate) for coordinate in coordinates]
    assert values == pytest.approx(expected, rel=1e-8, abs=1e-9)


def bits(values):
    return struct.pack(f"{len(values)}d", *values)


@pytest.mark.numeric
def test_every_bit_of_the_field_is_that_of_ieee_arithmetic():
    places = [*range(-500, 20_000), *range(2**40 - 200, 2**40), 2**63 - 1, -(2**63)]
    for key in (0, 7, 2**64 - 1):
        assert bits(gaussian(key, torch.tensor(places), torch.float64).tolist()) == bits(
            [exact_gaussian(key, place) for place in places]
        )


@pytest.mark.numeric
def test_logarithm_and_cosine_are_those_of_ieee_arithmetic_at_their_ends():
    u = [number * 2.0**-53 for number in (1, 2, 3, 2**26 + 1, 2**52 - 1, 2**52, 2**53 - 1, 2**53)]
    u += [math.nextafter(math.sqrt(0.5), side) for side in (0, 1)]
    turns = [number * 2.0**-32 for number in (0, 1, 2**30 - 1, 2**30, 2**31 - 1, 2**31, 2**32 - 1)]
    doubles = [torch.tensor(values, dtype=torch.float64) for values in (u, turns)]
    assert bits(noise._log(doubles[0]).tolist()) == bits([exact_log(value) for value in u])
    assert bits(noise._cos_of_turn(doubles[1]).tolist()) == bits([exact_cos(value) for value in turns])


@given(KEYS, st.integers(1, MAX_SIZE), st.data())
def test_permutation_agrees_with_slow_reference(key, size, data):
    positions = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=10))
    assert permutation(key, torch.tensor(positions), size).tolist() == [
        slow_permutation(key, position, size) for position in positions
    ]


def test_values_are_fixed_for_good():
    """Recipes must replay next year: these literals may never change."""
    field = gaussian(0x0123456789ABCDEF, torch.tensor([0, 1, 2, 3, 10**6, 2**40 - 1]))
    assert field.view(torch.int32).tolist() == [
        1060465319,
        -1094090686,
        -1087210944,
        -1089894523,
        1052716430,
        1058477334,
    ]
    places = permutation(0x0123456789ABCDEF, torch.tensor([0, 1, 2, 10**6]), 25_600_000)
    assert places.tolist() == [5238430, 24317793, 10377388, 15520782]


@given(KEYS, st.integers(1, 3000))
def test_permutation_is_a_bijection(key, size):
    assert permutation(key, torch.arange(size), size).sort().values.tolist() == list(range(size))


@pytest.mark.parametrize("size", [1, 2, 3, 2**10, 2**10 + 1, 65_537, 10**6 + 3, 2**20 - 1])
def test_permutation_is_a_bijection_at_many_sizes(size):
    assert torch.equal(permutation(size, torch.arange(size), size).sort().values, torch.arange(size))


@pytest.mark.parametrize("size", [2**31 - 1, 2**33 + 5, MAX_SIZE - 1, MAX_SIZE])
def test_huge_sizes_cost_only_the_positions_asked(size):
    positions = torch.cat([torch.arange(5000), torch.arange(size - 5000, size)])
    result = permutation(5, positions, size)
    assert len(result.unique()) == 10_000
    assert 0 <= int(result.min()) <= int(result.max()) < size
    assert stats.kstest(result.double().numpy() / size, "uniform").pvalue > P


@given(KEYS, st.integers(1, 200), st.randoms(use_true_random=False))
def test_any_order_and_any_pieces_give_the_same(key, count, random):
    places = list(range(0, 7 * count, 7))
    whole = dict(zip(places, gaussian(key, torch.tensor(places)).tolist(), strict=True))
    moved = dict(zip(places, permutation(key, torch.tensor(places), 7 * count).tolist(), strict=True))
    random.shuffle(places)
    part = torch.tensor(places[: random.randint(1, count)])
    assert gaussian(key, part).tolist() == [whole[int(place)] for place in part]
    assert permutation(key, part, 7 * count).tolist() == [moved[int(place)] for place in part]


def test_chunks_threads_shapes_devices_and_inference_mode_do_not_matter(monkeypatch, devices):
    places = torch.arange(100_001)
    field, moved = gaussian(9, places), permutation(9, places, 100_001)
    for chunk in (7, 1000, 10**6):
        monkeypatch.setattr(noise, "_CHUNK", chunk)
        few = places if chunk > 7 else places[:500]
        assert torch.equal(gaussian(9, few), field[: len(few)])
        assert torch.equal(permutation(9, few, 100_001), moved[: len(few)])
    monkeypatch.undo()
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert torch.equal(gaussian(9, places), field)
        assert torch.equal(permutation(9, places, 100_001), moved)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(gaussian(9, places[:-1].view(10, -1, 2)).flatten(), field[:-1])
    with torch.inference_mode():
        assert torch.equal(gaussian(9, places), field)
    for device in devices:
        assert torch.equal(gaussian(9, places.to(device)).cpu(), field)
        assert torch.equal(permutation(9, places.to(device), 100_001).cpu(), moved)


@given(st.lists(KEYS, min_size=1, max_size=5), st.integers(1, 50))
def test_a_tensor_of_keys_is_its_keys_one_by_one(keys, size):
    tensor, places = torch.tensor([[key_to_int64(key)] for key in keys]), torch.arange(size)
    assert torch.equal(gaussian(tensor, places), torch.stack([gaussian(key, places) for key in keys]))
    expected = torch.stack([permutation(key, places, size) for key in keys])
    assert torch.equal(permutation(tensor, places, size), expected)


def test_a_tensor_of_keys_in_chunks(monkeypatch):
    tensor, places = torch.arange(50)[:, None], torch.arange(100)
    whole = gaussian(tensor, places), permutation(tensor, places, 100)
    monkeypatch.setattr(noise, "_CHUNK", 128)
    assert torch.equal(gaussian(tensor, places), whole[0])
    assert torch.equal(permutation(tensor, places, 100), whole[1])


def test_field_is_standard_normal():
    values = gaussian(11, torch.arange(2_000_000), torch.float64).numpy()
    n = len(values)
    assert stats.kstest(values, "norm").pvalue > P
    limit = stats.norm.isf(P / 2)
    # Standard errors of the first four moments of n normal numbers.
    for power, mean, error in ((1, 0, 1), (2, 1, 2**0.5), (3, 0, 15**0.5), (4, 3, 96**0.5)):
        assert abs((values**power).mean() - mean) < limit * error / n**0.5
    tail = int((np.abs(values) > 4).sum())
    assert stats.binomtest(tail, n, 2 * stats.norm.sf(4)).pvalue > P


@pytest.mark.parametrize("lag", [1, 2, 3, 4, 7, 64, 4096])
def test_neighbouring_coordinates_are_uncorrelated(lag):
    values = gaussian(12, torch.arange(500_000 + lag), torch.float64).numpy()
    for transform in (lambda x: x, lambda x: x**2):
        a, b = transform(values[lag:]), transform(values[:-lag])
        assert stats.pearsonr(a, b).pvalue > P


def test_keys_are_uncorrelated():
    """Also keys that differ in one bit, or by one, as children of a careless user do."""
    base = gaussian(0, torch.arange(200_000), torch.float64)
    others = [1, 2, 3, 2**31, 2**32, 2**63, derive(0, 0), derive(0, "noise", 0, 0)]
    p_values = [
        stats.pearsonr(base, gaussian(other, torch.arange(200_000), torch.float64)).pvalue for other in others
    ]
    assert min(p_values) > P / len(others)


def test_across_keys_one_coordinate_is_normal():
    keys = torch.arange(200_000)[:, None]
    for coordinate in (0, 1, 2**35):
        values = gaussian(keys, torch.tensor([coordinate]), torch.float64)[:, 0].numpy()
        assert stats.kstest(values, "norm").pvalue > P


def test_subsets_cover_all_coordinates_alike():
    """Chi-square of how often each of 997 coordinates is among the first 100, over 20,000 keys."""
    keys = torch.arange(20_000)[:, None]
    counts = torch.bincount(permutation(keys, torch.arange(100), 997).flatten(), minlength=997)
    # Without replacement the counts vary less than multinomial ones, by the share that is left out.
    statistic = stats.chisquare(counts.numpy()).statistic / (1 - 100 / 997) * (996 / 997)
    assert P < stats.chi2.sf(statistic, 996) < 1 - P


@pytest.mark.parametrize("size", [5, 7, 8, 9, 10, 16, 17, 33, 100])
def test_pairs_are_uniform(size):
    """Chi-square of the images of two positions over all ordered pairs of different values."""
    keys = torch.arange(100_000)[:, None]
    images = permutation(keys, torch.tensor([0, size - 1]), size)
    counts = torch.bincount(images[:, 0] * size + images[:, 1], minlength=size * size).view(size, size)
    assert int(counts.diagonal().sum()) == 0
    different = ~torch.eye(size, dtype=torch.bool)
    assert stats.chisquare(counts[different].numpy()).pvalue > P


@pytest.mark.parametrize("size", [1025, 4097, 65_536, 65_537])
def test_differences_are_uniform(size):
    keys = torch.arange(400_000)[:, None]
    images = permutation(keys, torch.tensor([0, 1]), size)
    counts = torch.bincount((images[:, 1] - images[:, 0]) % size, minlength=size)[1:]
    assert stats.chisquare(counts.numpy()).pvalue > P


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_small_permutations_are_all_equally_likely(size):
    images = permutation(torch.arange(60_000)[:, None], torch.arange(size), size)
    _, counts = images.unique(dim=0, return_counts=True)
    assert len(counts) == math.factorial(size)
    assert stats.chisquare(counts.numpy()).pvalue > P


@pytest.mark.parametrize(
    ("positions", "size", "message"),
    [
        (torch.tensor([0.0]), 5, "int64 tensor"),
        ([0], 5, "int64 tensor"),
        (torch.tensor([0, 5]), 5, r"\[0, 5\)"),
        (torch.tensor([-1]), 5, r"\[0, 5\)"),
        (torch.tensor([0]), 0, "whole number >= 1"),
        (torch.tensor([0]), 2**40 + 1, r"2\*\*40"),
        (torch.tensor([0]), 2.5, "whole number >= 1"),
    ],
)
def test_bad_input_to_the_permutation(positions, size, message):
    with pytest.raises((ValueError, TypeError), match=message):
        permutation(1, positions, size)


def test_bad_input_to_the_field():
    with pytest.raises(TypeError, match="int64 tensor"):
        gaussian(1, torch.tensor([1], dtype=torch.int32))
    with pytest.raises(TypeError, match="int64 tensor"):
        gaussian(torch.tensor([1.0]), torch.tensor([1]))
    with pytest.raises(ValueError, match="key"):
        gaussian(-1, torch.tensor([1]))


def test_empty_input():
    empty = torch.zeros(0, dtype=torch.int64)
    assert gaussian(1, empty).shape == (0,)
    assert permutation(1, empty, 5).shape == (0,)


@pytest.mark.parametrize("kernels", [True, False])
def test_one_number_has_no_dimension(monkeypatch, kernels):
    monkeypatch.setattr(fast._state, "off", not kernels)
    place = torch.tensor(3)
    for key in (7, torch.tensor(7)):
        assert gaussian(key, place).shape == ()
        assert gaussian(key, place) == gaussian(7, torch.arange(4))[3]
        for size in (4, 5, 33, 1001, 1025):
            assert permutation(key, place, size).shape == ()
            assert permutation(key, place, size) == permutation(7, torch.arange(4), size)[3]
    assert gaussian(torch.tensor([7]), place).shape == gaussian(torch.tensor(7), place[None]).shape == (1,)
