"""Evaluation of any scorer on any set of pairs."""
