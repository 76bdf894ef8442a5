"""A reward model on disk: the artifact, its golden vectors and card, ensembles, and plain transformers as the reference."""
