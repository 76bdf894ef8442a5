"""Reward models that write: fine-tuning on critiques and verdicts, in stages."""
