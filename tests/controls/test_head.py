"""The head refitted on the network's own features."""

import pytest
import torch
from helpers import SmallNet, blobs, same_bits, state_bits, trained
from torch import nn
from torch.nn import functional

from smd_evo import Evaluator, Lineage
from smd_evo.controls.head import Head, features_of, fit_head, head_as_it_is, tune_head, with_head
from smd_evo.controls.outputs import fit_scaling
from smd_evo.errors import InvalidValue

pytestmark = pytest.mark.numeric


def test_features_are_what_the_head_gets():
    network = trained()
    before = state_bits(network)
    evaluator = Evaluator(network, blobs(70), batch_size=16)
    features = features_of(evaluator)
    expected = evaluator.predict([Lineage()])[0]
    torch.testing.assert_close(functional.linear(features, network.head.weight, network.head.bias), expected)
    assert same_bits(state_bits(network), before)
    assert not network.head._forward_pre_hooks


def test_the_refit_is_a_minimum():
    features, targets = features_of(Evaluator(trained(), blobs(120))), blobs(120)[1]
    ridge = 0.05
    head = fit_head(features, targets, 3, ridge)
    spread = features.double().std(0, correction=0).clamp(min=1e-6)
    weight, bias = (each.clone().requires_grad_() for each in (head.weight, head.bias))
    loss = functional.cross_entropy(features.double() @ weight.T + bias, targets)
    loss = loss + ridge / 2 * ((weight * spread) ** 2).sum()
    loss.backward()
    assert float((weight.grad / spread).abs().max()) < 1e-3
    assert float(bias.grad.abs().max()) < 1e-3


def test_a_shifted_head_is_found_again():
    network = trained()
    with torch.no_grad():
        network.head.weight.copy_(network.head.weight.roll(1, 0))  # every class is taken for another
        network.head.bias.copy_(network.head.bias.roll(1, 0))
    samples = blobs(150, shift=2.5)
    evaluator = Evaluator(network, samples, "accuracy")
    broken = float(evaluator.evaluate([Lineage()]).fitness[0])
    features = features_of(evaluator)
    mended = fit_head(features, samples[1], 3, 0.01).of(features).argmax(1)
    assert float((mended == samples[1]).float().mean()) > broken + 0.3


def test_two_classes_and_missing_ones():
    features = torch.tensor([[0.0, 1.0], [1.0, 0.0], [4.0, 1.0], [5.0, 0.0]])
    targets = torch.tensor([0, 0, 3, 3])
    outputs = fit_head(features, targets, 5, 1e-3).of(features)
    assert outputs.shape == (4, 5)
    assert outputs.argmax(1).tolist() == targets.tolist()


def test_refusals():
    convolution = nn.Sequential(nn.Conv2d(1, 3, 4), nn.Flatten())
    with pytest.raises(InvalidValue, match=r"^head: expected a torch.nn.Linear as the last layer, got Conv2d"):
        features_of(Evaluator(convolution, (torch.randn(5, 1, 4, 4), torch.arange(5) % 3)))
    with pytest.raises(InvalidValue, match="at least two classes"):
        fit_head(torch.randn(4, 2), torch.zeros(4, dtype=torch.int64), 3, 0.1)
    tokens = nn.Sequential(nn.Linear(4, 3), nn.Flatten(2))
    with pytest.raises(InvalidValue, match="one vector of features for each of 5 samples"):
        features_of(Evaluator(tokens, (torch.randn(5, 2, 4), torch.zeros(5, 3, dtype=torch.int64))))
    assert isinstance(SmallNet().head, nn.Linear)


@pytest.mark.parametrize("samples", [5, 40], ids=["fewer samples than features", "more"])
def test_the_tuned_head_is_the_minimum_near_what_it_was(samples):
    """The slopes of the loss and its squares, over all weights and biases, are as good as zero there."""
    generator = torch.Generator().manual_seed(samples)
    features = (torch.randn(samples, 7, generator=generator) * torch.arange(1, 8) + 3).double()
    targets = torch.arange(samples) % 3
    head = Head(torch.randn(3, 7, generator=generator).double(), torch.randn(3, generator=generator).double())
    tuned = tune_head(features, targets, head, 0.05)
    mean, spread = features.mean(0), features.std(0, correction=0)
    change = ((tuned.weight - head.weight) * spread).requires_grad_()
    shift = (tuned.bias - head.bias + (tuned.weight - head.weight) @ mean).requires_grad_()
    outputs = features @ head.weight.T + head.bias + (features - mean) / spread @ change.T + shift
    torch.testing.assert_close(outputs.detach().float(), tuned.of(features))
    loss = (
        functional.cross_entropy(outputs, targets) + 0.05 / 2 * change.square().sum() + 0.0005 * shift.square().sum()
    )
    loss.backward()
    assert float(change.grad.abs().max()) < 1e-3
    assert float(shift.grad.abs().max()) < 1e-3
    assert loss.item() < float(functional.cross_entropy(features @ head.weight.T + head.bias, targets))


def test_what_samples_do_not_tell_stays_as_it_was():
    network, samples = trained(), blobs(30, shift=1.0)
    features = features_of(Evaluator(network, samples))
    own = head_as_it_is(network)
    torch.testing.assert_close(own.of(features), functional.linear(features, network.head.weight, network.head.bias))
    strong = tune_head(features, samples[1], own, 1e3)  # the class biases alone change
    biases = fit_scaling(own.of(features), samples[1], temperature=False).of(own.of(features))
    torch.testing.assert_close(strong.of(features), biases, rtol=0.05, atol=0.05)
    one = tune_head(features[:1], samples[1][:1], own, 1.0)  # of one sample the class alone may rise
    change = (one.weight - own.weight) @ features[0].double() + one.bias - own.bias
    assert int(change.argmax()) == int(samples[1][0])


def test_heads_without_biases_and_of_other_kinds():
    assert head_as_it_is(nn.Sequential(nn.Linear(2, 3, bias=False))).bias.tolist() == [0, 0, 0]
    with pytest.raises(InvalidValue, match=r"^head: expected a torch.nn.Linear as the last layer, got Conv2d"):
        head_as_it_is(nn.Sequential(nn.Conv2d(1, 3, 1)))
    with pytest.raises(InvalidValue, match=r"^targets: expected samples with classes, got none"):
        tune_head(
            torch.zeros(2, 1), torch.full((2,), -100), Head(torch.zeros(2, 1).double(), torch.zeros(2).double()), 1
        )


class Branching(nn.Module):
    """Its last layer is registered first, is one of several, is called twice, or makes log-probabilities."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.head = kind, nn.Linear(6, 3)
        self.body = nn.Linear(8, 6)
        if kind != "first":  # registered last, it is what `head_of` finds
            del self.head
            self.head = nn.Linear(6, 3)
        self.other = nn.Identity() if kind != "several" else nn.Linear(6, 3)

    def forward(self, x):
        features = self.body(x).tanh()
        if self.kind == "several":
            return (self.head(features) + self.other(features)) / 2
        if self.kind == "twice":
            return self.head(features) - self.head(-features)
        return self.head(features) if self.kind == "last" else self.head(features).log_softmax(1)


def vectors(count=40):
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(count, 8, generator=generator)
    return inputs, inputs[:, :3].argmax(1)


@pytest.mark.parametrize("kind", ["first", "several", "twice"])
def test_a_layer_whose_outputs_are_not_the_networks_is_no_head(kind):
    with pytest.raises(InvalidValue, match=r"^head: expected "):
        features_of(Evaluator(Branching(kind), vectors(), batch_size=16))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["last", "log-probabilities"])
def test_log_probabilities_of_its_outputs_are_as_good_also_in_low_precision(kind, dtype):
    inputs, targets = vectors()
    assert features_of(Evaluator(Branching(kind).to(dtype), (inputs.to(dtype), targets))).shape == (40, 6)


@pytest.mark.parametrize("computed", [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm])
def test_a_new_head_takes_the_place_of_one_whose_weight_is_computed_wherever_it_is(computed):
    network = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), computed(nn.Linear(6, 3)))
    network.also = network[2]
    head = Head(torch.ones(3, 6).double(), torch.arange(3).double())
    found = with_head(network, head)
    assert found.also is found[2]
    features = torch.randn(2, 6)
    torch.testing.assert_close(found[2](features), head.of(features))
    assert type(network[2]) is not nn.Linear
