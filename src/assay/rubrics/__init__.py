"""Rubrics: what a judge is asked, and how its verdicts become one number."""
