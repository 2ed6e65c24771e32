"""Every example runs, at a tiny budget."""

from pathlib import Path

import pytest
import torch
from helpers import ROOT
from script_helpers import run_script

BUDGETS = {
    "finetune_your_network.py": ["4"],
    "any_fitness.py": ["4"],
    "ensemble.py": ["4"],
    "evotorch_operator.py": ["2"],
    "evotorch_finetune.py": ["1"],
    "evotorch_subspace_cmaes.py": ["1"],
    "openai_es_baseline.py": ["1"],
    "deap_ga.py": ["2"],
    "deap_cma_subspace.py": ["2"],
    "several_objectives.py": ["1"],
    "map_elites.py": ["1"],
    "deap_islands.py": ["2"],
    "compare_with_openai_es.py": ["1", "2"],
    "multi_generation.py": ["1"],
    "ray_cluster.py": ["1"],
    "evolve_a_policy.py": ["1"],
    "ask_and_tell.py": ["1"],
    "finetune_a_text_classifier.py": ["1"],
    "finetune_a_transformer.py": ["1"],
    "reward_a_language_model.py": ["1"],
    "finetune_spikes_and_integers.py": ["1"],
    "finetune_retrieval.py": ["1", str(Path(torch.__file__).parent)],
}
NEEDED = {"finetune_a_transformer.py": "transformers", "reward_a_language_model.py": "transformers"}
"""What an example imports that is an extra."""


def test_every_example_is_listed():
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == set(BUDGETS)


@pytest.mark.parametrize("name", BUDGETS)
def test_example(name, tmp_path):
    if name in NEEDED:
        pytest.importorskip(NEEDED[name], reason=f"{NEEDED[name]} is an extra")
    source = ROOT / "examples" / name
    assert len(source.read_text().splitlines()) < 60
    result = run_script(source, *BUDGETS[name], cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "%" in result.stdout
