"""Training tasks: what a model is trained to do, one module for each kind."""
