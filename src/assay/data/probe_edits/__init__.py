"""Edits of answers that are worth nothing, and the words that they put in."""
