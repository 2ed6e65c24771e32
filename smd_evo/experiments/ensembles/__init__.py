"""Ensembles of a run's children, and weights that leave it."""
