"""Runs over many generations, which survive whatever ends them."""
