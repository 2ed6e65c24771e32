"""Statistics of batch normalisations, seen anew and blended."""

import pytest
import torch
from helpers import blobs, same_bits, state_bits, trained
from torch import nn

from smd_evo.controls.batchnorm import blended, has_statistics, statistics_of
from smd_evo.errors import InvalidValue
from smd_evo.evaluation import data
from smd_evo.evaluation.limit import BatchLimit

pytestmark = pytest.mark.numeric


def batches_of(samples, size):
    return data.make_batches(samples, size, torch.device("cpu"))


def test_statistics_are_those_of_the_samples():
    network, (images, targets) = trained(), blobs(64, shift=2.5)
    before = state_bits(network)
    found = statistics_of(network, batches_of((images, targets), 64))
    assert same_bits(state_bits(network), before)
    assert not network.training
    with torch.no_grad():
        seen = network.conv(images)
    mean, variance = found["bn"]
    torch.testing.assert_close(mean, seen.mean((0, 2, 3)))
    torch.testing.assert_close(variance, seen.var((0, 2, 3)))


def test_of_several_batches_it_is_the_mean():
    network, samples = trained(), blobs(64)
    batches = batches_of(samples, 16)
    each = [
        statistics_of(network, batches_of(tuple(part[n : n + 16] for part in samples), 16)) for n in (0, 16, 32, 48)
    ]
    together = statistics_of(network, batches)["bn"]
    for number in range(2):
        expected = torch.stack([one["bn"][number] for one in each]).mean(0)
        torch.testing.assert_close(together[number], expected)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_a_blend_is_between_old_and_new(share):
    network = trained()
    new = statistics_of(network, batches_of(blobs(64, shift=2.5), 64))
    twin = blended(network, new, share)
    for name, (old, seen) in {
        "running_mean": (network.bn.running_mean, new["bn"][0]),
        "running_var": (network.bn.running_var, new["bn"][1]),
    }.items():
        torch.testing.assert_close(getattr(twin.bn, name), (1 - share) * old + share * seen)
    assert torch.equal(twin.conv.weight, network.conv.weight)


def test_networks_without_are_refused():
    plain = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3, track_running_stats=False))
    assert not has_statistics(plain)
    with pytest.raises(InvalidValue, match=r"^batchnorm: expected batch normalisations with statistics"):
        statistics_of(plain, batches_of((torch.randn(5, 2), torch.arange(5) % 3), 5))
    with pytest.raises(InvalidValue, match="share"):
        blended(trained(), {}, 1.5)


def test_normalisations_that_are_folded_into_the_weights_have_none():
    """Their channels all have mean 0 and the variance that makes them do nothing."""
    layer = nn.BatchNorm2d(3, eps=1e-3).eval()
    network = nn.Sequential(nn.Conv2d(1, 3, 1), layer)
    layer.running_var.fill_(1 - 1e-3)
    assert not has_statistics(network)
    layer.running_mean[1] = 0.5
    assert has_statistics(network)


def test_each_batch_counts_by_its_samples_and_one_of_a_single_sample_not_at_all():
    network, samples = trained(), blobs(35, shift=2.5)
    sizes = (16, 16, 2, 1)
    pieces = [part.split(sizes) for part in samples]
    each = [statistics_of(network, batches_of(piece, 16))["bn"] for piece in [*zip(*pieces, strict=True)][:3]]
    together = statistics_of(network, batches_of([*zip(*pieces, strict=True)], 16))["bn"]
    for number in range(2):
        expected = sum(size * one[number] for size, one in zip(sizes, each, strict=False)) / 34
        torch.testing.assert_close(together[number], expected)
    with pytest.raises(InvalidValue, match="expected batches of two samples or more"):
        statistics_of(network, batches_of(samples, 1))


def test_it_draws_the_same_random_numbers_each_time_and_leaves_the_states_as_they_were():
    class Drawing(nn.Sequential):
        def forward(self, x):
            return super().forward(x + torch.randn(x.shape))

    torch.manual_seed(3)
    network = Drawing(nn.BatchNorm2d(1, momentum=1.0))
    network.train()(blobs(20)[0])
    network.eval()
    before = torch.get_rng_state()
    one, other = (statistics_of(network, batches_of(blobs(32), 16))["0"] for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one[0], other[0])


def test_batches_that_do_not_fit_into_memory_are_halved():
    class Small(nn.Sequential):
        def forward(self, x):
            if len(x) > 8:
                raise torch.cuda.OutOfMemoryError("out of memory")
            return super().forward(x)

    network = Small(nn.BatchNorm2d(1, momentum=1.0))
    network.train()(blobs(8)[0])
    network.eval()
    limit = BatchLimit()
    with pytest.warns(RuntimeWarning, match="out of memory"):
        found = statistics_of(network, batches_of(blobs(32, shift=2.5), 16), limit)
    expected = statistics_of(network, batches_of(blobs(32, shift=2.5), limit.samples))
    assert limit.samples == 8
    torch.testing.assert_close(found["0"], expected["0"])
