"""Comparisons of methods at the same budget."""
