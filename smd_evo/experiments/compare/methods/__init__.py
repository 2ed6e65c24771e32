"""Methods that ``smd-evo compare`` compares, each a small class over the same task."""
