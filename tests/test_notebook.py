"""The notebooks among the examples: they run, and what they show is pages, tables and pictures."""

import nbclient
import nbformat
import pytest
from helpers import ROOT

NOTEBOOKS = sorted(path.stem for path in (ROOT / "examples").glob("*.ipynb"))
SMALLER = {
    "claims": {"children=8": "children=6", "128": "16", "range(3)": "range(1)", "children=32": "children=8"},
    "quickstart": {"children=32": "children=8", "count=64": "count=8", "run(20)": "run(2)"},
    "your_network": {
        "children=32": "children=8",
        "generations=10": "generations=4",
        "budget=6400, children=16, images=50, trials=2": "budget=800, children=8, images=50, trials=1",
    },
}
"""Numbers in the cells of a notebook, and which it is run with."""

BRIEF = f"import sys; sys.path.append({str(ROOT / 'tests')!r}); import cli_helpers; cli_helpers.brief(setattr)"


def executed(name, folder):
    """The code cells of a notebook that was run in a folder, with fewer children, generations and seeds."""
    notebook = nbformat.read(ROOT / "examples" / f"{name}.ipynb", as_version=4)
    for shown, taken in SMALLER[name].items():
        (cell,) = [cell for cell in notebook.cells if cell.cell_type == "code" and shown in cell.source]
        cell.source = cell.source.replace(shown, taken)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(BRIEF))
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        client.execute()
    return [cell for cell in notebook.cells if cell.cell_type == "code"][1:]


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    return executed("your_network", tmp_path_factory.mktemp("notebook"))


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_what_is_stored_was_made_by_these_cells_in_their_order(name):
    notebook = nbformat.read(ROOT / "examples" / f"{name}.ipynb", as_version=4)
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == [*range(1, len(counts) + 1)]
    assert not [
        output for cell in notebook.cells for output in cell.get("outputs", ()) if output.output_type == "error"
    ]


@pytest.mark.parametrize("name", sorted({*NOTEBOOKS} - {"your_network"}))
def test_it_runs(name, tmp_path):
    assert executed(name, tmp_path)


def shown(cell):
    """What a cell shows of its last line, by its kind."""
    return next(output.data for output in cell.outputs if output.output_type == "execute_result")


def test_results_show_their_page(cells):
    pages = [cell for cell in cells if "<iframe srcdoc=" in "".join(str(output) for output in cell.outputs)]
    assert len(pages) == 4  # finetune, evolve, window, compare
    assert all("Sequential" in shown(cell)["text/plain"] for cell in pages)


def test_plots_are_pictures(cells):
    (plot,) = [cell for cell in cells if cell.source == "result.plot()"]
    assert shown(plot)["image/png"]


def test_lines_are_a_table(cells):
    frames = [cell for cell in cells if "to_pandas" in cell.source]
    assert len(frames) == 3
    assert all("<table" in shown(cell)["text/html"] for cell in frames)


def test_evotorch_says_nothing_and_nobody_warns(cells):
    streams = [output.text for cell in cells for output in cell.outputs if output.output_type == "stream"]
    assert not [text for text in streams if "INFO" in text or "Warning" in text], streams
