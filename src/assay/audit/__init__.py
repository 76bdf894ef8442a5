"""Can a reward model be trusted: probes, drift, attribution, parity, overoptimisation."""
