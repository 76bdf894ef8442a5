"""Figures of rewards for steps, beside baselines that look at nothing."""
