"""Is it better than OpenAI-ES? A method of one's own beside this package's, with the same budget and trials for each.

python examples/compare_with_openai_es.py [GENERATIONS] [SEEDS]

On the command line, from this folder:
smd-evo compare --methods sparse-es,compare_with_openai_es:HillClimber --trials 2
"""

import sys
from pathlib import Path

from smd_evo import Lineage, RandomSubspace, sample_mutations
from smd_evo.experiments.compare.files import compare
from smd_evo.experiments.compare.methods.base import Method
from smd_evo.experiments.compare.settings import CompareConfig
from smd_evo.experiments.compare.table import compare_tables, compare_verdict
from smd_evo.experiments.progress import Silent
from smd_evo.terminal import show


class HillClimber(Method):
    """The best child of each generation is added to the lineage, if it beats the lineage so far."""

    about = "a hill climber by sparse mutations"
    grid = ({"sigma": 0.5}, {"sigma": 1.0})  # every method gets as many trials, of settings it declares itself

    def __init__(self, task, sigma):
        self.task, self.rule, self.best, self.generation = task, RandomSubspace(0.1), Lineage(), 0
        self.sigma = sigma * task.strength(self.rule).sigma  # calibrated the same way for all methods

    @property
    def cost(self):
        return self.task.generation

    def step(self):
        evaluator = self.task.minibatch(self.generation)  # all methods see the same ones
        mutations = sample_mutations(
            self.task.key, self.task.children - 1, subspace=self.rule, sigma=self.sigma, generation=self.generation
        )
        candidates = [self.best, *(self.best.then(mutation) for mutation in mutations)]
        self.best = candidates[evaluator.evaluate(candidates).ranking()[0]]
        self.generation += 1

    def predict(self, data):
        return self.task.parent.on(data).predict([self.best])[0]


if __name__ == "__main__":
    generations = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    seeds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    methods = f"sparse-es,{Path(__file__).stem}:HillClimber"
    sizes = {"children": 16, "images": 100, "trials": 2, "seeds": seeds}
    config = CompareConfig.read({"methods": methods, "budget": generations * 16 * 100} | sizes)
    folder = Path(f"runs/compare-{generations}")  # if it is stopped, the same command goes on there
    result = compare(config, folder, workers=1, progress=Silent())
    show(compare_tables(result), compare_verdict(result), folder)
