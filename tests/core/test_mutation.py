"""Recipes: exact replay, exact decomposition, exact encodings."""

import gc
import pickle
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from smd_evo import (
    Dense,
    Layout,
    Lineage,
    LowRank,
    Mutation,
    NeuronSubspace,
    PartitionSubspace,
    RandomSubspace,
    Slot,
    SparseDelta,
    TensorSubspace,
    UnitSubspace,
    Within,
    decompose,
    gaussian,
    sample_mutations,
)
from smd_evo.core import delta as delta_module
from smd_evo.core.delta import SparseValues, placed
from smd_evo.core.mutation import replay
from smd_evo.errors import InvalidValue

KEYS = st.integers(0, 2**64 - 1)
SIGMAS = st.floats(1e-30, 1e30)
FIELDS = st.one_of(
    st.builds(RandomSubspace, st.floats(1e-3, 1), st.booleans()),
    st.builds(PartitionSubspace, st.integers(1, 30), st.booleans()),
    st.builds(NeuronSubspace, st.floats(1e-3, 1), st.booleans()),
    st.builds(TensorSubspace, st.integers(1, 2), st.sampled_from(["tensor", "layer"]), st.booleans()),
    st.just(Dense()),
    st.builds(
        Within, st.sampled_from(["a", "a.weight,b", "*", "*.bias"]), st.builds(RandomSubspace, st.floats(0.1, 1))
    ),
    st.just(Within("a.bias,b", Dense())),
    st.builds(UnitSubspace, st.sampled_from(["tensor", "layer", 1]), st.sampled_from([Dense(), RandomSubspace(0.4)])),
)
"""Subspaces whose noise is the dense field itself."""
LOW = st.builds(LowRank, st.integers(1, 6))
SUBSPACES = st.one_of(FIELDS, LOW, st.builds(Within, st.sampled_from(["a", "b,a.weight"]), LOW))
SCALES = st.sampled_from(["absolute", "relative"])
MUTATIONS, OF_FIELDS = (
    st.builds(Mutation, KEYS, SIGMAS, subspaces, KEYS, st.sampled_from([-1, 1]), SCALES)
    for subspaces in (SUBSPACES, FIELDS)
)
LAYOUT = Layout((Slot("a.weight", (5, 8), 0.25), Slot("a.bias", (5,), 3.0), Slot("b", (10,), 0.1)))


@given(OF_FIELDS)
def test_a_child_is_the_dense_field_restricted_to_its_subspace(mutation):
    delta = mutation.delta(LAYOUT)
    field = gaussian(mutation.key, torch.arange(LAYOUT.size), torch.float64)[delta.indices]
    scale = torch.cat([torch.full((slot.size,), slot.scale, dtype=torch.float64) for slot in LAYOUT.slots])
    factor = scale[delta.indices] if mutation.scale == "relative" else 1.0
    assert torch.equal(delta.values, (field * mutation.strength * factor).float())


@given(SUBSPACES, SCALES, st.data())
def test_many_at_once_are_the_same_bits_as_one_by_one(subspace, scale, data):
    one_rule = st.builds(Mutation, KEYS, SIGMAS, st.just(subspace), KEYS, st.sampled_from([-1, 1]), st.just(scale))
    mutations = data.draw(
        st.lists(st.one_of(one_rule, MUTATIONS) if data.draw(st.booleans()) else one_rule, max_size=6)
    )
    for together, alone in zip(
        replay(mutations, LAYOUT), [mutation.delta(LAYOUT) for mutation in mutations], strict=True
    ):
        assert torch.equal(together.indices, alone.indices)
        assert torch.equal(together.values, alone.values)


@given(MUTATIONS)
def test_antithetic_partner_is_the_exact_negative(mutation):
    delta, partner = mutation.delta(LAYOUT), mutation.antithetic.delta(LAYOUT)
    assert torch.equal(partner.indices, delta.indices)
    assert torch.equal(partner.values, -delta.values)
    assert mutation.antithetic.antithetic == mutation


@given(KEYS, st.floats(1e-6, 1e6), st.integers(1, 55), st.sampled_from([-1, 1]), SCALES)
def test_the_sum_of_the_parts_is_the_dense_mutation_bit_for_bit(key, sigma, parts, sign, scale):
    dense = Mutation(key, sigma, Dense(), 0, sign, scale)
    total = SparseDelta(torch.zeros(0, dtype=torch.int64), torch.zeros(0))
    count = 0
    for part in decompose(dense, parts):
        delta = part.delta(LAYOUT)
        count += len(delta)
        total = total + delta
    whole = dense.delta(LAYOUT)
    assert count == len(whole) == LAYOUT.size  # disjoint, and everything
    assert torch.equal(total.indices, whole.indices)
    assert torch.equal(total.values.view(torch.int32), whole.values.view(torch.int32))


def test_only_dense_mutations_decompose():
    with pytest.raises(ValueError, match=r"dense subspace, got random:0\.5"):
        decompose(Mutation(1, 1.0, RandomSubspace(0.5), 1), 2)


@given(KEYS, st.integers(1, 6), st.integers(0, 3))
def test_children_of_a_partition_decompose_one_dense_mutation(key, parts, block):
    subspace = PartitionSubspace(parts)
    children = sample_mutations(key, parts * (block + 1), subspace=subspace, sigma=0.5)[-parts:]
    dense = Mutation(children[0].key, 0.5, Dense(), 0).delta(LAYOUT)
    total = children[0].delta(LAYOUT)
    for child in children[1:]:
        total = total + child.delta(LAYOUT)
    assert torch.equal(total.indices, dense.indices)
    assert torch.equal(total.values, dense.values)


@given(st.lists(MUTATIONS, max_size=4))
def test_text_holds_everything(steps):
    lineage = Lineage(tuple(steps))
    assert Lineage.decode(lineage.encode()) == lineage
    assert pickle.loads(pickle.dumps(lineage)) == lineage


@pytest.mark.parametrize("text", ["nonsense", "random:0.1|absolute|0|0", "random:0.1|absolute|x|0|1.0"])
def test_bad_text(text):
    with pytest.raises(ValueError, match="expected SUBSPACE"):
        Mutation.decode(text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sigma": 0.0}, "sigma: expected a finite number > 0, got 0"),
        ({"sigma": -1.0}, "sigma"),
        ({"sigma": float("nan")}, "sigma"),
        ({"sigma": float("inf")}, "sigma"),
        ({"key": -1}, "key"),
        ({"draw": 2**64}, "draw"),
        ({"sign": 0}, "sign: expected 1 or -1, got 0"),
        ({"scale": "relativ"}, "did you mean 'relative'"),
        ({"subspace": "random"}, "subspace: expected e.g. RandomSubspace"),
    ],
)
def test_bad_recipes(change, message):
    fields = {"key": 1, "sigma": 1.0, "subspace": Dense(), "draw": 0}
    with pytest.raises((ValueError, TypeError), match=message):
        Mutation(**fields | change)


@given(KEYS, st.integers(1, 20), st.integers(0, 5), SUBSPACES)
def test_child_number_i_does_not_depend_on_how_many_there_are(key, count, generation, subspace):
    options = {"subspace": subspace, "sigma": 0.1, "generation": generation}
    assert sample_mutations(key, count, **options) == sample_mutations(key, count + 7, **options)[:count]


def test_no_two_children_share_noise():
    children = [
        child.key
        for generation in range(20)
        for child in sample_mutations(3, 100, subspace=RandomSubspace(0.1), sigma=0.1, generation=generation)
    ]
    assert len(set(children)) == 2000


def test_parts_and_tensors_are_uncorrelated():
    """Noise of one part says nothing of another's, nor that of one tensor of its equal-shaped neighbour."""
    layout = Layout((Slot("a", (300, 400)), Slot("b", (300, 400))))
    one, two = (child.delta(layout) for child in sample_mutations(5, 2, subspace=PartitionSubspace(2), sigma=1.0))
    assert stats.pearsonr(one.values, two.values).pvalue > 1e-3
    whole = Mutation(5, 1.0, Dense(), 0).delta(layout).values.view(2, -1)
    assert stats.pearsonr(whole[0], whole[1]).pvalue > 1e-3
    assert not bool((whole[0] == whole[1]).any())


def test_children_choose_independently():
    """Coordinates that two children share are as many as chance says (hypergeometric)."""
    layout = Layout.flat(100_000)
    children = sample_mutations(6, 40, subspace=RandomSubspace(0.1), sigma=1.0)
    touched = [child.delta(layout).to_dense(100_000) != 0 for child in children]
    shared = [int((touched[i] & touched[i + 1]).sum()) for i in range(39)]
    chance = stats.hypergeom(100_000, 10_000, 10_000)
    scores = [(count - chance.mean()) / chance.std() for count in shared]
    assert stats.kstest(scores, "norm").pvalue > 1e-3


def test_antithetic_pairs():
    children = sample_mutations(3, 6, subspace=PartitionSubspace(2), sigma=0.1, antithetic=True)
    assert [child.sign for child in children] == [1, -1] * 3
    assert all(children[i].antithetic == children[i + 1] for i in (0, 2, 4))
    with pytest.raises(ValueError, match="count: expected an even number for antithetic pairs, got 5; give 6"):
        sample_mutations(3, 5, subspace=Dense(), sigma=0.1, antithetic=True)


@pytest.mark.slow
def test_replay_in_another_process_and_with_other_threads():
    mutation = sample_mutations(8, 1, subspace=RandomSubspace(0.3), sigma=0.7, scale="relative")[0]
    code = f"""
import torch
torch.set_num_threads(1)
from smd_evo import Layout, Slot, Mutation
layout = Layout((Slot("a.weight", (5, 8), 0.25), Slot("a.bias", (5,), 3.0), Slot("b", (10,), 0.1)))
delta = Mutation.decode({mutation.encode()!r}).delta(layout)
print(delta.indices.tolist(), delta.values.view(torch.int32).tolist())
"""
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    delta = mutation.delta(LAYOUT)
    assert other.strip() == f"{delta.indices.tolist()} {delta.values.view(torch.int32).tolist()}"


def test_devices_agree(devices):
    for mutation in sample_mutations(8, 4, subspace=RandomSubspace(0.3), sigma=0.7, scale="relative"):
        expected = mutation.delta(LAYOUT)
        for device in devices:
            delta = mutation.delta(LAYOUT, device).to("cpu")
            assert torch.equal(delta.indices, expected.indices)
            assert torch.equal(delta.values, expected.values)


INDEX = st.lists(st.integers(0, 30), unique=True, max_size=12).map(sorted)


@given(INDEX, INDEX)
def test_deltas_add_like_dense_vectors(first, second):
    one = SparseDelta(torch.tensor(first, dtype=torch.int64), torch.arange(len(first)) + 0.5)
    two = SparseDelta(torch.tensor(second, dtype=torch.int64), torch.arange(len(second)) - 7.25)
    assert torch.equal((one + two).to_dense(31), one.to_dense(31) + two.to_dense(31))
    assert set((one + two).indices.tolist()) == {*first, *second}
    assert torch.equal((-one).to_dense(31), -one.to_dense(31))


@pytest.mark.parametrize("kind", [SparseDelta, SparseValues])
@pytest.mark.parametrize(
    ("indices", "values", "message"),
    [
        (torch.tensor([1, 1]), torch.zeros(2), "strictly increasing"),
        (torch.tensor([2, 1]), torch.zeros(2), "strictly increasing"),
        (torch.tensor([-1]), torch.zeros(1), ">= 0"),
        (torch.tensor([1]), torch.zeros(2), "one length"),
        (torch.tensor([1], dtype=torch.int32), torch.zeros(1), "int64"),
        (torch.tensor([1]), torch.zeros(1, dtype=torch.float16), "float32"),
        ([1], [0.5], "indices and values as tensors, got list and list"),
        (torch.tensor([1]), None, "indices and values as tensors, got Tensor and NoneType"),
    ],
)
def test_bad_deltas(kind, indices, values, message):
    with pytest.raises((ValueError, TypeError), match=message):
        kind(indices, values)


def test_new_values_may_be_double_and_differences_may_not():
    one, double = torch.tensor([1]), torch.zeros(1, dtype=torch.float64)
    assert SparseValues(one, double).values.dtype == torch.float64
    with pytest.raises(TypeError, match="int64 indices and float32 values, got"):
        SparseDelta(one, double)
    with pytest.raises(TypeError, match="float32 or float64 values"):
        SparseValues(one, double.half())


@given(INDEX)
def test_a_point_of_a_subspace(coordinates):
    """Placed, its numbers are what is added, or that many deviations of their tensors, rounded once."""
    where = torch.tensor([place for place in coordinates if place < LAYOUT.size], dtype=torch.int64)
    point = gaussian(1, where)
    absolute, relative = (placed(point, where, LAYOUT, scale) for scale in ("absolute", "relative"))
    assert torch.equal(absolute.indices, where)
    assert torch.equal(relative.indices, where)
    assert torch.equal(absolute.values, point)
    assert torch.equal(relative.values, (point.double() * LAYOUT.scales(where)).float())


def test_relative_is_times_the_tensors_own_deviation():
    where = torch.tensor([0, 39, 40, 44, 45, 54])
    assert placed(torch.full((6,), 4.0), where, LAYOUT, "relative").values.tolist() == pytest.approx(
        [1, 1, 12, 12, 0.4, 0.4]
    )


class TestEverything:
    """Dense deltas share their coordinates, which take twice what their values take."""

    def test_those_that_there_are_at_the_same_time_have_one_tensor(self):
        one, other = (Mutation(key, 0.1, Dense(), 0).delta(Layout.flat(31)) for key in (1, 2))
        assert one.indices is other.indices
        assert one.indices is Mutation(3, 0.1, LowRank(1), 0).delta(Layout.flat(31)).indices
        assert one.indices.tolist() == list(range(31))
        assert Mutation(1, 0.1, Dense(), 0).delta(Layout.flat(30)).indices is not one.indices

    @pytest.mark.parametrize("mode", [True, False])
    def test_one_that_was_written_to_is_given_to_nobody_else(self, mode):
        with torch.inference_mode(mode):
            one = Mutation(1, 0.1, Dense(), 0).delta(Layout.flat(32))
        one.indices[0] = 7
        other = Mutation(2, 0.1, Dense(), 0).delta(Layout.flat(32))
        assert other.indices.tolist() == list(range(32))
        with pytest.raises(InvalidValue, match="strictly increasing"):
            SparseDelta(one.indices, one.values)

    def test_nothing_is_kept(self):
        delta = Mutation(1, 0.1, Dense(), 0).delta(Layout.flat(33))
        assert any(len(kept) == 33 for kept in delta_module._everything.values())
        del delta
        gc.collect()
        assert not any(len(kept) == 33 for kept in delta_module._everything.values())
