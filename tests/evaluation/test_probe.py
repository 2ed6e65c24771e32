"""Whether the selected weights matter: found out once, by a few small passes, and told; never where they do."""

import copy
import warnings

import pytest
import torch
from helpers import SmallNet, same_bits, state_bits
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrize

from smd_evo import (
    Evaluator,
    FinetuneProblem,
    Lineage,
    ModuleFitness,
    ParameterSpace,
    RandomSubspace,
    SubspaceEvolution,
    sample_mutations,
)
from smd_evo.errors import InvalidValue, UnsupportedParameter
from smd_evo.evaluation.stream import Stream

NOTHING = r"parent: expected outputs that change with the selected weights \(.*\), got the same"


def children(count=3, sigma=0.3):
    return sample_mutations(0, count, subspace=RandomSubspace(0.3), sigma=sigma)


class Adapter(nn.Module):
    """A frozen layer and a change of low rank, which may be merged into it."""

    def __init__(self):
        super().__init__()
        self.base = nn.Linear(16, 3).requires_grad_(False)
        self.down, self.up = nn.Parameter(torch.randn(2, 16)), nn.Parameter(torch.randn(3, 2))
        self.merged = False

    def merge(self):
        self.base.weight.data += self.up.data @ self.down.data
        self.merged = True

    def forward(self, x):
        x = x.flatten(1)
        return self.base(x) if self.merged else self.base(x) + x @ self.down.T @ self.up.T


class MergesInEval(Adapter):
    def train(self, mode=True):
        super().train(mode)
        if not mode and not self.merged:
            self.merge()
        return self


class CachesInEval(SmallNet):
    def train(self, mode=True):
        self.cache = None if mode else self.head.weight.detach().clone()
        return super().train(mode)

    def forward(self, x):
        return functional.linear(self.conv(x).relu().flatten(1), self.cache, self.head.bias)


class CachesWhenAsked(SmallNet):
    cache = None

    def forward(self, x):
        if self.cache is None:
            self.cache = self.head.weight * 2
        return functional.linear(x.repeat(1, 4, 1, 1).flatten(1), self.cache)


class RemembersAnswers(SmallNet):
    def __init__(self):
        super().__init__()
        self.answers = {}

    def forward(self, x):
        key = x.numpy().tobytes()
        if key not in self.answers:
            self.answers[key] = super().forward(x)
        return self.answers[key]


class Halved(nn.Module):
    def forward(self, weight):
        return weight / 2


def merged():
    network = Adapter()
    network.merge()
    return network


class TestNothingMatters:
    @pytest.mark.parametrize("make", [merged, MergesInEval, CachesInEval, CachesWhenAsked, RemembersAnswers])
    @pytest.mark.parametrize("of", [Evaluator.evaluate, Evaluator.predict], ids=["evaluate", "predict"])
    def test_it_is_refused_and_everything_is_as_before(self, make, of, samples):
        torch.manual_seed(0)
        network = make()
        before, modes = state_bits(network), [part.training for part in network.modules()]
        select = "*head.weight" if isinstance(network, SmallNet) else "all"
        with pytest.raises(InvalidValue, match=NOTHING) as caught:
            of(Evaluator(network, samples, select=select), children())
        assert "\n" not in str(caught.value)
        assert "unmerge" in str(caught.value)
        assert same_bits(before, state_bits(network))
        assert modes == [part.training for part in network.modules()]

    def test_a_parametrization_that_is_cached(self, samples):
        network = nn.Sequential(nn.Flatten(), nn.Linear(16, 3, bias=False))
        parametrize.register_parametrization(network[1], "weight", Halved())
        assert len(set(Evaluator(copy.deepcopy(network), samples).evaluate(children()).fitness.tolist())) == 3
        with parametrize.cached(), pytest.raises(InvalidValue, match=NOTHING):
            Evaluator(network, samples).evaluate(children())

    def test_what_keeps_a_part_of_a_patch_is_refused(self, samples):
        """A cache that is made anew where the weights are not what they were, and never again."""

        class Keeping(SmallNet):
            times = 0

            def forward(self, x):
                weight = self.head.weight.detach()
                if self.times < 2 and (self.times == 0 or not torch.equal(weight, self.seen)):
                    self.seen, self.times = weight.clone(), self.times + 1
                return functional.linear(x.repeat(1, 4, 1, 1).flatten(1), self.seen) + 0 * weight.sum()

        with pytest.raises(InvalidValue, match="outputs of before once a patch is taken back"):
            Evaluator(Keeping(), samples, select="head.weight").evaluate(children())


class Twins(SmallNet):
    """With a second head that only training uses."""

    def __init__(self):
        super().__init__()
        self.aside = nn.Linear(64, 2)


class TestSomeDoNotMatter:
    def test_they_are_named_once(self, samples):
        network = Twins()
        told = r"select: 2 of 7 tensors, 35\.\d% of the coordinates, .*\(aside\.weight, aside\.bias\)"
        with pytest.warns(UserWarning, match=told):
            Evaluator(network, samples).evaluate(children())
        Evaluator(network, samples, "accuracy").evaluate(children())
        Evaluator(network, samples, select=["conv", "bn", "head.*"]).evaluate(children())

    def test_a_long_list_is_cut_short(self, samples):
        network = SmallNet()
        network.aside = nn.ModuleList(nn.Linear(2, 2) for _ in range(9))
        with pytest.warns(UserWarning, match=r"18 of 23 tensors.*aside\.1\.bias, \.\.\.\)") as told:
            Evaluator(network, Stream(*samples)).evaluate(children())
        assert len(told) == 1

    def test_merged_adapters_beside_a_head(self, samples):
        class Both(nn.Sequential):
            pass

        network = Both(merged(), nn.Linear(3, 3))
        with pytest.warns(UserWarning, match=r"2 of 4 tensors.*0\.down, 0\.up"):
            Evaluator(network, samples).evaluate(children())


class Random(SmallNet):
    def forward(self, x):
        return super().forward(x) + torch.randn(3)


class NotANumber(SmallNet):
    def forward(self, x):
        return super().forward(x) + float("nan")


class Classes(SmallNet):
    def forward(self, x):
        return super().forward(x).argmax(1)


class Saturated(SmallNet):
    def forward(self, x):
        return (super().forward(x) * 0).sigmoid()


class Zero(SmallNet):
    """As adapters begin: one factor is zero."""

    def __init__(self):
        super().__init__()
        nn.init.zeros_(self.head.weight)


class Nested(SmallNet):
    def forward(self, x):
        return super().forward(x)

    def __call__(self, x):
        return {"out": [super().__call__(x)]}["out"][0]


class Fixed(SmallNet):
    """Takes batches of one size alone."""

    def forward(self, x):
        return super().forward(x.view(40, 1, 4, 4))


class Attention(nn.Module):
    """Its weights go to fused operations, several in one piece of memory."""

    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(16, 2, 8, batch_first=True)
        self.memory = nn.LSTM(16, 3)

    def forward(self, x):
        return self.memory(self.layer(x.view(-1, 1, 16)))[0][:, 0]


class Functional(SmallNet):
    def forward(self, x):
        weights = {name: weight.detach().clone() for name, weight in self.head.named_parameters()}
        return torch.func.functional_call(self.head, weights, (self.bn(self.conv(x)).flatten(1),))


class TestAllMatter:
    @pytest.mark.parametrize(
        "make", [SmallNet, Random, NotANumber, Classes, Saturated, Zero, Nested, Fixed, Attention, Functional]
    )
    def test_nothing_is_said(self, make, samples):
        torch.manual_seed(0)
        network = make()
        score = ModuleFitness("none", "min", lambda module: 0.0)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            Evaluator(network, samples, score).predict(children())
        assert not told

    def test_under_autocast_that_keeps_copies(self, samples):
        with torch.autocast("cpu", torch.bfloat16):
            Evaluator(SmallNet(), samples).evaluate(children())

    def test_with_a_scripted_part(self, samples):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network = nn.Sequential(nn.Flatten(), torch.jit.script(nn.Linear(16, 3)))
        assert len(set(Evaluator(network, samples).evaluate(children()).fitness.tolist())) == 3

    def test_what_fails_on_a_few_samples_fails_as_it_would(self, network, samples):
        def fail(*_):
            raise ZeroDivisionError

        network.register_forward_pre_hook(fail)
        with pytest.raises(ZeroDivisionError):
            Evaluator(network, samples).evaluate(children())

    def test_it_takes_four_passes_of_eight_samples_once(self, network, samples):
        sizes = []
        network.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
        evaluator = Evaluator(network, samples)
        for _ in range(2):
            evaluator.evaluate(children())
        evaluator.on(samples, "accuracy").predict(children())
        assert sizes == [8] * 4 + [40] * 9

    def test_weights_that_are_merged_later_are_noticed_by_the_next_evaluator(self, samples):
        torch.manual_seed(0)
        network = Adapter()
        Evaluator(network, samples).evaluate(children())
        network.merge()
        with pytest.raises(InvalidValue, match=NOTHING):
            Evaluator(network, samples).evaluate(children())

    def test_of_no_children_nothing_is_asked_and_of_a_network_alone_neither(self, network, samples):
        network.register_forward_pre_hook(lambda *_: pytest.fail("was called"))
        Evaluator(network, Stream(*samples)).evaluate([])
        Evaluator(network, fitness=ModuleFitness("none", "min", lambda module: 0.0)).evaluate(children())


@pytest.mark.parametrize("how", ["setting", "option", "in place"])
def test_a_network_that_is_compiled_with_frozen_weights_is_refused_before_it_runs(how, network):
    import torch._inductor.config as inductor

    if how == "in place":
        network.compile()
    compiled = network if how == "in place" else torch.compile(network, options={"freezing": how == "option"})
    with (
        inductor.patch(freezing=how != "option"),
        pytest.raises(UnsupportedParameter, match="freezing, which makes constants of them"),
    ):
        ParameterSpace(compiled)
    assert ParameterSpace(compiled).size if how != "option" else ParameterSpace(network).size


class TestSamplesThatTheNetworkDoesNotTake:
    """torch's own error, and what was given, in a line; the trace is that of the network."""

    @pytest.mark.parametrize(
        ("make", "inputs", "message"),
        [
            (
                lambda: nn.Linear(4, 3),
                torch.ones(6, 4, dtype=torch.float64),
                r"got \[6, 4\] of float64, .*: RuntimeError: .*; its parameters are float32: give inputs of",
            ),
            (
                lambda: nn.Linear(4, 3).bfloat16(),
                torch.ones(6, 4),
                r"got \[6, 4\] of float32, .*; its parameters are bfloat16: give inputs of that type",
            ),
            (lambda: nn.Linear(4, 3), torch.ones(6, 5), r"got \[6, 5\] of float32, .*: RuntimeError: .* multiplied"),
            (
                lambda: nn.Sequential(nn.Embedding(4, 2), nn.Flatten(), nn.Linear(2, 3)),
                torch.full((6, 1), 9),
                r"got \[6, 1\] of int64, with which it fails: IndexError: index out of range",
            ),
        ],
        ids=["double", "narrow", "width", "vocabulary"],
    )
    def test_are_refused(self, make, inputs, message):
        evaluator = Evaluator(make(), (inputs, torch.arange(6) % 3))
        with pytest.raises(InvalidValue, match="^data: expected inputs that the network takes, " + message) as caught:
            evaluator.evaluate([Lineage()])
        assert "\n" not in str(caught.value)
        assert isinstance(caught.value.__cause__, RuntimeError | IndexError)


ALIKE = r"all \d+ children have exactly the fitness of their parent, .*: sigma is too small"


class TestChildrenThatEqualTheirParent:
    def test_an_evaluator_says_so_once_where_the_parent_is_among_them(self, network, samples):
        evaluator, few = Evaluator(network, samples, "accuracy"), children(9, sigma=1e-9)
        evaluator.evaluate(few)
        evaluator.evaluate([Lineage(), *few[:7]])
        with pytest.warns(RuntimeWarning, match=ALIKE):
            evaluator.evaluate([*few, Lineage()])
        evaluator.evaluate([*few, Lineage()])
        evaluator.on_samples(torch.arange(9)).evaluate([*few, Lineage()])
        Evaluator(network, samples).evaluate([Lineage(), *children(9)])

    def test_a_searcher_says_so_once(self, network, samples):
        problem = FinetuneProblem(network, samples, "accuracy", seed=1)
        searcher = SubspaceEvolution(problem, popsize=9, density=0.1, sigma=1e-9)
        with pytest.warns(RuntimeWarning, match=ALIKE) as told:
            searcher.run(3)
        assert len(told) == 1

    def test_not_of_the_worst_there_is(self, network):
        score = ModuleFitness("none", "min", lambda module: float("nan"))
        Evaluator(network, fitness=score).evaluate([Lineage(), *children(9)])
