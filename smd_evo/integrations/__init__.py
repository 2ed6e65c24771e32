"""Adapters to other libraries: they translate, the core computes."""
