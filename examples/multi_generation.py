"""Many generations as a run that can be stopped anywhere: interrupted here half-way, then resumed to the same bits.

python examples/multi_generation.py [GENERATIONS]

The same on the command line: smd-evo finetune --generations 40 --out RUN; Ctrl-C; smd-evo resume RUN.
"""

import signal
import sys
import tempfile
from pathlib import Path

from smd_evo.experiments.generations.files import Interrupted, evolve, resume
from smd_evo.experiments.generations.metrics import read_metrics
from smd_evo.experiments.generations.settings import EvolutionConfig
from smd_evo.experiments.progress import Silent

generations = int(sys.argv[1]) if len(sys.argv) > 1 else 40
config = EvolutionConfig(  # the demo's parent and data; your own: model=..., data=...
    generations=generations,
    searcher="gradient",  # every child counts; "selection": the best is the next parent
    children=16,
    images=f"100,200@{max(2, generations // 2)}",  # more images once the gains get smaller
    density=0.1,
    validate_every=2,
    patience=10,
)


class Impatient(Silent):
    """Presses Ctrl-C after half of the generations."""

    def reached(self, done, text):
        print(text.replace("\n", "; "))
        if done == max(1, generations // 2) * config.children:
            signal.raise_signal(signal.SIGINT)


run = Path(tempfile.mkdtemp()) / "run"
try:
    result = evolve(config, run, Impatient())
except Interrupted as stop:  # the generation was finished, and a checkpoint written
    print(f"interrupted: {stop}")
    result = resume(run, {})

for row in result.rows:
    print(f"{row.candidate}: accuracy {100 * row.accuracy:.1f} %, loss {row.loss:.3f}")
validated = [record for record in read_metrics(run) if record["validation"]]
best = max((record["generation"] for record in validated if record["validation"]["best"]), default=0)
print(f"the best network is of generation {best}; weights: {run / 'network.safetensors'}")
