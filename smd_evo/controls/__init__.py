"""What costs next to nothing, to be subtracted from what evolution gains: controls that fit a few numbers."""
