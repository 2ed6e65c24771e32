"""Mutation windows: how strong mutations may be at each density."""
