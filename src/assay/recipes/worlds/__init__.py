"""Worlds of problems with candidate solutions: each a function from settings to solutions with labelled steps."""
