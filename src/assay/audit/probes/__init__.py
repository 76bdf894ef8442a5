"""Edits that are worth nothing, and whether they raise the reward."""
