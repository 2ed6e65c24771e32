"""DEAP: a sparse mutation, individuals for networks, whole-generation evaluation, CMA-ES on a subspace."""
