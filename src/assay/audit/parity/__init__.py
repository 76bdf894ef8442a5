"""Is an artifact read everywhere as it was saved."""
