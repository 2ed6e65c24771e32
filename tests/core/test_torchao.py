"""Weights of torchao: the integers inside of its tensors, in place, and no others."""

import copy

import pytest
import torch
from helpers import blobs
from torch import nn

from smd_evo import (
    Dense,
    Evaluator,
    Lineage,
    ParameterSpace,
    RandomSubspace,
    SparseEnsemble,
    sample_mutations,
    within_kinds,
)
from smd_evo.core.checksum import checksum
from smd_evo.ensemble.files import load_children, save_children
from smd_evo.errors import UnsupportedParameter

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:torch", "ignore::DeprecationWarning")
torchao = pytest.importorskip("torchao.quantization", reason="torchao is not installed: pip install smd-evo[ao]")


def network(config=None):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    torchao.quantize_(module, config or torchao.Int8WeightOnlyConfig())
    return module


def bits(module):
    """Of the integers, and of what is beside them."""
    found = {}
    for name, tensor in module.named_parameters():
        if isinstance(tensor.data, torchao.Int8Tensor):
            found |= {f"{name}.{part}": getattr(tensor, part).clone() for part in ("qdata", "scale", "zero_point")}
        else:
            found[name] = tensor.detach().clone()
    return found


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_integers_are_named_by_where_they_lie():
    space = ParameterSpace(network(), "*.qdata")
    assert space.names == space.integers == ("1.weight.qdata", "3.weight.qdata")
    assert space.size == 16 * 8 + 8 * 3
    assert ParameterSpace(network(), "all").names == ("1.bias", "3.bias")


def test_the_head_of_a_problem_is_that_of_the_network():
    space = ParameterSpace(network(), "bias,*.qdata")
    assert within_kinds(space.module, space.names, "head", Dense()).spec == "within:3:dense"
    assert within_kinds(space.module, space.names, "bias", Dense()).spec == "within:1.bias,3.bias:dense"


def test_the_tensor_itself_is_refused_with_the_name_of_its_integers():
    with pytest.raises(UnsupportedParameter, match=r"1\.weight: .*name the integers .* select='1\.weight\.qdata'"):
        ParameterSpace(network(), include_frozen=True)
    with pytest.raises(ValueError, match=r"did you mean '1\.weight\.qdata'"):
        ParameterSpace(network(), "1.weight")


def test_what_is_no_number_of_each_weight_is_refused():
    with pytest.raises(
        UnsupportedParameter, match=r"zero_point: .*\[8, 1\] inside of \[8, 16\]: packed, or no weights"
    ):
        ParameterSpace(network(), "1.weight.zero_point")


def test_fewer_bits_in_a_byte_are_refused():
    module = network(torchao.IntxWeightOnlyConfig(weight_dtype=torch.int4))
    with pytest.raises(UnsupportedParameter, match=r"qdata: .*stands for torch\.int4, whose range is smaller"):
        ParameterSpace(module, "*.qdata")


def test_children_change_the_outputs_and_leave_no_trace():
    module = network()
    before = bits(module)
    evaluator = Evaluator(module, blobs(), "cross_entropy", select="*.qdata")
    children = sample_mutations(1, 4, subspace=RandomSubspace(0.3), sigma=8.0)
    fitness = evaluator.evaluate([*children, Lineage()]).fitness.tolist()
    assert len(set(fitness)) == 5
    assert same(before, bits(module))
    inputs, targets = blobs()
    for child, found in zip(children, fitness, strict=False):
        made = evaluator.space.make_child(child)
        changed = [name for name, tensor in bits(made).items() if not torch.equal(tensor, before[name])]
        assert changed == ["1.weight.qdata", "3.weight.qdata"]
        outputs = made(inputs).detach()
        assert found == pytest.approx(float(nn.functional.cross_entropy(outputs, targets)), rel=1e-5)


def test_fingerprints_and_checksums_see_the_integers():
    module = network()
    space = ParameterSpace(module, "*.qdata")
    first = space.fingerprint(), checksum(module)
    assert (ParameterSpace(copy.deepcopy(module), "*.qdata").fingerprint(), checksum(copy.deepcopy(module))) == first
    space.fold(sample_mutations(1, 1, subspace=RandomSubspace(0.3), sigma=8.0)[0])
    assert space.fingerprint() != first[0]
    assert checksum(module) != first[1]


def test_children_files_and_ensembles(tmp_path):
    evaluator = Evaluator(network(), blobs(), "cross_entropy", select="*.qdata")
    children = sample_mutations(1, 3, subspace=RandomSubspace(0.3), sigma=8.0)
    save_children(tmp_path / "file", evaluator.space, children, evaluator.evaluate(children), "cross_entropy")
    space = ParameterSpace(network(), "*.qdata")
    loaded = load_children(tmp_path / "file", space)
    for recipe, member in zip(loaded.recipes, loaded.members, strict=True):
        assert same(bits(space.make_child(member)), bits(space.make_child(recipe)))
    ensemble = SparseEnsemble(network(), children, select="*.qdata")
    ensemble.save(tmp_path / "ensemble")
    again = SparseEnsemble.load(tmp_path / "ensemble", network())
    assert torch.equal(again(blobs()[0]), ensemble(blobs()[0]))
    with pytest.raises(TypeError, match=r"tensors only in its state, got 1\.weight; save without the parent"):
        ensemble.save(tmp_path / "whole", include_parent=True)
    with pytest.raises(ValueError, match="per_pass: expected 1 where weights lie inside of a tensor subclass"):
        SparseEnsemble(network(), children, select="*.qdata", per_pass=2)(blobs()[0])
