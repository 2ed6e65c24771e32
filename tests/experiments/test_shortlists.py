"""Files of shortlists: what was written comes back; anything else is one line that says so."""

import contextlib
import dataclasses
import json
import math
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from smd_evo import Dense, RandomSubspace, sample_mutations
from smd_evo.errors import ChildrenFileError
from smd_evo.experiments.shortlists import SPARSE, Shortlist, load_shortlists, save_shortlists

NAN = float("nan")


def shortlist(name=SPARSE, count=3, subspace=RandomSubspace(0.1), seed=0):  # noqa: B008
    generator = torch.Generator().manual_seed(seed)
    return Shortlist(
        name=name,
        density=0.1,
        sigma=0.5,
        recipes=sample_mutations(seed, count, subspace=subspace, sigma=0.5),
        fitness=torch.rand(count, generator=generator, dtype=torch.float64).sort().values,
        best=count - 1,
        logits=torch.randn(count, 7, 3, generator=generator),
        fingerprint="0123",
    )


def bits(shortlist):
    """Everything, so that NaN equals NaN."""
    tensors = (shortlist.fitness, shortlist.logits)
    return dataclasses.replace(shortlist, fitness=None, logits=None).__dict__, [
        (tensor.dtype, tensor.shape, tensor.contiguous().numpy().tobytes()) for tensor in tensors
    ]


@pytest.fixture
def file(tmp_path):
    """One of two shortlists."""
    path = tmp_path / "shortlists"
    save_shortlists(path, [shortlist(), shortlist("dense", 2, Dense(), seed=1)])
    return path


def refused(path):
    with pytest.raises(ChildrenFileError) as caught:
        load_shortlists(path)
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    assert len(text) < 700
    assert text.startswith(str(path))
    return text


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_what_was_written_comes_back(tmp_path_factory, counts):
    path = tmp_path_factory.mktemp("files") / "file"
    written = [shortlist(f"arm {n}" if n else SPARSE, count, seed=n) for n, count in enumerate(counts)]
    save_shortlists(path, written)
    assert [bits(own) for own in load_shortlists(path)] == [bits(own) for own in written]


@pytest.mark.parametrize("shape", [(3, 7), (3, 7, 2, 4)])
def test_predictions_of_any_shape_come_back(shape, tmp_path):
    one = dataclasses.replace(shortlist(), logits=torch.rand(shape))
    save_shortlists(tmp_path / "file", [one])
    assert [bits(own) for own in load_shortlists(tmp_path / "file")] == [bits(one)]


def test_predictions_that_are_not_finite_come_back(tmp_path):
    broken = shortlist()
    broken.logits[0, 0] = torch.tensor([NAN, math.inf, -math.inf])
    save_shortlists(tmp_path / "file", [broken])
    assert [bits(own) for own in load_shortlists(tmp_path / "file")] == [bits(broken)]


def test_the_same_shortlists_are_the_same_file(file, tmp_path):
    save_shortlists(tmp_path / "again", load_shortlists(file))
    assert (tmp_path / "again").read_bytes() == file.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "shortlists"]


def test_a_truncated_file(file):
    content = file.read_bytes()
    for length in (*range(0, len(content), 41), len(content) - 1):
        file.write_bytes(content[:length])
        assert "expected a whole safetensors file" in refused(file)


@given(st.data())
def test_a_damaged_file_is_refused_or_whole(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("files") / "file"
    save_shortlists(path, [shortlist()])
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with contextlib.suppress(ChildrenFileError):
        (found,) = load_shortlists(path)
        assert len(found.recipes) == len(found.fitness) == len(found.logits) > found.best >= 0


def rewrite(path, tensors=None, arm=None, without=(), **metadata):
    """Change some tensors, some of what is said about the first shortlist, and some of what is said about all."""
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["smd_evo"])
    about.pop("checksum")  # as somebody would write it who leaves that out
    about["arms"][0] |= arm or {}
    kept = {name: tensor for name, tensor in load_file(path).items() if name not in without}
    save_file(kept | (tensors or {}), path, {"smd_evo": json.dumps(about | metadata)})


RECIPE = "random:0.1|absolute|0000000000000005|0000000000000007|0.5"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"without": ["0.logits"]}, "its tensors are not those of 2 shortlists"),
        ({"tensors": {"2.logits": torch.zeros(3, 7, 3)}}, "its tensors are not those of 2 shortlists"),
        ({"tensors": {"0.logits": torch.zeros(3)}}, "another type or shape"),
        ({"tensors": {"0.logits": torch.zeros(3, 7, 3, dtype=torch.int64)}}, "another type or shape"),
        ({"tensors": {"0.fitness": torch.zeros(3, 1, dtype=torch.float64)}}, "another type or shape"),
        ({"tensors": {"0.fitness": torch.zeros(3)}}, "another type or shape"),
        ({"tensors": {"0.fitness": torch.full((3,), NAN, dtype=torch.float64)}}, "its fitness is not all finite"),
        ({"tensors": {"0.fitness": torch.zeros(4, dtype=torch.float64)}}, "its numbers of children differ"),
        ({"tensors": {"0.logits": torch.zeros(2, 7, 3)}}, "its numbers of children differ"),
        ({"arm": {"recipes": [RECIPE] * 2}}, "its numbers of children differ"),
        ({"arm": {"recipes": []}}, "its numbers of children differ"),
        ({"arm": {"recipes": [RECIPE, RECIPE, 5]}}, "its 'recipe' is 5"),
        ({"arm": {"recipes": [RECIPE, RECIPE, "a|b"]}}, "SUBSPACE"),
        ({"arm": {"recipes": [RECIPE, RECIPE, f"{RECIPE}>{RECIPE}"]}}, "SUBSPACE"),
        ({"arm": {"recipes": RECIPE}}, "its 'recipes' is"),
        ({"arm": {"best": 3}}, "its numbers of children differ"),
        ({"arm": {"best": -1}}, "its numbers of children differ"),
        ({"arm": {"best": math.inf}}, "its 'best' is inf"),
        ({"arm": {"best": "0"}}, "its 'best' is '0'"),
        ({"arm": {"density": 0}}, "its density: expected a finite number in (0, 1], got 0"),
        ({"arm": {"density": None}}, "its density: expected a number"),
        ({"arm": {"sigma": NAN}}, "its sigma: expected a finite number > 0, got nan"),
        ({"arm": {"sigma": [1]}}, "its sigma: expected a number > 0"),
        ({"arm": {"name": "dense"}}, "no shortlist of 'sparse', or two of one name"),
        ({"arm": {"name": 5}}, "its 'name' is 5"),
        ({"arm": {"fingerprint": None}}, "its 'fingerprint' is none"),
        ({"arms": []}, "its tensors are not those of 0 shortlists"),
        ({"arms": [5, 5]}, "its 'arm' is 5"),
        ({"arms": {}}, "its 'arms' is some dict"),
        ({"arms": None}, "its 'arms' is none"),
        (
            {"format": "smd_evo shortlists 2"},
            "expected the format 'smd_evo shortlists 1', got 'smd_evo sh",
        ),
        ({"arm": {"name": "x\ny" * 5000}}, "no shortlist of 'sparse'"),
        ({"arm": {"recipes": ["x\ny" * 5000] * 3}}, "SUBSPACE"),
    ],
    ids=lambda value: None if isinstance(value, str) else "",
)
def test_an_inconsistent_file(file, changes, message):
    rewrite(file, **changes)
    assert message in refused(file)


def test_metadata_that_json_cannot_read(file):
    tensors = load_file(file)
    for entry in ("", "{", "[]", "[" * 100_000, "1" * 10_000, "null"):
        save_file(tensors, file, {"smd_evo": entry})
        assert "got none of smd_evo none; it is another kind of file" in refused(file)
    save_file(tensors, file)
    assert "it is another kind of file" in refused(file)


def test_what_is_no_file_of_ours(tmp_path):
    assert "No such file" in refused(tmp_path / "nowhere")
    refused(tmp_path)
    (tmp_path / "text").write_text("children: 5\n" * 99)
    refused(tmp_path / "text")


class Trap:
    """Unpickled, it makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        import os

        return os.mkdir, (str(self.path),)


def test_nothing_is_ever_unpickled(tmp_path):
    content = pickle.dumps(Trap(tmp_path / "sprung"))
    for name, write in (("pickle", lambda path: path.write_bytes(content)), ("torch", torch_file)):
        write(tmp_path / name)
        refused(tmp_path / name)
    assert not (tmp_path / "sprung").exists()


def torch_file(path):
    torch.save({"arms": Trap(path.parent / "sprung")}, path)
