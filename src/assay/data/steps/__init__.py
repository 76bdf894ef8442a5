"""Solutions cut into steps, each with what is known of it: cut, read, checked, and laid out as tokens."""
