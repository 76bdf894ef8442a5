"""How much of the margins surface features explain."""
