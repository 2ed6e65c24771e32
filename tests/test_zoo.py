"""The embedded data and parent: disjoint splits, a shift that costs something, exact repetition."""

import itertools

import pytest
import torch
from helpers import same_bits, state_bits
from sklearn.datasets import load_digits
from torch import nn

from smd_evo.zoo import load
from smd_evo.zoo.cifar_resnet import CifarResNet
from smd_evo.zoo.demo import trained_cnn


@pytest.fixture(scope="module")
def data():
    return load(seed=0)[1]


@pytest.fixture(scope="module")
def parent(data):
    return load(seed=0)[0]


def accuracy(network, samples):
    with torch.inference_mode():
        return float((network(samples[0]).argmax(1) == samples[1]).double().mean())


@pytest.mark.parametrize("seed", [0, 1, 2**63])
def test_splits_never_meet_and_hold_everything(seed):
    indices = load(seed=seed)[1].indices
    for one, other in itertools.combinations(indices.values(), 2):
        assert not set(one) & set(other)
    assert set().union(*indices.values()) == set(range(1797))
    assert {name: len(chosen) for name, chosen in indices.items()} == {
        "source": 697,
        "test": 500,
        "validation": 300,
        "fitness": 300,
    }


def test_splits_are_stratified_and_differ_by_seed(data):
    for name in ("fitness", "validation", "test"):
        counts = torch.bincount(getattr(data, name)[1], minlength=10)
        assert int(counts.max() - counts.min()) <= 0.02 * 500
    assert set(load(seed=1)[1].indices["test"]) != set(data.indices["test"])


def test_the_parent_handles_the_shift_worse_than_its_source(data, parent):
    digits = load_digits()
    chosen = data.indices["test"]
    clean = (
        torch.tensor(digits.images[chosen] / 16, dtype=torch.float32)[:, None],
        torch.tensor(digits.target[chosen]),
    )
    assert accuracy(parent, clean) > 0.97
    assert 0.4 < accuracy(parent, data.test) < accuracy(parent, clean) - 0.05


def test_parent_is_the_same_trained_anew_or_from_the_cache(data, parent, tmp_path):
    state, generator = state_bits(parent), torch.get_rng_state()
    first = trained_cnn(data, 0, tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    cached = trained_cnn(data, 0, tmp_path)
    assert same_bits(state, state_bits(first))
    assert same_bits(state, state_bits(cached))
    assert torch.equal(generator, torch.get_rng_state())
    assert not cached.training


def test_threads_make_no_difference_to_the_parent(data, parent, tmp_path):
    threads = torch.get_num_threads()
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            assert same_bits(state_bits(parent), state_bits(trained_cnn(data, 0, tmp_path / str(number))))
            assert torch.get_num_threads() == number
    finally:
        torch.set_num_threads(threads)


def test_a_damaged_or_unwritable_cache_only_costs_time(data, parent, tmp_path):
    trained_cnn(data, 0, tmp_path)
    file = next(tmp_path.iterdir())
    file.write_bytes(file.read_bytes()[:100])
    assert same_bits(state_bits(parent), state_bits(trained_cnn(data, 0, tmp_path)))
    blocked = tmp_path / "a file"
    blocked.touch()
    assert same_bits(state_bits(parent), state_bits(trained_cnn(data, 0, blocked / "folder")))


def test_unknown_names(data):
    with pytest.raises(ValueError, match="did you mean 'digits'"):
        load_data("digit")
    with pytest.raises(ValueError, match="did you mean 'demo-cnn'"):
        load_model("demo_cnn", data)


@pytest.mark.parametrize(("depth", "parameters"), [(20, 269_722), (32, 464_154), (44, 658_586), (110, 1_727_962)])
def test_cifar_resnets_have_the_papers_sizes(depth, parameters):
    network = CifarResNet(depth)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert sum(isinstance(layer, nn.Conv2d | nn.Linear) for layer in network.modules()) == depth


def test_a_cifar_resnet_names_its_state_as_published_weights_do():
    names = set(CifarResNet(20).state_dict())
    assert {"conv1.weight", "bn1.running_mean", "layer1.0.conv1.weight", "layer3.2.bn2.bias", "linear.bias"} <= names
    assert not any("shortcut" in name or "downsample" in name for name in names)


def test_a_shortcut_that_changes_shape_subsamples_and_pads_channels_on_both_sides():
    block = CifarResNet(20).eval().layer2[0]
    for parameter in block.parameters():
        nn.init.zeros_(parameter)  # nothing but the shortcut is left
    features = torch.rand(1, 16, 8, 8)
    passed = block(features)
    assert passed.shape == (1, 32, 4, 4)
    assert torch.equal(passed[:, 8:24], features[:, :, ::2, ::2])
    assert not passed[:, :8].any()
    assert not passed[:, 24:].any()


def test_a_cifar_resnet_of_another_depth_is_refused():
    with pytest.raises(ValueError, match="expected 6 n \\+ 2"):
        CifarResNet(18)
