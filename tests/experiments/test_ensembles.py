"""Ensembles of stored shortlists: chosen on validation, scored on test, nothing of a run computed again."""

import dataclasses
import math

import pytest
import torch
from helpers import same_bits, state_bits

from smd_evo import Dense, Evaluator, Lineage, Mutation, RandomSubspace, SparseEnsemble, sample_mutations
from smd_evo.ensemble.combine import COMBINES
from smd_evo.ensemble.selection import METHODS
from smd_evo.errors import WrongParent
from smd_evo.experiments.ensembles import run as module
from smd_evo.experiments.ensembles.plot import plot_ensembles
from smd_evo.experiments.ensembles.run import score_ensembles
from smd_evo.experiments.ensembles.table import ensemble_tables, ensemble_verdict
from smd_evo.experiments.finetune.settings import FinetuneConfig
from smd_evo.experiments.parent import load_parent
from smd_evo.experiments.shortlists import SPARSE, Shortlist
from smd_evo.experiments.views import views
from smd_evo.statistics.bootstrap import paired_difference
from smd_evo.statistics.tests import Estimate, mcnemar_exact
from smd_evo.zoo import load

SEED = 1
CONFIG = FinetuneConfig.read({"seed": SEED})
DENSE = "dense, matched norm"


def shortlist(ranker, name, subspace, density, sigma, count=5):
    """As finetune makes them."""
    recipes = sample_mutations(3, count + 3, subspace=subspace, sigma=sigma)
    result = ranker.evaluate(recipes)
    numbers = result.ranking()[:count]
    judge = ranker.on(load(seed=SEED)[1].validation)
    logits = judge.predict([recipes[number] for number in numbers])
    best = int(judge.evaluate([recipes[number] for number in numbers]).fitness.argmin())
    kept = [recipes[number] for number in numbers]
    fingerprint = ranker.space.fingerprint()
    return Shortlist(name, density, sigma, kept, result.fitness[numbers], best, logits, fingerprint)


@pytest.fixture(scope="module")
def data():
    return load(seed=SEED)[1]


@pytest.fixture(scope="module")
def parent(data):
    return load(seed=SEED)[0]


@pytest.fixture(scope="module")
def shortlists(data, parent):
    ranker = Evaluator(parent, data.fitness)
    return [
        shortlist(ranker, SPARSE, RandomSubspace(0.1), 0.1, 0.05),
        shortlist(ranker, DENSE, Dense(), 1.0, 0.05 * 0.1**0.5),
    ]


@pytest.fixture(scope="module")
def result(shortlists):
    return score_ensembles(CONFIG, shortlists)


def rows(result):
    return {(row.method, row.candidate): row for row in result.scores}


def by_name(shortlists):
    return {arm.name: arm for arm in shortlists}


def together(networks, images, weights, combine):
    """Probabilities, or scores, of independent networks; the slow way, in float64."""
    outputs = [network(images).double() for network in networks]
    if combine == "logits":
        parts = outputs
    elif combine == "probabilities":
        parts = [output.softmax(1) for output in outputs]
    else:
        parts = [
            torch.nn.functional.one_hot(output.argmax(1), output.shape[1]) + 1e-3 * output.softmax(1)
            for output in outputs
        ]
    return sum(weight * part for weight, part in zip(weights, parts, strict=True))


def share(right):
    return float(right.double().mean())


@torch.no_grad()
def predicted(result, arm, data, parent):
    """Classes by independent networks: of the ensemble, its soup and the best child."""
    chosen, images = result.selections[arm.name], data.test[0]
    space = Evaluator(parent, data.test).space
    networks = [space.make_child(arm.recipes[number]) for number in chosen.members]
    soup = space.make_child(Lineage())
    for name, parameter in soup.named_parameters():
        own = [network.get_parameter(name).double() for network in networks]
        parameter.copy_(sum(weight * value for weight, value in zip(chosen.weights, own, strict=True)))
    best = space.make_child(arm.recipes[arm.best])
    return {
        "ensemble": together(networks, images, chosen.weights, chosen.combine).argmax(1),
        "soup": soup(images).argmax(1),
        "best child": best(images).argmax(1),
        "parent": parent(images).argmax(1),
    }


@pytest.mark.parametrize(
    ("method", "combine"),
    [*((method, "probabilities") for method in METHODS), *(("greedy", combine) for combine in COMBINES[1:])],
)
def test_rows_are_what_independent_networks_predict(method, combine, shortlists, data, parent):
    result = score_ensembles(CONFIG, shortlists, method=method, combine=combine)
    targets, found = data.test[1], rows(result)
    for arm in shortlists:
        chosen = result.selections[arm.name]
        assert (chosen.method, chosen.combine) == (method, combine)
        right = {name: classes == targets for name, classes in predicted(result, arm, data, parent).items()}
        for candidate in ("best child", "ensemble", "soup"):
            row = found[arm.name, candidate]
            # A member on the other side of a rounding error may turn one image of 500.
            assert row.metrics["accuracy"].value == pytest.approx(share(right[candidate]), abs=0.0021)
            assert row.passes == (len(chosen.members) if candidate == "ensemble" else 1)
            gain = share(right[candidate]) - share(right["parent"])
            assert row.over["parent"].value == pytest.approx(gain, abs=0.0041)
    assert found["parent", "parent"].metrics["accuracy"].value == pytest.approx(share(right["parent"]), abs=0.0021)


def test_every_number_of_the_comparisons(result, shortlists, data, parent):
    sparse, dense = (predicted(result, arm, data, parent) for arm in shortlists)
    right = {name: classes == data.test[1] for name, classes in sparse.items()}
    ours = right["ensemble"]
    others = {
        "the parent": right["parent"],
        "its best child": right["best child"],
        "its soup": right["soup"],
        f"the ensemble of {DENSE}": dense["ensemble"] == data.test[1],
    }
    assert set(result.against) == {*others, "the parent's votes for as many views"}
    for name, other in others.items():
        gain, p_value = result.against[name]
        assert gain == paired_difference(ours.double(), other.double(), seed=SEED)
        assert p_value == mcnemar_exact(ours, other)
    row = rows(result)[SPARSE, "soup"]
    for name in ("parent", "best child"):
        assert row.over[name] == paired_difference(right["soup"].double(), right[name].double(), seed=SEED)
        assert row.p_values[name] == mcnemar_exact(right["soup"], right[name])


def test_the_order_of_the_rows(result):
    candidates = ("best child", "ensemble", "soup")
    assert [(row.method, row.candidate) for row in result.scores] == [
        ("parent", "parent"),
        ("parent", "views"),
        *((name, candidate) for name in (SPARSE, DENSE) for candidate in candidates),
    ]
    assert [own.method for own in result.diversity] == [own.method for own in result.curves] == [SPARSE, DENSE]


class Counting:
    """Counts an evaluator's predictions by the images that it is given."""

    def __init__(self, monkeypatch, data):
        self.seen, self.data, plain = [], data, Evaluator.predict

        def predict(evaluator, children):
            children = list(children)
            images = torch.cat([batch.inputs for batch in evaluator._batches])
            self.seen += [(images, child) for child in children]
            return plain(evaluator, children)

        monkeypatch.setattr(Evaluator, "predict", predict)

    def of(self, count):
        """Children whose predictions were asked for so many images."""
        return [child for images, child in self.seen if len(images) == count]


def test_nothing_that_is_stored_is_predicted_again(shortlists, data, monkeypatch):
    counting = Counting(monkeypatch, data)
    result = score_ensembles(CONFIG, shortlists)
    passes = len(result.selections[SPARSE].members)
    assert passes > 1
    assert counting.of(300) == [Lineage()] * 2 * passes  # validation: the parent's views, mirrored or not
    members = sum(len(chosen.members) for chosen in result.selections.values())
    # Test: the parent; its views; for each arm the best child, the soup, the members.
    assert len(counting.of(500)) == 1 + passes + 2 * len(shortlists) + members


def test_the_parents_views_cost_what_the_ensemble_costs(shortlists, data, monkeypatch, parent):
    counting = Counting(monkeypatch, data)
    result = score_ensembles(CONFIG, shortlists, method="diverse", size=3)
    row = rows(result)["parent", "views"]
    assert row.passes == rows(result)[SPARSE, "ensemble"].passes == 3
    shown = [images for images, child in counting.seen if child == Lineage() and len(images) == 500][1:]
    plain, mirrored = (list(views(data.test[0], 3, flips)) for flips in (False, True))
    flips = not torch.equal(shown[1], plain[1])
    assert all(torch.equal(a, b) for a, b in zip(shown, mirrored if flips else plain, strict=True))
    with torch.no_grad():
        voted = sum(parent(view).double().softmax(1) for view in shown).argmax(1)
        options = [list(views(data.validation[0], 3, flips)) for flips in (False, True)]
        votes = [sum(parent(view).softmax(1) for view in shown) / 3 for shown in options]
    right = voted == data.test[1]
    assert row.metrics["accuracy"].value == pytest.approx(share(right), abs=0.0021)
    losses = [float(-own[torch.arange(300), data.validation[1]].log().mean()) for own in votes]
    assert flips == (losses[1] < losses[0])


def tampered(split, change):
    """The data with another split."""

    def loaded(config, *_):
        parent, data = load_parent(config)
        return parent, dataclasses.replace(data, **{split: change(*getattr(data, split))})

    return loaded


def test_choices_never_depend_on_the_test_split(result, shortlists, monkeypatch):
    """With other test images and labels every choice is the same, and only the scores differ."""
    monkeypatch.setattr(module, "load_parent", tampered("test", lambda x, y: (x.flip(0) * 0.5, y.flip(0))))
    other = score_ensembles(CONFIG, shortlists)
    assert other.selections == result.selections
    assert [own.members for own in other.curves] == [own.members for own in result.curves]
    assert rows(other)[SPARSE, "ensemble"].metrics["accuracy"].value < 0.5


def test_choices_are_made_of_the_stored_predictions(result, shortlists, monkeypatch):
    """Other images of the validation split change nothing but the views; other stored predictions do."""
    monkeypatch.setattr(module, "load_parent", tampered("validation", lambda x, y: (x.flip(0), y)))
    assert score_ensembles(CONFIG, shortlists).selections == result.selections
    sparse, dense = shortlists
    worst = 4 - result.selections[SPARSE].members[0]
    logits = sparse.logits.clone()
    logits[worst] += 9 * torch.nn.functional.one_hot(load(seed=SEED)[1].validation[1], 10)
    other = score_ensembles(CONFIG, [dataclasses.replace(sparse, logits=logits), dense])
    assert other.selections[SPARSE].members[0] == worst != result.selections[SPARSE].members[0]
    assert other.selections[DENSE] == result.selections[DENSE]


def test_the_ensemble_that_is_kept_predicts_what_was_scored(result, shortlists, data):
    with torch.no_grad():
        right = result.ensemble(data.test[0]).argmax(1) == data.test[1]
    row = rows(result)[SPARSE, "ensemble"]
    assert share(right) == pytest.approx(row.metrics["accuracy"].value, abs=0.0021)
    chosen = result.selections[SPARSE]
    assert result.ensemble.recipes == [shortlists[0].recipes[number].encode() for number in chosen.members]
    assert result.ensemble.weights.tolist() == list(chosen.weights)
    assert result.ensemble.notes == {
        "method": "greedy",
        "validation": chosen.fitness,
        "density": 0.1,
        "sigma": 0.05,
        "fitness": [float(shortlists[0].fitness[number]) for number in chosen.members],
    }


def test_the_parent_is_as_it_was(shortlists, parent, data, monkeypatch):
    before = state_bits(parent)
    monkeypatch.setattr(module, "load_parent", lambda *_: (parent, data))
    score_ensembles(CONFIG, shortlists)
    assert same_bits(before, state_bits(parent))


def test_same_shortlists_same_result(shortlists):
    result, again = (score_ensembles(CONFIG, shortlists) for _ in "ab")
    for name in ("selections", "scores", "against", "diversity", "curves"):
        assert getattr(again, name) == getattr(result, name)


@pytest.mark.parametrize("method", [method for method in METHODS if method != "all"])
def test_an_ensemble_of_a_single_member(method, shortlists, data, monkeypatch, tmp_path):
    """It is its member, and its soup; it has no diversity, and as many views as the parent has anyway."""
    counting = Counting(monkeypatch, data)
    result = score_ensembles(CONFIG, shortlists, method=method, size=1)
    assert result.diversity == []
    assert counting.of(300) == []
    found = rows(result)
    assert ("parent", "views") not in found
    assert len(result.against) == 4
    for arm in shortlists:
        ensemble, soup = found[arm.name, "ensemble"], found[arm.name, "soup"]
        assert dataclasses.replace(ensemble, candidate="soup").passes == soup.passes == 1
        assert ensemble.metrics["accuracy"] == soup.metrics["accuracy"]
        if method == "greedy":
            assert result.selections[arm.name].members == (arm.best,)
            assert ensemble.over["best child"].value == 0
    assert len(ensemble_tables(result)) == 2
    verdict = ensemble_verdict(result)
    assert verdict[0].startswith("The sparse ensemble is a single child")
    assert len(verdict) == 5
    plot_ensembles(result, tmp_path / "plot.png")


def test_shortlists_of_a_single_child(shortlists, tmp_path):
    short = [
        dataclasses.replace(arm, recipes=arm.recipes[:1], fitness=arm.fitness[:1], best=0, logits=arm.logits[:1])
        for arm in shortlists
    ]
    for method in METHODS:
        result = score_ensembles(CONFIG, short, method=method)
        assert {chosen.members for chosen in result.selections.values()} == {(0,)}
    plot_ensembles(result, tmp_path / "plot.png")


@pytest.fixture(scope="module")
def broken(shortlists, data, parent):
    """The first child of the sparse arm returns nothing finite."""
    sparse, dense = shortlists
    bad = Mutation(5, 1e30, RandomSubspace(0.5), 7)
    recipes = [bad, *sparse.recipes[1:]]
    logits = Evaluator(parent, data.validation).predict(recipes)
    assert not logits[0].isfinite().any()
    return [dataclasses.replace(sparse, recipes=recipes, logits=logits), dense]


@pytest.mark.parametrize("method", METHODS)
def test_members_that_return_nothing_finite(method, broken, data, parent, tmp_path):
    """Left out where there is a choice; where there is none, the score is that of the ensemble as it will be used."""
    result = score_ensembles(CONFIG, broken, method=method)
    chosen, row = result.selections[SPARSE], rows(result)[SPARSE, "ensemble"]
    if method in ("greedy", "diverse"):
        assert 0 not in chosen.members
        assert row.metrics["accuracy"].value > 0.5
    if method == "all":
        assert math.isnan(chosen.fitness)
    result.ensemble.save(tmp_path / "file")
    loaded = SparseEnsemble.load(tmp_path / "file", parent)
    with torch.no_grad():
        outputs = loaded(data.test[0])
    right = outputs.isfinite().all(1) & (outputs.argmax(1) == data.test[1])
    assert share(right) == pytest.approx(row.metrics["accuracy"].value, abs=0.0021)
    assert all(
        math.isfinite(end)
        for own in result.scores
        for estimate in own.metrics.values()
        for end in (estimate.low, estimate.value, estimate.high)
    )
    plot_ensembles(result, tmp_path / "plot.png")


def test_children_of_another_parent(shortlists):
    sparse, dense = shortlists
    other = dataclasses.replace(dense, fingerprint="0" * 32)
    with pytest.raises(WrongParent, match=f"the parent {sparse.fingerprint}, got those of '{'0' * 32}'; .* again$"):
        score_ensembles(CONFIG, [sparse, other])
    with pytest.raises(WrongParent, match="run finetune again"):
        score_ensembles(dataclasses.replace(CONFIG, select="head"), shortlists)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 6}, "size: expected 1 to 5, the children on each shortlist, got 6"),
        ({"size": 0}, "size: expected a whole number >= 1, got 0"),
        ({"size": 2.0}, "size: expected a whole number >= 1, got 2.0"),
        ({"method": "all", "size": 2}, "size: expected none"),
        ({"method": "gredy"}, "did you mean 'greedy'"),
        ({"combine": "mean"}, "combine: expected one of probabilities, logits, majority, got 'mean'"),
    ],
)
def test_wrong_use(options, message, shortlists):
    with pytest.raises((ValueError, TypeError), match=message):
        score_ensembles(CONFIG, shortlists, **options)


def test_predictions_of_other_validation_samples(shortlists):
    sparse, dense = shortlists
    fewer = dataclasses.replace(sparse, logits=sparse.logits[:, :200])
    with pytest.raises(ValueError, match="run: expected predictions of 300 validation samples"):
        score_ensembles(CONFIG, [fewer, dense])


def test_tables_hold_the_numbers(result):
    gains, quality, differ = ensemble_tables(result)
    assert gains.row_count == quality.row_count == 3 + len(result.scores)
    assert differ.row_count == 2
    accuracy = rows(result)[SPARSE, "soup"].metrics["accuracy"]
    text = f"{100 * accuracy.value:.1f} [{100 * accuracy.low:.1f}, {100 * accuracy.high:.1f}]"
    assert text in list(gains.columns[1].cells)
    lines = ensemble_verdict(result)
    assert len(lines) == len(result.against) == 5
    for line, (gain, p_value) in zip(lines, result.against.values(), strict=True):
        assert line.endswith(("better.", "worse.")) == (p_value < 0.05 and gain.low * gain.high > 0)


@pytest.mark.parametrize("ends", [(0.6, 0.7), (0.0, 0.1), (0.0, 0.0)])
def test_an_interval_need_not_hold_its_value(ends, result, tmp_path):
    """That of a calibration error does not, now and then; a bias-corrected one may not, either."""
    odd = Estimate(0.5, *ends)
    scored = [dataclasses.replace(row, metrics=dict.fromkeys(row.metrics, odd)) for row in result.scores]
    curves = [dataclasses.replace(own, accuracy=[odd] * 5, nll=[odd] * 5) for own in result.curves]
    other = dataclasses.replace(result, scores=scored, curves=curves)
    _, quality, _ = ensemble_tables(other)
    assert f"50.0 [{100 * ends[0]:.1f}, {100 * ends[1]:.1f}]" in list(quality.columns[2].cells)
    plot_ensembles(other, tmp_path / "plot.png")
