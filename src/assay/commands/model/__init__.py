"""assay model ..."""
