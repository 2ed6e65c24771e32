"""metrics.jsonl and its like: whole lines in order, and none from after the checkpoint that a run goes on from."""

import contextlib
import json
import resource

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smd_evo.errors import InvalidValue
from smd_evo.experiments.generations.metrics import HISTORY, METRICS, Metrics, read_metrics

VALUES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
RECORDS = st.lists(st.dictionaries(st.text().filter(lambda name: name != "generation"), VALUES), max_size=5)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A new run directory for each example."""
    return lambda: tmp_path_factory.mktemp("run")


def numbered(contents):
    return [{"generation": number, **content} for number, content in enumerate(contents, start=1)]


def going_on(run, count, name=METRICS):
    """The file of a run after so many generations."""
    return Metrics(run, read_metrics(run, count, name), name)


def write(run, count, name=METRICS):
    """So many lines, with the ones from after a crash."""
    records = numbered([{"fitness": number / 7} for number in range(count)])
    with going_on(run, 0, name) as metrics:
        for record in records:
            metrics.append(record)
    return records


@given(RECORDS)
def test_what_is_appended_is_read(place, contents):
    run, records = place(), numbered(contents)
    with going_on(run, 0) as metrics:
        for count, record in enumerate(records):
            assert read_metrics(run) == records[:count]  # what is written survives this process
            metrics.append(record)
        metrics.sync()
    assert read_metrics(run) == read_metrics(run, len(records)) == records
    assert [json.loads(line) for line in (run / METRICS).read_bytes().split(b"\n")[:-1]] == records


@given(count=st.integers(1, 6), kept=st.integers(0, 6), more=st.integers(0, 3))
def test_a_run_that_goes_on_forgets_what_is_behind_its_checkpoint(place, count, kept, more):
    run, kept = place(), min(count, kept)
    records = write(run, count)
    added = [{"generation": kept + number, "again": True} for number in range(1, more + 1)]
    with going_on(run, kept) as metrics:
        assert read_metrics(run) == records[:kept]
        for record in added:
            metrics.append(record)
    assert read_metrics(run) == records[:kept] + added


@given(st.integers(1, 200))
def test_a_line_that_is_cut_off_is_forgotten(place, cut):
    run = place()
    records = write(run, 4)
    content = (run / METRICS).read_bytes()[:-cut]
    (run / METRICS).write_bytes(content)
    whole = sum(line.endswith(b"}") for line in content.split(b"\n"))
    assert read_metrics(run) == records[:whole]
    with going_on(run, whole) as metrics:
        metrics.append({"generation": whole + 1})
    assert read_metrics(run) == [*records[:whole], {"generation": whole + 1}]


@pytest.mark.parametrize(
    "damage",
    [
        lambda lines: lines[:2],
        lambda lines: [lines[0], *lines[2:]],
        lambda lines: [lines[1], lines[0], *lines[2:]],
        lambda lines: [lines[0], lines[1][:-4], *lines[2:]],
        lambda lines: [lines[0], b"[2]", *lines[2:]],
        lambda lines: [lines[0], b"\xff", *lines[2:]],
        lambda lines: [],
    ],
    ids=["cut", "one missing", "swapped", "damaged", "no record", "no text", "empty"],
)
@pytest.mark.parametrize("name", [METRICS, HISTORY])
def test_missing_lines_are_an_error_and_the_file_stays(tmp_path, damage, name):
    write(tmp_path, 4, name)
    lines = damage((tmp_path / name).read_bytes().splitlines())
    content = b"".join(line + b"\n" for line in lines)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidValue, match=rf"expected generations 1 to 4 in .*{name}, got \d in order") as caught:
        going_on(tmp_path, 4, name)
    assert "\n" not in str(caught.value)
    assert (tmp_path / name).read_bytes() == content


def test_a_file_that_is_gone_is_an_error(tmp_path):
    with pytest.raises(InvalidValue, match=r"expected generations 1 to 4 in .*, got 0 in order"):
        going_on(tmp_path, 4)


def test_infinity_comes_back(tmp_path):
    with going_on(tmp_path, 0) as metrics:
        metrics.append({"generation": 1, "fitness": float("inf")})
    assert read_metrics(tmp_path, 1) == [{"generation": 1, "fitness": float("inf")}]


@contextlib.contextmanager
def room_for(size):
    """No file may grow beyond so many bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("room", [0, 1, 20, 39])
def test_a_full_disk_is_an_error_and_what_was_written_stays(tmp_path, room):
    """A line takes 40 bytes or so."""
    records = write(tmp_path, 3)
    size = (tmp_path / METRICS).stat().st_size
    with pytest.raises(OSError, match="File too large"), room_for(size + room), going_on(tmp_path, 3) as metrics:
        metrics.append({"generation": 4, "fitness": 0.5, "text": "x" * 9})
    assert (tmp_path / METRICS).stat().st_size <= size + room
    assert read_metrics(tmp_path) == records
    with going_on(tmp_path, 3) as metrics:
        metrics.append({"generation": 4})
    assert read_metrics(tmp_path, 4) == [*records, {"generation": 4}]
