"""What watches a reward model: probes, drift, attribution."""
