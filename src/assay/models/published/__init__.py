"""Reward models that others publish: looked at, loaded as they lie, and adopted as artifacts."""
