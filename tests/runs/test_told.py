"""What a run over generations tells of itself while it goes on."""

import json

from evolution_helpers import TINY

from smd_evo.experiments.generations import plot as evolution_plot
from smd_evo.experiments.generations.files import evolve
from smd_evo.experiments.generations.metrics import read_metrics
from smd_evo.experiments.generations.settings import EvolutionConfig
from smd_evo.experiments.progress import Silent


class Remember(Silent):
    def __init__(self):
        self.told = []

    def reached(self, done, text):
        self.told.append((done, text.splitlines()))


def test_each_generation_with_the_last_validation_and_the_best(tmp_path, monkeypatch):
    monkeypatch.setattr(evolution_plot, "plot_evolution", lambda *_: None)
    progress, run = Remember(), tmp_path / "run"
    evolve(EvolutionConfig.read(TINY | {"searcher": "selection", "sigma": 3.0}), run, progress)
    start = json.loads((run / "results.json").read_text())["validation"]
    records = read_metrics(run)
    assert [done for done, _ in progress.told] == [6 * record["generation"] for record in records]
    latest, best = None, (0, start)
    for record, (_, lines) in zip(records, progress.told, strict=True):
        assert lines[0].startswith(f"{record['generation']}/7: fitness {record['fitness']:.4g}, sigma 3")
        if record["validation"]:
            latest = record["generation"], record["validation"]
            best = latest if latest[1]["best"] else best
        if latest is None:
            assert len(lines) == 2
            continue
        assert lines[1].startswith(f"validation {latest[1]['accuracy']:.1%}, loss {latest[1]['loss']:.3f}")
        assert (", the best (" in lines[1]) == (latest == best)
        assert (f"; best {best[1]['accuracy']:.1%}, {best[1]['loss']:.3f} at {best[0]} (" in lines[1]) == (
            latest != best
        )
