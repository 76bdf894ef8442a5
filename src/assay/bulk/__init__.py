"""Scoring files of any size."""
