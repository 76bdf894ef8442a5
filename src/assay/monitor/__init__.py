"""What watches a reward model: probes of what a policy would exploit, what mends it, drift, attribution."""
