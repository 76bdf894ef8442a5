"""States of the frozen layers, computed once: where they are cut, kept and looked up."""
