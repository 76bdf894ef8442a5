"""Everything that gives rewards, behind one protocol."""
