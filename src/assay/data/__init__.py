"""Reading, splitting, rendering and packing of preference data."""
