"""The operator of plain tensors, in the style of evotorch.operators.functional."""

import pytest
import torch
from evotorch import Problem
from evotorch.algorithms.functional import cem, cem_ask, cem_tell
from evotorch.operators.functional import combine, take_best, two_point_cross_over
from hypothesis import given
from hypothesis import strategies as st

from smd_evo import (
    Dense,
    NeuronSubspace,
    PartitionSubspace,
    RandomSubspace,
    SparseGaussianMutation,
    gaussian,
    sample_mutations,
    sparse_gaussian_mutation,
)
from smd_evo.core.layout import Layout
from smd_evo.errors import SmdEvoError
from smd_evo.integrations.evotorch.keys import draw_key

RULES = st.sampled_from(
    [{"density": 0.2}, {"density": 0.5, "static": True}, {"subspace": PartitionSubspace(3)}, {"subspace": Dense()}]
)
KEYS = st.integers(0, 2**64 - 1)
DTYPES = st.sampled_from([torch.float32, torch.float64, torch.bfloat16])


def rule_of(options):
    return options.get("subspace") or RandomSubspace(options["density"], options.get("static", False))


@given(
    st.lists(st.integers(1, 3), max_size=2), st.integers(1, 4), RULES, DTYPES, st.integers(0, 2**64 - 1), st.data()
)
def test_each_solution_is_the_cores_recipe_written_out(batch, count, options, dtype, key, data):
    shape = torch.Size([*batch, count, 7])
    solutions = gaussian(0, torch.arange(shape.numel())).view(shape).to(dtype)
    before, generation = solutions.clone(), data.draw(st.integers(0, 5))
    strengths = 0.1 + gaussian(1, torch.arange(torch.Size(batch).numel())).abs().view(batch)
    stdev = data.draw(st.sampled_from([strengths, 0.25])) if batch else 0.25
    children = sparse_gaussian_mutation(solutions, key=key, sigma=stdev, generation=generation, **options)
    assert (children.shape, children.dtype) == (shape, dtype)
    assert torch.equal(solutions, before)
    rule, layout = rule_of(options), Layout.flat(7)
    recipes = sample_mutations(key, shape[:-1].numel(), subspace=rule, sigma=1.0, generation=generation)
    each = torch.broadcast_to(torch.as_tensor(stdev)[..., None], shape[:-1]).reshape(-1).tolist()
    wide = torch.promote_types(dtype, torch.float32)
    for row, child, recipe, strength in zip(before.view(-1, 7), children.view(-1, 7), recipes, each, strict=True):
        indices = rule.coordinates(recipe.draw, layout)
        noise = strength * gaussian(recipe.key, indices, torch.float64)
        expected = row.clone()
        expected[indices] = (row[indices].to(wide) + noise.to(wide)).to(dtype)
        assert torch.equal(child, expected)


def test_it_is_the_operator_of_problems():
    problem, same = (
        Problem("min", torch.linalg.norm, solution_length=30, initial_bounds=(-1, 1), seed=3) for _ in range(2)
    )
    mutate, parents = SparseGaussianMutation(problem, sigma=0.3, density=0.1), problem.generate_batch(5)
    key = draw_key(same)
    same.generate_batch(5)
    children = sparse_gaussian_mutation(
        parents.values.clone().as_subclass(torch.Tensor), key=key, sigma=0.3, density=0.1, generation=draw_key(same)
    )
    assert torch.equal(mutate(parents).values, children)


def test_any_memory_and_any_device(devices):
    solutions = gaussian(0, torch.arange(60)).view(5, 3, 4)
    expected = sparse_gaussian_mutation(solutions.transpose(0, 1).contiguous(), key=1, sigma=0.1, density=0.5)
    for device in devices:
        there = solutions.to(device).transpose(0, 1)
        children = sparse_gaussian_mutation(
            there, key=1, sigma=torch.tensor([0.1] * 3, dtype=torch.float64), density=0.5
        )
        assert children.device == there.device
        assert torch.equal(children.cpu(), expected)
    assert sparse_gaussian_mutation(solutions[:0], key=1, sigma=0.1, density=0.5).shape == (0, 3, 4)


def test_populations_of_a_batch_are_searched_at_once():
    """A genetic algorithm of EvoTorch's functions, on two problems, with this one as its mutation; and CEM's."""
    targets = torch.tensor([1.0, -2.0])[:, None, None]

    def cost(values):
        return (values - targets).square().mean(-1)

    torch.manual_seed(0)
    population = torch.zeros(2, 20, 10)
    costs = first = cost(population)
    for generation in range(40):
        candidates = two_point_cross_over(population, costs, tournament_size=4, objective_sense="min")
        candidates = sparse_gaussian_mutation(candidates, key=1, sigma=0.5, density=0.2, generation=generation)
        everyone = combine((population, costs), (candidates, cost(candidates)))
        population, costs = take_best(*everyone, 20, objective_sense="min")
    assert bool((costs.min(1).values < 0.5 * first.min(1).values).all())
    state = cem(center_init=population[:, 0], parenthood_ratio=0.5, stdev_init=0.1, objective_sense="min")
    asked = sparse_gaussian_mutation(cem_ask(state, popsize=20), key=2, sigma=0.1, density=0.2)
    assert cem_tell(state, asked, cost(asked)).center.shape == (2, 10)


GOOD = {"solutions": torch.zeros(2, 3, 4), "key": 1, "sigma": 0.1, "density": 0.5}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solutions": torch.zeros(3)}, r"solutions: expected \[..., N, L\], got \[3\]"),
        (
            {"solutions": torch.zeros(3, 4, dtype=torch.int64)},
            "solutions: expected a tensor of a floating dtype, got",
        ),
        ({"solutions": [[1.0]]}, r"solutions: expected a tensor of a floating dtype, got \[\[1.0\]\]"),
        ({"key": -1}, r"key: expected an int in \[0, 2\*\*64\)"),
        ({"key": 1.5}, r"key: expected an int in \[0, 2\*\*64\)"),
        ({"generation": -1}, r"generation: expected an int in"),
        ({"sigma": 0}, "sigma: expected a finite number > 0, got 0"),
        ({"sigma": torch.tensor([1.0, -1.0])}, "sigma: expected a finite number > 0, got -1"),
        ({"sigma": torch.tensor([1.0, float("nan")])}, "sigma: expected a finite number > 0, got nan"),
        ({"sigma": torch.ones(3)}, r"sigma: expected a number, or .* dimensions \[2\], got shape \[3\]"),
        ({"density": None}, "density: expected it or subspace, got neither"),
        ({"density": 2}, "density: expected a finite number in"),
        (
            {"density": None, "subspace": NeuronSubspace(0.5)},
            "subspace: expected a RandomSubspace, Part",
        ),
    ],
    ids=str,
)
def test_wrong_use_is_one_line(options, message):
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        sparse_gaussian_mutation(
            **{"solutions": torch.zeros(2, 3, 4), "key": 1, "sigma": 0.1, "density": 0.5} | options
        )
    assert isinstance(caught.value, SmdEvoError)
    assert "\n" not in str(caught.value)
