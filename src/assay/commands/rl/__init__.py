"""Commands of a policy against a reward model."""
