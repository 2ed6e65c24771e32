"""EvoTorch: operators for its populations, problems that start at a pre-trained network, and searchers."""
