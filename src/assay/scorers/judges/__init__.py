"""Language models as judges: a rubric file is a scorer, and a verdict that was not given is never a number."""
