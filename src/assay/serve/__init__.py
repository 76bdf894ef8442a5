"""The reward service: rewards over HTTP, in the forms that trainers already speak."""
