"""CIFAR ResNets are the paper's, option A."""

import pytest
import torch
from torch import nn

from smd_evo.zoo.cifar_resnet import CifarResNet


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
    with pytest.raises(ValueError, match=r"expected 6 n \+ 2"):
        CifarResNet(18)
