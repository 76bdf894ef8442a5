"""assay data ..."""
