"""What a policy does with rewards."""
