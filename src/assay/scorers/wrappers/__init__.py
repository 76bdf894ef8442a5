"""Scorers that hold a scorer."""
