"""assay rubric ..."""
