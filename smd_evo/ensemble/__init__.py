"""Several children of one parent together: votes, and the file that holds them."""
