"""Checkpoints: what is written comes back to the bit, and what is damaged is never taken for whole."""

import json
import os
import shutil
from types import SimpleNamespace

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from smd_evo.errors import InvalidValue
from smd_evo.experiments.generations import checkpoints
from smd_evo.experiments.generations.checkpoints import newest, write_checkpoint

DTYPES = (
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.uint8,
    torch.int64,
    torch.int32,
    torch.bool,
)
FILES = ("json", "safetensors")


@st.composite
def tensors(draw):
    """Any bits: NaN, infinity and negative zero among them."""
    dtype, shape = draw(st.sampled_from(DTYPES)), draw(st.lists(st.integers(0, 3), max_size=3))
    size = torch.zeros(shape, dtype=dtype).numel() * dtype.itemsize
    content = draw(st.binary(min_size=size, max_size=size))
    raw = torch.tensor(list(content), dtype=torch.uint8)
    found = (raw % 2).bool() if dtype == torch.bool else raw.view(dtype)
    return found.view(shape).transpose(0, -1) if len(shape) > 1 and draw(st.booleans()) else found.view(shape)


NUMBERS = st.integers() | st.integers(2**63 - 2, 2**70) | st.floats() | st.booleans()


@st.composite
def states(draw):
    """Nested, and the same tensor object may come in several places."""
    leaves = NUMBERS | st.none() | st.text()
    if pool := draw(st.lists(tensors(), max_size=4)):
        leaves |= st.sampled_from(pool)
    parts = st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
    )
    return draw(st.dictionaries(st.text(max_size=4), parts, max_size=5))


def bits(tensor):
    return tensor.dtype, tensor.shape, tensor.contiguous().flatten().view(torch.uint8).tolist()


def pairs_of_tensors(state, other):
    """Tensors in the same places of two states that are the same otherwise."""
    assert type(state) is type(other)
    if isinstance(state, torch.Tensor):
        return [(state, other)]
    if isinstance(state, dict):
        assert list(state) == list(other)
        return [pair for name in state for pair in pairs_of_tensors(state[name], other[name])]
    if isinstance(state, list):
        assert len(state) == len(other)
        return [pair for each in zip(state, other, strict=True) for pair in pairs_of_tensors(*each)]
    assert repr(state) == repr(other)
    return []


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A new run directory for each example."""
    return lambda: tmp_path_factory.mktemp("run")


A, B = torch.zeros(2), torch.ones(2)


@given(state=states())
@example({"a/b": A, "a": {"b": B}})
@example({"a": [A], "a/0": B})
@example({"": A, "a": {"": B, "b": {}}})
@example({"sigma": float("inf"), "key": 2**64 - 1, "lost": float("nan"), "none": None, "list": [[], {}]})
def test_nested_state_comes_back_to_the_bit(place, state):
    run = place()
    write_checkpoint(run, 7, state, 3)
    number, found, damaged = newest(run)
    assert (number, damaged) == (7, [])
    pairs = pairs_of_tensors(state, found)
    assert all(bits(one) == bits(other) for one, other in pairs)
    stored = load_file(run / "checkpoints" / "000007.safetensors")
    distinct = {id(one) for one, _ in pairs}
    assert len(stored) == len(distinct) == len({id(other) for _, other in pairs})


def test_its_files_are_plain_json_and_safetensors(tmp_path):
    """Which hold no code, unlike pickle."""
    write_checkpoint(tmp_path, 3, {"parent": {"w": A}, "late": [{"w": A}, {"w": B}], "sigma": 0.5}, 3)
    folder = tmp_path / "checkpoints"
    assert sorted(os.listdir(folder)) == ["000003.json", "000003.safetensors"]
    about = json.loads((folder / "000003.json").read_text())
    assert about["generation"] == 3
    assert about["state"]["sigma"] == 0.5
    stored = load_file(folder / "000003.safetensors")
    name = about["state"]["late"][1]["w"]["$tensor"]
    assert torch.equal(stored[name], B)
    assert about["state"]["parent"]["w"] == about["state"]["late"][0]["w"]


@pytest.mark.parametrize("thing", [{1, 2}, object(), torch.float32, b"bytes"], ids=lambda thing: type(thing).__name__)
def test_what_json_cannot_hold_is_refused_not_pickled(tmp_path, thing):
    with pytest.raises(TypeError):
        write_checkpoint(tmp_path, 1, {"thing": thing}, 3)
    assert not list((tmp_path / "checkpoints").glob("*.json"))


def numbers(run):
    """Of the checkpoints there, in order; nothing else is there."""
    files = os.listdir(run / "checkpoints")
    found = sorted(int(name.partition(".")[0]) for name in files if name.endswith(".json"))
    assert sorted(files) == sorted(f"{number:06d}.{kind}" for number in found for kind in FILES)
    return found


@given(written=st.lists(st.integers(0, 3_000_000), min_size=1, max_size=6, unique=True), keep=st.integers(1, 4))
@settings(max_examples=8)
def test_only_the_last_ones_are_kept(place, written, keep):
    run = place()
    for count, number in enumerate(sorted(written), start=1):
        write_checkpoint(run, number, {"number": number, "w": A + number}, keep)
        assert numbers(run) == sorted(written)[:count][-keep:]
        assert newest(run)[0] == number


def test_one_from_a_future_that_is_being_done_again_gives_way(tmp_path):
    """A damaged newer one must not take the place of a whole one among those that are kept."""
    for number in (5, 10):
        write_checkpoint(tmp_path, number, {"number": number}, 3)
    (tmp_path / "checkpoints" / "000010.json").write_bytes(b"{")
    assert newest(tmp_path)[0] == 5
    write_checkpoint(tmp_path, 7, {"number": 7}, 1)
    assert newest(tmp_path) == (7, {"number": 7}, [])
    assert numbers(tmp_path) == [7]


@pytest.fixture(scope="module")
def two(place):
    """Two checkpoints, a small one and one with all kinds of things in it; their files as they were."""
    run = place()
    write_checkpoint(run, 4, {"number": 4}, 3)
    state = {"number": 8, "w": torch.arange(3.0), "v": [torch.zeros(0), B.bfloat16()], "text": "äöü\n", "high": 2**80}
    write_checkpoint(run, 8, state, 3)
    files = {kind: run / "checkpoints" / f"000008.{kind}" for kind in FILES}
    return SimpleNamespace(run=run, files=files, contents={kind: file.read_bytes() for kind, file in files.items()})


def falls_back(two, kind, content):
    """With this content of a file, the checkpoint before is the newest."""
    try:
        two.files[kind].write_bytes(content)
        number, state, damaged = newest(two.run)
    finally:
        two.files[kind].write_bytes(two.contents[kind])
    assert (number, state) == (4, {"number": 4})
    assert len(damaged) == 1
    assert damaged[0].startswith("checkpoint 8 is damaged (")
    assert "\n" not in damaged[0]


@pytest.mark.parametrize("kind", FILES)
def test_any_flipped_byte_is_seen(two, kind):
    """All positions, a bit or all bits of each."""
    content = two.contents[kind]
    assert newest(two.run)[0] == 8
    for position in range(len(content)):
        flipped = bytearray(content)
        flipped[position] ^= 0xFF if position % 9 == 8 else 1 << position % 9
        falls_back(two, kind, bytes(flipped))


@given(st.sampled_from(FILES), st.floats(0, 1, exclude_max=True), st.integers(1, 255))
def test_any_other_bits_of_it_too(two, kind, where, mask):
    flipped = bytearray(two.contents[kind])
    flipped[int(where * len(flipped))] ^= mask
    falls_back(two, kind, bytes(flipped))


@given(st.sampled_from(FILES), st.floats(0, 1, exclude_max=True))
def test_one_that_is_cut_off_is_seen(two, kind, where):
    falls_back(two, kind, two.contents[kind][: int(where * len(two.contents[kind]))])


@pytest.mark.parametrize("kind", FILES)
@given(content=st.binary(max_size=40) | st.sampled_from([b"[]", b"{}", b"null", b"5", b'"state"', b"[" * 9999]))
def test_something_else_is_seen(two, kind, content):
    falls_back(two, kind, content)


def test_a_missing_tensor_file_is_seen(two):
    content = two.contents["safetensors"]
    two.files["safetensors"].unlink()
    number, _, damaged = newest(two.run)
    two.files["safetensors"].write_bytes(content)
    assert (number, len(damaged)) == (4, 1)


def test_tensors_without_the_json_file_that_comes_last_are_no_checkpoint(two):
    content = two.contents["json"]
    two.files["json"].unlink()
    found = newest(two.run)
    two.files["json"].write_bytes(content)
    assert found == (4, {"number": 4}, [])


def test_other_files_and_folders_beside_them_are_left_alone(tmp_path):
    write_checkpoint(tmp_path, 4, {"number": 4}, 1)
    others = ("notes.json", "²³.json", "9.json", "backup", "-1.json", "x.safetensors")
    for name in others:
        (tmp_path / "checkpoints" / name).write_text("mine")
    assert newest(tmp_path) == (4, {"number": 4}, [])
    write_checkpoint(tmp_path, 5, {"number": 5}, 1)
    assert newest(tmp_path) == (5, {"number": 5}, [])
    assert set(others) <= set(os.listdir(tmp_path / "checkpoints"))


def test_what_a_killed_process_left_goes_with_the_next_one(tmp_path):
    """Half a file, and tensors whose JSON file never came or was deleted before them."""
    write_checkpoint(tmp_path, 4, {"number": 4}, 1)
    for name in (".000009.json.77.partial", "000003.safetensors", "000009.safetensors"):
        (tmp_path / "checkpoints" / name).write_text("half")
    assert newest(tmp_path) == (4, {"number": 4}, [])
    write_checkpoint(tmp_path, 5, {"number": 5}, 1)
    assert numbers(tmp_path) == [5]


def test_a_folder_that_is_named_like_one_is_damaged(tmp_path):
    write_checkpoint(tmp_path, 4, {"number": 4}, 1)
    (tmp_path / "checkpoints" / "000009.json").mkdir()
    number, _, damaged = newest(tmp_path)
    assert (number, len(damaged)) == (4, 1)


def test_without_a_whole_one_it_says_so_on_one_line(tmp_path):
    with pytest.raises(InvalidValue, match=r"run: expected a checkpoint in .*checkpoints that is whole, got none;"):
        newest(tmp_path)
    for number in (4, 8):
        write_checkpoint(tmp_path, number, {"number": number}, 3)
        (tmp_path / "checkpoints" / f"{number:06d}.json").write_bytes(b"{\n\n")
    with pytest.raises(InvalidValue, match=r"checkpoint 8 is damaged .*; checkpoint 4 is damaged") as caught:
        newest(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_failed_write_leaves_the_old_one_and_nothing_half(tmp_path, monkeypatch):
    write_checkpoint(tmp_path, 4, {"number": 4}, 1)

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_checkpoint(tmp_path, 5, {"number": 5}, 1)
    assert newest(tmp_path) == (4, {"number": 4}, [])
    assert not list((tmp_path / "checkpoints").glob("*.partial"))


def test_a_checkpoint_of_another_run_is_not_gone_on_with(tmp_path):
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    for run in (mine, theirs):
        run.mkdir()
        (run / "run.json").write_text(f'{{"fingerprint": "{run.name}"}}')
        write_checkpoint(run, 1, {"run": run.name}, 3)
    write_checkpoint(theirs, 2, {"run": "theirs"}, 3)
    for file in (theirs / "checkpoints").glob("000002.*"):
        shutil.copy(file, mine / "checkpoints")
    number, state, damaged = newest(mine)
    assert (number, state["run"]) == (1, "mine")
    assert damaged == ["checkpoint 2 is damaged (it is another run's)"]


def test_checkpoints_of_versions_that_named_no_run_are_read(tmp_path, monkeypatch):
    (tmp_path / "run.json").write_text("{}")
    sealed = checkpoints._sealed
    monkeypatch.setattr(
        checkpoints, "_sealed", lambda about: sealed({name: about[name] for name in about if name != "run"})
    )
    write_checkpoint(tmp_path, 1, {"number": 1}, 3)
    monkeypatch.undo()
    assert newest(tmp_path) == (1, {"number": 1}, [])
