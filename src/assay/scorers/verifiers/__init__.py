"""The built-in rules: what can be checked by code instead of being judged."""
