"""Experiments: what the commands run, and their statistics."""
