"""A scorer as the reward function of RL trainers."""
