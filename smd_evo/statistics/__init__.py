"""Statistics of experiments: intervals and tests."""
