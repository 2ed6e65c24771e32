"""Pareto fronts: against every pair of rows, with equal rows; as a table and as a picture."""

import pytest
import torch
from evotorch import Problem, SolutionBatch
from hypothesis import given
from hypothesis import strategies as st

from smd_evo import ParetoFront
from smd_evo.errors import InvalidValue
from smd_evo.evaluation.fitness import WORST
from smd_evo.evaluation.front import nondominated

FEW = st.sampled_from([-WORST, -1.5, 0.0, 1.0, 2.0, WORST])
"""Values of which many are equal."""


@st.composite
def tables(draw, least=1):
    senses = draw(st.lists(st.sampled_from(["min", "max"]), min_size=least, max_size=4))
    row = st.lists(FEW, min_size=len(senses), max_size=len(senses))
    rows = draw(st.lists(row, max_size=25))
    return torch.tensor(rows, dtype=torch.float64).view(len(rows), len(senses)), senses


def dominates(one, other, senses):
    """Said by the definition."""
    pairs = [(a, b) if sense == "min" else (b, a) for a, b, sense in zip(one, other, senses, strict=True)]
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def by_every_pair(values, senses):
    rows = values.tolist()
    return [n for n, own in enumerate(rows) if not any(dominates(other, own, senses) for other in rows)]


class TestNondominated:
    @given(tables())
    def test_is_what_no_other_row_dominates(self, table):
        assert nondominated(*table) == by_every_pair(*table)

    @given(tables(least=2))
    def test_is_evotorchs_first_front(self, table):
        values, senses = table
        if len(values):
            problem = Problem(senses, lambda x: x, solution_length=1, initial_bounds=(0, 1), eval_dtype=torch.float64)
            batch = SolutionBatch(problem, popsize=len(values))
            batch.set_evals(values)
            ranks = batch.compute_pareto_ranks(crowdsort=False)[0]
            assert nondominated(values, senses) == (ranks == 0).nonzero().flatten().tolist()

    @given(tables(), st.randoms(use_true_random=False))
    def test_does_not_depend_on_the_order(self, table, random):
        values, senses = table
        order = random.sample(range(len(values)), len(values))
        found = nondominated(values[order], senses)
        assert sorted(order[number] for number in found) == nondominated(values, senses)

    def test_takes_thousands_of_rows_in_no_time(self):
        angles = torch.linspace(0, 1.5, 3000, dtype=torch.float64)
        values = torch.stack([angles.sin(), angles.cos()], 1)  # all of them, in a quarter of a circle
        assert nondominated(values, ["max", "max"]) == [*range(3000)]

    @pytest.mark.parametrize(
        ("values", "senses", "message"),
        [
            (torch.zeros(3), ["min"], r"^values: expected \[N, 1\], a column a sense, got \[3\]"),
            (torch.zeros(3, 2), ["min"], r"^values: expected \[N, 1\], a column a sense, got \[3, 2\]"),
            (torch.zeros(3, 0), [], r"^values: expected \[N, 0\]"),
            (torch.zeros(3, 1), ["low"], r"^sense: expected one of min, max, got 'low'"),
            (torch.tensor([[float("nan")]]), ["min"], r"^values: expected numbers, got NaN; are all of them evalua"),
        ],
    )
    def test_refuses_what_is_no_table_of_numbers(self, values, senses, message):
        with pytest.raises(InvalidValue, match=message):
            nondominated(values, senses)


VALUES = torch.tensor(
    [[0.5, 0.0], [0.75, 2.0], [0.6, 3.0], [0.5, 0.0], [0.7, WORST], [0.9, 5.0]], dtype=torch.float64
)


class TestParetoFront:
    front = ParetoFront(VALUES, ["accuracy", "norm"], ["max", "min"], parent=[0.5, 0.0])

    def test_has_the_best_in_the_first_objective_first(self):
        assert self.front.numbers == [5, 1, 0, 3]
        assert len(self.front) == 4

    def test_keeps_its_values_where_a_population_is_used_again(self):
        values = VALUES.clone()
        front = ParetoFront(values, ["accuracy", "norm"], ["max", "min"])
        values.zero_()
        assert front.numbers == self.front.numbers
        assert torch.equal(front.values, VALUES)

    def test_is_a_table_in_which_equal_ones_share_a_line(self):
        assert self.front.table().split("\n") == [
            "       number  accuracy  norm",
            "            5       0.9     5",
            "            1      0.75     2",
            "  0 (2 equal)       0.5     0",
            "       parent       0.5     0",
        ]

    def test_is_a_picture_of_all_that_have_a_fitness(self):
        (axes,) = self.front.plot().axes
        drawn = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
        assert drawn["dominated"] == [[0.6, 3.0]]
        assert drawn["front"] == VALUES[self.front.numbers].tolist()
        assert drawn["parent"] == [[0.5, 0.0]]
        assert [axes.get_xlabel(), axes.get_ylabel()] == ["accuracy (higher is better)", "norm (lower is better)"]

    @pytest.mark.parametrize("senses", [("min", "min"), ("min", "max"), ("max", "min"), ("max", "max")])
    def test_draws_the_stairs_where_they_dominate(self, senses):
        signs = torch.tensor([-1.0 if sense == "max" else 1.0 for sense in senses])
        front = ParetoFront(signs * torch.tensor([[0.0, 2.0], [1.0, 1.0], [2.0, 0.0]]), "ab", senses)
        (line,) = (line for line in front.plot().axes[0].lines if line.get_drawstyle().startswith("steps"))
        x, y = line.get_path().vertices.T  # every corner is dominated by, or is, one of the three
        corners = torch.stack([torch.from_numpy(x), torch.from_numpy(y)], 1) * signs
        assert bool((front.values * signs)[:, None].le(corners).all(2).any(0).all())
        assert len(corners) == 5

    def test_of_three_objectives_has_a_picture_of_each_two(self):
        front = ParetoFront(torch.eye(3), ["a", "b", "c"], ["min"] * 3)
        assert len(front.plot().axes) == 3

    def test_shows_itself_in_a_notebook(self):
        shown = self.front._repr_html_()
        assert "<td>0 (2 equal)</td>" in shown
        assert "<img" in shown
        assert "<img" not in ParetoFront(VALUES[:, :1], ["accuracy"], ["max"])._repr_html_()

    def test_refuses_names_that_do_not_fit(self):
        with pytest.raises(
            InvalidValue, match=r"^names: expected one of each objective, got 1 names, 2 senses and no"
        ):
            ParetoFront(VALUES, ["accuracy"], ["max", "min"])
        with pytest.raises(InvalidValue, match=r"^front: expected two objectives to draw, got 1"):
            ParetoFront(VALUES[:, :1], ["accuracy"], ["max"]).plot()
