"""Better answers at the same model: search that a scorer of steps leads."""
