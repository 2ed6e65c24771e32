"""The experiment: fair between its arms, honest about its splits."""

import dataclasses

import pytest
import torch
from helpers import Counter, blobs

import smd_evo
from smd_evo import Dense, Evaluator, Lineage, RandomSubspace, sample_mutations
from smd_evo.controls.batchnorm import blended, statistics_of
from smd_evo.controls.outputs import fit_scaling
from smd_evo.ensemble.combine import combined
from smd_evo.ensemble.files import save_children
from smd_evo.errors import InvalidValue
from smd_evo.evaluation.calibration import Effort, calibration_cost
from smd_evo.evaluation.data import make_batches
from smd_evo.evaluation.evaluator import Evaluation
from smd_evo.evaluation.race import finalists
from smd_evo.experiments.calibration import few, on_few
from smd_evo.experiments.compare.methods.registry import CONTROLS
from smd_evo.experiments.finetune import run as module
from smd_evo.experiments.finetune.arms import Strength
from smd_evo.experiments.finetune.counts import calibrations, finetune_workload
from smd_evo.experiments.finetune.plot import plot_finetune
from smd_evo.experiments.finetune.results import NEARLY_FREE, RACED, UNRACED
from smd_evo.experiments.finetune.run import finetune
from smd_evo.experiments.finetune.settings import FinetuneConfig
from smd_evo.experiments.finetune.table import finetune_table, finetune_verdict
from smd_evo.experiments.finetune.verification import verify_children
from smd_evo.experiments.parent import load_parent
from smd_evo.experiments.shortlists import SPARSE

pytestmark = pytest.mark.numeric

CONFIG = FinetuneConfig.read({"children": 12, "density": [0.3, 0.05], "seed": 1})


def load_few(*arguments):
    """The demo's parent, with 60 samples in place of 300 to rank and to choose by."""
    parent, data = load_parent(*arguments)
    splits = ("fitness", "validation")
    fewer = {name: tuple(each[:60] for each in getattr(data, name)) for name in splits}
    indices = data.indices | {name: data.indices[name][:60] for name in splits}
    return parent, dataclasses.replace(data, indices=indices, **fewer)


@pytest.fixture(scope="module", autouse=True)
def _quick():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("smd_evo.experiments.parent.load_parent", load_few)
        yield


@pytest.fixture(scope="module")
def counter():
    return Counter()


@pytest.fixture(scope="module")
def result(counter):
    return finetune(CONFIG, counter)


def choices(result):
    return [
        (arm.name, arm.choice, [(group.sigma, group.best, group.ensemble) for group in arm.groups])
        for arm in result.arms
    ]


def test_every_arm_has_the_same_budget_and_the_same_number_of_choices(result, counter):
    assert [arm.name for arm in result.arms] == [
        SPARSE,
        "dense, matched sigma",
        "dense, matched norm",
        "dense, own sigma",
    ]
    assert {tuple(len(group.recipes) for group in arm.groups) for arm in result.arms} == {(12, 12)}
    assert result.evaluations["children of each arm"] == 24
    assert ["children", 96, 96] in counter.phases


@pytest.mark.parametrize("fitness", ["balanced_accuracy", "macro_f1"])
def test_any_fitness_ranks_and_chooses(fitness, tmp_path):
    config = FinetuneConfig.read({"children": 6, "density": "0.1", "sigma": "0.02", "fitness": fitness})
    found = finetune(config)
    group = found.arms[0].group
    parent, data = load_few(config)
    expected = Evaluator(parent, data.fitness, fitness).evaluate(group.recipes)
    assert group.result.fitness.tolist() == pytest.approx(expected.fitness.tolist())
    assert group.result.sense == "max"
    plot_finetune(found, tmp_path / "plot.png")


def test_a_race_finds_the_same_best_child_and_tells_what_it_saved(result, tmp_path):
    config = dataclasses.replace(CONFIG, density=(0.3,), sigma=0.02, controls=False)
    counter = Counter()
    whole, raced = finetune(config), finetune(dataclasses.replace(config, race=True), counter)
    before, after = (found.arms[0].group for found in (whole, raced))
    assert before.recipes == after.recipes
    finals = after.result.ranking()[: finalists(12)]
    assert after.result.fitness[finals].tolist() == pytest.approx(before.result.fitness[finals].tolist())
    assert finals[0] == before.result.ranking()[0]
    assert ["children", 12, 12] in counter.phases
    took, all_of_it = raced.evaluations[RACED], raced.evaluations[UNRACED]
    assert took == sum(part.count * part.images for part in counter.workload.parts if "round" in part.name)
    assert all_of_it == 12 * 60
    assert finetune_verdict(raced)[-1].startswith(
        f"The race took {took:,} of 720 image evaluations of the sparse children"
    )
    assert not any("race" in line for line in finetune_verdict(whole))
    save_children(tmp_path / "children", raced.space, after.recipes, after.result, "cross_entropy")
    checked = verify_children(raced.config, tmp_path / "children")
    assert checked.children == finalists(12)


def test_controls_match_what_they_say(result):
    sparse, sigma, norm, own = (arm.groups for arm in result.arms)
    assert all(isinstance(group.subspace, Dense) and group.density == 1 for group in (*sigma, *norm, *own))
    for number, group in enumerate(sparse):
        assert sigma[number].sigma == group.sigma
        assert norm[number].sigma == pytest.approx(group.sigma * group.density**0.5)
        length = [
            torch.stack([recipe.delta(result.space.layout).values.norm() for recipe in arm[number].recipes])
            for arm in (sparse, norm)
        ]
        assert float(length[0].mean()) == pytest.approx(float(length[1].mean()), rel=0.05)


def test_no_two_arms_share_children(result):
    keys = [recipe.key for arm in result.arms for group in arm.groups for recipe in group.recipes]
    assert len(set(keys)) == len(keys) == 96


def test_choices_never_depend_on_the_test_split(result, monkeypatch):
    """With other test images and labels every choice is the same, and only the table differs."""

    def tampered(config, progress):
        parent, data = load_few(config, progress)
        images, targets = data.test
        return parent, dataclasses.replace(data, test=(images.flip(0) * 0.5, targets))

    monkeypatch.setattr("smd_evo.experiments.parent.load_parent", tampered)
    other = finetune(CONFIG)
    assert choices(other) == choices(result)
    assert [row.accuracy for row in other.rows] != [row.accuracy for row in result.rows]


def test_choices_are_what_the_other_splits_say(result):
    """Recomputed from the recipes, without the experiment's own code."""
    data, space = result.data, result.space
    for arm in result.arms:
        for group in arm.groups:
            ranking = Evaluator(space, data.fitness).evaluate(group.recipes).ranking()
            assert ranking == group.result.ranking()
            judge = Evaluator(space, data.validation)
            losses = judge.evaluate([group.recipes[number] for number in ranking[:10]]).fitness
            assert group.best == int(losses.argmin())
            probabilities = judge.predict([group.recipes[number] for number in ranking]).softmax(-1)
            votes = {}
            for size in range(2, 13):
                likelihoods = probabilities[:size].mean(0)[torch.arange(60), data.validation[1]]
                votes[size] = float(-likelihoods.log().mean())
            assert group.ensemble.fitness == pytest.approx(min(votes.values()), rel=1e-4)
            assert votes[len(group.ensemble.members)] == pytest.approx(min(votes.values()), rel=1e-4)
        validations = [group.ensemble.fitness for group in arm.groups]
        assert validations[arm.choice] == min(validations)


def test_rows_are_what_the_test_split_says(result):
    evaluator = Evaluator(result.space, result.data.test, "accuracy")
    rows = {(row.method, row.candidate): row for row in result.rows}
    assert len(rows) == 21
    parent = float(evaluator.evaluate([Lineage()]).fitness[0])
    assert rows["parent", "parent"].accuracy == pytest.approx(parent)
    for arm in result.arms:
        ranking = arm.group.result.ranking()
        numbers = {"median child": ranking[6], "best child": ranking[arm.group.best]}
        for candidate, number in numbers.items():
            accuracy = float(evaluator.evaluate([arm.group.recipes[number]]).fitness[0])
            assert rows[arm.name, candidate].accuracy == pytest.approx(accuracy)
            assert rows[arm.name, candidate].accuracy_gain.value == pytest.approx(accuracy - parent)


def test_what_is_free_is_fitted_on_one_split_chosen_on_another_and_reported_on_the_third(result):
    """The same without the experiment's own code."""
    data, space = result.data, result.space
    fitted = {name: Evaluator(space, getattr(data, name)).predict([Lineage()])[0] for name in ("fitness", "test")}
    scaling = fit_scaling(fitted["fitness"], data.fitness[1])
    expected = torch.nn.functional.cross_entropy(scaling.of(fitted["test"]), data.test[1])
    rows = {row.candidate: row for row in result.rows if row.method == NEARLY_FREE}
    assert rows["calibrated"].loss == pytest.approx(float(expected), rel=1e-4)
    assert list(result.free) == list(rows)
    assert set(rows) == set(CONTROLS)
    assert (rows["views"].members, result.free["views"]["images"]) == (10, 0)
    assert result.free["head-refit"]["images"] == 60
    losses = [each["validation"] for each in result.free.values()]
    assert losses[0] == min(losses)
    statistics = statistics_of(space.module, make_batches(data.fitness, "auto", space.device))
    blends = [
        Evaluator(blended(space.module, statistics, share), data.validation) for share in (0.25, 0.5, 0.75, 1.0)
    ]
    best = min(float(blend.evaluate([Lineage()]).fitness[0]) for blend in blends)
    assert result.free["batchnorm-blend"]["validation"] == pytest.approx(best, rel=1e-4)


@pytest.mark.filterwarnings("ignore:parent. expected an accuracy well above chance")
def test_what_makes_no_sense_is_left_out_and_said():
    """A network without normalisations on vectors; none of it where there are no controls."""

    def found(**settings):
        network = torch.nn.Sequential(torch.nn.Linear(16, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        images, classes = blobs(180)
        data = smd_evo.split((images.flatten(1), classes))
        return smd_evo.finetune(network, data, children=4, density=(0.5,), sigma=0.1, **settings)

    some, none = found(), found(controls=False)
    assert some.numbers["left_out"] == {
        "batchnorm-blend": "it has no batch normalisation with statistics of its own",
        "views": "its samples are no images",
    }
    assert "Left out of what is free: views (its samples are no images)." in repr(some)
    assert none.numbers["left_out"] == none.numbers["free"] == {}
    assert "free" not in repr(none)


def test_a_shortlist_is_the_best_of_the_chosen_group_and_what_they_predict(result):
    judge = Evaluator(result.space, result.data.validation)
    for arm in result.arms:
        group, found = arm.group, arm.group.shortlist(arm.name, "0123")
        assert (found.name, found.density, found.sigma) == (arm.name, group.density, group.sigma)
        assert (found.best, found.fingerprint) == (group.best, "0123")
        assert found.recipes == [group.recipes[number] for number in group.result.ranking()]
        assert torch.equal(found.fitness, group.result.fitness.sort().values)
        assert torch.equal(found.logits, judge.predict(found.recipes))
        chosen = group.chosen(result.space)
        assert chosen["best child"].members == {found.best: found.recipes[found.best]}
        assert chosen["ensemble"].members == {place: found.recipes[place] for place in group.ensemble.members}


def test_a_shortlist_is_no_longer_than_the_setting(result):
    strength = Strength(RandomSubspace(0.1), 0.1, 0.02)
    recipes = sample_mutations(0, 25, subspace=strength.subspace, sigma=strength.sigma)
    fitness = Evaluation(-torch.arange(25.0, dtype=torch.float64), "min", 0)
    group = module._judged(strength, recipes, fitness, Evaluator(result.space, result.data.validation), 20)
    assert len(group.shortlist(SPARSE, "").recipes) == len(group.logits) == 20
    assert group.shortlist(SPARSE, "").recipes == recipes[:4:-1]
    assert max(group.ensemble.members) < 20


def test_the_parent_is_as_it_was(result):
    fresh = finetune(dataclasses.replace(CONFIG, children=1, density=(0.1,), sigma=0.1))
    assert fresh.space.fingerprint() == result.space.fingerprint()


def test_the_verdict_claims_no_more_than_its_interval(result):
    lines = finetune_verdict(result)
    assert len(lines) == 6
    assert lines[-1].startswith(f"Sparse ensemble against {next(iter(result.free))}, the best of what is free")
    for line, difference in zip(lines[2:], result.against.values(), strict=True):
        clear = difference[1] < 0.05 and difference[0].low * difference[0].high > 0
        assert line.endswith(("better.", "worse.")) == clear
        assert line.endswith("no difference shown.") != clear
    assert finetune_table(result).row_count == 21


def test_children_that_are_all_broken_are_reported_as_they_are():
    """At this strength nothing is finite; the run ends with a table all the same."""
    with pytest.warns(
        RuntimeWarning, match="^generation 1: expected children of a finite fitness, got none of 3: sigma"
    ):
        broken = finetune(dataclasses.replace(CONFIG, children=3, density=(0.5,), sigma=1e30))
    rows = {(row.method, row.candidate): row for row in broken.rows}
    assert rows[SPARSE, "best child"].accuracy < 0.3
    assert broken.arms[0].group.result.nonfinite == 3
    assert any("non-finite fitness" in line for line in finetune_verdict(broken))


def test_calibration_follows_the_size_of_the_experiment_and_its_bound_is_known_before(result):
    number, effort = calibrations(CONFIG)
    spent = sum(result.evaluations[f"calibration, {arm}"] for arm in ("sparse", "dense"))
    assert number == 4
    assert spent <= number * calibration_cost(effort.children, effort.bisections)
    assert number * effort.usual <= 96 / 2  # of the children of all arms
    assert calibrations(FinetuneConfig()) == (6, Effort(16, 5))
    assert calibrations(FinetuneConfig(sigma=0.1)) == (3, Effort(16, 5))


OTHERS = {
    "children": 8,
    "density": "0.1,0.01",
    "arms": "matched-norm,tensor,within:norm,bias:dense,neuron:0.2",
    "ensembles": "greedy,diverse,soup",
    "shortlist": 5,
}


@pytest.fixture(scope="module")
def found():
    return finetune(FinetuneConfig.read(OTHERS))


class TestArms:
    """Other arms, other ensembles."""

    def test_each_is_of_its_own_subspace_and_strength(self, found):
        specs = {arm.name: [group.subspace.spec for group in arm.groups] for arm in found.arms}
        assert list(specs) == [SPARSE, "dense, matched norm", "tensor", "within:norm,bias:dense", "neuron:0.2"]
        assert specs["dense, matched norm"] == ["dense", "dense"]
        assert specs["tensor"] == ["tensor:1:tensor"]
        assert specs["neuron:0.2"] == ["neuron:0.2"]
        sparse, dense = (arm.groups for arm in found.arms[:2])
        for one, other in zip(sparse, dense, strict=True):
            assert other.sigma == pytest.approx(one.sigma * one.density**0.5)
        assert len({arm.group.sigma for arm in found.arms[2:]}) == 3

    def test_what_each_took_is_told(self, found):
        config = FinetuneConfig.read(OTHERS)
        assert found.evaluations["children of each arm"] == 16
        assert found.evaluations["children of tensor"] == 8
        assert "children of dense, matched norm" not in found.evaluations
        assert calibrations(config)[0] == 2 + 3
        parts = {part.name: part.count for part in finetune_workload(config, found.data.sizes).parts}
        assert parts["children"] == (2 + 2 + 1 + 1 + 1) * 8
        assert parts["validation"] == 7 * 5

    def test_views_are_as_many_as_an_ensemble_may_have_members(self, found, result):
        assert found.free["views"]["passes"] == 5
        assert result.free["views"]["passes"] == 10

    def test_every_arm_is_reported_in_every_way(self, found):
        names = ["median child", "best child", "ensemble", "greedy ensemble", "diverse ensemble", "soup"]
        for arm in found.arms:
            assert [row.candidate for row in found.rows if row.method == arm.name] == names

    def test_an_ensemble_predicts_what_its_members_predict_together(self, found):
        judge = Evaluator(found.space, found.data.test)
        targets, rows = judge.targets(), {(row.method, row.candidate): row for row in found.rows}
        group = found.arms[0].group
        ranked = [group.recipes[number] for number in group.result.ranking()]
        for name, chosen in (("ensemble", group.ensemble), ("greedy ensemble", group.others["greedy"])):
            outputs = judge.predict([ranked[place] for place in chosen.members])
            expected = combined(outputs, chosen.weights, "probabilities")
            row = rows[SPARSE, name]
            assert row.members == len(chosen.members)
            assert row.accuracy == pytest.approx((expected.argmax(1) == targets).float().mean().item(), abs=0.01)
            assert row.loss == pytest.approx(torch.nn.functional.cross_entropy(expected, targets).item(), rel=1e-4)
        mixed = smd_evo.soup(found.space, [ranked[place] for place in group.ensemble.members])
        loss = torch.nn.functional.cross_entropy(judge.predict([mixed])[0], targets).item()
        assert rows[SPARSE, "soup"].loss == pytest.approx(loss, rel=1e-4)

    def test_which_samples_are_right_is_kept(self, found):
        count = found.data.sizes["test"]
        for row, right in zip(found.rows, found.right, strict=True):
            bits = bin(int("1" + right, 16))[3:][:count]
            assert bits.count("1") / count == pytest.approx(row.accuracy)

    def test_fewer_calibration_samples_in_a_race(self):
        assert (few(5000), few(300), few(300, race=True), few(5000, race=True)) == (500, 300, 150, 500)

    def test_calibration_samples_are_of_all_classes_however_these_are_ordered(self):
        inputs, targets = torch.zeros(1500, 1), torch.arange(1500) // 500
        evaluator = Evaluator(torch.nn.Linear(1, 3), (inputs, targets))
        counts = torch.bincount(on_few(evaluator).targets(), minlength=3)
        assert int(counts.sum()) == 500
        assert int(counts.min()) > 130  # of 167, with a standard deviation of 9
        assert on_few(evaluator.on_samples(torch.arange(300))).samples == 300

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"arms": "matched-noise"}, "arms: expected one of random, partition, neuron, tensor, matched-sigma"),
            ({"arms": "tensor,tensor"}, "arms: expected one or more different arms"),
            ({"arms": []}, "arms: expected one or more different arms"),
            ({"arms": "random:2"}, "arms: "),
            ({"arms": "within:head"}, "arms: expected within:SELECT:NAME"),
            ({"arms": "tensor", "controls": False}, "arms: expected none without controls"),
            ({"ensembles": "best"}, "ensembles: expected one of greedy, diverse, soup"),
            ({"shortlist": 0}, "shortlist: "),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, settings, message):
        with pytest.raises(InvalidValue, match=message):
            FinetuneConfig.read(settings)


def test_a_parent_that_guesses_is_told_of_before_anything_else():
    network = torch.nn.Linear(2, 3)
    torch.nn.init.zeros_(network.weight)
    data = smd_evo.split((torch.rand(180, 2), torch.arange(180) % 3))
    with pytest.warns(UserWarning, match="parent: expected an accuracy well above chance on the fitness split"):
        smd_evo.finetune(network, data, children=4, density=0.5, sigma=0.1, controls=False)
