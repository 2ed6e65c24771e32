"""Files of children and of ensembles: exact both ways; whatever is wrong with one is said, nothing is executed."""

import contextlib
import copy
import json
import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from helpers import SmallNet, same_bits, state_bits
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from smd_evo import (
    Dense,
    Evaluator,
    Lineage,
    ParameterSpace,
    RandomSubspace,
    SparseDelta,
    SparseEnsemble,
    __version__,
    sample_mutations,
)
from smd_evo.atomic import write_whole
from smd_evo.core.delta import SparseValues
from smd_evo.ensemble.files import load_children, save_children
from smd_evo.errors import ChildrenFileError, InvalidType, WrongParent

TYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64, None]
"""None: a network of all of them."""


class Mixed(nn.Module):
    """Parameters of all types, tied, frozen and permuted, and statistics."""

    def __init__(self):
        super().__init__()
        types = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
        self.layers = nn.ModuleList([nn.Linear(16, 16, dtype=dtype) for dtype in types])
        self.again = nn.Linear(16, 16)
        self.again.weight = self.layers[0].weight
        self.conv = nn.Conv2d(1, 1, 3, padding=1).to(memory_format=torch.channels_last)
        self.norm = nn.BatchNorm1d(16)
        self.scale = nn.Parameter(torch.ones(()), requires_grad=False)

    def forward(self, x):
        x = self.conv(x.float()).flatten(1)
        for layer in (*self.layers, self.again):
            x = layer(x.to(layer.weight.dtype)).tanh()
        return self.norm(x.float()) * self.scale


def make(dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    network = Mixed() if dtype is None else SmallNet().to(dtype)
    for part in network.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2.0)
    return network.eval()


def recipes(count=5, key=1, density=0.1):
    return sample_mutations(key, count, subspace=RandomSubspace(density), sigma=0.5)


def images(dtype=torch.float32):
    return torch.linspace(-1, 1, 64).view(4, 1, 4, 4).to(dtype or torch.float32)


def about(path):
    """What a file says of itself."""
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["smd_evo"])


def unsealed(entries):
    return {name: value for name, value in entries.items() if name != "checksum"}


def rewrite(path, tensors=None, without=(), **metadata):
    """The same file with other tensors and metadata, as somebody would write it who leaves out the checksum."""
    kept = {name: tensor for name, tensor in load_file(path).items() if name not in without}
    save_file(kept | (tensors or {}), path, {"smd_evo": json.dumps(unsealed(about(path)) | metadata)})


def refused(load, *arguments, error=ChildrenFileError, match=None):
    """The one line that a refusal says."""
    with pytest.raises(error, match=match) as caught:
        load(*arguments)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 1000
    return text


@pytest.fixture
def stored(network, samples, tmp_path):
    """A children file."""
    evaluator = Evaluator(network, samples)
    result = evaluator.evaluate(recipes())
    path = tmp_path / "children.safetensors"
    save_children(path, evaluator.space, recipes(), result, "cross_entropy")
    return path, evaluator, recipes(), result


@pytest.fixture
def ensemble_file(tmp_path):
    """An ensemble file of five members with 24 of 239 coordinates each."""
    ensemble = SparseEnsemble(
        make(), recipes(), [0.3, 0.1, 0.2, 0.15, 0.25], combine="logits", notes={"fitness": 0.5}
    )
    path = tmp_path / "ensemble.safetensors"
    ensemble.save(path)
    return path, ensemble


class TestChildren:
    def test_round_trip_best_first(self, stored):
        path, evaluator, recipes, result = stored
        children = load_children(path, evaluator.space)
        order = result.ranking()
        assert children.recipes == [Lineage((recipes[number],)) for number in order]
        assert children.fitness.tolist() == sorted(result.fitness.tolist())
        assert (children.fitness_name, children.sense) == ("cross_entropy", "min")
        for member, recipe in zip(children.members, children.recipes, strict=True):
            expected = evaluator.space.values_of(recipe)
            assert torch.equal(member.indices, expected.indices)
            assert torch.equal(member.values, expected.values)
        assert torch.equal(evaluator.evaluate(children.members).fitness, children.fitness)

    @pytest.mark.parametrize("dtype", TYPES, ids=str)
    def test_children_are_the_same_to_the_bit_in_every_precision(self, dtype, tmp_path):
        space, children = ParameterSpace(make(dtype)), [Lineage(tuple(recipes(3))), *recipes(2, 7), Lineage()]
        evaluator = Evaluator(space, (images(dtype), torch.zeros(4, dtype=torch.int64)))
        save_children(tmp_path / "file", space, children, evaluator.evaluate(children), "cross_entropy")
        loaded = load_children(tmp_path / "file", space)
        for member, recipe in zip(loaded.members, loaded.recipes, strict=True):
            expected = state_bits(space.make_child(recipe))
            assert same_bits(state_bits(space.make_child(member)), expected)

    def test_dense_children_fit_too(self, network, samples, tmp_path):
        evaluator = Evaluator(network, samples)
        children = sample_mutations(1, 2, subspace=Dense(), sigma=0.5)
        save_children(tmp_path / "file", evaluator.space, children, evaluator.evaluate(children), "cross_entropy")
        assert [len(member) for member in load_children(tmp_path / "file", evaluator.space).members] == [239, 239]

    def test_as_many_recipes_as_fitness_values(self, stored, tmp_path):
        _, evaluator, recipes, result = stored
        with pytest.raises(ValueError, match="as many as fitness values"):
            save_children(tmp_path / "x", evaluator.space, recipes[:2], result, "cross_entropy")

    def test_recipes_only(self, stored, tmp_path):
        _, evaluator, recipes, result = stored
        children = [*recipes[:4], SparseDelta(torch.tensor([1]), torch.ones(1))]
        with pytest.raises(TypeError, match="children: expected recipes or lineages, got SparseDelta"):
            save_children(tmp_path / "x", evaluator.space, children, result, "cross_entropy")
        assert not (tmp_path / "x").exists()

    def test_another_parent_or_selection(self, stored):
        path, evaluator, _, _ = stored
        torch.manual_seed(5)
        for other in (ParameterSpace(SmallNet()), ParameterSpace(evaluator.space.module, "head")):
            text = refused(load_children, path, other, error=WrongParent)
            assert "use the network, weights and selection that they were made from" in text

    def test_a_parent_whose_statistics_moved(self, stored):
        path, evaluator, _, _ = stored
        evaluator.space.module.bn.running_mean.add_(0.1)
        refused(load_children, path, evaluator.space, error=WrongParent)

    @pytest.mark.parametrize(
        ("tensors", "metadata", "message"),
        [
            ({"fitness": torch.zeros(4, dtype=torch.float64)}, {}, "numbers of children differ"),
            ({"fitness": torch.zeros(5)}, {}, r"'fitness' is an unexpected torch.float32"),
            ({"fitness": torch.full((5,), float("nan"), dtype=torch.float64)}, {}, "fitness is not all finite"),
            ({"parent.conv.weight": torch.zeros(4)}, {}, "too many or too few: 'parent.conv.weight'"),
            ({}, {"recipes": [None] * 5}, "'recipes' are none"),
            ({}, {"sense": "up"}, "sense: expected one of min, max"),
            ({}, {"sense": ["min"]}, "'sense' is some list"),
            ({}, {"fitness_name": 3}, "'fitness_name' is 3"),
            (
                {},
                {"format": "smd_evo children 1"},
                "expected the format 'smd_evo children 2', got 'smd_evo children 1'",
            ),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_inconsistent(self, stored, tensors, metadata, message):
        path, evaluator, _, _ = stored
        rewrite(path, tensors, **metadata)
        refused(load_children, path, evaluator.space, match=message)


class TestEnsembles:
    @pytest.mark.parametrize("include_parent", [False, True])
    @pytest.mark.parametrize("dtype", TYPES, ids=str)
    def test_round_trip_bit_for_bit(self, dtype, include_parent, tmp_path):
        """With the parent's weights in the file, another network of the architecture will do, and stays as it was."""
        members = [
            *recipes(2),
            Lineage(tuple(recipes(3, 5))),
            SparseDelta(torch.tensor([2]), torch.ones(1)),
            Lineage(),
        ]
        ensemble = SparseEnsemble(
            make(dtype), members, [0.1, 0.2, 0.3, 0.15, 0.25], combine="majority", notes=["é", {}]
        )
        ensemble.save(tmp_path / "file", include_parent=include_parent)
        given = make(dtype, seed=9) if include_parent else copy.deepcopy(ensemble.parent)
        before = state_bits(given)
        loaded = SparseEnsemble.load(tmp_path / "file", given)
        assert same_bits(state_bits(loaded), state_bits(ensemble))
        assert torch.equal(loaded(images(dtype)), ensemble(images(dtype)))
        for number in range(5):
            assert same_bits(state_bits(loaded.member(number)), state_bits(ensemble.member(number)))
        assert (loaded.combine, loaded.notes) == (ensemble.combine, ensemble.notes)
        assert loaded.recipes == [Lineage((members[0],)).encode(), members[1].encode(), members[2].encode(), None, ""]
        assert (loaded.parent is given) == (not include_parent)
        assert same_bits(before, state_bits(given))
        loaded.save(tmp_path / "again", include_parent=include_parent)
        assert (tmp_path / "again").read_bytes() == (tmp_path / "file").read_bytes()

    def test_the_parent_may_be_in_training_and_is_left_so_where_only_its_shape_counts(self, ensemble_file):
        path, ensemble = ensemble_file
        ensemble.save(path, include_parent=True)
        given = make(seed=3).train()
        assert not SparseEnsemble.load(path, given).parent.training
        assert given.training

    def test_members_per_pass_are_the_machines_affair(self, ensemble_file):
        path, ensemble = ensemble_file
        loaded = SparseEnsemble.load(path, ensemble.parent, per_pass=3)
        assert loaded.per_pass == 3
        assert torch.allclose(loaded(images()), ensemble(images()), atol=1e-5)

    def test_a_selection_and_frozen_parameters_are_the_files(self, tmp_path):
        network = make(None)
        space = ParameterSpace(network, ["scale", "norm"], include_frozen=True)
        ensemble = SparseEnsemble(space, recipes(density=1.0))
        ensemble.save(tmp_path / "file")
        loaded = SparseEnsemble.load(tmp_path / "file", copy.deepcopy(network))
        assert loaded.space.names == ("scale", "norm.weight", "norm.bias")
        assert torch.equal(loaded(images()), ensemble(images()))

    def test_tied_weights_and_memory_formats_of_the_given_network_stay(self, tmp_path):
        SparseEnsemble(make(None), recipes()).save(tmp_path / "file", include_parent=True)
        parent = SparseEnsemble.load(tmp_path / "file", make(None, seed=4)).parent
        assert parent.again.weight is parent.layers[0].weight
        assert parent.conv.weight.is_contiguous(memory_format=torch.channels_last)

    def test_metadata(self, ensemble_file):
        """Recipes that replay to the same members, what the caller noted, and who wrote it for which parent."""
        path, ensemble = ensemble_file
        said = about(path)
        assert (said["format"], said["version"]) == ("smd_evo ensemble 1", __version__)
        assert (said["fingerprint"], said["size"]) == (ensemble.space.fingerprint(), 239)
        assert said["parameters"]["head.bias"] == "torch.float32 [3]"
        assert said["notes"] == {"fitness": 0.5}
        again = SparseEnsemble(make(), [Lineage.decode(text) for text in said["recipes"]], combine="logits")
        for number in range(5):
            assert same_bits(state_bits(again.member(number)), state_bits(ensemble.member(number)))

    def test_a_cast_ensemble_is_stored_as_it_is_now(self, tmp_path):
        ensemble = SparseEnsemble(make(), recipes(3), [1 / 3, 1 / 7, 1 - 1 / 3 - 1 / 7]).bfloat16()
        ensemble.save(tmp_path / "file")
        assert load_file(tmp_path / "file")["values"].dtype == torch.bfloat16
        loaded = SparseEnsemble.load(tmp_path / "file", copy.deepcopy(ensemble.parent))
        assert same_bits(state_bits(loaded), state_bits(ensemble.float().bfloat16()))

    def test_of_another_device(self, tmp_path, devices):
        for device in devices:
            ensemble = SparseEnsemble(make().to(device), recipes())
            ensemble.save(tmp_path / "file", include_parent=True)
            there = SparseEnsemble.load(tmp_path / "file", make(seed=2).to(device))
            assert torch.equal(there(images().to(device)), ensemble(images().to(device)))
            here = SparseEnsemble.load(tmp_path / "file", make(seed=2))
            assert same_bits(state_bits(here), state_bits(ensemble))

    def test_a_loaded_one_does_not_need_its_file(self, ensemble_file):
        path, ensemble = ensemble_file
        loaded, expected = SparseEnsemble.load(path, make()), ensemble(images())
        path.write_bytes(bytes(path.stat().st_size))
        assert torch.equal(loaded(images()), expected)

    def test_what_no_file_can_hold(self, tmp_path):
        circle = []
        circle.append(circle)
        for notes in ({1, 2}, torch.zeros(1), circle, {(1, 2): 3}):
            ensemble = SparseEnsemble(make(), recipes(1), notes=notes)
            refused(ensemble.save, tmp_path / "file", error=TypeError, match="notes: expected what JSON can hold")
        infinite = SparseValues(torch.tensor([0]), torch.tensor([float("inf")]))
        ensemble = SparseEnsemble(make(), [Lineage(), infinite])
        refused(ensemble.save, tmp_path / "file", error=ValueError, match="finite values, got others in member 1")
        network = make()
        network.register_buffer("complex", torch.zeros(3, dtype=torch.complex128))
        ensemble = SparseEnsemble(network, recipes(1))
        message = "expected tensors that safetensors can hold"
        refused(lambda: ensemble.save(tmp_path / "file", include_parent=True), error=TypeError, match=message)
        assert os.listdir(tmp_path) == []

    def test_notes_are_written_only_if_they_can_be_read(self, tmp_path):
        notes, written = 1, []
        for levels in range(70):
            ensemble, path = SparseEnsemble(make(), recipes(1), notes=notes), tmp_path / str(levels)
            with contextlib.suppress(InvalidType):
                ensemble.save(path)
                written.append(levels)
                assert SparseEnsemble.load(path, make()).notes == notes
            notes = [notes]
        assert written == [*range(len(written))]
        assert 60 < len(written) < 70
        refused(
            ensemble.save,
            path,
            error=TypeError,
            match="notes: expected what JSON can hold, got something else .nested too deeply",
        )

    def test_extra_state_that_is_no_tensor(self, tmp_path):
        class Extra(SmallNet):
            def get_extra_state(self):
                return {"a": 1}

            def set_extra_state(self, state):
                raise AssertionError("it is not in the file")

        ensemble = SparseEnsemble(Extra().eval(), recipes(1))
        message = "expected tensors only in its state, got _extra_state; save without the parent"
        refused(lambda: ensemble.save(tmp_path / "x", include_parent=True), error=TypeError, match=message)
        ensemble.save(tmp_path / "x")
        assert len(SparseEnsemble.load(tmp_path / "x", ensemble.parent)) == 1


class TestSize:
    @pytest.mark.parametrize(
        ("size", "dtype"),
        [
            (1, torch.uint8),
            (2**8, torch.uint8),
            (2**8 + 1, torch.uint16),
            (2**16, torch.uint16),
            (2**16 + 1, torch.uint32),
        ],
    )
    def test_indices_take_the_smallest_type(self, size, dtype, tmp_path):
        network = nn.ParameterDict({"w": torch.zeros(size)})
        last = SparseValues(torch.tensor([size - 1]), torch.ones(1))
        SparseEnsemble(network, [last]).save(tmp_path / "file")
        assert load_file(tmp_path / "file")["indices"].dtype == dtype
        loaded = SparseEnsemble.load(tmp_path / "file", nn.ParameterDict({"w": torch.zeros(size)}))
        assert loaded.indices.tolist() == [size - 1]
        assert loaded.member(0)["w"][-1].tolist() == 1

    @pytest.mark.parametrize("dtype", [*TYPES[:4], None], ids=str)
    def test_values_take_the_parameters_type(self, dtype, tmp_path):
        SparseEnsemble(make(dtype), recipes()).save(tmp_path / "file")
        assert load_file(tmp_path / "file")["values"].dtype == (dtype or torch.float64)
        halves = nn.Sequential(nn.Linear(2, 2).half(), nn.Linear(2, 2).bfloat16())
        SparseEnsemble(halves, recipes()).save(tmp_path / "file")
        assert load_file(tmp_path / "file")["values"].dtype == torch.float32

    def test_ten_members_of_a_large_network_are_small(self, tmp_path):
        """At density 0.01 of 25.6 million parameters: four bytes an index and four a value."""
        with torch.device("cpu"):
            network = nn.Embedding(5000, 5120, _weight=torch.zeros(5000, 5120))
        ensemble = SparseEnsemble(network, sample_mutations(1, 10, subspace=RandomSubspace(0.01), sigma=0.1))
        assert ensemble.space.size == 25_600_000
        ensemble.save(tmp_path / "file")
        assert 8 * 2_560_000 < (tmp_path / "file").stat().st_size < 8 * 2_560_000 + 10_000 < 25e6
        assert same_bits(state_bits(SparseEnsemble.load(tmp_path / "file", network)), state_bits(ensemble))


class TestWriting:
    """Both kinds are written in the same way."""

    def test_nothing_else_is_left_in_the_folder(self, stored, ensemble_file, tmp_path):
        assert sorted(os.listdir(tmp_path)) == ["children.safetensors", "ensemble.safetensors"]

    @pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()], ids=["full", "interrupt"])
    @pytest.mark.parametrize("step", ["pathlib.Path.replace", "os.fsync"])
    def test_a_failed_write_leaves_the_old_file(self, stored, ensemble_file, tmp_path, monkeypatch, step, error):
        (children, evaluator, recipes, result), (path, ensemble) = stored, ensemble_file
        before = children.read_bytes(), path.read_bytes()

        def fail(*_):
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(step, fail)
            with pytest.raises(type(error)):
                save_children(children, evaluator.space, recipes, result, "accuracy")
            with pytest.raises(type(error)):
                ensemble.save(path, include_parent=True)
        assert (children.read_bytes(), path.read_bytes()) == before
        assert len(os.listdir(tmp_path)) == 2

    def test_threads_that_write_one_file_leave_a_whole_one(self, ensemble_file, tmp_path):
        path, _ = ensemble_file
        before = path.read_bytes()
        with ThreadPoolExecutor(4) as threads:
            for done in [threads.submit(write_whole, path, before) for _ in range(200)]:
                done.result()
        assert path.read_bytes() == before
        assert os.listdir(tmp_path) == [path.name]

    def test_the_same_file_every_time(self, ensemble_file, tmp_path):
        path, ensemble = ensemble_file
        ensemble.save(tmp_path / "again")
        assert (tmp_path / "again").read_bytes() == path.read_bytes()


class TestWrongParent:
    def differs(self, path, network, match):
        before = state_bits(network)
        text = refused(SparseEnsemble.load, path, network, error=WrongParent, match=match)
        assert "use the network, weights and selection that they were made from" in text
        assert same_bits(before, state_bits(network))

    @pytest.mark.parametrize("include_parent", [False, True])
    def test_another_architecture_and_its_first_difference(self, ensemble_file, include_parent):
        path, ensemble = ensemble_file
        ensemble.save(path, include_parent=include_parent)
        wider, shorter, longer, other = make(), make(), make(), nn.Linear(3, 2)
        wider.head = nn.Linear(64, 5)
        shorter.head = nn.Linear(64, 3, bias=False)
        longer.more = nn.Linear(3, 3)
        self.differs(path, wider, r"with 'head.weight': 'torch.float32 \[3, 64\]', got 'torch.float32 \[5, 64\]'")
        self.differs(path, shorter, r"with 'head.bias': 'torch.float32 \[3\]', got none")
        self.differs(path, make().half(), r"with 'conv.weight': 'torch.float32 .*', got 'torch.float16 ")
        self.differs(path, other, r"with 'conv.weight': 'torch.float32 \[4, 1, 3, 3\]', got none")
        self.differs(
            path, longer, r"with 'more.weight': none" if include_parent else "expected children of the parent"
        )

    def test_other_weights_or_statistics(self, ensemble_file):
        path, ensemble = ensemble_file
        moved = make()
        moved.bn.running_mean.add_(0.1)
        for other in (make(seed=1), moved):
            self.differs(path, other, rf"with D = 239, got those of '{ensemble.space.fingerprint()}' with D = 239")

    def test_a_parent_that_is_a_child(self, ensemble_file):
        path, ensemble = ensemble_file
        self.differs(path, ensemble.member(0), "expected children of the parent")

    def test_another_selection(self, ensemble_file):
        path, _ = ensemble_file
        said = about(path)
        rewrite(path, parameters={name: text for name, text in said["parameters"].items() if "head" in name})
        self.differs(path, make(), "with D = 195, got those of .* with D = 239")
        rewrite(path, parameters=said["parameters"], size=238)
        self.differs(path, make(), "with D = 239, got those of .* with D = 238")

    def test_a_parameter_that_cannot_be_changed(self, ensemble_file):
        path, _ = ensemble_file
        network = make()
        network.coded = nn.Parameter(torch.zeros(3, dtype=torch.int16), requires_grad=False)
        rewrite(path, parameters={"coded": "torch.int16 [3]"})
        refused(SparseEnsemble.load, path, network, error=WrongParent, match="coded: expected a strided")

    def test_no_network(self, ensemble_file):
        with pytest.raises(TypeError, match=r"parent: expected a torch\.nn\.Module, got ParameterSpace"):
            SparseEnsemble.load(ensemble_file[0], ensemble_file[1].space)

    @pytest.mark.parametrize("damage", ["conv.weight", "bn.running_var"])
    def test_a_parent_in_the_file_whose_weights_are_not_its_own(self, ensemble_file, damage):
        path, ensemble = ensemble_file
        ensemble.save(path, include_parent=True)
        rewrite(path, {f"parent.{damage}": load_file(path)[f"parent.{damage}"] + 1})
        self.differs(path, make(seed=1), "expected children of the parent")


def load_either(path, network):
    """What is in a file of either kind; nothing but the package's own errors, of one line."""
    found, errors = [], []
    for load in (SparseEnsemble.load, lambda path, network: load_children(path, ParameterSpace(network))):
        try:
            found.append(load(path, network))
        except (ChildrenFileError, WrongParent) as error:
            errors.append(str(error))
    assert not any("\n" in text or len(text) > 1000 for text in errors)
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Contents of a children file, an ensemble file, and one with the parent in it."""
    space, folder = ParameterSpace(make()), tmp_path_factory.mktemp("whole")
    evaluator = Evaluator(space, (torch.zeros(4, 1, 4, 4), torch.zeros(4, dtype=torch.int64)))
    save_children(folder / "a", space, recipes(2), evaluator.evaluate(recipes(2)), "cross_entropy")
    ensemble = SparseEnsemble(space, recipes(2), [0.25, 0.75])
    ensemble.save(folder / "b")
    ensemble.save(folder / "c", include_parent=True)
    for name in "abc":
        assert len(load_either(folder / name, make())) == 1
    return [(folder / name).read_bytes() for name in "abc"], folder / "damaged"


class TestDamage:
    @given(st.data())
    @settings(max_examples=60)
    def test_truncated_at_any_byte(self, whole, data):
        contents, path = whole
        content = data.draw(st.sampled_from(contents))
        path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
        assert load_either(path, make()) == []

    @given(st.data())
    @settings(max_examples=200)
    def test_any_changed_byte_gives_an_error_or_something_of_this_parent(self, whole, data):
        """Half of them in the header, where most of the meaning is."""
        contents, path = whole
        content = bytearray(data.draw(st.sampled_from(contents)))
        header = 8 + int.from_bytes(content[:8], "little")
        place = data.draw(st.integers(0, header - 1) | st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
        path.write_bytes(content)
        network = make()
        for loaded in load_either(path, network):
            space = loaded.space if isinstance(loaded, SparseEnsemble) else ParameterSpace(network)
            assert space.fingerprint() == ParameterSpace(make()).fingerprint()
            for member in loaded.members:
                assert not len(member) or int(member.indices[-1]) < space.size
                assert isinstance(loaded, SparseEnsemble) <= bool(member.values.isfinite().all())

    @given(st.data())
    @settings(max_examples=60)
    def test_any_other_metadata(self, whole, data):
        """Any JSON in the place of any entry."""
        contents, path = whole
        path.write_bytes(data.draw(st.sampled_from(contents)))
        leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
        anything = st.recursive(
            leaves, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5
        )
        name = data.draw(st.sampled_from(sorted(about(path).keys() - {"format", "notes", "version", "checksum"})))
        before, value = about(path), data.draw(anything)
        rewrite(path, **{name: value})
        loaded = load_either(path, make())
        assert not loaded or before[name] == value or name in ("fitness_name", "recipes")  # that of a parent is ""

    def test_longer_than_it_says(self, whole):
        contents, path = whole
        for content in contents:
            path.write_bytes(content + b"\0")
            assert load_either(path, make()) == []

    @pytest.mark.parametrize("kind", ["children", "ensemble"])
    def test_missing_or_a_folder_or_empty(self, tmp_path, kind):
        (tmp_path / "empty").touch()
        for path in (tmp_path / "nowhere", tmp_path, tmp_path / "empty", tmp_path / "a\nb"):
            load = SparseEnsemble.load if kind == "ensemble" else load_children
            given = make() if kind == "ensemble" else ParameterSpace(make())
            text = refused(load, path, given, match="expected a whole safetensors file, got .*; write it again")
            assert text.startswith(str(tmp_path))

    def test_a_pickle_is_not_executed(self, tmp_path):
        class Bomb:
            def __reduce__(self):
                return os.mkdir, (str(tmp_path / "exploded"),)

        (tmp_path / "bomb").write_bytes(pickle.dumps(Bomb()))
        torch.save(Bomb(), tmp_path / "saved")
        for name in ("bomb", "saved"):
            assert load_either(tmp_path / name, make()) == []
        assert not (tmp_path / "exploded").exists()

    def test_of_another_kind(self, stored, ensemble_file, tmp_path):
        message = (
            r"expected the format 'smd_evo {}', got '?{}'? of smd_evo .*another kind of file, or of another version"
        )
        text = message.format("ensemble 1", "smd_evo children 2")
        refused(SparseEnsemble.load, stored[0], make(), match=text)
        text = message.format("children 2", "smd_evo ensemble 1")
        refused(load_children, ensemble_file[0], stored[1].space, match=text)
        save_file({"w": torch.zeros(2)}, tmp_path / "weights")
        refused(SparseEnsemble.load, tmp_path / "weights", make(), match=message.format("ensemble 1", "none"))
        rewrite(ensemble_file[0], format="smd_evo ensemble 9", version="7.0")
        refused(SparseEnsemble.load, ensemble_file[0], make(), match="got 'smd_evo ensemble 9' of smd_evo '7.0'")


def full(count, value, dtype):
    return torch.full((count,), value, dtype=dtype)


U8, I64, F64 = torch.uint8, torch.int64, torch.float64


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"indices": full(120, 239, U8)}, "expected numbers below D = 239, got 239"),
        ({"indices": full(120, -1, I64)}, "strictly increasing indices >= 0"),
        ({"indices": full(120, 2**62, I64)}, "expected numbers below D = 239, got 4611686018427387904"),
        ({"indices": torch.zeros(120, dtype=U8)}, "strictly increasing"),
        ({"indices": torch.arange(120).flip(0).to(U8)}, "strictly increasing"),
        ({"indices": torch.zeros(120)}, "'indices' is an unexpected torch.float32"),
        ({"indices": torch.zeros(120, dtype=torch.int32)}, "'indices' is an unexpected torch.int32"),
        ({"indices": torch.zeros(120, 1, dtype=U8)}, r"'indices' is an unexpected torch.uint8 \[120, 1\]"),
        ({"indices": torch.zeros((), dtype=U8)}, r"'indices' is an unexpected torch.uint8 \[\]"),
        ({"indices": torch.arange(119).to(U8)}, "add up to 119 indices and 120 values"),
        ({"values": torch.zeros(121)}, "add up to 120 indices and 121 values"),
        ({"values": torch.zeros(120, dtype=torch.float16)}, "values are torch.float16 where the parameters are"),
        ({"values": torch.zeros(120, dtype=I64)}, "'values' is an unexpected torch.int64"),
        ({"values": torch.zeros(120, dtype=torch.float8_e4m3fn)}, "'values' is an unexpected torch.float8"),
        ({"values": torch.zeros(2, 60)}, r"'values' is an unexpected torch.float32 \[2, 60\]"),
        ({"values": full(120, float("nan"), torch.float32)}, "values are not all finite"),
        ({"values": full(120, float("inf"), torch.float32)}, "values are not all finite"),
        ({"lengths": torch.tensor([24, 24, 24, 24, 25])}, "the sum 121"),
        ({"lengths": torch.tensor([-1, 25, 24, 24, 48])}, "the smallest -1"),
        ({"lengths": torch.tensor([2**62, 2**62, 2**62, 2**62, 120])}, "the sum 18446744073709551736"),
        ({"lengths": torch.tensor([2**62, 2**62, 0, 0, 0])}, "the sum 9223372036854775808"),
        ({"lengths": torch.tensor([24.0] * 5)}, "'lengths' is an unexpected torch.float32"),
        ({"lengths": torch.tensor([60, 60])}, "numbers of children differ"),
        ({"lengths": torch.zeros(0, dtype=I64), "weights": torch.zeros(0, dtype=F64)}, "numbers of children differ"),
        ({"weights": full(4, 0.25, F64)}, "numbers of children differ"),
        ({"weights": full(5, 0.2, torch.float32)}, "'weights' is an unexpected torch.float32"),
        ({"weights": full(5, float("nan"), F64)}, "weights: expected a finite number > 0, got nan"),
        ({"weights": full(5, float("inf"), F64)}, "weights: expected a finite number > 0, got inf"),
        ({"weights": torch.tensor([1.0, 0, 0, 0, 0], dtype=F64)}, "weights: expected a finite number > 0, got 0.0"),
        ({"weights": torch.tensor([1.5, -1.0, 0.2, 0.2, 0.1], dtype=F64)}, "expected a finite number > 0, got -1.0"),
        ({"weights": full(5, 0.3, F64)}, "add up to one"),
        ({"more": torch.zeros(4)}, "too many or too few: 'more'"),
        ({"fitness": torch.zeros(5)}, "too many or too few: 'fitness'"),
        ({"par\nent": torch.zeros(5)}, r"too many or too few: 'par\\nent'"),
    ],
    ids=lambda value: value.replace("\\", "") if isinstance(value, str) else "",
)
def test_tensors_that_do_not_fit(ensemble_file, tensors, message):
    path, _ = ensemble_file
    assert load_file(path)["indices"].shape == (120,)
    rewrite(path, tensors)
    refused(SparseEnsemble.load, path, make(), match=message)


@pytest.mark.parametrize("name", ["indices", "values", "lengths", "weights"])
def test_a_tensor_is_missing(ensemble_file, name):
    rewrite(ensemble_file[0], without=[name])
    refused(SparseEnsemble.load, ensemble_file[0], make(), match=f"too many or too few: '{name}'")


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"recipes": "nonsense"}, "'recipes' is 'nonsense'"),
        ({"recipes": None}, "'recipes' is none"),
        ({"recipes": ["a|b"] * 5}, "SUBSPACE"),
        ({"recipes": [0] * 5}, "'recipes' are not 5 texts"),
        ({"recipes": [[]] * 5}, "'recipes' are not 5 texts"),
        ({"recipes": [False] * 5}, "'recipes' are not 5 texts"),
        ({"recipes": [None] * 4}, "'recipes' are not 5 texts"),
        ({"recipes": ["x" * 10**6] * 5}, "SUBSPACE"),
        ({"recipes": [f"random:0.1|absolute|{'f' * 10**6}|0|1"] * 5}, "consistent"),
        ({"recipes": ["random:nan|absolute|0|0|1"] * 5}, "density"),
        ({"recipes": ["random:1e-400|absolute|0|0|1"] * 5}, "density"),
        ({"recipes": ["partition:99999999999999999999|absolute|0|0|nan"] * 5}, "parts"),
        ({"recipes": ["partition:9|absolute|0|0|nan"] * 5}, "sigma"),
        ({"combine": "votes"}, "combine: expected one of"),
        ({"combine": ["logits"]}, "'combine' is some list"),
        ({"parameters": ["conv.weight"]}, "'parameters' is some list"),
        ({"parameters": None}, "'parameters' is none"),
        ({"size": "239"}, "'size' is '239'"),
        ({"fingerprint": 1}, "'fingerprint' is 1"),
        ({"format": None}, "got none of smd_evo"),
        ({"format": ["smd_evo ensemble 1"]}, "got some list of smd_evo"),
        ({"format": "a\nb", "version": "c\n" * 10**5}, r"got 'a\\nb' of smd_evo 'c\\n"),
    ],
    ids=lambda value: value.replace("\\", "") if isinstance(value, str) else "",
)
def test_metadata_that_does_not_fit(ensemble_file, metadata, message):
    path, _ = ensemble_file
    rewrite(path, **metadata)
    refused(SparseEnsemble.load, path, make(), match=message)


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"conv.weight": "torch.float32 [3]"},
        {"conv.weight": 3},
        {"a\nb": "c\nd"},
        {"": ""},
        {"a": {"b": [1] * 10**5}},
    ],
    ids=["none", "other", "number", "lines", "empty", "nested"],
)
def test_parameters_that_no_network_has(ensemble_file, metadata):
    rewrite(ensemble_file[0], parameters=metadata)
    refused(SparseEnsemble.load, ensemble_file[0], make(), error=WrongParent)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "3", "null", '"smd_evo ensemble 1"', "[" * 10**5, '{"format":' * 10**4, "\ud800", "1" * 10**4],
    ids=lambda text: text[:10],
)
def test_metadata_that_is_no_object(ensemble_file, text):
    path, _ = ensemble_file
    save_file(load_file(path), path, {"smd_evo": text.encode("utf8", "replace").decode()})
    refused(SparseEnsemble.load, path, make(), match="got none of smd_evo none")
    save_file(load_file(path), path, {"another": text.encode("utf8", "replace").decode()})
    refused(SparseEnsemble.load, path, make(), match="got none of smd_evo none")
    save_file(load_file(path), path)
    refused(SparseEnsemble.load, path, make(), match="got none of smd_evo none")


@pytest.mark.parametrize("depth", [100, 500, 900, 990, 10**5])
def test_deeply_nested_entries(ensemble_file, depth):
    path, _ = ensemble_file
    said, nested = json.dumps(about(path)), "[" * depth + "]" * depth
    for name in ("format", "version", "combine", "recipes", "parameters", "fingerprint", "size"):
        changed = said.replace(f'"{name}": ', f'"{name}": {nested}, "_{name}": ')
        save_file(load_file(path), path, {"smd_evo": changed})
        if name == "version" and depth < 10**5:
            continue
        refused(SparseEnsemble.load, path, make())


def test_an_index_far_beyond_is_never_used(ensemble_file):
    """Nothing is written to memory outside of the network: the parent is as before."""
    path, ensemble = ensemble_file
    before = state_bits(ensemble.parent)
    for value in (-(2**63), -240, 239, 2**31, 2**63 - 1):
        rewrite(
            path, {"indices": full(1, value, I64), "values": torch.ones(1), "lengths": torch.tensor([0, 0, 0, 0, 1])}
        )
        refused(SparseEnsemble.load, path, ensemble.parent)
    assert same_bits(before, state_bits(ensemble.parent))


@pytest.mark.parametrize("name", ["values", "indices", "weights"])
def test_a_number_that_was_changed_is_found_by_the_checksum(ensemble_file, name):
    path, parent = ensemble_file[0], make()
    tensors = load_file(path)
    changed = tensors[name].clone()
    changed.view(torch.uint8)[0] ^= 1  # one bit, with which the file is as plausible as before
    save_file(tensors | {name: changed}, path, {"smd_evo": json.dumps(about(path))})
    refused(SparseEnsemble.load, path, parent, match="checksum")


def test_a_recipe_that_was_changed_is_found_by_the_checksum(ensemble_file):
    path, entries = ensemble_file[0], about(ensemble_file[0])
    entries["recipes"] = list(reversed(entries["recipes"]))
    save_file(load_file(path), path, {"smd_evo": json.dumps(entries)})
    refused(SparseEnsemble.load, path, make(), match="checksum")


def test_files_of_versions_without_checksums_are_read(ensemble_file):
    rewrite(ensemble_file[0])
    assert len(SparseEnsemble.load(ensemble_file[0], make())) > 0
