"""assay audit ..."""
