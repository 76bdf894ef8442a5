"""The value of each criterion for each answer: from a judge and rules, or from a table that somebody has made."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from assay.data.raw.rows import read_rows, unit_of
from assay.errors import DataError
from assay.generation.generator import Estimate
from assay.records import Completion
from assay.rubrics.learned import Judge, Values
from assay.rubrics.rubric import NOT_APPLICABLE, Criterion, Rubric, Value
from assay.scorers.judges.pointwise import PointwiseJudge
from assay.scorers.judges.rule_parts import RubricOfRules
from assay.wire import completion_from_row

_NO_SUCH = "no criterion of the rubric applies"


def values_of_judge(judge: PointwiseJudge | RubricOfRules) -> Judge:
    """A function that asks a judge of each criterion alone, so that each has a value of its own. Calls that the ledger knows cost
    nothing."""

    def values(criteria: Sequence[Criterion], completions: Sequence[Completion]) -> list[Values]:
        found: list[dict[str, Value]] = [{} for _ in completions]
        for criterion in criteria:
            rewards = _alone(judge, criterion).score(completions)
            for row, value, error in zip(found, rewards.value.tolist(), rewards.error or (), strict=True):
                row[criterion.name] = NOT_APPLICABLE if error is not None and _NO_SUCH in error else value
        return list(found)

    return values


def estimate_of_values(judge: PointwiseJudge, criteria: Sequence[Criterion], completions: Sequence[Completion]) -> Estimate:
    """What the values of criteria would cost, at most."""
    found = [_alone(judge, criterion).estimate(completions) for criterion in criteria if criterion.kind != "rule"]
    prices = [one.price for one in found]
    known = [price for price in prices if price is not None]
    return Estimate(
        num_calls=sum(one.num_calls for one in found),
        num_known=sum(one.num_known for one in found),
        input_tokens=sum(one.input_tokens for one in found),
        max_output_tokens=sum(one.max_output_tokens for one in found),
        price=sum(known) if len(known) == len(prices) else None,
    )


def _alone(judge: PointwiseJudge | RubricOfRules, criterion: Criterion) -> Any:
    """The judge of one criterion alone, whose reward is its value."""
    single = replace(judge.rubric, criteria=(replace(criterion, weight=1.0, gate=None, needs=""),), formula="sum")
    if isinstance(judge, RubricOfRules):
        return RubricOfRules(single, run_code=judge.parts.run_code)
    return PointwiseJudge(judge.generator, single, settings=judge.settings, rules=judge.rules)


def values_of_table(path: str | Path, rubric: Rubric) -> Judge:
    """A function that looks values up in a file of rows {prompt, response, criteria: {name: value}}.

    A value is a number in [0, 1], a verdict of the criterion ("yes", a choice, a number of its scale), or "not applicable"; null is
    no verdict. Raises DataError for a row that is no completion, a name that the rubric does not have, and no verdict of one.
    """
    known: dict[str, Values] = {}
    for number, row in read_rows(path):
        where = f"{path}, {unit_of(path)} {number}"
        if isinstance(row, str):
            raise DataError(f"{where}: {row}")
        try:
            criteria = row.get("criteria")
            if not isinstance(criteria, Mapping):
                raise ValueError("there is no mapping criteria: give {name: value} for each criterion")
            item = completion_from_row({name: value for name, value in row.items() if name in ("prompt", "response", "messages")})
            known[item.key] = {name: _value(rubric, name, value) for name, value in criteria.items()}
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"{where}: {str(error).strip(chr(34))}") from error
    return lambda criteria, completions: [known.get(item.key, {}) for item in completions]


def _value(rubric: Rubric, name: str, given: object) -> Value:
    criterion = rubric.criterion(name)
    if given is None:
        return math.nan
    if isinstance(given, float | int) and not isinstance(given, bool) and 0 <= given <= 1 and criterion.kind != "scale":
        return float(given)
    if not isinstance(given, str | float | int):
        raise ValueError(f"the value of {name!r} is {given!r:.40}: give a number in [0, 1] or a verdict")
    return criterion.value_of(given)
