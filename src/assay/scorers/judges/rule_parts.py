"""The criteria of a rubric that are rules, computed by the rubrics room beside what a judge is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from assay.records import Completion
from assay.rubrics.rubric import Criterion, Value


def rule_values(criteria: Sequence[Criterion], completions: Sequence[Completion]) -> list[Mapping[str, tuple[Value, str | None]]]:
    """N completions -> for each the values of the criteria by name, NaN with a reason."""
    raise NotImplementedError
