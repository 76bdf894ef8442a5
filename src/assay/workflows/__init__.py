"""Whole jobs over several packages."""
