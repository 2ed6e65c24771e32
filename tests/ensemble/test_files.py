"""The children file: exact both ways; whatever is wrong with one is said, and nothing is executed."""

import json
import os
import pickle

import pytest
import torch
from helpers import SmallNet
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from smd_evo import Dense, Evaluator, ParameterSpace, RandomSubspace, sample_mutations
from smd_evo.ensemble.files import load_children, save_children
from smd_evo.errors import ChildrenFileError, WrongParent


@pytest.fixture
def stored(network, samples, tmp_path):
    evaluator = Evaluator(network, samples)
    recipes = sample_mutations(1, 5, subspace=RandomSubspace(0.1), sigma=0.5)
    result = evaluator.evaluate(recipes)
    path = tmp_path / "children.safetensors"
    save_children(path, evaluator.space, recipes, result, "cross_entropy")
    return path, evaluator, recipes, result


def test_round_trip_best_first(stored):
    path, evaluator, recipes, result = stored
    children = load_children(path, evaluator.space)
    order = result.ranking()
    assert children.recipes == [recipes[number] for number in order]
    assert children.fitness.tolist() == sorted(result.fitness.tolist())
    assert (children.fitness_name, children.sense) == ("cross_entropy", "min")
    for delta, recipe in zip(children.deltas, children.recipes, strict=True):
        expected = recipe.delta(evaluator.space.layout)
        assert torch.equal(delta.indices, expected.indices)
        assert torch.equal(delta.values, expected.values)
    assert torch.equal(evaluator.evaluate(children.deltas).fitness, children.fitness)


def test_indices_take_the_smallest_type(stored):
    path, evaluator, _, _ = stored
    assert evaluator.space.size == 239
    assert load_file(path)["indices"].dtype == torch.uint8


def test_nothing_else_is_left_in_the_folder(stored):
    assert os.listdir(stored[0].parent) == ["children.safetensors"]


def test_a_failed_write_leaves_the_old_file(stored, monkeypatch):
    path, evaluator, recipes, result = stored
    before = path.read_bytes()
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save_children(path, evaluator.space, recipes, result, "cross_entropy")
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["children.safetensors"]


def test_another_parent(stored):
    path, evaluator, _, _ = stored
    torch.manual_seed(5)
    for other in (ParameterSpace(SmallNet()), ParameterSpace(evaluator.space.module, "head")):
        with pytest.raises(WrongParent, match="use the network, weights and selection that they were made from"):
            load_children(path, other)


def test_a_parent_whose_statistics_moved(stored):
    path, evaluator, _, _ = stored
    evaluator.space.module.bn.running_mean.add_(0.1)
    with pytest.raises(WrongParent):
        load_children(path, evaluator.space)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_truncated(stored, share):
    path, evaluator, _, _ = stored
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ChildrenFileError, match=r"children\.safetensors: expected a whole children file"):
        load_children(path, evaluator.space)


def test_missing_or_a_folder(stored, tmp_path):
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(ChildrenFileError, match="expected a whole children file"):
            load_children(path, stored[1].space)


def test_a_pickle_is_not_executed(stored, tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "exploded"),)

    path = tmp_path / "bomb"
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ChildrenFileError):
        load_children(path, stored[1].space)
    assert not (tmp_path / "exploded").exists()


@given(st.integers(0, 10**6), st.integers(0, 255))
def test_any_changed_byte_gives_the_same_children_or_a_clear_error(tmp_path_factory, place, value):
    torch.manual_seed(0)
    space = ParameterSpace(SmallNet())
    evaluator = Evaluator(space, (torch.zeros(4, 1, 4, 4), torch.zeros(4, dtype=torch.int64)))
    recipes = sample_mutations(1, 2, subspace=RandomSubspace(0.1), sigma=0.5)
    path = tmp_path_factory.mktemp("changed") / "children"
    save_children(path, space, recipes, evaluator.evaluate(recipes), "cross_entropy")
    data = bytearray(path.read_bytes())
    data[place % len(data)] = value
    path.write_bytes(data)
    try:
        children = load_children(path, space)
    except (ChildrenFileError, WrongParent):
        return
    assert all(int(delta.indices[-1]) < space.size for delta in children.deltas)
    assert all(bool(delta.values.isfinite().all()) for delta in children.deltas)


def rewrite(path, tensors=None, **metadata):
    with safe_open(path, "pt") as file:
        kept = file.metadata()
    kept = json.dumps(json.loads(kept["smd_evo"]) | metadata)
    save_file(load_file(path) | (tensors or {}), path, {"smd_evo": kept})


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        ({"indices": torch.full((120,), 239, dtype=torch.uint8)}, {}, "beyond the network's parameters"),
        ({"indices": torch.zeros(120, dtype=torch.uint8)}, {}, "strictly increasing"),
        ({"indices": torch.zeros(120)}, {}, "indices: got an unexpected torch.float32"),
        ({"indices": torch.zeros(120, 1, dtype=torch.uint8)}, {}, "indices: got an unexpected"),
        ({"values": torch.full((120,), float("nan"))}, {}, "not all finite"),
        ({"lengths": torch.tensor([24, 24, 24, 24, 25])}, {}, "do not add up"),
        ({"lengths": torch.tensor([-1, 25, 24, 24, 48])}, {}, "do not add up"),
        ({"lengths": torch.tensor([60, 60])}, {}, "numbers of children differ"),
        ({"fitness": torch.zeros(4, dtype=torch.float64)}, {}, "numbers of children differ"),
        ({"more": torch.zeros(4)}, {}, "expected tensors"),
        ({}, {"recipes": "nonsense"}, "consistent"),
        ({}, {"recipes": ["a|b"] * 5}, "SUBSPACE"),
        ({}, {"recipes": [1, 2, 3, 4, 5]}, "consistent"),
        ({}, {"recipes": None}, "consistent"),
        ({}, {"sense": "up"}, "sense: expected one of min, max"),
        ({}, {"format": "smd_evo children 2"}, "expected format 'smd_evo children 1', got 'smd_evo children 2'"),
    ],
)
def test_inconsistent(stored, tensors, metadata, message):
    path, evaluator, _, _ = stored
    assert len(load_file(path)["indices"]) == 120
    rewrite(path, tensors, **metadata)
    with pytest.raises(ChildrenFileError, match=message):
        load_children(path, evaluator.space)


def test_some_other_safetensors_file(stored, tmp_path):
    save_file({"w": torch.zeros(2)}, tmp_path / "weights")
    with pytest.raises(ChildrenFileError, match="it is no children file"):
        load_children(tmp_path / "weights", stored[1].space)


def test_dense_children_fit_too(network, samples, tmp_path):
    evaluator = Evaluator(network, samples)
    recipes = sample_mutations(1, 2, subspace=Dense(), sigma=0.5)
    save_children(tmp_path / "file", evaluator.space, recipes, evaluator.evaluate(recipes), "cross_entropy")
    assert [len(delta) for delta in load_children(tmp_path / "file", evaluator.space).deltas] == [239, 239]


def test_as_many_recipes_as_fitness_values(stored, tmp_path):
    _, evaluator, recipes, result = stored
    with pytest.raises(ValueError, match="as many as fitness values"):
        save_children(tmp_path / "x", evaluator.space, recipes[:2], result, "cross_entropy")
