"""What objects show of themselves in a notebook."""

import pytest
from helpers import blobs, trained
from matplotlib.figure import Figure

from smd_evo import (
    Evaluator,
    FinetuneProblem,
    Lineage,
    ParameterSpace,
    RandomSubspace,
    SparseEnsemble,
    SubspaceEvolution,
)
from smd_evo import sample_mutations as sampled

CHILDREN = sampled(1, 9, subspace=RandomSubspace(0.2), sigma=0.1)


def test_a_space_tells_what_is_selected():
    space = ParameterSpace(trained(), "bias")
    assert repr(space) == "ParameterSpace(SmallNet: 3 of 239 parameters, in 1 tensor(s))"
    page = space._repr_html_()
    assert page.count("not selected") == 4
    assert "<td>head.bias</td><td>3</td><td>3</td>" in page


def test_an_evaluation_is_a_histogram_with_the_parents_line():
    result = Evaluator(trained(), blobs()).evaluate(CHILDREN)
    assert result._repr_html_().startswith('<img src="data:image/png;base64,iVBOR')
    figure = result.plot(parent=0.5)
    assert isinstance(figure, Figure)
    (axes,) = figure.axes
    assert sum(bar.get_height() for bar in axes.patches) == 9
    assert axes.lines[0].get_xdata()[0] == 0.5
    assert not result.plot().axes[0].lines
    with_parent = Evaluator(trained(), blobs()).evaluate([Lineage(), *CHILDREN])
    assert with_parent.plot().axes[0].lines[0].get_xdata()[0] == with_parent.parent == float(with_parent.fitness[0])


def test_an_ensemble_tells_its_weights():
    page = SparseEnsemble(trained(), CHILDREN[:2], [0.25, 0.75])._repr_html_()
    assert "2 children of SmallNet, probabilities combined" in page
    assert "<td>1</td><td>75.0</td>" in page


@pytest.mark.parametrize("steps", [0, 2])
def test_a_searcher_tells_how_things_stand(steps):
    searcher = SubspaceEvolution(FinetuneProblem(trained(), blobs(), seed=1), popsize=4, density=0.2, sigma=0.1)
    searcher.run(steps) if steps else None
    page = searcher._repr_html_()
    assert page.startswith("<table><caption>SubspaceEvolution</caption>")
    assert ("parent_eval" in page) == bool(steps)
