"""Ask and tell: a search whose solutions somebody else evaluates goes the way that the problem's own would."""

import copy
import math
import pickle
from functools import partial

import pytest
import torch
from evotorch import SolutionBatch
from evotorch_helpers import evals
from helpers import blobs, same_bits, state_bits, trained

from smd_evo import (
    Dense,
    Evaluator,
    FinetuneProblem,
    Lineage,
    OpenAIES,
    RandomSubspace,
    Staged,
    SubspaceES,
    SubspaceEvolution,
    SubspaceNewton,
    UnitSubspace,
)
from smd_evo.errors import InvalidType, InvalidValue, SmdEvoError, WrongParent

SAMPLES = blobs(30, shift=2.5)
EVOLUTION = partial(SubspaceEvolution, popsize=4, sigma=0.3)
ES = partial(SubspaceES, popsize=4, sigma=0.1, center_learning_rate=0.05)
UNITS = UnitSubspace("layer", RandomSubspace(0.5))

SEARCHERS = {
    "(1 + lambda)": partial(EVOLUTION, density=0.1),
    "(1, lambda)": partial(EVOLUTION, density=0.1, num_elites=0),
    "(mu + lambda), adapted": partial(EVOLUTION, density=0.1, num_parents=2, num_elites=2, adapt_sigma=True),
    "sigma found": partial(EVOLUTION, density=0.1, sigma="auto"),
    "units": partial(EVOLUTION, subspace=UNITS),
    "(1, lambda), units": partial(EVOLUTION, subspace=UNITS, num_elites=0),
    "ES": partial(ES, density=0.3),
    "ES units": partial(ES, subspace=UNITS),
    "OpenAIES": partial(OpenAIES, popsize=4),
    "staged": lambda problem: Staged(problem, [(1, SEARCHERS["(1 + lambda)"]), (2, SEARCHERS["ES units"])]),
}
every_searcher = pytest.mark.parametrize("make", SEARCHERS.values(), ids=SEARCHERS)


def searcher_of(make, **options):
    return make(FinetuneProblem(trained(), SAMPLES, **{"steps": 2, "seed": 1} | options))


def by_hand(problem, batch):
    """Fitness of networks that know nothing of the problem."""
    networks = [problem.make_net(solution) for solution in batch]
    return torch.cat([Evaluator(net, SAMPLES).evaluate([Lineage()]).fitness for net in networks])


def told_by_hand(searcher):
    batch = searcher.ask()
    batch.set_evals(by_hand(searcher.problem, batch))
    searcher.tell(batch)
    return searcher


def told_by_the_problem(searcher):
    batch = searcher.ask()
    searcher.problem.evaluate(batch)
    searcher.tell(pickle.loads(pickle.dumps(batch)))  # another object with the same solutions
    return searcher


def told_after_a_pickle(searcher):
    """The searcher is stored while it waits."""
    batch = searcher.ask()
    stored = pickle.loads(pickle.dumps(searcher))
    stored.problem.evaluate(batch)
    stored.tell(batch)
    return stored


DRIVEN = [(name, told_by_hand) for name in SEARCHERS if name != "staged"]  # whose stages see shares of the samples
DRIVEN += [
    (name, drive)
    for name in ("(1 + lambda)", "ES units", "staged")
    for drive in (told_by_the_problem, told_after_a_pickle)
]


def seen(searcher):
    status = {name: searcher.status[name] for name in ("iter", "sigma", "pop_best_eval", "mean_eval", "best_eval")}
    parent = state_bits(searcher.problem.make_net())
    return status, searcher.population.values.tolist(), evals(searcher.population), parent


@pytest.mark.parametrize(("name", "drive"), DRIVEN)
def test_the_same_evaluations_are_the_same_search(name, drive):
    """Also if generations are had in the one way and in the other, one after another."""
    searcher, other = searcher_of(SEARCHERS[name]), searcher_of(SEARCHERS[name])
    for number in range(4):
        other.step()
        if number == 2:
            searcher.step()
        else:
            searcher = drive(searcher)
        *numbers, parent = seen(searcher)
        *expected, expected_parent = seen(other)
        assert numbers == expected
        assert same_bits(parent, expected_parent)


@every_searcher
def test_asked_again_it_gives_the_same_solutions(make):
    """Also after their evaluations were begun, from a copy and from a state; and a step would have had them."""
    searcher = searcher_of(make)
    searcher.step()
    state = copy.deepcopy(searcher.state_dict())
    batch = searcher.ask()
    assert bool(batch.evals.isnan().all())
    expected = batch.values.tolist()
    lineages = searcher.problem.lineages(batch)
    batch.set_evals(torch.zeros(len(batch)))
    again = searcher_of(make)
    again.load_state_dict(searcher.state_dict())
    before = searcher_of(make)
    before.load_state_dict(state)
    for other in (searcher, copy.deepcopy(searcher), again, before):
        asked = other.ask()
        assert asked.values.tolist() == expected
        assert bool(asked.evals.isnan().all())
        assert other.problem.lineages(asked) == lineages
    assert searcher.step_count == 1
    searcher.step()
    assert len(searcher.population) >= 4
    assert {tuple(row) for row in searcher.population.values.tolist()} <= set(map(tuple, expected))
    with pytest.raises(InvalidValue, match=r"tell: expected ask\(\) before it"):
        searcher.tell(batch)


def test_status_and_hooks_are_of_what_was_told():
    searcher, calls = searcher_of(SEARCHERS["(1 + lambda)"]), []
    searcher.before_step_hook.append(lambda: calls.append("before"))
    searcher.after_step_hook.append(lambda: {"least": min(evals(searcher.population))})
    searcher.log_hook.append(lambda status: calls.append(status["least"]))
    searcher.step()  # the problem's numbers are of this one
    batch = searcher.ask()
    batch.set_evals(torch.arange(5.0) - 3)
    searcher.tell(batch)
    status = dict(searcher.status)
    assert calls[2:] == ["before", -3.0]
    assert (status["pop_best_eval"], status["parent_eval"], status["best_eval"]) == (-3.0, -3.0, -3.0)
    assert (status["iter"], status["nonfinite"], status["evaluations"]) == (2, 0, 5)
    assert same_bits(
        state_bits(searcher.problem.make_net(status["best"])), state_bits(searcher.problem.make_net(batch[0]))
    )


def test_status_keeps_to_itself_what_nobody_knows():
    searcher = searcher_of(SEARCHERS["ES"])
    searcher.step()
    batch = searcher.ask()
    batch.set_evals(torch.arange(4.0))
    searcher.tell(batch)
    assert "parent_eval" not in searcher.problem.status
    searcher.problem.count(4)
    told_by_the_problem(searcher)
    assert searcher.status["evaluations"] == 4 + 2 * 5
    assert math.isfinite(searcher.status["parent_eval"])


def test_status_is_of_what_was_told_whatever_the_problem_evaluates_meanwhile():
    searcher = searcher_of(SEARCHERS["ES"])
    batch = searcher.ask()
    searcher.problem.evaluate(searcher.problem.generate_batch(2))
    batch.set_evals(torch.tensor([9.0, 8.0, 7.0, 6.0]))
    searcher.tell(batch)
    status = dict(searcher.status)
    assert "parent_eval" not in searcher.problem.status
    assert status["pop_best_eval"] == 6
    assert status["worst_eval"] == 9


class TestRefused:
    """In one line, and nothing has moved: the search goes on as if nobody had tried."""

    @pytest.fixture(params=["(1 + lambda)", "ES units", "staged"])
    def searcher(self, request):
        searcher, other = searcher_of(SEARCHERS[request.param]), searcher_of(SEARCHERS[request.param])
        yield searcher
        for each in (searcher, other):
            each.step()
        assert searcher.step_count == 1
        assert evals(searcher.population) == evals(other.population)

    def refuse(self, searcher, batch, kind, message):
        with pytest.raises(kind, match=message) as caught:
            searcher.tell(batch)
        assert isinstance(caught.value, SmdEvoError)
        assert "\n" not in str(caught.value)
        assert searcher.step_count == 0

    def test_nothing_was_asked_for(self, searcher):
        self.refuse(searcher, searcher.problem.generate_batch(4), InvalidValue, r"tell: expected ask\(\) before it")

    def test_no_batch(self, searcher):
        searcher.ask()
        self.refuse(searcher, [1.0, 2.0], InvalidType, r"batch: expected the SolutionBatch of ask\(\), got \[1.0")

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    def test_a_fitness_is_missing(self, searcher, bad):
        batch = searcher.ask()
        self.refuse(searcher, batch, InvalidValue, f"got {len(batch)} of {len(batch)} without, number 0 first")
        values = torch.ones(len(batch))
        values[1] = values[3] = bad
        batch.set_evals(values)
        self.refuse(searcher, batch, InvalidValue, f"got 2 of {len(batch)} without, number 1 first; .*access_values")

    def test_other_solutions(self, searcher):
        batch = searcher.ask()
        batch.set_evals(torch.ones(len(batch)))
        for other in (batch[1:], batch.take(range(len(batch) - 1, -1, -1)), SolutionBatch.cat([batch, batch])):
            self.refuse(searcher, other, InvalidValue, r"batch: expected the \d solutions of ask\(\) in their order")
        batch.access_values(keep_evals=True)[0, 1] += 1  # the searcher's own are not these
        self.refuse(searcher, batch, InvalidValue, r"batch: expected the \d solutions of ask\(\) in their order")

    @pytest.mark.parametrize("name", ["(1, lambda)", "ES"])
    def test_the_parent_has_moved(self, name):
        searcher = searcher_of(SEARCHERS[name])
        batch = searcher.ask()
        batch.set_evals(torch.ones(len(batch)))
        searcher.problem.rebase(searcher.problem.lineages(batch)[1])
        self.refuse(
            searcher, batch, WrongParent, "tell: expected children of the present parent, number 1, got those"
        )
        asked = searcher.ask()  # it goes on from any parent
        assert len(asked) == len(batch)
        assert searcher.problem.lineages(asked) == searcher.problem.lineages(batch)
        searcher.step()

    def test_a_searcher_that_needs_outputs(self):
        searcher = searcher_of(partial(SubspaceNewton, popsize=4, subspace=Dense()))
        with pytest.raises(InvalidValue, match=r"ask: expected a searcher by fitness, got SubspaceNewton"):
            searcher.ask()
