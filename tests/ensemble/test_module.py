"""SparseEnsemble: what its members predict apart, together, in any precision; the parent is as it was."""

import copy
import gc
import io
import pickle
import signal
import threading
import time
import timeit
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.reduction import ForkingPickler

import pytest
import torch
from helpers import SmallNet, same_bits, state_bits
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from smd_evo import (
    Evaluator,
    Lineage,
    ParameterSpace,
    RandomSubspace,
    SparseDelta,
    SparseEnsemble,
    gaussian,
    sample_mutations,
)
from smd_evo.core.delta import SparseValues
from smd_evo.core.exclusive import _blocks
from smd_evo.ensemble.combine import COMBINES, combined

WEIGHTS = [0.5, 0.1, 0.3, 0.1]


class Tied(nn.Module):
    """One matrix under two names."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(16, 16, bias=False), nn.Linear(16, 16)
        self.second.weight = self.first.weight
        self.norm = nn.BatchNorm1d(16)
        self.third, self.fourth = nn.Linear(16, 3, bias=False), nn.Linear(16, 3, bias=False)

    def forward(self, x):
        x = self.norm(self.second(self.first(x.flatten(1)).relu()))
        return self.third(x) - 0.5 * self.fourth(x.relu())


class Shared(Tied):
    """The same memory as two parameters, and as a part of one that is a buffer, too."""

    def __init__(self):
        super().__init__()
        self.fourth.weight.data = self.third.weight.data
        self.register_buffer("corner", self.first.weight.data[:3])

    def forward(self, x):
        return super().forward(x) + x.flatten(1) @ self.corner.T


class Mixed(nn.Module):
    """Layers of all types, and a frozen scale that may be no member's."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(
            [nn.Linear(16, 16, dtype=dtype) for dtype in (torch.float64, torch.bfloat16, torch.float16)]
        )
        self.head = nn.Linear(16, 3)
        self.scale = nn.Parameter(torch.ones(3), requires_grad=False)

    def forward(self, x):
        x = x.flatten(1)
        for layer in self.layers:
            x = layer(x.to(layer.weight.dtype)).relu()
        return self.head(x.to(self.head.weight.dtype)) * self.scale


NETWORKS = {"small": SmallNet, "tied": Tied, "shared": Shared, "mixed": Mixed}
PLAIN = ["small", "tied", "mixed"]  # of which a cast or a copy keeps what is tied


def make(name="small"):
    torch.manual_seed(0)
    network = NETWORKS[name]()
    with torch.no_grad():
        for part in network.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm):  # such as no member may lose
                part.running_mean.normal_()
                part.running_var.uniform_(0.5, 2.0)
    return network.eval()


def recipes(count=4, key=0, density=0.2, sigma=0.3, **options):
    return sample_mutations(key, count, subspace=RandomSubspace(density), sigma=sigma, **options)


def images(count=5):
    return gaussian(7, torch.arange(16 * count)).view(count, 1, 4, 4)


def apart(parent, members, inputs, weights=None, combine="probabilities", select="all"):
    """The slow way: independent networks, one after the other."""
    space = ParameterSpace(parent, select)
    with torch.no_grad():
        outputs = [space.make_child(member)(*inputs) for member in members]
    return combined(outputs, weights or [1 / len(outputs)] * len(outputs), combine)


class TestForward:
    @pytest.mark.parametrize("combine", COMBINES)
    @pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["alike", "weighted"])
    @pytest.mark.parametrize("name", NETWORKS)
    def test_as_independent_networks(self, name, weights, combine):
        parent, x = make(name), images()
        expected = apart(parent, recipes(), [x], weights, combine)
        before = state_bits(parent)
        together = SparseEnsemble(parent, recipes(), weights, combine=combine)(x)
        assert torch.equal(together, expected)
        assert same_bits(before, state_bits(parent))

    @given(st.lists(st.floats(0.01, 1), min_size=1, max_size=5), st.integers(0, 2**64 - 1), st.floats(0.01, 1))
    def test_of_any_members(self, shares, key, density):
        parent, members = make(), recipes(len(shares), key, density)
        weights = [share / sum(shares) for share in shares]
        outputs = SparseEnsemble(parent, members, weights)(images())
        copies = [ParameterSpace(parent).make_child(member)(images()).double().softmax(1) for member in members]
        mean = sum(weight * output for weight, output in zip(weights, copies, strict=True))
        assert torch.allclose(outputs.exp().double(), mean, atol=1e-5)

    def test_members_of_every_kind(self):
        parent = make()
        first, second, third = recipes(3)
        space = ParameterSpace(parent)
        delta = SparseDelta(torch.tensor([3, 200]), torch.tensor([1.0, -1.0]))
        values = SparseValues(torch.tensor([0, 238]), torch.tensor([2.0, -2.0]))
        members = [first, Lineage((second, third)), Lineage(), delta, values, (delta, values)]
        ensemble = SparseEnsemble(space, iter(members))
        assert torch.equal(ensemble(images()), apart(parent, members, [images()]))
        assert ensemble.recipes == [first.encode(), Lineage((second, third)).encode(), "", None, None, None]
        assert [len(member) for member in ensemble.members][2:5] == [0, 2, 2]

    def test_of_a_selection_nothing_else_is_patched(self):
        parent = make()
        ensemble = SparseEnsemble(parent, recipes(), select="head")
        assert ensemble.space.names == ("head.weight", "head.bias")
        assert torch.equal(ensemble(images()), apart(parent, recipes(), [images()], select="head"))
        for number in range(4):
            member = ensemble.member(number)
            assert torch.equal(member.conv.weight, parent.conv.weight)
            assert not torch.equal(member.head.weight, parent.head.weight)

    def test_frozen_parameters_only_where_the_space_has_them(self):
        for frozen, touched in ((True, 3), (False, 0)):
            space = ParameterSpace(make("mixed"), include_frozen=frozen)
            ensemble = SparseEnsemble(space, recipes(density=1.0))
            assert int((ensemble.member(0).scale != 1).sum()) == touched
            assert torch.equal(copy.deepcopy(ensemble)(images()), ensemble(images()))

    def test_inputs_by_position_and_by_name(self):
        class Two(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(16, 3)

            def forward(self, x, shift, *, times=1.0):
                return self.layer(x.flatten(1)) * times + shift

        torch.manual_seed(0)
        ensemble = SparseEnsemble(Two(), recipes(), combine="logits")
        x, shift = images(), torch.ones(3)
        expected = sum(ensemble.member(number)(x, shift, times=2.0) for number in range(4)) / 4
        for per_pass in (1, 2):
            ensemble.per_pass = per_pass
            assert torch.allclose(ensemble(x, shift=shift, times=2.0), expected, atol=1e-5)
            assert torch.allclose(ensemble(x, shift, times=2.0), expected, atol=1e-5)

    @pytest.mark.parametrize("per_pass", [1, 3])
    def test_inputs_that_the_network_writes_to(self, per_pass):
        class Writes(SmallNet):
            def forward(self, x, *, shift):
                x -= shift.sub_(0.5)
                return super().forward(x)

        torch.manual_seed(0)
        network, x, shift = Writes().eval(), torch.randn(5, 1, 4, 4), torch.ones(())
        ensemble = SparseEnsemble(network, recipes(5), per_pass=per_pass)
        before, each = x.clone(), [ensemble.member(number) for number in range(5)]
        expected = combined([member(x.clone(), shift=shift.clone()).detach() for member in each])
        assert torch.allclose(ensemble(x, shift=shift), expected, atol=1e-6)
        assert torch.equal(x, before)
        assert shift == 1

    def test_no_gradients_and_eval_mode_for_good(self):
        parent = make().train()
        ensemble = SparseEnsemble(parent, recipes())
        expected = ensemble(images())
        ensemble.train()
        assert not any(part.training for part in parent.modules())
        assert torch.equal(ensemble(images().requires_grad_()), expected)
        assert not ensemble(images().requires_grad_()).requires_grad
        assert torch.is_grad_enabled()
        with torch.inference_mode():
            assert torch.equal(ensemble(images()), expected)

    @pytest.mark.parametrize("per_pass", [1, 2])
    def test_eval_mode_also_where_somebody_has_switched_the_network(self, per_pass):
        parent = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16), nn.Dropout(), nn.Linear(16, 3))
        ensemble = SparseEnsemble(parent, recipes(), per_pass=per_pass)
        expected = ensemble(images())
        parent.train()
        parent[1].eval()
        assert torch.equal(ensemble(images()), expected)
        assert [part.training for part in parent] == [True, False, True, True]

    def test_inside_of_a_block_the_outer_child_stays(self):
        """The members are then new values in the outer child."""
        parent, outer = make(), recipes(1, key=99)[0]
        space = ParameterSpace(parent)
        ensemble = SparseEnsemble(space, recipes())
        before = state_bits(parent)
        with space.applied(outer):
            inside = state_bits(parent)
            together = ensemble(images())
            assert same_bits(inside, state_bits(parent))
            assert space.depth > 0
        assert same_bits(before, state_bits(parent))
        nested = [(*space.deltas(outer), member) for member in ensemble.members]
        assert torch.equal(together, apart(parent, nested, [images()]))

    @pytest.mark.parametrize("per_pass", [1, 4])
    @pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
    def test_a_network_that_remembers_forgets_and_may_return_what_it_keeps(self, per_pass):
        class Counting(nn.Module):
            def __init__(self):
                super().__init__()
                self.bias = nn.Parameter(torch.zeros(2, 3))
                self.register_buffer("calls", torch.zeros(()))

            def forward(self, x):
                self.calls += 1
                return self.bias if x is None else self.bias + x * self.calls

        ensemble = SparseEnsemble(Counting(), recipes(density=1.0), combine="logits", per_pass=per_pass)
        mean = sum(ensemble.member(number).bias for number in range(4)) / 4
        for _ in range(2):
            assert torch.allclose(ensemble(torch.ones(2, 3)), mean + 1, atol=1e-6)
            assert torch.allclose(ensemble(None), mean, atol=1e-6)
        assert float(ensemble.parent.calls) == 0

    def test_on_every_device(self, devices):
        expected = SparseEnsemble(make(), recipes(), WEIGHTS)(images())
        for device in devices:
            moved = SparseEnsemble(make(), recipes(), WEIGHTS).to(device)
            made_there = SparseEnsemble(make().to(device), recipes(), WEIGHTS)
            for ensemble in (moved, made_there, copy.deepcopy(moved).cpu().to(device)):
                outputs = ensemble(images().to(device))
                assert outputs.device.type == device.type
                assert {tensor.device.type for tensor in ensemble.buffers()} == {device.type}
                assert torch.allclose(outputs.cpu(), expected, atol=1e-5)


class TestSeveralPerPass:
    @pytest.mark.parametrize("combine", COMBINES)
    @pytest.mark.parametrize("per_pass", [2, 3, 4, 9])
    @pytest.mark.parametrize("name", NETWORKS)
    def test_as_one_by_one(self, name, per_pass, combine):
        parent, x = make(name), images()
        expected = SparseEnsemble(parent, recipes(), WEIGHTS, combine=combine)(x)
        before = state_bits(parent)
        together = SparseEnsemble(parent, recipes(), WEIGHTS, combine=combine, per_pass=per_pass)(x)
        assert torch.allclose(together, expected, atol=2e-2 if name == "mixed" else 1e-5)
        assert same_bits(before, state_bits(parent))

    def test_of_a_selection(self):
        parent = make()
        expected = SparseEnsemble(parent, recipes(), select="head")(images())
        together = SparseEnsemble(parent, recipes(), select="head", per_pass=3)(images())
        assert torch.allclose(together, expected, atol=1e-5)

    def test_what_cannot_be_batched_says_so_and_leaves_no_trace(self):
        class Recurrent(nn.Module):
            def __init__(self):
                super().__init__()
                self.cells = nn.LSTM(4, 3, batch_first=True)

            def forward(self, x):
                return self.cells(x.squeeze(1))[0][:, -1]

        torch.manual_seed(0)
        ensemble = SparseEnsemble(Recurrent(), recipes(density=0.5), per_pass=2)
        before = state_bits(ensemble.parent)
        with pytest.raises(RuntimeError, match="Batching rule not implemented"):
            ensemble(images())
        assert same_bits(before, state_bits(ensemble.parent))
        ensemble.per_pass = 1
        assert torch.equal(ensemble(images()), apart(ensemble.parent, recipes(density=0.5), [images()]))


def until_interrupted(seconds, action):
    """Act, then wait for a real signal, as Ctrl-C sends it, some time after the start (see test_parameters.py)."""
    handler = signal.signal(signal.SIGALRM, signal.default_int_handler)
    gc.disable()
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        action()
        for _ in range(1000):
            time.sleep(0.01)  # a signal just before it does not wake it
        pytest.fail("the interrupt was lost")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        gc.enable()


class Failing(SmallNet):
    """Its forward passes end in what ``outcomes`` says, one after the other."""

    outcomes: tuple = ()

    def forward(self, x):
        kind, *self.outcomes = self.outcomes or (None,)
        if isinstance(kind, type) and issubclass(kind, BaseException):
            raise kind
        return super().forward(x) if kind is None else kind


@pytest.mark.parametrize("per_pass", [1, 2])
class TestNoTrace:
    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, MemoryError, SystemExit, GeneratorExit])
    @pytest.mark.parametrize("place", [0, 1])
    def test_after_an_exception_in_the_network(self, per_pass, error, place):
        torch.manual_seed(0)
        parent = Failing()
        ensemble = SparseEnsemble(parent, recipes(), per_pass=per_pass)
        before, expected = state_bits(parent), ensemble(images())
        names = dict(parent.named_parameters())
        parent.outcomes = (None,) * place + (error,)
        with pytest.raises(error):
            ensemble(images())
        assert same_bits(before, state_bits(parent))
        assert all(parameter is names[name] for name, parameter in parent.named_parameters())
        assert torch.is_grad_enabled()
        assert torch.equal(ensemble(images()), expected)

    @pytest.mark.parametrize("output", [(7, torch.zeros(5, 3)), None, {"out": torch.zeros(5, 3)}], ids=type)
    def test_after_a_network_that_returns_no_logits(self, per_pass, output):
        torch.manual_seed(0)
        parent = Failing()
        ensemble = SparseEnsemble(parent, recipes(), per_pass=per_pass)
        before, expected = state_bits(parent), ensemble(images())
        parent.outcomes = (None, (output,) if output is None else output)
        with pytest.raises(TypeError, match=r"outputs: expected a tensor, .* got (tuple|dict)"):
            ensemble(images())
        assert same_bits(before, state_bits(parent))
        assert torch.equal(ensemble(images()), expected)

    def test_under_a_hail_of_interrupts(self, per_pass):
        """Ctrl-C at random moments, as a real signal; afterwards the ensemble works as before."""
        ensemble = SparseEnsemble(make(), recipes(), per_pass=per_pass)
        before, expected = state_bits(ensemble), ensemble(images())
        parameters = dict(ensemble.named_parameters())
        usual = min(timeit.repeat(lambda: ensemble(images()), number=1))
        for attempt in range(100):
            with pytest.raises((KeyboardInterrupt, RuntimeError)):  # torch.func stumbles over some
                until_interrupted(1e-5 + usual * attempt / 80, lambda: ensemble(images()))
            torch.set_grad_enabled(True)  # torch's own context managers may be interrupted
            while torch._C._functorch.peek_interpreter_stack() is not None:
                torch._C._functorch._vmap_decrement_nesting()
            assert same_bits(before, state_bits(ensemble))
            assert all(parameter is parameters[name] for name, parameter in ensemble.named_parameters())
            assert not _blocks.held
        assert torch.equal(ensemble(images()), expected)


@pytest.mark.parametrize("per_pass", [1, 2])
def test_several_threads_get_what_one_gets(per_pass):
    """Also while soups and members are made; without the lock they would meet half-made members."""
    ensemble = SparseEnsemble(make(), recipes(), per_pass=per_pass)
    inputs = [gaussian(key, torch.arange(64 * 16)).view(64, 1, 4, 4) for key in range(16)]
    expected = [ensemble(x) for x in inputs]
    before, soup, member = state_bits(ensemble), state_bits(ensemble.soup()), state_bits(ensemble.member(2))
    with ThreadPoolExecutor(8) as threads:
        for _ in range(3):
            outputs = [threads.submit(ensemble, x) for x in inputs]
            soups = [threads.submit(ensemble.soup) for _ in range(4)]
            members = [threads.submit(ensemble.member, 2) for _ in range(4)]
            assert all(torch.equal(done.result(), own) for done, own in zip(outputs, expected, strict=True))
            assert all(same_bits(state_bits(done.result()), soup) for done in soups)
            assert all(same_bits(state_bits(done.result()), member) for done in members)
    assert same_bits(before, state_bits(ensemble))


@pytest.mark.parametrize(
    "taken",
    [
        lambda ensemble: pickle.loads(pickle.dumps(ensemble)).state_dict(),
        lambda ensemble: ForkingPickler.loads(ForkingPickler.dumps(ensemble)).state_dict(),
        lambda ensemble: copy.deepcopy(ensemble).state_dict(),
        lambda ensemble: copy.deepcopy(nn.Sequential(ensemble).state_dict()),
    ],
    ids=["pickle", "ForkingPickler", "deepcopy", "state_dict"],
)
def test_a_copy_is_of_the_parent_though_another_thread_predicts(taken):
    ensemble, inside, leave = SparseEnsemble(make(), recipes()), threading.Event(), threading.Event()
    expected = str([*taken(ensemble).values()])
    with ThreadPoolExecutor(2) as threads, ensemble.parent.conv.register_forward_hook(_Waiting(inside, leave)):
        predicted = threads.submit(ensemble, images())
        assert inside.wait(60)
        found = threads.submit(taken, ensemble)
        while not (_blocks.waiting or found.done()):
            time.sleep(0.001)
        leave.set()
        assert str([*found.result(60).values()]) == expected
        predicted.result(60)


class _Waiting:
    """A hook that says that it is reached and waits; a copy of it does not."""

    def __init__(self, inside, leave):
        self._inside, self._leave = inside, leave

    def __call__(self, *_):
        self._inside.set()
        assert self._leave.wait(60)

    def __reduce__(self):
        return print, ()


class TestPrecision:
    @pytest.mark.parametrize("name", ["small", "tied"])
    def test_autocast_gives_each_member_its_own_weights(self, name):
        """Autocast keeps copies of weights in low precision as long as it lasts."""
        parent, x = make(name), images()
        ensemble = SparseEnsemble(parent, recipes(sigma=1.0))
        outputs = []
        for number in range(4):
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                outputs.append(ensemble.member(number)(x))
        with torch.autocast("cpu", torch.bfloat16):
            parent(x)  # fills the copies
            together = ensemble(x)
            assert torch.equal(ensemble(x), together)
            ensemble.per_pass = 2
            assert torch.allclose(ensemble(x), together, atol=0.1)
            assert parent(x).requires_grad  # and none without gradients is left behind
        assert torch.equal(together, combined(outputs, [0.25] * 4))
        assert not torch.equal(outputs[0], outputs[1])

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
    @pytest.mark.parametrize("name", PLAIN)
    def test_casting_casts_each_member(self, name, dtype):
        parent, x = make(name), images().to(dtype)
        ensemble = SparseEnsemble(parent, recipes(), WEIGHTS)
        members = [ensemble.member(number).to(dtype) for number in range(4)]
        with torch.no_grad():
            expected = combined([member(x) for member in members], WEIGHTS)
        assert ensemble.to(dtype) is ensemble
        for number, member in enumerate(members):
            assert same_bits(state_bits(ensemble.member(number)), state_bits(member))
        assert ensemble.values.dtype == dtype
        assert torch.equal(ensemble(x), expected)

    def test_casting_leaves_the_vote_alone(self):
        weights = [1 / 3, 1 / 7, 1 - 1 / 3 - 1 / 7]
        ensemble = SparseEnsemble(make(), recipes(3), weights)
        assert ensemble.half().float().bfloat16().weights.tolist() == weights
        assert ensemble.weights.dtype == torch.float64

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
    def test_of_a_parent_in_another_precision(self, dtype):
        parent = make().to(dtype)
        ensemble = SparseEnsemble(parent, recipes())
        assert torch.equal(ensemble(images().to(dtype)), apart(parent, recipes(), [images().to(dtype)]))
        space = ParameterSpace(parent)
        for number, recipe in enumerate(recipes()):
            assert same_bits(state_bits(ensemble.member(number)), state_bits(space.make_child(recipe)))


class TestAsAModule:
    def test_what_it_holds(self):
        parent = make()
        ensemble = SparseEnsemble(parent, recipes(), notes={"fitness": 0.5})
        assert {name for name, _ in ensemble.named_parameters()} == {
            f"parent.{n}" for n, _ in parent.named_parameters()
        }
        own = {name for name, _ in ensemble.named_buffers() if not name.startswith("parent.")}
        assert own == {"indices", "values", "lengths", "weights"}
        assert len(ensemble) == 4
        assert len(ensemble.indices) == len(ensemble.values) == int(ensemble.lengths.sum())
        assert ensemble.notes == {"fitness": 0.5}
        assert len(nn.Sequential(ensemble, nn.Softmax(-1))(images())) == 5

    @pytest.mark.parametrize("assign", [False, True])
    @pytest.mark.parametrize("per_pass", [1, 2])
    def test_state_dict_of_other_members(self, assign, per_pass):
        """Of another parent, too; what is said of the old members is forgotten."""
        one = SparseEnsemble(make(), recipes(), WEIGHTS, per_pass=per_pass)
        torch.manual_seed(5)
        two = SparseEnsemble(SmallNet(), recipes(key=9), per_pass=per_pass)
        expected, state = one(images()), copy.deepcopy(one.state_dict())
        assert not torch.equal(two(images()), expected)
        assert not two.load_state_dict(state, assign=assign).missing_keys
        assert torch.equal(two(images()), expected)
        assert same_bits(state_bits(two), state_bits(one))
        assert same_bits(state_bits(two.soup()), state_bits(one.soup()))
        assert two.recipes == [None] * 4
        assert torch.equal(copy.deepcopy(two).half()(images().half()), copy.deepcopy(one).half()(images().half()))

    def test_recipes_stay_while_the_members_do(self):
        ensemble = SparseEnsemble(make(), recipes())
        expected = list(ensemble.recipes)
        ensemble.load_state_dict({}, strict=False)
        with pytest.raises(RuntimeError, match="Missing key"):
            ensemble.load_state_dict({"weights": ensemble.weights})
        assert ensemble.recipes == expected

    def test_a_state_from_a_file_without_pickled_objects(self):
        ensemble, file = SparseEnsemble(make(), recipes(), WEIGHTS), io.BytesIO()
        torch.save({"inner." + name: tensor for name, tensor in ensemble.state_dict().items()}, file)
        file.seek(0)
        outer = nn.Module()
        outer.inner = SparseEnsemble(SmallNet(), recipes(key=3))
        outer.load_state_dict(torch.load(file, weights_only=True))
        assert torch.equal(outer.inner(images()), ensemble(images()))

    @pytest.mark.parametrize("assign", [False, True])
    @pytest.mark.parametrize(
        ("name", "damage", "message"),
        [
            ("indices", lambda old: old.flip(0), "strictly increasing"),
            ("indices", lambda old: old - 50, "increasing indices >= 0"),
            ("indices", lambda old: old + 200, "expected numbers below D = 239"),
            ("lengths", lambda old: old + 1, "add up to 192 indices"),
            ("lengths", lambda old: torch.tensor([-1, 97, 48, 48]), "numbers >= 0"),
            ("lengths", lambda old: torch.tensor([2**62, 2**62, 2**62, 2**62 + 192]), "add up to 192 indices"),
            ("weights", lambda old: -old, "weights: expected a finite number > 0"),
            ("weights", lambda old: old * float("nan"), "weights: expected a finite number > 0"),
            ("weights", lambda old: old * 2, "add up to one"),
            ("values", lambda old: old[1:], "size mismatch"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_a_damaged_state_is_refused_and_never_used(self, name, damage, message, assign):
        ensemble = SparseEnsemble(make(), recipes())
        state = copy.deepcopy(ensemble.state_dict())
        assert len(state["indices"]) == 192
        with pytest.raises(RuntimeError, match=message):
            ensemble.load_state_dict(state | {name: damage(state[name])}, assign=assign)
        ensemble.load_state_dict(state)
        assert torch.equal(ensemble(images()), apart(ensemble.parent, recipes(), [images()]))

    @pytest.mark.parametrize("name", PLAIN)
    def test_copies(self, name):
        """Deep copies, pickles, and torch.save of all of it: independent and the same."""
        ensemble = SparseEnsemble(make(name), recipes(), WEIGHTS, notes=[1])
        expected, file = ensemble(images()), io.BytesIO()
        torch.save(ensemble, file)
        file.seek(0)
        copies = [
            copy.deepcopy(ensemble),
            torch.load(file, weights_only=False),
            pickle.loads(pickle.dumps(ensemble)),
            ForkingPickler.loads(ForkingPickler.dumps(ensemble)),
        ]
        with torch.no_grad():
            for tensor in (*ensemble.parameters(), *ensemble.buffers()):
                tensor.zero_()
        for other in copies:
            assert torch.equal(other(images()), expected)
            assert other.space.module is other.parent
            assert (other.notes, other.recipes) == (ensemble.notes, ensemble.recipes)
            assert torch.allclose(other.double()(images().double()).float(), expected, atol=0.05)

    def test_another_process_gets_an_ensemble_of_its_own(self):
        """torch would send the parameters as shared memory, and both would patch one network at once."""
        ensemble = SparseEnsemble(make(), recipes())
        expected = ensemble(images())
        twin = ForkingPickler.loads(ForkingPickler.dumps(ensemble))
        assert not any(tensor.is_shared() for own in (ensemble, twin) for tensor in own.state_dict().values())
        with torch.no_grad():
            twin.parent.head.weight.zero_()
        assert torch.equal(ensemble(images()), expected)

    def test_moved_where_parameters_become_new_objects(self):
        """Through the meta device, as large networks are loaded."""
        ensemble = SparseEnsemble(make(), recipes(), WEIGHTS)
        expected, state = ensemble(images()), copy.deepcopy(ensemble.state_dict())
        ensemble.to("meta").to_empty(device="cpu").load_state_dict(state)
        assert torch.equal(ensemble(images()), expected)

    def test_members_and_soup_are_independent_networks(self):
        ensemble = SparseEnsemble(make(), recipes())
        before = state_bits(ensemble)
        for network in (ensemble.member(1), ensemble.member(-1), ensemble.soup()):
            assert type(network) is SmallNet
            assert not same_bits(state_bits(network), state_bits(ensemble.parent))
            nn.functional.cross_entropy(network(images()), torch.zeros(5, dtype=torch.int64)).backward()
            with torch.no_grad():
                for tensor in (*network.parameters(), *network.buffers()):
                    tensor.zero_()
        assert same_bits(before, state_bits(ensemble))
        assert all(parameter.grad is None for parameter in ensemble.parameters())

    def test_the_soup_can_be_exported(self):
        soup = SparseEnsemble(make(), recipes(), WEIGHTS).soup()
        program = torch.export.export(soup, (images(),))
        with torch.no_grad():
            assert torch.allclose(program.module()(images()), soup(images()), atol=1e-6)

    def test_the_network_of_an_evaluator(self, samples):
        """A network like any other: its loss, and children of its parent below its members."""
        ensemble = SparseEnsemble(make(), recipes())
        before = state_bits(ensemble)
        evaluator = Evaluator(ensemble, samples)
        child = recipes(1, key=50)[0]
        losses = evaluator.evaluate([Lineage(), child, Lineage()]).fitness
        assert losses[0] == losses[2] != losses[1]
        expected = nn.functional.cross_entropy(ensemble(samples[0]), samples[1])
        assert float(losses[0]) == pytest.approx(float(expected), rel=1e-6)
        assert same_bits(before, state_bits(ensemble))


@pytest.mark.parametrize(
    ("members", "options", "error", "message"),
    [
        ([], {}, ValueError, "members: expected at least one, got none"),
        (recipes(2), {"weights": [1.0]}, ValueError, "weights: expected 2 numbers that add up to one, got 1"),
        (recipes(2), {"weights": [0.5, 0.6]}, ValueError, "got 2 with the sum 1.1"),
        (recipes(2), {"weights": [1.0, 0.0]}, ValueError, "leave members of weight 0 out"),
        (recipes(2), {"weights": [1.5, -0.5]}, ValueError, "weights: expected a finite number > 0"),
        (recipes(2), {"weights": [float("nan"), 1]}, ValueError, "weights: expected a finite number > 0"),
        (recipes(2), {"weights": ["a", 1]}, TypeError, "weights: expected a number > 0, got 'a'"),
        (recipes(2), {"combine": "logit"}, ValueError, "did you mean 'logits'"),
        (recipes(2), {"per_pass": 0}, ValueError, "per_pass: expected a whole number >= 1, got 0"),
        (recipes(2), {"per_pass": 1.5}, TypeError, "per_pass: expected a whole number"),
        (recipes(2), {"select": "tail"}, ValueError, "select: expected one of"),
        (recipes(1)[0], {}, TypeError, "members: expected a sequence of children, got Mutation; put it in a list"),
        (Lineage(tuple(recipes(2))), {}, TypeError, "members: expected a sequence of children, got Lineage"),
        ([3], {}, TypeError, "child: expected a Mutation, Lineage or SparseDelta, got int"),
        ([SparseDelta(torch.tensor([239]), torch.ones(1))], {}, ValueError, "below D = 239"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_arguments_leave_the_parent_alone(members, options, error, message):
    parent = make().train()
    before = state_bits(parent)
    with pytest.raises(error, match=message):
        SparseEnsemble(parent, members, **options)
    assert same_bits(before, state_bits(parent))
    assert parent.training


def test_a_space_has_its_selection_already():
    with pytest.raises(ValueError, match=r"expected a torch\.nn\.Module where select is given, got a ParameterSpace"):
        SparseEnsemble(ParameterSpace(make()), recipes(), select="head")
    with pytest.raises(TypeError, match=r"module: expected a torch\.nn\.Module, got {}"):
        SparseEnsemble({}, recipes())
