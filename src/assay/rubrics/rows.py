"""Rubrics that come with the prompts: the ground truth of each holds its own criteria under `rubric`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from assay.rubrics.rubric import Rubric
from assay.rubrics.rubric_file import rubric_from


def rubric_for(rubric: Rubric, ground_truth: Mapping[str, Any] | None) -> Rubric:
    """The rubric that an answer is judged by: the same for all, or with `per_row` the criteria that its ground truth brings.

    Those are in any form that `rubric_from` reads, and have the formula of their form. Raises ValueError, which is the reason why
    the answer has no reward, where the ground truth brings none or one that cannot be read.
    """
    if not rubric.per_row:
        return rubric
    brought = (ground_truth or {}).get("rubric")
    if brought is None:
        raise ValueError("the prompt brings no rubric: give its row a column rubric")
    own = rubric_from(brought, name=rubric.name)
    return replace(rubric, criteria=own.criteria, formula=own.formula, threshold=own.threshold, per_row=False)
