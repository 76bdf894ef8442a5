"""A policy trained against a scorer, in one loop that can be read."""
