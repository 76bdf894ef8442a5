"""Backbones, heads, the packed reward model and its artifact."""
