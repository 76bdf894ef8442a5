"""The criteria of a rubric that are rules: computed beside what a judge is asked, or alone, where a rubric asks nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

from assay.files import json_digest
from assay.records import Completion, Rewards
from assay.rubrics.rubric import Criterion, Rubric, Value
from assay.scorers.base import Scope
from assay.scorers.verifiers.built_in import BuiltInRule, built_in_rule
from assay.scorers.verifiers.confined import RunCode

RuleRow: TypeAlias = Mapping[str, tuple[Value, str | None]]
"""The rules of one completion: name -> value, NaN with the reason."""


class RuleParts:
    """Built-in rules by criterion. run_code: whether code of answers may run."""

    def __init__(self, run_code: RunCode = "never") -> None:
        self.run_code = run_code
        self._known: dict[str, BuiltInRule] = {}

    def rule(self, criterion: Criterion) -> BuiltInRule:
        """The rule of a criterion. Raises ValueError as `built_in_rule`."""
        key = json_digest([criterion.rule, dict(criterion.settings)])
        if key not in self._known:
            self._known[key] = built_in_rule(criterion.rule, criterion.settings, run_code=self.run_code)
        return self._known[key]

    def values(self, criteria: Sequence[Criterion], completions: Sequence[Completion]) -> list[RuleRow]:
        """N completions -> for each the criteria's values by name, NaN with the reason where a rule could not tell."""
        found: list[dict[str, tuple[Value, str | None]]] = [{} for _ in completions]
        for criterion in criteria:
            rewards = self.rule(criterion).score(completions)
            for row, value, error in zip(found, rewards.value.tolist(), rewards.error or (), strict=True):
                row[criterion.name] = (math.nan, error) if error is not None else (criterion.value_of(value), None)
        return list(found)


class RubricOfRules:
    """A rubric that asks nothing of a judge, as a scorer: its rules' values by its formula. Raises ValueError as
    `built_in_rule`."""

    scope: Scope = "global"
    tolerance = 1e-6
    reads_ground_truth = True

    def __init__(self, rubric: Rubric, *, run_code: RunCode = "never") -> None:
        self.rubric, self.parts = rubric, RuleParts(run_code)
        prints = [self.parts.rule(criterion).fingerprint for criterion in rubric.criteria]
        self.fingerprint = f"rules:{json_digest([rubric.digest, prints])}"

    def score(self, completions: Sequence[Completion]) -> Rewards:
        """N completions -> N rewards of the rubric's formula; text: each rule with its value."""
        rows = self.parts.values(self.rubric.criteria, list(completions))
        outcomes = [combined_rules(self.rubric, row) for row in rows]
        return Rewards(
            value=np.array([value for value, _ in outcomes], np.float32),
            text=tuple("\n".join(rule_lines(row)) or None for row in rows),
            error=tuple(error for _, error in outcomes),
        )


def combined_rules(rubric: Rubric, values: RuleRow) -> tuple[float, str | None]:
    """The reward of a rubric of rules; NaN with the first reason."""
    for name, (_, error) in values.items():
        if error is not None:
            return math.nan, f"the rule {name!r}: {error}"
    combined = rubric.combine({name: value for name, (value, _) in values.items()})
    return combined.value, combined.error


def rules_of(rubric: Rubric) -> tuple[Criterion, ...]:
    """The criteria that are computed, not judged."""
    return tuple(criterion for criterion in rubric.criteria if criterion.kind == "rule")


def rule_lines(values: RuleRow) -> list[str]:
    """A line for each rule that gave a value."""
    given = [(name, value) for name, (value, error) in values.items() if error is None]
    return [f"{name}: {value if isinstance(value, str) else f'{value:.3f}'} (rule)" for name, value in given]
