"""Many generations in memory: they go on to the same bits, and each split of the data keeps to its duty."""

import dataclasses

import pytest
import torch
from evolution_helpers import SEARCHERS, TINY
from torch.nn import functional

from smd_evo import ParameterSpace
from smd_evo.errors import InvalidValue, WrongParent
from smd_evo.evaluation.fitness import get_fitness
from smd_evo.experiments.generations import results as evolution_results
from smd_evo.experiments.generations import run as module
from smd_evo.experiments.generations.checkpoints import newest, write_checkpoint
from smd_evo.experiments.generations.results import finish
from smd_evo.experiments.generations.run import Evolution
from smd_evo.experiments.generations.settings import EvolutionConfig
from smd_evo.experiments.parent import load_parent
from smd_evo.zoo.data import Data

every_searcher = pytest.mark.parametrize("name", SEARCHERS)


def evolution(name="selection", **settings):
    return Evolution(EvolutionConfig.read(TINY | SEARCHERS[name] | settings))


def begun(name="selection", **settings):
    made = evolution(name, **settings)
    made.begin()
    return made


def run(made):
    """All generations, and after each of them the parent as a network of its own."""
    records, parents = [], []
    while not made.stopped:
        records.append(made.step())
        parents.append(made.problem.space.make_child(made.parent()))
    return records, parents


def told(records):
    return [record.as_dict() | {"seconds": None} for record in records]


def same_bits(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def scores(network, samples):
    """Accuracy and negative log-likelihood, said with torch alone."""
    images, targets = samples
    with torch.no_grad():
        outputs = network.eval()(images)
    return float((outputs.argmax(1) == targets).double().mean()), float(functional.cross_entropy(outputs, targets))


class TestGoesOn:
    @every_searcher
    def test_to_the_same_bits_through_the_files_of_a_checkpoint(self, name, tmp_path):
        """From wherever it was, also from its end."""
        whole = begun(name)
        for folder in range(8):
            (tmp_path / str(folder)).mkdir()
        write_checkpoint(tmp_path / "0", 0, whole.state_dict(), 1)
        expected, parents = [], []
        while not whole.stopped:
            expected.append(whole.step())
            parents.append(whole.problem.make_net().state_dict())
            write_checkpoint(tmp_path / str(whole.generation), whole.generation, whole.state_dict(), 1)
        result = finish(whole)
        for stop in (0, 1, 4, 7):
            other = evolution(name)
            other.load_state_dict(newest(tmp_path / str(stop))[1])
            for record, parent in zip(expected[stop:], parents[stop:], strict=True):
                assert told([other.step()]) == told([record])
                assert same_bits(other.problem.make_net().state_dict(), parent)
            assert other.start == whole.start
            assert same_bits(other.best, whole.best)
            assert all(map(same_bits, other.late, whole.late))
            found = finish(other)
            assert found.rows == result.rows
            assert found.weights == result.weights
            assert same_bits(found.ensemble.state_dict(), result.ensemble.state_dict())

    def test_wherever_it_was_when_its_patience_ended(self):
        first, second = (evolution(patience=1, generations=40) for _ in "ab")
        first.begin()
        run(first)
        second.load_state_dict(first.state_dict())
        assert second.stopped == "patience"

    def test_not_with_another_network(self):
        state = begun().state_dict()
        with pytest.raises(WrongParent, match="values: expected the 1 selected parameters"):
            evolution(select="conv.weight").load_state_dict(state)

    def test_and_the_parent_that_it_began_with_stays(self):
        made = evolution()
        before, print_ = made.space.copied(), made.fingerprint
        made.begin()
        run(made)
        finish(made)
        assert same_bits(made.space.copied(), before)
        assert made.space.fingerprint() == print_


class TestKeepsTheBest:
    @every_searcher
    def test_of_the_validated_parents(self, name):
        made = begun(name, generations=9)
        networks = [made.problem.make_net()]
        records, parents = run(made)
        networks += [parent for record, parent in zip(records, parents, strict=True) if record.validation]
        validations = [made.start, *(record.validation for record in records if record.validation)]
        found = [scores(network, made.data.validation) for network in networks]
        assert [each.generation for each in records if each.validation] == [2, 4, 6, 8, 9]
        for (accuracy, loss), validation in zip(found, validations, strict=True):
            assert (validation.accuracy, validation.loss) == pytest.approx((accuracy, loss))
        merits = [right if name == "by accuracy" else -loss for right, loss in found]
        place, flags = 0, [True]
        for number in range(1, len(merits)):
            flags.append(merits[number] > merits[place] + 1e-9)
            place = number if flags[-1] else place
        assert [validation.best for validation in validations] == flags
        assert place > 0
        space = ParameterSpace(networks[place])
        assert same_bits(made.best, space.copied())
        assert all(map(same_bits, made.late, (ParameterSpace(each).copied() for each in networks[-2:])))
        assert len(made.late) == 2

    @pytest.mark.parametrize("fitness", ["balanced_accuracy", "macro_f1"])
    def test_by_any_fitness_of_the_run(self, fitness):
        made = begun(fitness=fitness, generations=4)
        records, parents = run(made)
        images, targets = made.data.validation
        with torch.no_grad():
            own = [get_fitness(fitness).of(parent.eval()(images), targets) for parent in parents]
        validated = [record for record in records if record.validation]
        found = [record.validation.fitness for record in validated]
        assert found == pytest.approx([own[record.generation - 1] for record in validated])
        scores = [made.start.fitness, *found]
        bests = [each.best for each in (made.start, *(record.validation for record in validated))]
        assert bests == [score > max(scores[:place], default=-1) for place, score in enumerate(scores)]

    def test_and_no_late_parents_if_none_are_wanted(self):
        made = begun(late_parents=0)
        run(made)
        assert made.late == []

    def test_also_if_that_is_the_one_it_began_with(self):
        """Steps that are far too large."""
        made = begun("gradient", learning_rate=50)
        before = made.space.copied()
        assert not any(record.validation.best for record in run(made)[0] if record.validation)
        assert same_bits(made.best, before)
        assert same_bits(finish(made).ensemble.space.copied(), before)


class TestStops:
    def test_after_so_many_validations_without_a_better_one(self):
        flags = [each.validation.best for each in run(begun(generations=40))[0] if each.validation]
        for patience in (1, 2, 3):
            without = expected = 0
            for flag in flags:
                expected, without = expected + 1, 0 if flag else without + 1
                if without == patience:
                    break
            made = begun(generations=40, patience=patience)
            records, _ = run(made)
            assert len(records) == 2 * expected < 40
            assert made.stopped == "patience"

    def test_else_after_all_generations(self):
        made = begun()
        assert made.stopped is None
        run(made)
        assert made.stopped == "generations"


class TestEachSplitKeepsToItsDuty:
    @pytest.fixture
    def on(self, monkeypatch):
        """A run on the data with one split replaced."""
        load = load_parent

        def make(name, **splits):
            def changed(*arguments):
                network, data = load(*arguments)
                return network, dataclasses.replace(data, **{split: f(data) for split, f in splits.items()})

            monkeypatch.setattr("smd_evo.experiments.parent.load_parent", changed)
            return begun(name)

        return make

    @pytest.mark.filterwarnings("ignore:parent. expected an accuracy well above chance")  # of labels that are turned
    @pytest.mark.parametrize("name", ["gradient", "selection, sigma adapted", "sigma found, partition"])
    def test_validation_never_moves_the_parent(self, name, on):
        records, parents = run(begun(name))
        other, others = run(on(name, validation=lambda data: (data.validation[0], data.validation[1].flip(0))))
        assert all(same_bits(one.state_dict(), two.state_dict()) for one, two in zip(parents, others, strict=True))
        assert [each | {"validation": 0} for each in told(other)] == [
            each | {"validation": 0} for each in told(records)
        ]
        assert told(other) != told(records)

    @every_searcher
    def test_the_test_split_chooses_nothing(self, name, on):
        made, other = begun(name), on(name, test=lambda data: (data.test[0], data.test[1].flip(0)))
        assert told(run(other)[0]) == told(run(made)[0])
        result, changed = finish(made), finish(other)
        assert changed.weights == result.weights
        assert same_bits(changed.ensemble.state_dict(), result.ensemble.state_dict())
        assert changed.rows != result.rows

    def test_the_test_split_is_not_even_looked_at_before_all_is_chosen(self, monkeypatch):
        looks, load, select = [], load_parent, evolution_results.select_members

        class Watched(Data):
            def __getattribute__(self, name):
                looks.append(name)
                return super().__getattribute__(name)

        def watched(*arguments):
            network, data = load(*arguments)
            return network, Watched(**vars(data))

        def chosen(*arguments, **options):
            assert "test" not in looks
            assert {"fitness", "validation"} <= set(looks)
            looks.append("chosen")
            return select(*arguments, **options)

        monkeypatch.setattr("smd_evo.experiments.parent.load_parent", watched)
        monkeypatch.setattr(evolution_results, "select_members", chosen)
        made = begun(patience=9)
        run(made)
        made.state_dict()
        finish(made)
        assert looks.index("chosen") < looks.index("test")


class TestCountsAndTells:
    @pytest.mark.parametrize("name", [name for name in SEARCHERS if "stages" not in name])  # heads share the rest
    def test_the_images_that_networks_were_evaluated_on(self, name):
        made = begun(name, validate_every=100)
        seen = []
        made.problem.space.module.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
        total, generation = 0, 0
        while not made.stopped:
            record = made.step()
            generation += 1
            assert record.generation == generation
            assert record.images == (20 if generation < 3 else 40)
            total += sum(seen) - (60 if record.validation else 0)
            assert record.image_evaluations == total
            seen.clear()

    @every_searcher
    def test_the_best_and_the_median_fitness_of_the_population(self, name):
        made = begun(name)
        record = made.step()
        children = sorted(made.searcher.population.access_evals(0).tolist(), reverse=name == "by accuracy")
        assert (record.fitness, record.median) == (children[0], children[len(children) // 2])

    def test_what_calibration_cost_and_found(self):
        made = begun("sigma found, partition")
        assert made.calibration > 0
        assert made.calibration % 60 == 0
        assert made.step().sigma > 0
        assert begun().calibration == 0

    def test_children_are_those_of_the_last_generation_best_first(self):
        made = begun()
        assert made.children(3) == []
        run(made)
        evals = sorted(made.searcher.population.access_evals(0).tolist())[:3]
        made.problem._number -= 1  # the samples that they were ranked on
        assert made.problem.evaluator.evaluate(made.children(3)).fitness.tolist() == pytest.approx(evals)


class TestEnds:
    @every_searcher
    def test_with_an_ensemble_of_the_best_networks_relatives(self, name):
        made = begun(name)
        run(made)
        expected = {"best parent": made.best}
        expected |= {f"late parent {number}": values for number, values in enumerate(made.late, start=1)}
        for number, child in enumerate(made.children(10), start=1):
            with made.problem.space.applied(child):
                expected[f"child {number}"] = made.problem.space.copied()
        result = finish(made)
        assert result.candidates == list(expected)
        assert same_bits(result.ensemble.space.copied(), made.best)
        assert list(result.weights.values()) == result.ensemble.weights.tolist()
        assert sum(result.weights.values()) == pytest.approx(1)
        for number, member in enumerate(result.weights):
            found = ParameterSpace(result.ensemble.member(number)).copied()
            assert same_bits(found, expected[member])

    @every_searcher
    def test_with_rows_that_a_slow_evaluation_on_the_test_split_finds_again(self, name):
        made = begun(name)
        run(made)
        result = finish(made)
        images, targets = made.data.test
        assert [row.candidate for row in result.rows] == ["parent", "best network", "ensemble"]
        assert [row.members for row in result.rows] == [1, 1, len(result.weights)]
        network = made.problem.make_net()
        ParameterSpace(network).load(made.best)
        for row, own in zip(result.rows, (made.space.module, network), strict=False):
            assert (row.accuracy, row.loss) == pytest.approx(scores(own, made.data.test))
        voters = [result.ensemble.member(number) for number in range(len(result.weights))]
        with torch.no_grad():
            votes = torch.stack([voter(images).softmax(1) for voter in voters])
        mean = torch.einsum("v,vnc->nc", torch.tensor(list(result.weights.values())), votes)
        row = result.rows[-1]
        assert row.accuracy == pytest.approx(float((mean.argmax(1) == targets).double().mean()))
        assert row.loss == pytest.approx(float(functional.nll_loss(mean.log(), targets)), rel=1e-4)
        assert row.accuracy_gain.value == pytest.approx(row.accuracy - result.rows[0].accuracy)

    def test_with_an_ensemble_that_is_no_worse_on_validation_than_its_best_candidate(self):
        """Greedy selection may always take that one alone."""
        made = begun("gradient")
        run(made)
        result = finish(made)
        targets = made.data.validation[1]
        with torch.no_grad():
            together = float(functional.nll_loss(result.ensemble(made.data.validation[0]), targets))
        best = made.problem.make_net()
        ParameterSpace(best).load(made.best)
        assert together <= scores(best, made.data.validation)[1] + 1e-6


class TestRefuses:
    @pytest.mark.parametrize(("images", "generations"), [("61", 7), ("20,61@3", 7), ("20,61@7", 7)])
    def test_more_images_than_there_are(self, images, generations):
        with pytest.raises(
            InvalidValue, match="images: expected at most the 60 samples of the fitness split, got 61"
        ):
            evolution(images=images, generations=generations)

    def test_more_images_than_there_are_also_for_a_while(self):
        """Not after hours."""
        with pytest.raises(
            InvalidValue, match="images: expected at most the 60 samples of the fitness split, got 61"
        ):
            evolution(images="20,61@3,20@5")

    def test_unless_that_is_after_its_end(self):
        evolution(images="20,61@8")

    @pytest.mark.parametrize(("usual", "images"), [(300, 60), (50, 50)])
    def test_but_takes_the_60_there_are_where_none_are_asked_for(self, monkeypatch, usual, images):
        monkeypatch.setattr(module, "_IMAGES", usual)
        assert begun(images=None).step().images == images
