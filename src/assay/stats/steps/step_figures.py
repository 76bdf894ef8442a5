"""Figures of process reward models from scores and labels of steps, each with an interval by problem. Numpy only, pure functions.

A step is taken to be right where its score is above a threshold. NaN is "could not be scored" in scores, "not known" in labels:
such steps are in no figure, and are counted. A solution is known to be right where all of its steps are, and known to be wrong
where a step is wrong and all before it are right; of every other solution it is not known where its first error is.

Level claimed: 95% intervals of `process_f1` and `prm_score` miss in at most 8% of data sets of 60 to 200 problems
(benchmarks/levels.py).

Suffixes: T steps of all solutions, N solutions, C problems, S samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np

from assay.stats.auroc_intervals import auroc_interval
from assay.stats.bootstrap import resampled_interval, resampled_sums
from assay.stats.mean_intervals import share_interval
from assay.stats.metrics import CHANGE, NO_INTERVAL, UNIT, Interval, auroc, mean
from assay.stats.steps.step_reductions import Reduced, reduce_values

NO_ERROR = -1.0
"""The index of the first error of a solution without one."""
Kind = Literal["right", "wrong", "unknown"]


class Figure(NamedTuple):
    """A figure with its interval; it rests on num_scored of num, in units that its function names."""

    value: float
    interval: Interval
    num_scored: int
    num: int


@dataclass(frozen=True, kw_only=True, eq=False)
class StepLabels:
    """What is known of the steps of N solutions.

    right: for each solution, the probability that each of its steps is right, NaN where it is not known. problem: (N,) labels of
    the problems, the unit of the intervals. Raises ValueError for a solution without steps, or problems of another number.
    """

    right: tuple[np.ndarray, ...]
    problem: np.ndarray

    def __post_init__(self) -> None:
        object.__setattr__(self, "right", tuple(np.asarray(right, np.float64) for right in self.right))
        object.__setattr__(self, "problem", np.unique(np.asarray(self.problem), return_inverse=True)[1])
        if len(self.problem) != len(self.right):
            raise ValueError(f"{len(self.problem)} problems for {len(self.right)} solutions: name the problem of each")
        if empty := [i for i, right in enumerate(self.right) if not len(right)]:
            raise ValueError(f"solution {empty[0]} has no steps: leave it out")

    @staticmethod
    def of(right: Sequence[Sequence[float | None]], problem: Sequence[Hashable]) -> StepLabels:
        """From lists, in which None is not known."""
        rows = tuple(np.array([math.nan if one is None else one for one in row], np.float64) for row in right)
        return StepLabels(right=rows, problem=np.array([str(one) for one in problem]))

    def __len__(self) -> int:
        return len(self.right)

    @cached_property
    def size_N(self) -> np.ndarray:
        return np.array([len(right) for right in self.right], np.int64)

    @cached_property
    def right_T(self) -> np.ndarray:
        """1 and 0 where the label says more likely right or wrong, 0.5 where it says neither, NaN where it is not known."""
        return np.sign(np.concatenate([*self.right, np.empty(0)]) - 0.5) / 2 + 0.5

    @cached_property
    def place_T(self) -> np.ndarray:
        """Index of each step in its solution, from 0."""
        return np.concatenate([np.arange(size) for size in self.size_N] or [np.empty(0, np.int64)])

    @cached_property
    def problem_T(self) -> np.ndarray:
        return np.repeat(self.problem, self.size_N)

    @cached_property
    def first_error_N(self) -> np.ndarray:
        """(N,): index of the first wrong step, `NO_ERROR` where all are right, NaN where it is not known."""
        return np.array([_first(right, 0.5, at_most=False) for right in self.right], np.float64)

    @cached_property
    def is_wrong_N(self) -> np.ndarray:
        """(N,): known to hold an error."""
        return self.first_error_N >= 0

    @cached_property
    def is_right_N(self) -> np.ndarray:
        """(N,): known to hold none."""
        return self.first_error_N == NO_ERROR

    def scores_T(self, scores: Sequence[np.ndarray]) -> np.ndarray:
        """The scores of all steps one behind the other. Raises ValueError where a solution has not one for each step."""
        if len(scores) != len(self):
            raise ValueError(f"scores of {len(scores)} solutions for labels of {len(self)}")
        for i, (score_S, right_S) in enumerate(zip(scores, self.right, strict=True)):
            if len(score_S) != len(right_S):
                raise ValueError(f"solution {i} has {len(right_S)} steps and {len(score_S)} scores: give NaN where there is none")
        return np.concatenate([*(np.asarray(one, np.float64) for one in scores), np.empty(0)])


def found_errors(scores: Sequence[np.ndarray], threshold: float) -> np.ndarray:
    """(N,): index of the first step whose score is not above the threshold, `NO_ERROR` where all are; NaN where a step without a
    score stands before any such."""
    return np.array([_first(np.asarray(score_S, np.float64), threshold, at_most=True) for score_S in scores], np.float64)


def exact(found_N: np.ndarray, labels: StepLabels) -> np.ndarray:
    """(N,): 1 where the first error is found, or none is where there is none, else 0; NaN where either is not known."""
    unknown_N = np.isnan(found_N) | np.isnan(labels.first_error_N)
    return np.where(unknown_N, np.nan, (found_N == labels.first_error_N).astype(np.float64))


def first_error_accuracy(found_N: np.ndarray, labels: StepLabels, *, of: Literal["wrong", "right", "all"] = "wrong") -> Figure:
    """Share of solutions whose first error is found exactly: of the wrong ones, of the right ones (none is found), or of all.

    Num counts the solutions that are known to be so.
    """
    known_N = {"wrong": labels.is_wrong_N, "right": labels.is_right_N, "all": labels.is_wrong_N | labels.is_right_N}[of]
    exact_N = exact(found_N, labels)[known_N]
    return share(exact_N, labels.problem[known_N])


def share(values_N: np.ndarray, problem_N: np.ndarray) -> Figure:
    """Mean of values in [0, 1], NaN left out."""
    return Figure(mean(values_N), share_interval(values_N, problem_N), int((~np.isnan(values_N)).sum()), len(values_N))


def process_f1(found_N: np.ndarray, labels: StepLabels, parts_N: Sequence[Hashable] | None = None, *, seed: int) -> Figure:
    """F1 of ProcessBench: harmonic mean of the exact accuracy on wrong solutions and that on right ones; the mean of its parts.

    parts_N: (N,) part of each solution; one part when left out. Raises ValueError where a part lacks one of the two kinds: no
    harmonic mean is defined there. Num counts solutions that are known to be right or wrong. Source: Zheng et al. (2024),
    "ProcessBench", and its run_eval.py.
    """
    names = ["all"] * len(labels) if parts_N is None else [str(part) for part in parts_N]
    exact_N, kinds = exact(found_N, labels), sorted(set(names))
    columns: list[np.ndarray] = []
    for name in kinds:
        is_in_N = np.array([one == name for one in names])
        for kind, is_kind_N in (("wrong", labels.is_wrong_N), ("right", labels.is_right_N)):
            chosen_N = is_in_N & is_kind_N & ~np.isnan(exact_N)
            if not chosen_N.any():
                raise ValueError(f"F1 needs right and wrong solutions, and {name!r} has no {kind} one that is scored: leave it out")
            columns += [np.where(chosen_N, exact_N, 0.0), chosen_N.astype(np.float64)]
    sums_CK = _by_problem(np.stack(columns, axis=1), labels.problem)

    def f1(sums: np.ndarray) -> np.ndarray:
        """(..., 4 x parts) -> (...): NaN where a kind is drawn nowhere."""
        with np.errstate(divide="ignore", invalid="ignore"):
            shares = sums[..., 0::2] / sums[..., 1::2]
            wrong, right = shares[..., 0::2], shares[..., 1::2]
            both = np.where(wrong + right == 0, 0.0, 2 * wrong * right / (wrong + right))
        return both.mean(axis=-1)

    known_N = labels.is_wrong_N | labels.is_right_N
    return _ratio_figure(f1, sums_CK, int((known_N & ~np.isnan(exact_N)).sum()), int(known_N.sum()), seed=seed)


def prm_score(scores: Sequence[np.ndarray], labels: StepLabels, threshold: float, *, seed: int) -> Figure:
    """Half the F1 of the right steps and half that of the wrong ones, pooled over all steps with a label. An F1 without any such
    step, found or labelled, is 0. Num counts steps.

    PRMBench gives no part of it to the unmodified solutions, and takes a model's redundancy for its classes redundency and circular
    where it has one: leave out and choose before. Source: Song et al. (2025), "PRMBench", section 3.3.
    """
    score_T = labels.scores_T(scores)
    sums_CK = _confusions(score_T, threshold, ~np.isnan(score_T), labels)
    num = int((np.abs(labels.right_T - 0.5) == 0.5).sum())
    return _ratio_figure(_half_and_half, sums_CK, int(sums_CK.sum()), num, seed=seed)


def prm_score_gain(
    scores: Sequence[np.ndarray], rival: Sequence[np.ndarray], labels: StepLabels, thresholds: tuple[float, float], *, seed: int
) -> Figure:
    """`prm_score` less that of a rival, each at its threshold, on the steps that both score; the same problems are drawn for
    both."""
    both = [labels.scores_T(one) for one in (scores, rival)]
    scored_T = ~np.isnan(both[0]) & ~np.isnan(both[1])
    parts = [_confusions(one, threshold, scored_T, labels) for one, threshold in zip(both, thresholds, strict=True)]

    def gain(sums: np.ndarray) -> np.ndarray:
        return _half_and_half(sums[..., :4]) - _half_and_half(sums[..., 4:])

    num = int((np.abs(labels.right_T - 0.5) == 0.5).sum())
    return _ratio_figure(gain, np.concatenate(parts, axis=1), int(parts[0].sum()), num, seed=seed, possible=CHANGE)


def _confusions(score_T: np.ndarray, threshold: float, scored_T: np.ndarray, labels: StepLabels) -> np.ndarray:
    """(C, 4) steps of each problem: right and found right, wrong and found right, right and found wrong, wrong and found wrong."""
    with np.errstate(invalid="ignore"):
        found_T = score_T > threshold
    kinds = [(found_T == found) & (labels.right_T == right) & scored_T for found in (True, False) for right in (1, 0)]
    return _by_problem(np.stack(kinds, axis=1).astype(np.float64), labels.problem_T)


def _half_and_half(sums: np.ndarray) -> np.ndarray:
    """Half the F1 of either class of `_confusions` in the last axis."""
    both_right, only_found, only_labelled, both_wrong = (sums[..., k] for k in range(4))
    missed = only_found + only_labelled
    with np.errstate(divide="ignore", invalid="ignore"):
        halves = [np.where(both == 0, 0.0, 2 * both / (2 * both + missed)) for both in (both_right, both_wrong)]
    return (halves[0] + halves[1]) / 2


def step_auroc(scores: Sequence[np.ndarray], labels: StepLabels) -> Figure:
    """P(a right step scores above a wrong one), ties as half, over all steps with a label. Num counts steps."""
    score_T, right_T = labels.scores_T(scores), np.where(labels.right_T == 0.5, np.nan, labels.right_T)
    num_scored = int((~np.isnan(score_T) & ~np.isnan(right_T)).sum())
    interval = auroc_interval(score_T, right_T, labels.problem_T)
    return Figure(auroc(score_T, right_T), interval, num_scored, int((~np.isnan(right_T)).sum()))


def reduced(scores: Sequence[np.ndarray], how: Reduced) -> np.ndarray:
    """(N,) float64: one number of the scores of each solution; NaN for no steps, and where a step has no score.

    product: a sum of logarithms, exact in the order of solutions where the product itself would underflow; it takes probabilities.
    Raises ValueError for others.
    """
    return np.array([reduce_values(score_S, how) for score_S in scores], np.float64)


def above(better_P: np.ndarray, worse_P: np.ndarray, problem_P: np.ndarray) -> Figure:
    """Share of P couples in which the first scores above the second; ties are half. Num counts couples."""
    better_P, worse_P = np.asarray(better_P, np.float64), np.asarray(worse_P, np.float64)
    with np.errstate(invalid="ignore"):
        value_P = (np.sign(better_P - worse_P) + 1) / 2
    value_P = np.where(better_P == worse_P, 0.5, value_P)  # two infinite ones
    return share(value_P, np.asarray(problem_P))


def right_above_wrong(reward_N: np.ndarray, labels: StepLabels) -> Figure:
    """`above` of all couples of a right and a wrong solution to one problem. Num counts couples."""
    rights, wrongs = [], []
    for c in np.unique(labels.problem):
        mine_N = labels.problem == c
        right, wrong = np.flatnonzero(mine_N & labels.is_right_N), np.flatnonzero(mine_N & labels.is_wrong_N)
        rights += np.repeat(right, len(wrong)).tolist()
        wrongs += np.tile(wrong, len(right)).tolist()
    return above(reward_N[rights], reward_N[wrongs], labels.problem[rights])


class Fitted(NamedTuple):
    """A threshold, and what the figure that it was chosen for is there."""

    threshold: float
    value: float


def fit_threshold(scores: Sequence[np.ndarray], labels: StepLabels) -> Fitted:
    """The threshold with the best F1 of ProcessBench, or with the best exact accuracy where one kind of solution is absent.

    Of thresholds that are equally good the middle of the widest range is taken. Solutions with a step that has no score are left
    out. The value is flattered: report it on other problems. Raises ValueError where nothing is scored or labelled.
    """
    ranges: dict[bool, list[tuple[float, float]]] = {True: [], False: []}  # from which threshold up to below which it is exact
    for score_S, first in zip(scores, labels.first_error_N, strict=True):
        if not math.isnan(first) and not np.isnan(score_S).any():
            before = score_S[: int(first)] if first >= 0 else score_S
            ranges[first >= 0].append(
                (float(score_S[int(first)]) if first >= 0 else -math.inf, float(before.min(initial=math.inf)))
            )
    if not ranges[True] and not ranges[False]:
        raise ValueError("there is no scored solution that is known to be right or wrong: nothing to fit a threshold on")
    ends = np.unique([end for both in ranges.values() for one in both for end in one if math.isfinite(end)])
    tried = np.array([ends[0] - 1.0, *((ends[1:] + ends[:-1]) / 2), ends[-1]])
    shares = [_shares_within(np.array(both), tried) for both in ranges.values() if both]
    with np.errstate(invalid="ignore"):
        values = shares[0] if len(shares) == 1 else 2 * shares[0] * shares[1] / (shares[0] + shares[1])
    values = np.where(np.isnan(values), 0.0, values)
    chosen = _middle_of_best(values)
    return Fitted(float(tried[chosen]), float(values[chosen]))


def _shares_within(ranges_N2: np.ndarray, tried: np.ndarray) -> np.ndarray:
    """For each threshold the share of ranges [low, high) that it lies in."""
    low_N, high_N = ranges_N2[:, 0], ranges_N2[:, 1]
    is_range_N = low_N < high_N
    begun = np.searchsorted(np.sort(low_N[is_range_N]), tried, side="right")
    over = np.searchsorted(np.sort(high_N[is_range_N]), tried, side="right")
    return (begun - over) / len(ranges_N2)


def _middle_of_best(values: np.ndarray) -> int:
    """The middle of the longest run of the largest value."""
    is_best = values >= values.max() - 1e-12
    edges = np.flatnonzero(np.diff(np.concatenate([[False], is_best, [False]]).astype(np.int64)))
    begin, end = max(zip(edges[::2], edges[1::2], strict=True), key=lambda run: run[1] - run[0])
    return int((begin + end - 1) // 2)


def _first(score_S: np.ndarray, threshold: float, *, at_most: bool) -> float:
    """Index of the first that is below the threshold (or at it, with at_most); NaN where one that is NaN stands before."""
    with np.errstate(invalid="ignore"):
        is_bad_S = score_S <= threshold if at_most else score_S < threshold
    first = int(np.argmax(is_bad_S)) if is_bad_S.any() else len(score_S)
    if np.isnan(score_S[:first]).any():
        return math.nan
    return float(first) if first < len(score_S) else NO_ERROR


def _by_problem(columns: np.ndarray, problem: np.ndarray) -> np.ndarray:
    """Sums of each column over the rows of each problem: (C, K)."""
    index, sums = np.unique(problem, return_inverse=True)[1], []
    for column in columns.T:
        sums.append(np.bincount(index, weights=column))
    return np.stack(sums, axis=1)


def _ratio_figure(
    statistic: Callable[[np.ndarray], np.ndarray],
    sums_CK: np.ndarray,
    num_scored: int,
    num: int,
    *,
    seed: int,
    possible: Interval = UNIT,
) -> Figure:
    value = float(statistic(sums_CK.sum(axis=0)))
    if not num_scored:
        return Figure(math.nan, NO_INTERVAL, 0, num)
    samples_S = statistic(resampled_sums(sums_CK, seed=seed))
    return Figure(value, resampled_interval(samples_S, value, possible, len(sums_CK)), num_scored, num)
