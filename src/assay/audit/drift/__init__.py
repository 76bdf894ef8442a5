"""Is new text still like what the model was trained on."""
