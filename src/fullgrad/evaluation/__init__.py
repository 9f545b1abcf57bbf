"""Experiments: what the papers claim, measured. Nothing in the library imports them."""
