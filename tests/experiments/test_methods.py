"""The contract that all methods of a comparison keep, and what is particular to some."""

import copy
import re
from typing import ClassVar

import pytest
import torch
from torch import nn

from smd_evo import derive, gaussian
from smd_evo.core.mutation import Lineage
from smd_evo.core.parameters import ParameterSpace
from smd_evo.errors import InvalidType, InvalidValue
from smd_evo.evaluation import heads, sharing, visit
from smd_evo.evaluation.evaluator import Evaluator
from smd_evo.evaluation.fitness import ACCURACY
from smd_evo.experiments.compare.methods.base import Method, Task
from smd_evo.experiments.compare.methods.oneshot import Smd
from smd_evo.experiments.compare.methods.registry import CONTROLS, METHODS, REFERENCE, find_method
from smd_evo.experiments.compare.run import Comparison, Job
from smd_evo.experiments.compare.settings import CompareConfig

pytestmark = pytest.mark.numeric

SAMPLES, CHILDREN, IMAGES = 96, 12, 24


class Counting(nn.Module):
    """A small network that notes the samples it has seen, in a list that all its copies share."""

    seen: ClassVar[list] = []

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 12), nn.LayerNorm(12), nn.ReLU(), nn.Linear(12, 3))

    def forward(self, inputs):
        Counting.seen.append(inputs.detach().clone())
        return self.layers(inputs)


def middling():
    """A parent and data on which it is middling; trained, it would be another one on another processor."""
    centres, noise = gaussian(1, torch.arange(18)).view(3, 6), gaussian(2, torch.arange(6 * SAMPLES)).view(SAMPLES, 6)
    targets = torch.arange(SAMPLES) % 3
    with torch.random.fork_rng(devices=[]):
        network = Counting()
    state = {
        name: 0.5 * gaussian(derive(3, name), torch.arange(p.numel())).view(p.shape)
        for name, p in network.named_parameters()
    }
    state["layers.0.weight"][:3] = centres  # three of twelve units look for a class each
    state["layers.1.weight"] += 1
    state["layers.3.weight"][:, :3] += torch.eye(3)
    network.load_state_dict(state)
    return network.eval(), (centres[targets] + 0.7 * noise, targets)


PARENT, DATA = middling()
STRENGTHS = {}  # calibrated once for all tests


def task(seed=1, **changes):
    Counting.seen.clear()
    settings = {"children": CHILDREN, "images": IMAGES, "budget": 40 * CHILDREN * IMAGES, "seed": seed} | changes
    return Task(ParameterSpace(copy.deepcopy(PARENT)), DATA, "cross_entropy", **({"strengths": STRENGTHS} | settings))


def made(name, own, trial=0):
    kind = find_method(name)
    method = kind(own, **kind.grid[trial])
    Counting.seen.clear()
    return method


def loss(outputs):
    return float(nn.functional.cross_entropy(outputs, DATA[1]))


@pytest.fixture
def without_trial(monkeypatch):
    """No trial of the network's weights and layers, which takes place once, on a few images, charged to nobody."""
    monkeypatch.setattr(visit, "probe", lambda *_: None)
    for part in (sharing, heads):
        monkeypatch.setattr(part, "unfit", lambda _: "a test that counts")


OTHERS = ["early-newton", *(name for name in METHODS if name.startswith("adapted"))]
"""Whose steps are of other sizes, see test_adapted."""
EVOLVED = [name for name in METHODS if name not in (*CONTROLS, *OTHERS)]
every_method = pytest.mark.parametrize("name", EVOLVED)


@every_method
def test_it_starts_at_the_parent(name):
    own = task()
    expected = own.parent.predict([Lineage()])[0].log_softmax(1)
    assert torch.allclose(made(name, own).predict(DATA).log_softmax(1), expected, atol=1e-5)


@every_method
@pytest.mark.usefixtures("without_trial")
def test_a_step_evaluates_as_many_images_as_it_costs(name):
    """EvoTorch's problems also look at the parent on each minibatch, which nobody needs and nobody is charged for."""
    method = made(name, task())
    for _ in range(3):
        cost = method.cost
        Counting.seen.clear()
        method.step()
        seen = sum(map(len, Counting.seen))
        forwards = 3 if name == "sgd" else 1
        unused = 3 * IMAGES if name == "deep-ga" else 0  # it has one parent at first, and pays for four
        assert -unused <= forwards * seen - cost <= IMAGES
        assert cost <= CHILDREN * IMAGES


@every_method
def test_it_learns(name):
    """Over twenty seeds the loss was at most 0.92 of the parent's, but for one of RandOpt, 1.03."""
    quotients = []
    for seed in (1, 2, 3) if name == "randopt" else (1,):
        own = task(seed)
        method = made(name, own)
        spent = 0
        while spent + method.cost <= own.budget:
            spent += method.cost
            method.step()
        quotients.append(loss(method.predict(DATA)) / loss(own.parent.predict([Lineage()])[0]))
        assert own.budget - spent < CHILDREN * IMAGES
    assert sum(quotients) / len(quotients) < 1


@every_method
def test_its_seed_is_all_that_it_draws_from(name):
    def predicted(seed):
        method = made(name, task(seed))
        method.step()
        method.step()
        return method.predict(DATA)

    first = predicted(1)
    torch.manual_seed(3)
    assert torch.equal(predicted(1), first)
    assert not torch.equal(predicted(2), first)


@every_method
def test_it_leaves_the_parent_as_it_is(name):
    own = task()
    network = own.space.module
    before = copy.deepcopy(network.state_dict())
    wanted = [parameter.requires_grad for parameter in network.parameters()]
    method = made(name, own)
    method.step()
    method.predict(DATA)
    assert all(torch.equal(before[key], tensor) for key, tensor in network.state_dict().items())
    assert [parameter.requires_grad for parameter in network.parameters()] == wanted
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("name", [name for name in EVOLVED if name not in ("smd", "sgd")])
@pytest.mark.usefixtures("without_trial")
def test_all_see_the_same_minibatch(name):
    own = task()
    made(name, own).step()
    batch = torch.cat([batch for _, batch in zip(range(1), Counting.seen, strict=False)])
    assert torch.equal(batch, _inputs(own.minibatch(0)))


def _inputs(evaluator):
    evaluator.predict([Lineage()])
    return Counting.seen[-1].clone()


@every_method
def test_every_setting_of_its_grid_can_be_tried(name):
    kind = find_method(name)
    assert len(kind.grid) == 4
    assert len({tuple(sorted(settings.items())) for settings in kind.grid}) == 4
    for trial in range(4):
        made(name, task(), trial).step()


@pytest.mark.parametrize("name", METHODS)
def test_it_says_what_it_is(name):
    assert re.fullmatch(r".{10,110}", find_method(name).about)


def test_sgd_takes_the_steps_of_torchs_own():
    own = task()
    method = made("sgd", own)
    network = copy.deepcopy(PARENT)
    optimizer = torch.optim.SGD(network.parameters(), lr=find_method("sgd").grid[0]["rate"], momentum=0.9)
    for number in range(3):
        method.step()
        batch = own.minibatch(number, IMAGES // 3)
        inputs, targets = _inputs(batch), batch.targets()
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(inputs), targets).backward()
        optimizer.step()
    expected = Evaluator(network, DATA).predict([Lineage()])[0]
    assert torch.allclose(method.predict(DATA), expected, atol=1e-6)


def test_sgd_follows_its_steps_under_autocast():
    """Autocast keeps copies of the weights in low precision, which must not outlive a step."""
    own = task()
    with torch.autocast("cpu", torch.bfloat16):
        method = made("sgd", own)
        before = method.predict(DATA)
        for _ in range(30):
            method.step()
        assert not torch.equal(method.predict(DATA), before)
        assert loss(method.predict(DATA).float()) < loss(before.float())


def test_sgd_wants_a_loss():
    own = task()
    with pytest.raises(InvalidValue, match="fitness: expected a loss for sgd, got accuracy"):
        find_method("sgd")(Task(own.space, DATA, ACCURACY, CHILDREN, IMAGES, 10_000, 0), rate=0.1)


def test_norm_bias_es_moves_nothing_else():
    method = made("norm-bias-es", task())
    method.step()
    moved = dict(method.problem.make_net().named_parameters())
    for name, parameter in PARENT.named_parameters():
        assert torch.equal(parameter, moved[name]) == (parameter.dim() > 1), name


def test_head_es_moves_the_last_layer_alone_and_computes_the_others_once():
    own = task(children=40)
    method = made("head-es", own)
    method.step()
    moved = dict(method.problem.make_net().named_parameters())
    for name, parameter in PARENT.named_parameters():
        assert torch.equal(parameter, moved[name]) != name.startswith("layers.3"), name
    assert method.work.images == 41 * IMAGES  # and the parent
    assert IMAGES < method.work.forwards < 0.7 * method.work.images


def test_staged_es_moves_the_head_then_vectors_then_everything():
    own = task(budget=10 * CHILDREN * IMAGES)
    method = made("staged-es", own)  # two generations, three, and five
    seen = []
    before = dict(method.problem.make_net().named_parameters())
    for _ in range(10):
        method.step()
        after = dict(method.problem.make_net().named_parameters())
        seen.append({name for name in before if not torch.equal(before[name], after[name])})
        before = after
    head = {name for name in before if name.startswith("layers.3")}
    vectors = {name for name in before if before[name].dim() == 1}
    assert seen == [head] * 2 + [vectors] * 3 + [set(before)] * 5
    assert own.calibration > 0
    assert method.searcher.is_terminated


def test_staged_es_has_every_stage_however_small_the_budget():
    method = made("staged-es", task(budget=3 * CHILDREN * IMAGES))
    for _ in range(3):
        method.step()
    assert method.searcher.status["stage"] == 3


def test_newton_methods_move_what_they_say():
    moving = {
        "newton": lambda name, p: True,
        "norm-newton": lambda name, p: p.dim() <= 1,
        "head-newton": lambda name, p: name.startswith("layers.3"),
    }
    for method_name, wanted in moving.items():
        method = made(method_name, task())
        method.step()
        moved = dict(method.problem.make_net().named_parameters())
        for name, parameter in PARENT.named_parameters():
            assert torch.equal(parameter, moved[name]) != wanted(name, parameter), (method_name, name)


def test_newton_counts_the_parent_as_a_child():
    method = made("head-newton", task())
    before = method.work.images
    method.step()
    assert method.work.images - before == CHILDREN * IMAGES == method.cost


def test_newton_learns_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        method = made("newton", task())
        before = method.predict(DATA)
        for _ in range(10):
            method.step()
        assert loss(method.predict(DATA).float()) < 0.9 * loss(before.float())


@pytest.mark.parametrize(("name", "what"), [("head-newton", "the last layer's"), ("norm-newton", "norms or biases")])
def test_newton_methods_name_themselves(name, what):
    own = "layers.1" if name == "head-newton" else "layers.0.weight"
    first = Task(ParameterSpace(copy.deepcopy(PARENT), own), DATA, "cross_entropy", CHILDREN, IMAGES, 10_000, 0)
    with pytest.raises(InvalidValue, match=f"methods: expected {what} among .*; leave {name} out"):
        made(name, first)


def test_head_es_wants_the_head_among_what_may_move():
    own = task()
    first = Task(ParameterSpace(own.space.module, "layers.0"), DATA, "cross_entropy", CHILDREN, IMAGES, 10_000, 0)
    with pytest.raises(InvalidValue, match="methods: expected the last layer's among the 2 tensors"):
        made("head-es", first)


def test_what_the_others_compute_is_what_they_cost():
    for name in ("openai-es", "smd", "pgpe", "deap-mu-plus-lambda"):
        method = made(name, task())
        before = method.work.forwards
        method.step()
        assert method.cost <= method.work.forwards - before <= method.cost + IMAGES, name
    assert made("sgd", task()).work is None


def test_norm_bias_es_wants_norms_or_biases():
    bare = Task(ParameterSpace(nn.Linear(6, 3, bias=False)), DATA, "cross_entropy", CHILDREN, IMAGES, 10_000, 0)
    with pytest.raises(InvalidValue, match="methods: expected norms or biases among the 1 tensors"):
        made("norm-bias-es", bare)


def test_static_sparse_es_moves_one_subspace_and_sparse_es_more():
    def moved(name):
        method = made(name, task())
        for _ in range(5):
            method.step()
        after = torch.cat([tensor.flatten() for tensor in method.problem.make_net().parameters()])
        return int((after != torch.cat([tensor.flatten() for tensor in PARENT.parameters()])).sum())

    total = sum(tensor.numel() for tensor in PARENT.parameters())
    assert moved("static-sparse-es") == round(0.1 * total)
    assert moved("sparse-es") > 0.5 * total


def test_ensembles_keep_the_best_children_of_all_steps():
    own = task()
    method = made("smd-ensemble", own)
    for _ in range(3):
        method.step()
    everyone = [child for child, _ in method._best]
    fitness = own.minibatch(0).evaluate(everyone).fitness
    assert len(everyone) == 10
    assert fitness.tolist() == sorted(fitness.tolist())


def test_strengths_are_calibrated_once_and_counted():
    own = task(strengths={})
    made("sparse-es", own)
    assert len(own.strengths) == 1
    assert own.calibration == next(iter(own.strengths.values())).evaluations > 0
    other = task(strengths=own.strengths)
    assert other.calibration == 0
    made("sparse-es", other)
    assert other.calibration == own.calibration
    assert len(own.strengths) == 1


OWN = """
import torch
from smd_evo.experiments.compare.methods.base import Method
from smd_evo.experiments.compare.methods.oneshot import Smd

class Mine(Smd):
    about = "mine"

class Empty(Smd):
    grid = ()

class NoDicts(Smd):
    grid = [1]

class NoWords(Smd):
    about = None

class Abstract(Method):
    about, grid = "abstract", ({},)
    def __init__(self, task): ...
    def step(self): ...

class Bare(Method):
    def __init__(self, task): ...
    def step(self): ...
    cost = 100
    def predict(self, data): ...

class Free(Bare):
    about, grid, cost = "free", ({},), 0
    def predict(self, data):
        return torch.zeros(len(data[1]), 10)

class Half(Bare):
    about, grid, cost = "half", ({},), 0.5

class Silent(Bare):
    about, grid = "silent", ({},)

class Short(Bare):
    about, grid = "short", ({},)
    def predict(self, data):
        return torch.zeros(3, 10)

class Sure(Free):
    cost = 100
    def predict(self, data):
        return torch.full((len(data[1]), 10), 0.1)

def function(): ...
"""


@pytest.fixture
def own(here):
    (here / "own_method.py").write_text(OWN)
    return lambda name: Comparison(CompareConfig(budget=8000, children=8, images=100)).run(
        Job(f"own_method:{name}", 1, 0, False)
    )


def test_a_users_own_method_is_found(own):
    assert issubclass(find_method("own_method:Mine"), Method)


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("Empty", InvalidValue, r"expected dicts of settings to try as own_method:Empty\.grid, got \(\); \[\{\}\]"),
        ("NoDicts", InvalidValue, r"expected dicts of settings to try as own_method:NoDicts\.grid, got \[1\]"),
        ("NoWords", InvalidType, r"expected a line of text as own_method:NoWords\.about, got None"),
        ("Abstract", InvalidType, "expected cost, predict in own_method:Abstract, got none"),
        ("Bare", InvalidType, r"expected a line of text as own_method:Bare\.about, got None"),
        ("function", InvalidType, "expected a subclass of"),
    ],
)
def test_what_lacks_something_is_no_method(own, name, kind, message):
    with pytest.raises(kind, match=f"^methods: {message}"):
        find_method(f"own_method:{name}")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Half", "own_method:Half's cost: expected a whole number >= 0, got 0.5; it is children times images"),
        ("Free", "expected own_method:Free to take one step that costs nothing, and no more, got another"),
        (
            "Silent",
            r"expected logits or log-probabilities \[\d+, classes\] from own_method:Silent's predict, got None",
        ),
        ("Short", r"expected logits .* from own_method:Short's predict, got \[3, 10\]"),
    ],
)
def test_a_method_that_costs_or_predicts_nothing_is_refused(own, name, message):
    with pytest.raises((InvalidValue, InvalidType), match=f"^methods: {message}"):
        own(name)


def test_of_probabilities_it_is_said_that_they_are_no_logits(own):
    with pytest.warns(UserWarning, match="^methods: own_method:Sure's predict: expected logits, got rows"):
        own("Sure")


def test_a_class_is_told_its_name():
    with pytest.raises(InvalidType, match=r"^methods: expected a word, got .*Smd.*; its name is .*oneshot:Smd"):
        CompareConfig.read({"methods": [Smd]})


@pytest.mark.parametrize("name", ["opnai-es", "no_such_module:Class", "a b", ""])
def test_an_unknown_method_is_refused(name):
    with pytest.raises(InvalidValue, match=r"^methods: expected"):
        find_method(name)


def test_a_slip_is_understood():
    with pytest.raises(InvalidValue, match=f"did you mean '{REFERENCE}'"):
        find_method("opnai-es")
