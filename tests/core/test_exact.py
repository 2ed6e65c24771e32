"""Square roots, sums and deviations against plain Python, bit for bit."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smd_evo.core import exact
from smd_evo.core.exact import deviation, norm, power, sqrt_, total
from smd_evo.core.noise import gaussian

pytestmark = pytest.mark.numeric

FINITE = st.floats(-1e100, 1e100)


def by_halves(values):
    """The documented order, in Python's floats."""
    while len(values) > 1:
        half = (len(values) + 1) // 2
        pairs = zip(values[: len(values) - half], values[half:], strict=True)
        values = [one + other for one, other in pairs] + values[len(values) - half : half]
    return values[0] if values else 0.0


def test_square_roots_of_a_million_numbers_are_those_of_ieee_754():
    random = np.random.default_rng(0)
    mantissas, exponents = random.random(1_000_003) + 1, random.integers(-1074, 1023, 1_000_003)
    numbers = [*np.ldexp(mantissas, exponents).tolist(), 0.0, -0.0, 5e-324, 2.0**-1022, 1.0, math.inf, 2.0**53 - 1]
    numbers += [math.nextafter(1.0, 0.0), math.nextafter(1.0, 2.0), 1.7976931348623157e308]
    found = sqrt_(torch.tensor(numbers, dtype=torch.float64))
    expected = torch.tensor([math.sqrt(number) for number in numbers], dtype=torch.float64)
    assert torch.equal(found.view(torch.int64), expected.view(torch.int64))


def test_square_roots_of_float32_are_rounded_once():
    numbers = torch.rand(100_003, generator=torch.Generator().manual_seed(0))
    # The root of a float32 in float64, rounded, is the rounded root: 53 bits are more than 2 * 24 + 2.
    expected = torch.tensor([math.sqrt(number) for number in numbers.tolist()], dtype=torch.float64).float()
    assert torch.equal(sqrt_(numbers.clone()), expected)


def test_square_roots_are_taken_in_place_on_every_device_in_any_mode_and_stride(devices):
    for device in devices:
        whole = torch.full((4, 6), 2.0, dtype=torch.float64, device=device)
        with torch.inference_mode():
            part = whole[::2, 1::2]
            assert sqrt_(part) is part
        assert part.tolist() == [[math.sqrt(2)] * 3] * 2
        assert float(whole.sum()) == pytest.approx(18 * 2 + 6 * math.sqrt(2))


@given(st.lists(FINITE, max_size=70), st.integers(1, 30))
def test_sums_have_one_order(values, piece):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact, "_PIECE", piece)
        pieces = [by_halves(values[start : start + piece]) for start in range(0, len(values), piece)]
        assert total(torch.tensor(values, dtype=torch.float64)) == math.fsum(pieces)


@given(st.lists(FINITE, min_size=1, max_size=70))
def test_a_deviation_is_made_of_such_sums(values):
    mean = by_halves(values) / len(values)
    squares = [(value - mean) * (value - mean) for value in values]
    found = deviation(torch.tensor(values, dtype=torch.float64))
    assert found == math.sqrt(by_halves(squares) / len(values))
    assert found == pytest.approx(np.std(values), rel=1e-9, abs=1e-12 * max(map(abs, values)))


def test_threads_memory_formats_and_devices_make_no_difference(devices):
    values = gaussian(0, torch.arange(3 * 70 * 100 * 101)).view(3, 70, 100, 101)  # more than two pieces
    found, threads = (total(values), deviation(values)), torch.get_num_threads()
    try:
        torch.set_num_threads(3 - min(threads, 2))
        assert (total(values), deviation(values)) == found
    finally:
        torch.set_num_threads(threads)
    for device in devices:
        other = values.to(device).contiguous(memory_format=torch.channels_last)
        assert (total(other), deviation(other)) == found
    assert found == (404.7644701976801, 1.0003845698125078)  # fixed for good: relative recipes depend on it


def test_a_deviation_keeps_its_digits_far_from_zero():
    assert deviation(torch.tensor([1e8, 1e8 + 1, 1e8 + 2], dtype=torch.float64)) == pytest.approx(math.sqrt(2 / 3))
    assert deviation(torch.zeros(0)) == 0
    assert deviation(torch.full((5,), 0.1)) == 0


@given(st.lists(FINITE, max_size=70))
def test_a_length_is_the_root_of_such_a_sum(values):
    squares = [value * value for value in values]
    assert norm(torch.tensor(values, dtype=torch.float64)) == math.sqrt(by_halves(squares))


@given(st.floats(0, 1), st.integers(0, 10**6))
def test_powers_are_products(base, exponent):
    assert power(base, exponent) == pytest.approx(base**exponent, rel=1e-9, abs=1e-300)
    assert power(base, 3) == base * (base * base)
