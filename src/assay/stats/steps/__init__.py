"""Figures of scores and labels of steps, and from steps to one number."""
