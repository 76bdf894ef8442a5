"""Whether a reward can be trusted while it is used: probes of what a policy would exploit, and what mends it."""
