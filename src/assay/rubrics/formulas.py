"""How the values of criteria become one number: each formula by its name, with the program or paper that it is taken from.

w is a criterion's weight, v its value in [0, 1]; sums are over the criteria that apply.

    points         sum wv / sum of positive w     HealthBench: an item may be below 0, only the mean over items is clipped
    mean           sum wv / sum w                 Rubrics as Rewards, eq. 1; verifiers v1; RewardKit's weighted-mean
    clipped        points, cut to [0, 1]          autorubric; with penalties alone 1 + sum wv / sum |w|, cut to [0, 1]
    sum            sum wv                         RewardKit's weighted-sum
    all-pass       1 if every v is 1              RewardKit; any-pass: some v; required-pass: every v that is not optional
    threshold      1 if mean >= the threshold     RewardKit

Weights that a formula cannot divide by are refused where a rubric is made, and are a reason where only some criteria apply.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

Formula = Literal["points", "mean", "clipped", "sum", "all-pass", "any-pass", "required-pass", "threshold"]


class Weighted(NamedTuple):
    """A criterion that applies: its weight, its value in [0, 1], and whether it may fail in required-pass."""

    weight: float
    value: float
    is_optional: bool = False


def apply_formula(formula: Formula, parts: Sequence[Weighted], threshold: float = 0.5) -> float:
    """One number from weighted values. Raises ValueError where the weights leave nothing to divide by."""
    if (why := why_undefined(formula, parts)) is not None:
        raise ValueError(why)
    return _FORMULAS[formula](parts, threshold)


def why_undefined(formula: Formula, parts: Sequence[Weighted]) -> str | None:
    """Why the formula gives no number for these weights, None where it gives one."""
    positive = sum(part.weight for part in parts if part.weight > 0)
    match formula:
        case "points" if positive <= 0:
            return "no criterion has positive points to divide by"
        case "mean" | "threshold" if sum(part.weight for part in parts) <= 0:
            return f"the weights sum to {sum(part.weight for part in parts):g}, and must sum to more than 0"
        case "clipped" | "sum" if all(part.weight == 0 for part in parts):
            return "all weights are 0"
        case "required-pass" if all(part.is_optional for part in parts):
            return "every criterion is optional, and required-pass needs one that is not"
    return None


def _total(parts: Sequence[Weighted]) -> float:
    return sum(part.weight * part.value for part in parts)


def _mean(parts: Sequence[Weighted]) -> float:
    return _total(parts) / sum(part.weight for part in parts)


def _clipped(parts: Sequence[Weighted]) -> float:
    positive = sum(part.weight for part in parts if part.weight > 0)
    share = _total(parts) / positive if positive > 0 else 1 + _total(parts) / sum(-part.weight for part in parts)
    return max(0.0, min(1.0, share))


_FORMULAS: Mapping[Formula, Callable[[Sequence[Weighted], float], float]] = {
    "points": lambda parts, _: _total(parts) / sum(part.weight for part in parts if part.weight > 0),
    "mean": lambda parts, _: _mean(parts),
    "clipped": lambda parts, _: _clipped(parts),
    "sum": lambda parts, _: _total(parts),
    "all-pass": lambda parts, _: float(all(part.value >= 1 for part in parts)),
    "any-pass": lambda parts, _: float(any(part.value >= 1 for part in parts)),
    "required-pass": lambda parts, _: float(all(part.value >= 1 for part in parts if not part.is_optional)),
    "threshold": lambda parts, threshold: float(_mean(parts) >= threshold),
}
