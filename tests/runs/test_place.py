"""A place is one process's from the start; whatever fails at the end, results are whole somewhere, as is told."""

import errno
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import pytest
from faults import ERRORS, Faults
from hypothesis import given
from hypothesis import strategies as st

from smd_evo import atomic
from smd_evo.atomic import partial_name, write_whole
from smd_evo.errors import InvalidValue, OutputExists, SmdEvoError
from smd_evo.experiments.folders import lock as lock_module
from smd_evo.experiments.folders import take as take_module
from smd_evo.experiments.folders.content import PLOT, write_plot
from smd_evo.experiments.folders.lock import LOCK, Busy, Lock
from smd_evo.experiments.folders.rescue import RESULTS, fill
from smd_evo.experiments.folders.survival import Interrupted
from smd_evo.experiments.folders.take import chosen, new_file, new_run, working_in

CONTENT = {"config.yaml": b"a: 1", "children.safetensors": bytes(range(256)), RESULTS: b"{}"}
WHOLE = CONTENT | {PLOT: b"png"}
FILES = {name: (lambda file, content=content: write_whole(file, content)) for name, content in CONTENT.items()}
FILES |= {PLOT: lambda file: write_plot(file, lambda picture: picture.write(b"png"))}


def held(folder):
    """Names and contents of what is in it, but for locks and what could not be deleted while it was written."""
    files = (file for file in folder.rglob("*") if file.is_file() and file.name != LOCK and file.suffix != ".partial")
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


@pytest.fixture(autouse=True)
def _nothing_was_told_yet(monkeypatch):
    monkeypatch.setattr(atomic, "_told", set())


@pytest.fixture
def base(tmp_path, monkeypatch):
    """A folder with something of the user's; temporary files go elsewhere."""
    (tmp_path / "temp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temp"))
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    (folder / "old").mkdir()
    (folder / "old" / RESULTS).write_text("old")
    return folder


def check(base, before, error, computed, told):
    """Nothing is lost, nothing looks whole that is not, and what was there is there."""
    found = held(base)
    assert {name: content for name, content in found.items() if name in before} == before
    whole = [seal.parent for seal in base.parent.rglob(RESULTS) if seal.parent != base / "old"]
    for place in whole:
        assert held(place) == WHOLE or (held(place) == CONTENT and any("plot: " in text for text in told))
    if not computed:
        assert isinstance(error, OSError | SmdEvoError)
        assert whole == []
    elif error is None:
        assert whole == [base / "deep" / "run"]
    else:
        assert not isinstance(error, SmdEvoError)
        assert any(str(error).endswith(f" whole in {place}") for place in whole)
    assert len(str(error).splitlines()) == 1


class TestFaults:
    """Each call, each error; the whole grid takes a second."""

    @pytest.mark.parametrize("once", [True, False], ids=["once", "from then on"])
    @pytest.mark.parametrize("name", ERRORS)
    def test_at_every_call(self, base, name, once):
        before = held(base)
        for at in itertools.count(1):
            faults, computed, error = Faults(base, at, ERRORS[name], once=once), False, None
            with faults() as told:
                try:
                    with new_run(base / "deep" / "run") as place:
                        computed = True
                        place.write(FILES)
                except (OSError, SmdEvoError) as caught:
                    error = caught
            check(base, before, error, computed, [str(each.message) for each in told])
            if faults.count < at:
                break
            for left in (base / "deep", *(base.parent / "temp").iterdir()):
                shutil.rmtree(left, ignore_errors=True)
        assert at > 25

    @pytest.mark.parametrize("at", range(1, 40, 3))
    def test_where_no_disk_takes_anything(self, base, at):
        """What was written until then is named, and nothing looks whole."""
        faults, computed, error = Faults(base.parent, at, once=False), False, None
        with faults():
            try:
                with new_run(base / "run") as place:
                    computed = True
                    place.write(FILES)
            except OSError as caught:
                error = caught
        if computed and error is not None and " whole in " not in str(error):
            (where, lost) = re.search(r"what could be written is in (\S+), all but (.+)$", str(error)).groups()
            assert set(held(Path(where))) | set(lost.split(", ")) >= set(CONTENT)
            assert not [file for file in base.parent.rglob(RESULTS) if held(file.parent).items() < CONTENT.items()]
        assert held(base).items() >= {"mine.txt": b"mine", f"old/{RESULTS}": b"old"}.items()


class TestTaken:
    def test_the_second_is_told_before_it_computes(self, base):
        with new_run(base / "run") as place:
            for _ in range(2):
                with pytest.raises(InvalidValue, match=r"no other process works on, got .*run; choose another"):
                    new_run(base / "run").__enter__()
            place.write(FILES)
        assert held(base / "run") == WHOLE
        assert LOCK not in os.listdir(base / "run")
        with pytest.raises(OutputExists, match="out: expected a new or empty folder"):
            new_run(base / "run").__enter__()

    def test_what_fails_to_be_computed_leaves_nothing(self, base):
        before = sorted(os.listdir(base))
        with pytest.raises(ZeroDivisionError), new_run(base / "a" / "b" / "run"):
            raise ZeroDivisionError
        assert sorted(os.listdir(base)) == before

    def test_folders_that_others_use_by_then_stay(self, base):
        with new_run(base / "a" / "b" / "run"):
            (base / "a" / "theirs").mkdir()
        assert os.listdir(base / "a") == ["theirs"]

    def test_a_link_to_nothing_is_refused(self, base):
        (base / "run").symlink_to(base / "nothing")
        with pytest.raises(OutputExists):
            new_run(base / "run").__enter__()

    @pytest.mark.parametrize("name", ["x" * 256, "ä" * 128, "y" * 300 + "/run", "mine.txt/run"])
    def test_a_name_that_cannot_be_is_a_mistake(self, base, name):
        before = held(base)
        for take in (new_run, working_in):
            with pytest.raises(InvalidValue, match="out: expected a place that can be written to, got"):
                take(base / name).__enter__()
        assert held(base) == before

    @pytest.mark.parametrize("length", [240, 246, 247, 250, 255])
    def test_the_longest_names_work(self, base, length):
        with new_run(base / ("x" * length)) as place:
            place.write(FILES)
        assert held(base / ("x" * length)) == WHOLE

    def test_unnamed_ones_have_names_of_their_own(self, base, monkeypatch):
        monkeypatch.chdir(base)
        monkeypatch.setattr(
            "smd_evo.experiments.folders.take.time.strftime", lambda form: form.split("-")[0] + "-now"
        )
        with chosen(None, "finetune") as one, chosen(None, "finetune") as two, chosen(None, "window") as other:
            assert [str(each) for each in (one, two, other)] == [
                "runs/finetune-now",
                "runs/finetune-now-2",
                "runs/window-now",
            ]
            with new_run(two) as place:
                place.write(FILES)
        assert os.listdir("runs") == ["finetune-now-2"]
        with chosen("mine", "finetune") as named:
            assert named == Path("mine")

    def test_a_folder_that_is_worked_in_is_one_process_s(self, base):
        (base / "empty").mkdir()
        for name, left in (("a/b", []), ("empty", ["empty"])):
            with working_in(base / name), pytest.raises(InvalidValue, match="no other process works on"):
                working_in(base / name).__enter__()
            assert sorted({*os.listdir(base)} - {"mine.txt", "old"}) == left or name == "a/b"
        with working_in(base / "used"):
            (base / "used" / "points.csv").touch()
        assert sorted(os.listdir(base / "used")) == [LOCK, "points.csv"]

    def test_a_file_is_never_written_over(self, base):
        with new_file(base / "weights") as write:
            with pytest.raises(InvalidValue, match="no other process"):
                new_file(base / "weights").__enter__()
            (base / "weights").write_text("theirs")
            with pytest.raises(OSError, match=r"weights: File exists; it is in (\S+)$") as caught:
                write(b"ours")
        assert (base / "weights").read_text() == "theirs"
        assert (Path(str(caught.value).split()[-1]) / "weights").read_bytes() == b"ours"
        with new_file(base / "other") as write:
            write(b"ours")
        assert (base / "other").read_bytes() == b"ours"
        assert sorted(os.listdir(base)) == ["mine.txt", "old", "other", "weights"]


class TestTargets:
    """What can happen to a name until a run has it."""

    @pytest.mark.parametrize("what", ["file", "folder", "link"])
    def test_one_that_appears_meanwhile_stays_and_the_results_are_beside_it(self, base, what):
        with new_run(base / "run") as place:
            if what == "folder":
                (base / "run").mkdir()
                (base / "run" / "theirs").touch()
            elif what == "file":
                (base / "run").touch()
            else:
                (base / "run").symlink_to("nothing")
            with pytest.raises(OSError, match=r"all of it is whole in .*run-kept$"):
                place.write(FILES)
        assert held(base / "run-kept") == WHOLE
        assert (base / "run" / "theirs").exists() == (what == "folder")
        assert sorted(os.listdir(base)) == ["mine.txt", "old", "run", "run-kept"]

    @pytest.mark.parametrize("error", [errno.EBUSY, errno.EXDEV])
    def test_an_empty_folder_that_cannot_be_replaced_is_filled(self, base, monkeypatch, error):
        """Where a disk is mounted, say."""
        (base / "run").mkdir()
        with new_run(base / "run") as place:
            monkeypatch.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(OSError(error, "busy")))
            place.write(FILES)
        assert held(base / "run") == WHOLE
        assert sorted(os.listdir(base)) == ["mine.txt", "old", "run"]

    def test_a_link_to_an_empty_folder_and_the_current_one_are_filled(self, base, monkeypatch):
        (base / "empty").mkdir()
        (base / "link").symlink_to("empty")
        with new_run(base / "link") as place:
            place.write(FILES)
        assert held(base / "empty") == WHOLE
        (base / "here").mkdir()
        monkeypatch.chdir(base / "here")
        with new_run(".") as place:
            place.write(FILES)
        assert held(Path.cwd()) == WHOLE == held(base / "here")

    def test_results_that_cannot_be_renamed_stay_and_no_later_run_clears_them(self, base):
        faults = Faults(base, 1, errno.EACCES, once=False, names=("rename",))
        with new_run(base / "run") as place, faults(), pytest.raises(OSError, match=r"whole in .*/\.run\.partial$"):
            place.write(FILES)
        assert held(base / ".run.partial") == WHOLE
        told = pytest.warns(RuntimeWarning, match=r"results that a process was writing .* they are in .*run-kept")
        with told, new_run(base / "run") as place:
            place.write(FILES)
        assert held(base / "run") == held(base / "run-kept") == WHOLE


KILLED = """
import os, sys
from pathlib import Path
from smd_evo.experiments.folders.take import new_run
with new_run(sys.argv[1]) as place:
    for name in sys.argv[2:]:
        (place.folder / name).write_text(name)
    os.kill(os.getpid(), 9)
"""


def killed(out, *names):
    """A process that has written these and is no more."""
    result = subprocess.run([sys.executable, "-c", KILLED, str(out), *names], check=False)
    assert result.returncode == -signal.SIGKILL


class TestLeftovers:
    def test_of_killed_processes_are_cleared_by_the_next_run_whatever_its_name(self, base):
        killed(base / "one", "config.yaml", ".results.json.1.partial")
        assert sorted(os.listdir(base)) == [".one.partial", "mine.txt", "old"]
        killed(base / "two")
        assert sorted(os.listdir(base)) == [".two.partial", "mine.txt", "old"]
        killed(base / "two")
        killed(base / "one", "config.yaml", ".results.json.1.partial")
        with new_run(base / "one") as place:
            assert os.listdir(place.folder) == [LOCK]
            place.write(FILES)
        assert sorted(os.listdir(base)) == ["mine.txt", "old", "one"]
        assert held(base / "one") == WHOLE

    def test_results_among_them_are_kept_and_told(self, base):
        killed(base / "one", RESULTS)
        with pytest.warns(RuntimeWarning, match="one-kept"), new_run(base / "other"):
            pass
        assert (base / "one-kept" / RESULTS).read_text() == RESULTS

    def test_those_of_others_are_left_alone(self, base):
        """Of living processes, of other programs, links to somewhere."""
        (base / ".theirs.partial").mkdir()
        (base / ".theirs.partial" / "file").touch()
        (base / ".link.partial").symlink_to("old")
        with new_run(base / "living") as living:
            (living.folder / "config.yaml").touch()
            with new_run(base / "run") as place:
                place.write(FILES)
            assert (living.folder / "config.yaml").exists()
        assert (base / ".theirs.partial" / "file").exists()
        assert (base / "old" / RESULTS).read_text() == "old"

    def test_a_link_in_the_place_of_the_folder_is_refused(self, base):
        (base / ".run.partial").symlink_to("old")
        with pytest.raises(InvalidValue, match="to be this user's own"):
            new_run(base / "run").__enter__()
        assert os.listdir(base / "old") == [RESULTS]


class TestFileSystems:
    @pytest.mark.parametrize("name", ["ENOLCK", "ENOSYS", "ENOTSUP", "EINVAL", "EBADF"])
    def test_without_locks_a_run_goes_on_and_says_so_once(self, base, monkeypatch, name):
        def refuse(_):
            raise OSError(getattr(errno, name), os.strerror(getattr(errno, name)))

        monkeypatch.setattr(lock_module, "_try", refuse)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            with new_run(base / "run") as place:
                with pytest.raises(
                    InvalidValue, match=r"no other process .* if there is none, delete .*run\.partial"
                ):
                    new_run(base / "run").__enter__()
                place.write(FILES)
        assert [str(each.message).split(": ")[1][:37] for each in told] == [
            "expected a file system that locks file"[:37]
        ]
        assert held(base / "run") == WHOLE

    @pytest.mark.parametrize("name", ["EINVAL", "ENOTSUP", "ENOSYS", "EBADF", "EACCES"])
    def test_without_fsync_files_are_written_and_that_is_said_once(self, tmp_path, monkeypatch, name):
        def refuse(_):
            raise OSError(getattr(errno, name), os.strerror(getattr(errno, name)))

        monkeypatch.setattr(os, "fsync", refuse)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            for number in range(3):
                write_whole(tmp_path / f"file {number}", b"content")
        assert len(told) == 1
        assert f"{tmp_path}: expected a file system that syncs" in str(told[0].message)
        assert {file.read_bytes() for file in tmp_path.iterdir()} == {b"content"}

    @pytest.mark.parametrize("name", ["EIO", "ENOSPC", "EDQUOT"])
    def test_a_sync_that_fails_is_an_error_that_names_the_file(self, tmp_path, name):
        (tmp_path / "file").write_bytes(b"old")
        with Faults(tmp_path, 1, ERRORS[name], names=("fsync",))(), pytest.raises(OSError, match="file") as caught:
            write_whole(tmp_path / "file", b"new")
        assert caught.value.errno == ERRORS[name]
        assert held(tmp_path) == {"file": b"old"}


@given(st.permutations([*FILES, "table.csv"]))
def test_the_numbers_come_when_all_else_is_there_but_the_plot(names):
    written = []

    def write(file):
        if file.name == "table.csv":
            raise OSError(errno.ENOSPC, "full")
        written.append(file.name)

    assert set(fill(Path("run"), dict.fromkeys(names, write))) == {"table.csv", RESULTS}
    assert sorted(written) == sorted({*FILES} - {RESULTS})
    written.clear()
    fill(Path("run"), {name: write for name in names if name != "table.csv"})
    assert written[-2:] == [RESULTS, PLOT]


class TestSignals:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    def test_one_waits_until_the_results_are_written(self, base, number):
        files = {"signal": lambda _: os.kill(os.getpid(), number), **FILES}
        with new_run(base / "run") as place, pytest.raises(Interrupted, match=r"^the results are in .*/run$"):
            place.write(files)
        assert held(base / "run") == WHOLE

    def test_a_second_one_does_not_and_says_where_the_rest_is(self, base):
        def twice(_):
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGTERM)

        files = {"config.yaml": FILES["config.yaml"], RESULTS: twice}
        with new_run(base / "run") as place, pytest.raises(Interrupted, match=r"written until then is in .*partial$"):
            place.write(files)
        assert held(base / ".run.partial") == {"config.yaml": b"a: 1"}


class TestLock:
    def test_stays_with_its_file_when_the_folder_is_renamed(self, tmp_path):
        (tmp_path / "a").mkdir()
        lock = Lock(tmp_path / "a")
        (tmp_path / "a").rename(tmp_path / "b")
        with pytest.raises(Busy):
            Lock(tmp_path / "b")
        lock.release()
        Lock(tmp_path / "b").release()


@given(st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=255))
def test_a_file_s_first_name_fits_wherever_its_last_one_does(name):
    target = Path("folder") / name
    if target.name == name and len(name.encode()) <= 255:
        assert len(os.fsencode(partial_name(target).name)) <= 255
        assert partial_name(target).parent == target.parent


def test_an_interrupt_at_nearly_any_line_leaves_nothing(tmp_path):
    """But for the few between the lock and the place that knows of it, where the next run clears what is left."""
    watched, left, number = os.path.dirname(take_module.__file__), set(), 0
    while (place := _interrupted(number, tmp_path / str(number), watched)) is not None:
        if (tmp_path / str(number) / ".run.partial").exists():
            left.add(place)
        number += 1
    assert number > 50
    assert len(left) <= 6


def _interrupted(number, base, watched):
    """The line of this number in the making of a run, where an interrupt came; None if there are fewer."""
    lines, found = itertools.count(), []

    def line(frame, event, _):
        if event == "line" and next(lines) == number:
            sys.settrace(None)
            found.append((frame.f_code.co_filename, frame.f_lineno))
            raise KeyboardInterrupt
        return line

    before = sys.gettrace()
    sys.settrace(lambda frame, event, _: line if frame.f_code.co_filename.startswith(watched) else None)
    try:
        with new_run(base / "run"):
            pass
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)
    return found[0] if found else None
