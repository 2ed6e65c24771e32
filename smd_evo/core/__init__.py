"""The method itself: pure functions of keys and tensors. No hosts, no files, no global state."""
