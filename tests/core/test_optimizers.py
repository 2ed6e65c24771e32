"""Adam, SGD and ClipUp: EvoTorch's steps, and the same bits on every processor."""

import copy
import hashlib
import math

import pytest
import torch
from evotorch.optimizers import get_optimizer_class

from smd_evo import gaussian
from smd_evo.core import optimizers
from smd_evo.core.optimizers import OPTIMIZERS

SETTINGS = [
    ("adam", {}, "c97a6eb6b4f0da0e"),
    ("adam", {"beta1": 0.5, "beta2": 0.9, "epsilon": 1e-3}, "a3539756d330994e"),
    ("adam", {"amsgrad": True}, "4e84a9a86447ee26"),
    ("sgd", {}, "272e2d22c1c8abfd"),
    ("sgd", {"momentum": 0.9}, "f8482c02344e04e3"),
    ("sgd", {"momentum": 0.9, "dampening": 0.3}, "ff40ac8d1f35e683"),
    ("sgd", {"momentum": 0.9, "nesterov": True}, "35d20e2386314eb0"),
    ("clipup", {}, "d453344985a9cefb"),
    ("clipup", {"momentum": 0.5, "max_speed": 0.06}, "6d24d6dc83b16c39"),
]
SIZE = 1003


def gradients(count=20):
    """Of falling lengths, or AMSGrad would be Adam."""
    return [gaussian(number, torch.arange(SIZE)) * 0.5**number for number in range(count)]


@pytest.mark.parametrize(("name", "settings", "_"), SETTINGS)
def test_steps_are_those_of_evotorch(name, settings, _):
    theirs = get_optimizer_class(name)(solution_length=SIZE, dtype=torch.float32, stepsize=0.05, **settings)
    ours = OPTIMIZERS[name](0.05, **settings)
    for gradient in gradients():
        expected = theirs.ascent(gradient)
        # A step is a sum of some dozen float32 numbers: 1e-5 is a hundred roundings.
        torch.testing.assert_close(
            ours.ascent(gradient), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max())
        )


@pytest.mark.numeric
@pytest.mark.parametrize(("name", "settings", "digest"), SETTINGS)
def test_steps_are_the_same_bits_on_every_processor_and_device(name, settings, digest, devices):
    for device in devices:
        optimizer, found = OPTIMIZERS[name](0.05, **settings), hashlib.blake2b(digest_size=8)
        for gradient in gradients():
            found.update(optimizer.ascent(gradient.to(device)).cpu().numpy().tobytes())
        assert found.hexdigest() == digest


@pytest.mark.numeric
@pytest.mark.parametrize("shape", [(), (SIZE,), (17, 59)], ids=str)
@pytest.mark.parametrize(("name", "settings", "_"), SETTINGS)
def test_pieces_make_no_difference_to_any_bit(name, settings, _, shape, monkeypatch):
    found = []
    for piece in (optimizers._PIECE, 64, 1):
        monkeypatch.setattr(optimizers, "_PIECE", piece)
        optimizer = OPTIMIZERS[name](0.05, **settings)
        for gradient in gradients(3):
            steps = optimizer.ascent(gradient[0] if shape == () else gradient[: math.prod(shape)].view(shape))
        found.append(steps)
    assert found[0].shape == torch.Size(shape)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_a_gradient_may_lie_in_memory_as_it_likes():
    one, other = OPTIMIZERS["adam"](0.05), OPTIMIZERS["adam"](0.05)
    for gradient in gradients(3):
        table = gradient[:1000].view(20, 50)
        assert torch.equal(one.ascent(table.mT), other.ascent(table.mT.contiguous()))


@pytest.mark.parametrize(("name", "settings", "_"), SETTINGS)
def test_a_copied_state_goes_on_and_gradients_stay(name, settings, _):
    optimizer, other = (OPTIMIZERS[name](0.05, **settings) for _ in range(2))
    first, second, third = gradients(3)
    optimizer.ascent(first)
    other.state.update(copy.deepcopy(optimizer.state))
    kept = second.clone()
    step = optimizer.ascent(second)
    assert torch.equal(step, other.ascent(second))
    assert torch.equal(second, kept)
    step.zero_()  # it is the caller's
    assert torch.equal(optimizer.ascent(third), other.ascent(third))
