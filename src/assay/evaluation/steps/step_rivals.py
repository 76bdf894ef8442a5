"""What a process model has to beat: scorers of steps that look at nothing but place and length. Suffixes: N solutions, S steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from assay.stats.metrics import mean
from assay.stats.steps.step_figures import Figure, StepLabels, share

ALL_RIGHT, ALL_WRONG, SECOND_HALF = "all right", "all wrong", "the second half is wrong"
POSITION, LENGTH = "position", "length"
RANDOM_STEP, LONGEST_STEP = "a random step", "the longest step"
HALF = 0.5
"""The threshold of these scorers."""


class StepRival(NamedTuple):
    """name, and a score for each step of N solutions; `HALF` is its threshold where it decides."""

    name: str
    scores: tuple[np.ndarray, ...]


def deciding_rivals(labels: StepLabels) -> tuple[StepRival, ...]:
    """Those that call steps right or wrong: all, none, and the first half (the middle step of an odd number among them)."""
    sizes = labels.size_N
    return (
        StepRival(ALL_RIGHT, tuple(np.ones(size) for size in sizes)),
        StepRival(ALL_WRONG, tuple(np.zeros(size) for size in sizes)),
        StepRival(SECOND_HALF, tuple((np.arange(size) < size / 2).astype(np.float64) for size in sizes)),
    )


def ranking_rivals(labels: StepLabels, lengths: Sequence[np.ndarray]) -> tuple[StepRival, ...]:
    """Those that rank steps: the earlier is right, the shorter is right. lengths: characters of each step."""
    return (
        StepRival(POSITION, tuple(-np.arange(size, dtype=np.float64) for size in labels.size_N)),
        StepRival(LENGTH, tuple(-np.asarray(one, np.float64) for one in lengths)),
    )


class Guess(NamedTuple):
    """A way to name the first error without a look: its name, and how often it is exact on wrong solutions."""

    name: str
    figure: Figure


def guesses(labels: StepLabels, lengths: Sequence[np.ndarray]) -> tuple[Guess, ...]:
    """A random step, the step number that is most often the first error here (flattered: it is chosen on these labels), the longest
    step, and the first of the second half."""
    wrong = np.flatnonzero(labels.is_wrong_N)
    if not len(wrong):
        return ()
    first_W, problem_W, size_W = labels.first_error_N[wrong], labels.problem[wrong], labels.size_N[wrong]
    places, counts = np.unique(first_W, return_counts=True)
    usual = int(places[np.argmax(counts)])
    longest_W = np.array([int(np.argmax(lengths[int(i)])) for i in wrong])
    rows = (
        (RANDOM_STEP, 1 / size_W),
        (f"always step {usual + 1}", first_W == usual),
        (LONGEST_STEP, first_W == longest_W),
        (SECOND_HALF, first_W == np.ceil(size_W / 2)),
    )
    return tuple(Guess(name, share(np.asarray(value_W, np.float64), problem_W)) for name, value_W in rows)


class Tilt(NamedTuple):
    """Over couples of right steps of one solution: how often the one that is later (longer) scores above. 0.5 is neutral."""

    name: str
    figure: Figure


LATER, LONGER = "the later of two right steps scores higher", "the longer of two right steps scores higher"


def tilts(scores: Sequence[np.ndarray], labels: StepLabels, lengths: Sequence[np.ndarray]) -> tuple[Tilt, ...]:
    """Reward against position and against length among steps that are right, so that neither can be knowledge of errors.

    Each solution counts as the mean over its couples; couples of equal length are left out. Num counts solutions with two right
    steps, num_scored those with a couple that is scored.
    """
    found: dict[str, list[float]] = {LATER: [], LONGER: []}
    problems = []
    for i, (score_S, right_S) in enumerate(zip(scores, labels.right, strict=True)):
        with np.errstate(invalid="ignore"):
            right = np.flatnonzero(right_S > 0.5)
        if len(right) < 2:
            continue
        early, late = np.triu_indices(len(right), 1)
        rise = _sign(score_S[right[late]] - score_S[right[early]])
        longer = np.sign(np.asarray(lengths[i])[right[late]] - np.asarray(lengths[i])[right[early]])
        found[LATER].append(mean((rise + 1) / 2))
        found[LONGER].append(mean(np.where(longer == 0, np.nan, (rise * longer + 1) / 2)))
        problems.append(labels.problem[i])
    return tuple(Tilt(name, share(np.array(values or [math.nan]), np.array(problems or [0]))) for name, values in found.items())


def _sign(difference: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return np.sign(difference)
