"""Words of EvoTorch and DEAP that are others here, and what to write instead."""

from __future__ import annotations

__all__ = ["OPERATOR_WORDS", "PROBLEM_WORDS", "SEARCHER_WORDS", "TOOLBOX_WORDS"]

_DENSITY = "write density=0.1, the share of the coordinates that change: exactly so many, not each by chance"
_FITNESS = 'write fitness="cross_entropy", or BatchFitness(name, "min" or "max", score)'
_START = "every population starts at the network itself, and sigma says how far children are"
_SIZE = "it follows from the network and select="
_SIGMA = "write sigma=, which is what this package calls it"

OPERATOR_WORDS = {"mutation_probability": _DENSITY, "indpb": _DENSITY, "std": _SIGMA}

SEARCHER_WORDS = {
    "mutation_probability": _DENSITY,
    "indpb": _DENSITY,
    "stdev": _SIGMA,
    "stdev_init": _SIGMA,
    "center_init": _START,
    "elitist": "SubspaceEvolution has num_elites=",
    "operators": "GeneticAlgorithm takes AddMutation as its operator",
}

PROBLEM_WORDS = {
    "objective_sense": "the fitness says it: BatchFitness(name, sense, score)",
    "eval_data_length": "eval_data=, the fitnesses that are only noted, says it",
    "objective_func": _FITNESS,
    "loss_func": _FITNESS,
    "loss": _FITNESS,
    "network": "write parent=, or the network alone, first",
    "network_args": "give the network itself, already made",
    "dataset": "write data=, tensors, a Dataset or a DataLoader",
    "initial_bounds": _START,
    "bounds": _START,
    "solution_length": _SIZE,
    "dtype": _SIZE,
    "eval_dtype": _SIZE,
}

TOOLBOX_WORDS = {
    "weights": "the fitness says it: individuals get evaluator.fitness",
    "loss": _FITNESS,
    "dataset": "write data=, tensors, a Dataset or a DataLoader",
}
