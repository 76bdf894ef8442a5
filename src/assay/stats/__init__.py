"""Statistics in plain numpy: metrics, tests, intervals."""
