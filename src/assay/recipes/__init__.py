"""Made worlds, in which every label is exact: what is to be shown about a method can be shown there."""
