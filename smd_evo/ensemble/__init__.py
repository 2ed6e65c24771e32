"""Several children of one parent together: choice, combination, one module, its file; how they differ."""
