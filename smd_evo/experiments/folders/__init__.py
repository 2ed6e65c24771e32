"""Run directories: taken before anything is computed, written when it is, read back."""
