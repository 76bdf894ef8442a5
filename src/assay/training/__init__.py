"""From pairs and a base to a reward model."""
