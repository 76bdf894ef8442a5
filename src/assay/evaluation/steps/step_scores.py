"""What a scorer says of solutions whose steps are labelled, from one pass: a reward for each step, and what it means.

Suffixes: N solutions, S steps of one of them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from assay.data.steps.labelled_steps import LabelledSteps
from assay.records import Rewards
from assay.scorers.base import ReadsSteps, Scorer, step_reader
from assay.scorers.wrappers.counted import Counted
from assay.stats.metrics import sigmoid
from assay.stats.steps.step_figures import StepLabels


class StepScores(NamedTuple):
    """scores: rewards of the steps of N solutions, NaN where there is none. probabilities: P(right) of the same steps. value (N,):
    reward of each solution. threshold: a step is taken to be right above it. said: where threshold and probabilities come from.
    reasons: why solutions or steps could not be scored -> how many solutions."""

    scores: tuple[np.ndarray, ...]
    probabilities: tuple[np.ndarray, ...]
    value: np.ndarray
    threshold: float
    said: str
    reasons: Mapping[str, int] = {}


def labels_of(items: Sequence[LabelledSteps]) -> StepLabels:
    """The labels of N solutions; solutions to one prompt are of one problem. Raises ValueError where there are none."""
    if not items:
        raise ValueError("there are no solutions with labelled steps: give at least one")
    return StepLabels.of([item.right for item in items], [item.prompt_key for item in items])


def score_steps(
    scorer: Scorer,
    items: Sequence[LabelledSteps],
    *,
    threshold: float | None = None,
    advance: Callable[[int], None] = lambda n: None,
) -> StepScores:
    """Ask a scorer for the steps of solutions. threshold: in place of the scorer's own.

    Without a threshold of its own, and none given, rewards that all lie in [0, 1] are taken for probabilities, with 0.5; others for
    log-odds, with 0. Raises ValueError for a scorer that gives no rewards of steps.
    """
    labels_of(items)
    rewards = Counted(scorer=scorer, advance=advance).score([item.completion for item in items])
    if rewards.steps is None:
        raise ValueError(
            "this scorer gives one reward for a whole solution and none for its steps: give a process reward model "
            "(docs/process.md), or evaluate it on pairs"
        )
    scores, reasons = _whole(rewards, items)
    return meant(scores, rewards.value.astype(np.float64), step_reader(scorer), threshold=threshold, reasons=reasons)


def meant(
    scores: Sequence[np.ndarray],
    value_N: np.ndarray,
    reads: ReadsSteps | None = None,
    *,
    threshold: float | None = None,
    reasons: Mapping[str, int] | None = None,
) -> StepScores:
    """Scores with what they mean: as the scorer says it, else as `score_steps` takes them."""
    flat = np.concatenate([*(np.asarray(one, np.float64) for one in scores), np.empty(0)])
    known = flat[~np.isnan(flat)]
    if reads is not None:
        probabilities = tuple(np.asarray(reads.step_probability(one), np.float64) for one in scores)
        own, said = float(reads.step_threshold), "the scorer's own threshold and probabilities"
    elif len(known) and known.min() >= 0 and known.max() <= 1:
        probabilities, own, said = tuple(np.asarray(one, np.float64) for one in scores), 0.5, "rewards taken for probabilities"
    else:
        probabilities = tuple(sigmoid(np.asarray(one, np.float64)) for one in scores)
        own, said = 0.0, "rewards taken for log-odds"
    if threshold is not None and not math.isfinite(threshold):
        raise ValueError(f"threshold {threshold} must be a number, in the unit of the step rewards")
    said = said if threshold is None else f"{said}; the threshold was given"
    return StepScores(
        tuple(np.asarray(one, np.float64) for one in scores),
        probabilities,
        value_N,
        own if threshold is None else threshold,
        said,
        dict(reasons or {}),
    )


def _whole(rewards: Rewards, items: Sequence[LabelledSteps]) -> tuple[list[np.ndarray], Counter[str]]:
    """A reward for each labelled step, NaN where there is none, and why."""
    assert rewards.steps is not None
    scores, reasons = [], Counter[str]()
    for steps, item, error in zip(rewards.steps, items, rewards.error or (), strict=True):
        found = np.asarray(steps, np.float64)
        size = len(item.right)
        if len(found) != size:
            found = np.full(size, math.nan)
            reasons[error or f"the scorer gave {len(steps)} rewards for {size} steps"] += 1
        elif np.isnan(found).any():
            reasons[error or "the scorer gave no reward for a step"] += 1
        scores.append(found)
    return scores, reasons
