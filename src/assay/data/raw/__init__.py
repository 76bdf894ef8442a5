"""From a path to numbered rows with cells and columns, before any form of them is known."""
