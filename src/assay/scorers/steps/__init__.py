"""Scorers that give a reward for each step of a solution."""
