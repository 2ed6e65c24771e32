"""What loggers and pickles store of solutions becomes the same network in a problem that has not seen the run."""

import functools
import json
import pickle

import pytest
import torch
from evotorch import SolutionBatch
from evotorch.algorithms import SNES, GeneticAlgorithm
from evotorch.logging import PicklingLogger
from evotorch_helpers import RULE, check_refused, pickled, population
from helpers import blobs, same_bits, state_bits, trained
from hypothesis import given
from hypothesis import strategies as st

from smd_evo import (
    AddMutation,
    FinetuneProblem,
    Lineage,
    LineageCrossOver,
    ParameterSpace,
    RandomSubspace,
    SubspaceES,
    SubspaceEvolution,
    SubspaceNewton,
    SubspaceProblem,
)
from smd_evo.errors import InvalidType, InvalidValue, SmdEvoError, WrongParent
from smd_evo.integrations.evotorch.past import Past
from smd_evo.integrations.evotorch.replica import Fold, Replica
from smd_evo.integrations.evotorch.solutions import broken, changes_of, head, rule_of, sealed

SAMPLES = blobs(shift=2.5)
ITEMS = ("best", "pop_best", "history")


def problem_of(network=None, steps=6, **options):
    return FinetuneProblem(trained() if network is None else network, SAMPLES, steps=steps, seed=1, **options)


def genetic(problem):
    operators = [
        LineageCrossOver(problem, tournament_size=2),
        AddMutation(problem, stdev=0.2, density=0.1),
    ]
    return GeneticAlgorithm(problem, operators=operators, popsize=8)


def folding(problem):
    """A genetic algorithm whose user folds what all have in common."""
    searcher = genetic(problem)

    def fold():
        problem.fold_common(searcher.population)

    searcher.after_step_hook.append(fold)
    return searcher


SEARCHERS = {
    "genetic": genetic,
    "genetic, folded": folding,
    "evolution": functools.partial(SubspaceEvolution, popsize=6, density=0.1, sigma=0.3),
    "gradient": functools.partial(SubspaceES, popsize=6, density=0.3, sigma=0.1, center_learning_rate=0.05),
    "clipup, units of a partition": functools.partial(
        SubspaceES, popsize=6, density=0.3, static=True, sigma=0.1, center_learning_rate=0.05, optimizer="clipup"
    ),
    "newton": functools.partial(SubspaceNewton, popsize=6, density=1.0, ridge=0.1, sigma=0.05),
}
every_searcher = pytest.mark.parametrize("make", SEARCHERS.values(), ids=SEARCHERS)


def evals_of(searcher):
    return searcher.population.evals.tolist()


def run(make, folder, generations=4, items=ITEMS, **options):
    """A searcher with what EvoTorch's logger has stored of each generation."""
    searcher = make(problem_of(**options))
    PicklingLogger(searcher, interval=1, directory=folder, prefix="it", items_to_save=items, verbose=False)
    searcher.run(generations)
    stored = [pickle.loads(path.read_bytes()) for path in sorted(folder.iterdir())]
    assert len(stored) == generations
    return searcher, stored


class TestLoggers:
    @every_searcher
    def test_every_row_makes_its_network_in_a_new_problem(self, make, tmp_path):
        searcher, stored = run(make, tmp_path)
        new = problem_of(steps=1)  # which knows no rule, and has room for one step
        history = stored[-1]["history"]
        for it in stored:
            for name in ("best", "pop_best"):
                assert type(it[name]) is torch.Tensor
                expected = state_bits(searcher.problem.make_net(it[name]))
                assert same_bits(state_bits(new.make_net(it[name], history)), expected)
                assert same_bits(state_bits(new.make_net(it[name], it["history"])), expected)
        assert new.changes == 0
        assert same_bits(state_bits(new.make_net()), state_bits(trained()))

    @every_searcher
    def test_the_policy_is_the_center_or_the_best(self, make, tmp_path):
        """As of EvoTorch's own problems: with no setting at all there is a network in the file."""
        searcher, stored = run(make, tmp_path, 2, items=("center", "best", "pop_best", "pop_best_eval"))
        last = stored[-1]
        expected = searcher.problem.make_net(last.get("center", last["pop_best"]))
        assert same_bits(state_bits(last["policy"]), state_bits(expected))
        if "center" in last:
            assert same_bits(state_bits(expected), state_bits(searcher.problem.make_net()))

    def test_a_history_is_text_without_code(self, tmp_path):
        _, stored = run(SEARCHERS["gradient"], tmp_path, 2)
        history = stored[-1]["history"]
        assert history.dtype == torch.uint8
        text = bytes(history.tolist()).decode()
        document = json.loads(text)
        assert document["rules"] == [["random:0.3", "absolute"]]
        assert len(document["changes"]) == 2
        net = problem_of().make_net(stored[-1]["best"], text)
        assert same_bits(state_bits(net), state_bits(problem_of().make_net(stored[-1]["best"], history)))

    def test_another_density_is_refused_and_its_history_mends_it(self, tmp_path):
        """The same number of a rule stood for another subspace: another network, and nobody knew."""
        searcher, stored = run(functools.partial(SubspaceEvolution, popsize=4, density=0.1, sigma=0.3), tmp_path, 1)
        other = problem_of()
        SubspaceEvolution(other, popsize=4, density=0.2, sigma=0.3)
        best, history = stored[0]["pop_best"], stored[0]["history"]
        message = "solutions: expected whole lineages of this problem's rules and history, got one that"
        check_refused(lambda: other.make_net(best), WrongParent, message)
        expected = state_bits(searcher.problem.make_net(best))
        assert same_bits(state_bits(other.make_net(best, history)), expected)
        SubspaceEvolution(other, popsize=4, density=0.1, sigma=0.3)  # which is number 1 here
        check_refused(lambda: other.make_net(best), WrongParent, message)

    def test_another_runs_history_is_refused(self, tmp_path):
        stored = {}
        for sigma in (0.1, 0.2):
            make = functools.partial(SubspaceES, popsize=4, density=0.3, sigma=sigma, center_learning_rate=0.05)
            stored[sigma] = run(make, tmp_path / str(sigma), 3)[1][-1]
        one, other = stored.values()
        check_refused(
            lambda: problem_of().make_net(one["pop_best"], other["history"]),
            WrongParent,
            "values: expected a solution of this history, got one of another",
        )

    def test_an_early_history_does_not_know_later_solutions(self, tmp_path):
        _, stored = run(SEARCHERS["gradient"], tmp_path, 3)
        check_refused(
            lambda: problem_of().make_net(stored[2]["pop_best"], stored[0]["history"]),
            WrongParent,
            "values: expected a child of one of parents 0 to 1, .*got one of parent 2, .*from after it",
        )

    def test_another_network_is_refused(self, tmp_path):
        _, stored = run(SEARCHERS["gradient"], tmp_path, 2)
        network = trained()
        network.head.bias.data[0] += 1e-3
        moved = trained()
        next(moved.buffers())[:] += 1  # statistics of a normalisation
        for other in (problem_of(network), problem_of(moved), problem_of(select="head")):
            check_refused(
                lambda other=other: other.make_net(stored[1]["best"], stored[1]["history"]),
                WrongParent,
                "history: expected one that begins at this problem's parent 0, got that of another network",
            )

    def test_a_resumed_run_tells_from_where_it_was_resumed(self):
        make = SEARCHERS["gradient"]
        first, second = make(problem_of()), make(problem_of())
        first.run(2)
        old = first.population[0].clone()
        second.load_state_dict(first.state_dict())
        state = second.state_dict()
        for each in (first, second):
            each.run(2)
        expected = state_bits(first.problem.make_net(first.population[1]))
        third = make(problem_of())
        third.load_state_dict(state)
        row, history = second.population[1].values.clone(), second.status["history"]
        assert torch.equal(second.population.values, first.population.values)
        assert same_bits(state_bits(third.problem.make_net(row, history)), expected)
        assert same_bits(state_bits(problem_of().make_net(row, first.status["history"])), expected)
        message = "history: expected one that begins at this problem's parent"
        check_refused(lambda: problem_of().make_net(row, history), WrongParent, message)
        bare = problem_of()
        bare.rule(RandomSubspace(0.3))
        bare.load_state_dict(state["problem"])  # without the optimizer, which is the searcher's
        check_refused(lambda: bare.make_net(row, history), WrongParent, message)
        check_refused(
            lambda: third.problem.make_net(old, history),
            WrongParent,
            "values: expected a child of one of parents 2 to",
        )

    def test_pickled_solutions(self):
        """They hold their values alone."""
        searcher = SEARCHERS["evolution"](problem_of())
        searcher.run(3)
        expected = state_bits(searcher.problem.make_net(searcher.status["best"]))
        history = searcher.status["history"]
        for stored in (pickled(searcher.status["best"]), pickled(searcher.status["best"].to_batch())):
            assert same_bits(state_bits(problem_of().make_net(stored, history)), expected)

    def test_a_change_of_somebody_else_has_no_history(self):
        problem = problem_of()
        assert problem.history is not None
        problem.change(Own())
        assert problem.history is None
        problem.evaluate(problem.generate_batch(2))
        assert "history" not in problem.status
        batch = population(problem)
        assert not same_bits(state_bits(problem.make_net(batch[0])), state_bits(problem.make_net(batch[1])))

    def test_what_rebase_refuses_does_not_end_the_history(self):
        problem = FinetuneProblem(trained(), SAMPLES, steps=2, seed=1)
        before = problem.history
        for wrong in (problem.generate_batch(2), problem.generate_values(2), "child", None, trained()):
            with pytest.raises((InvalidType, InvalidValue)):
                problem.rebase(wrong)
            with pytest.raises((InvalidType, AttributeError)):
                problem.change(Fold(wrong))  # which nobody checks before it is noted
            assert torch.equal(problem.history, before)
            assert problem.changes == 0
        problem.rebase(problem.generate_batch(1))
        assert problem.history is not None

    def test_rebase_takes_what_makes_a_network(self):
        """A solution, a batch of one, the values of one, or a recipe."""
        for take in (lambda b: b[1], lambda b: b[1:2], lambda b: b[1].values, lambda b: b.values[1:2].clone()):
            problem = FinetuneProblem(trained(), SAMPLES, steps=2, seed=1)
            children = problem.mutate(problem.generate_batch(3), key=1, subspace=RandomSubspace(0.2), sigma=0.3)
            expected = state_bits(problem.make_net(children[1]))
            problem.rebase(take(children))
            assert same_bits(state_bits(problem.make_net()), expected)

    def test_an_interrupted_change_is_not_told(self, monkeypatch):
        problem = problem_of()
        batch = population(problem)
        with monkeypatch.context() as patch:
            patch.setattr(Fold, "apply", interrupted)
            with pytest.raises(KeyboardInterrupt):
                problem.rebase(batch[0])
        assert json.loads(bytes(problem.history.tolist()))["changes"] == []
        expected = state_bits(problem.make_net(batch[1]))
        problem.rebase(batch[1])
        row = problem.generate_batch(1)[0]
        assert same_bits(state_bits(problem_of().make_net(row, problem.history)), expected)


class Own:
    """A change that this package does not know."""

    def apply(self, replica):
        replica.space.fold(Lineage())


def interrupted(change, replica):
    raise KeyboardInterrupt


@pytest.fixture(scope="module")
def told():
    """A row and its history."""
    searcher = SEARCHERS["gradient"](problem_of())
    searcher.run(2)
    return searcher.population[0].values.clone(), bytes(searcher.status["history"].tolist()).decode()


class TestHistoriesFromAnybody:
    def test_this_one_is_good(self, told):
        problem_of().make_net(*told)

    @pytest.mark.parametrize(
        ("history", "kind"),
        [
            (5, InvalidType),
            (torch.zeros(3), InvalidType),
            (b"{}", InvalidType),
            ("", InvalidValue),
            ("[]", InvalidValue),
            ("[" * 100_000, InvalidValue),
            (torch.full((9,), 255, dtype=torch.uint8), InvalidValue),
            ('{"parent": 1}', InvalidValue),
        ],
        ids=str,
    )
    def test_what_is_none(self, told, history, kind):
        check_refused(lambda: problem_of().make_net(told[0], history), kind, "history: expected what status")

    @given(st.data())
    def test_whatever_is_changed_in_one_it_is_refused_or_harmless(self, told, data):
        """In one line; a change in a later part, or of one number to an equal one, may do no harm."""
        row, text = told
        document = json.loads(text)
        parts = [(holder, name) for holder in places(document) for name in names(holder)]
        holder, name = data.draw(st.sampled_from(parts))
        holder[name] = data.draw(st.sampled_from([None, -1, 2**70, "x", [], {}, [[1]], 0.5, True, "random:0.3"]))
        problem = FUZZED
        try:
            net = problem.make_net(row, json.dumps(document))
        except SmdEvoError as error:
            message = str(error)
        else:
            message = str([*net(SAMPLES[0]).shape])
        assert message == "[60, 3]" or ("expected" in message and "\n" not in message)


FUZZED = problem_of()


def places(value):
    if isinstance(value, dict | list):
        yield value
        for inner in value.values() if isinstance(value, dict) else value:
            yield from places(inner)


def names(value):
    return list(value) if isinstance(value, dict) else range(len(value))


class TestMakeNet:
    def test_values_a_solution_and_a_batch_of_one(self):
        problem = problem_of()
        batch = population(problem)
        problem.evaluate(batch)
        expected = state_bits(problem.make_net(batch[2]))
        values = batch.values[2]
        for same in (
            values,
            values[None],
            batch.values[2].clone(),
            batch[2:3],
            batch[2].to_batch(),
            batch[2].clone(),
        ):
            for make in (problem.make_net, problem.to_policy, problem.parameterize_net):
                assert same_bits(state_bits(make(same)), expected)

    def test_points_of_a_subspace(self):
        problem = SubspaceProblem(trained(), SAMPLES, dimensions=5, seed=1)
        searcher = SNES(problem, stdev_init=0.1, popsize=4)
        searcher.run(2)
        center = searcher.status["center"]
        expected = state_bits(problem.make_net(center))
        batch = SolutionBatch(problem, 1, empty=True)
        batch.set_values(center[None].clone())
        for same in (center, batch, batch[0]):
            for make in (problem.make_net, problem.to_policy, problem.parameterize_net):
                assert same_bits(state_bits(make(same)), expected)
        check_refused(lambda: problem.make_net(searcher.population), InvalidValue, r"values: expected \[5\] numbers")

    @pytest.mark.parametrize(
        ("values", "kind", "message"),
        [
            (lambda batch: batch, InvalidValue, r"values: expected one solution, got \[6, 19\] values; take one of"),
            (lambda batch: batch.values, InvalidValue, "expected one solution"),
            (lambda batch: batch[:0], InvalidValue, r"expected one solution, got \[0, 19\]"),
            (
                lambda batch: batch.values[0].float(),
                InvalidValue,
                r"expected int64 \[1 \+ 3 \* steps\], got torch.float32",
            ),
            (lambda batch: batch.values[0][:-1], InvalidValue, r"expected int64 .*\[18\]"),
            (lambda batch: batch.values[0][:1], InvalidValue, r"expected int64 .*\[1\]"),
            (lambda batch: batch.values[0][0], InvalidValue, "expected one solution"),
            (lambda batch: "best", InvalidType, "values: expected a solution or the values of one, got 'best'"),
        ],
        ids=range(8),
    )
    def test_what_is_no_solution_is_refused(self, values, kind, message):
        problem = problem_of()
        batch = population(problem)
        check_refused(lambda: problem.make_net(values(batch)), kind, message)

    def test_the_center_is_where_a_gradient_search_has_arrived(self):
        searcher = SEARCHERS["gradient"](problem_of())
        for _ in range(2):
            searcher.step()
            center = searcher.status["center"]
            assert same_bits(state_bits(searcher.problem.make_net(center)), state_bits(searcher.problem.make_net()))


class TestHeads:
    @given(st.integers(0, 2**26 - 1), st.integers(0, 2**10 - 1), st.integers(0, 2**64 - 1))
    def test_they_hold_changes_and_rule(self, changes, rule, key):
        rows = torch.tensor([[0, 5, 7, 1 << 62], [0, 0, 0, 0]])
        rows[:, 0] = head(torch.tensor([changes] * 2), rule)
        for made in (rows, sealed(rows, lambda *_: key), sealed(sealed(rows, lambda *_: key), lambda *_: key)):
            assert changes_of(made).tolist() == [changes] * 2
            assert rule_of(made).tolist() == [rule] * 2
            assert torch.equal(made[:, 1:], rows[:, 1:])
        assert not broken(sealed(rows, lambda *_: key), lambda *_: key).any()

    @given(st.integers(0, 2**32 - 1), st.integers(0, 2**20))
    def test_those_of_former_versions_are_read(self, changes, rule):
        rows = torch.tensor([[(rule << 32) + changes, 5, 7, 1 << 62]])
        assert changes_of(rows).tolist() == [changes]
        assert rule_of(rows).tolist() == [rule]
        assert broken(rows, lambda *_: 3).all()
        assert not broken(rows, lambda *_: 3, former=True).any()

    def test_rows_of_former_versions_make_their_networks(self):
        problem = problem_of()
        batch = population(problem)
        row = batch.values[3].clone()
        row[0] = 0
        expected = state_bits(problem.make_net(batch[3]))
        other = problem_of()
        other.rule(RULE)
        assert same_bits(state_bits(other.make_net(row)), expected)
        assert same_bits(state_bits(problem_of().make_net(row, problem.history)), expected)

    def test_searches_that_former_versions_have_stored_go_on(self):
        """A state dict without a key, and a pickle without a past; heads hold the rule and the changes alone."""
        make = SEARCHERS["evolution"]
        searcher = make(problem_of())
        searcher.run(2)
        state, pickle_ = searcher.state_dict(), pickled(searcher)
        del state["problem"]["history"]
        for rows in (state["population"]["values"], state["parents"]["values"]):
            rows[:, 0] = rule_of(rows) * 2**32 + changes_of(rows)
        old = dict(vars(pickle_.problem))
        old["_rules"] = old.pop("_past").rules
        vars(pickle_.problem).clear()
        pickle_.problem.__setstate__(old)
        for solutions in (pickle_.population, pickle_.parents):
            rows = solutions.access_values(keep_evals=True)
            rows[:, 0] = rule_of(rows) * 2**32 + changes_of(rows)
        other = make(problem_of())
        other.load_state_dict(state)
        for each in (searcher, pickle_, other):
            each.run(2)
        for each in (pickle_, other):
            assert evals_of(each) == evals_of(searcher)
        again = problem_of().make_net(pickle_.population[2], pickle_.status["history"])
        assert same_bits(state_bits(again), state_bits(searcher.problem.make_net(searcher.population[2])))

    def test_more_rules_and_changes_than_they_have_room_for_are_refused(self):
        past, replica = Past(rules=[(RULE, "absolute")] * (2**10 - 1)), Replica(ParameterSpace(trained()))
        assert past.number(RandomSubspace(0.5), "absolute") == 2**10 - 1
        message = "subspace: expected at most 1024 in one problem"
        check_refused(lambda: past.number(RandomSubspace(0.6), "absolute"), InvalidValue, message)
        replica.changes = 2**26 - 1
        message = "change: expected less than 67,108,864 changes"
        check_refused(lambda: past.note(Fold(Lineage()), replica), InvalidValue, message)

    @given(st.integers(0, 18), st.integers(0, 62))
    def test_one_flipped_bit_is_seen(self, word, bit):
        """In the steps; in the head it is another rule, parent or seal."""
        past = Past(rules=[(RULE, "absolute"), (RandomSubspace(0.5), "relative")])
        words = [*range(3, 9), 1 << 62, *range(3), 1 << 61, *range(7)]
        row = torch.tensor([[int(head(torch.tensor(0), 0)), *words]])
        row = sealed(row, past.key_of)
        assert not broken(row, past.key_of).any()
        other = row.clone()
        other[0, word] ^= 1 << bit
        told = [int(part(rows)) for rows in (row, other) for part in (changes_of, rule_of)]
        assert told[:2] != told[2:] or bool(broken(other, past.key_of).any()) or (word, bit) == (0, 62)
