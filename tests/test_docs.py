"""README and docs: what they show is executed as it stands, in the order of the page.

A page's Python blocks run in one process. Its command lines run in a folder that has what they name. Those that would
compute for long run with ``--dry-run``, which loads and checks everything. Where later lines go on from such a run, a
small one takes its place.
"""

import re
import shlex

import pytest
from docs_helpers import done, furnish, make_run, publish, skipped_without
from helpers import ROOT
from script_helpers import run_script

PAGES = ["README.md", *sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^\s*(?:```|~~~).*$", re.MULTILINE)
BLOCK = re.compile(r"^```(.*)\n((?:.*\n)*?)```$", re.MULTILINE)
LANGUAGES = ("python", "sh", "text")
COMPUTING = ("finetune", "window", "compare")


def blocks(page, kind):
    """The page's blocks of this kind, which its opening fence names."""
    return [text for name, text in BLOCK.findall((ROOT / page).read_text()) if name == kind]


def commands(page):
    """The command lines of the page as lists of words, without comments."""
    lines = "".join(blocks(page, "sh")).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def of_program(page, program):
    """The arguments of each of the page's calls of this program."""
    return [arguments for first, *arguments in commands(page) if first == program]


def runs(arguments):
    """The folders of runs that a command line names."""
    return {word for word in arguments if word.startswith("runs/")}


PYTHON = skipped_without("transformers", [page for page in PAGES if blocks(page, "python")], "huggingface")
COMMANDS = skipped_without("transformers", [page for page in PAGES if of_program(page, "smd-evo")], "huggingface")


@pytest.fixture(scope="module")
def furniture(tmp_path_factory):
    folder = tmp_path_factory.mktemp("furniture")
    furnish(folder)
    return folder


@pytest.fixture
def place(furniture, tmp_path, monkeypatch):
    """A folder of the page's own with what its command lines name."""
    for each in furniture.iterdir():
        (tmp_path / each.name).symlink_to(each)
    publish(monkeypatch)
    return tmp_path


@pytest.mark.parametrize("page", PAGES)
def test_every_block_of_a_page_says_what_it_is(page):
    fences = [line.strip() for line in FENCE.findall((ROOT / page).read_text())]
    assert {fence[3:] for fence in fences[::2]} <= set(LANGUAGES)
    assert set(fences[1::2]) <= {"```"}
    assert len(fences) == 2 * sum(len(blocks(page, language)) for language in LANGUAGES)


@pytest.mark.parametrize("page", PYTHON)
def test_the_python_blocks_of_a_page_run_in_their_order(page, tmp_path):
    script = tmp_path / "page.py"
    script.write_text("\n".join(blocks(page, "python")))
    result = run_script(script, cwd=tmp_path, RAY_DEDUP_LOGS="0")
    assert result.returncode == 0, result.stderr


@pytest.mark.filterwarnings("ignore:data. expected images of all 1000 classes:UserWarning")  # here are two
@pytest.mark.filterwarnings("ignore:parent. expected an accuracy well above chance:UserWarning")  # it is untrained
@pytest.mark.parametrize("page", COMMANDS)
def test_the_command_lines_of_a_page_run_in_their_order(page, place):
    lines = of_program(page, "smd-evo")
    for number, arguments in enumerate(lines, 1):
        if arguments[0] not in COMPUTING:
            done(*arguments, cwd=place)
            continue
        done(*arguments, "--dry-run", cwd=place)
        if any(runs(arguments) & runs(later) for later in lines[number:]):
            make_run(arguments, place)


def test_the_other_command_lines_are_targets_of_the_makefile():
    targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
    for page in PAGES:
        assert {words[0] for words in commands(page)} <= {"smd-evo", "make"}
        for target in of_program(page, "make"):
            assert len(target) == 1
            assert target[0] in targets


def test_figures_are_what_the_results_files_say(tmp_path):
    result = run_script(ROOT / "benchmarks" / "figures.py", "--check", cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_readme_begins_with_fifteen_lines():
    first = blocks("README.md", "python")[0]
    assert len([line for line in first.splitlines() if line.strip()]) <= 15
