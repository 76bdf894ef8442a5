"""From the votes of several judges to one: majority, votes weighted by accuracy, and Dawid and Skene's model. Pure functions.

A vote on a pair is P(the first answer is better): above a half it is for the first, below for the second, a half is a tie, and NaN
was not given: it counts for nobody.

Suffixes: N items, J judges, K classes, L labels that judges give.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from assay.stats.metrics import sigmoid

_STEPS, _CLOSE = 2000, 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class DawidSkene:
    """What N items are, judged by their labels alone. Dawid & Skene (1979).

    posterior_NK: chance of each class; prior_K: its share; confusion_JKL: what each judge says of an item of each class.
    has_converged: whether the chances had stopped moving after `num_steps`.
    """

    posterior_NK: np.ndarray
    prior_K: np.ndarray
    confusion_JKL: np.ndarray
    num_steps: int
    has_converged: bool


def majority(votes_NJ: np.ndarray) -> np.ndarray:
    """1 where more judges vote for the first answer, 0 for the second, 0.5 where as many vote for each: (N,), NaN without votes."""
    return _of_sums(votes_NJ, np.sign(directions(votes_NJ).sum(1)) / 2 + 0.5)


def weighted(votes_NJ: np.ndarray, weights_J: np.ndarray) -> np.ndarray:
    """P(the first answer is better) by judges who err independently, ties of no weight: (N,), NaN without votes.

    weights_J: log odds that a judge's vote is right. Source: Nitzan & Paroush (1982), "Optimal decision rules".
    """
    return _of_sums(votes_NJ, sigmoid(directions(votes_NJ) @ np.asarray(weights_J, dtype=np.float64)))


def log_odds_right(votes_NJ: np.ndarray, gold_N: np.ndarray) -> np.ndarray:
    """Log odds that each judge's vote is right, from labelled items: (J,), for `weighted`.

    gold_N: P(the first is better) of the label; ties of label or vote say nothing. A half is added to right and to wrong, so that a
    judge who never erred has no infinite weight (Haldane 1956).
    """
    agree_NJ = directions(votes_NJ) * np.sign(np.nan_to_num(np.asarray(gold_N, dtype=np.float64) - 0.5))[:, None]
    return np.log((agree_NJ > 0).sum(0) + 0.5) - np.log((agree_NJ < 0).sum(0) + 0.5)


def log_odds_agreed(votes_NJ: np.ndarray, *, smoothing: float = 0.5) -> np.ndarray:
    """The same without any label: Dawid and Skene's model whose two classes may change places, (J,) for `weighted`.

    A judge is right with one chance, whichever answer is the better one, and both are so equally often: nothing can be learned from
    which answer comes first. In data of preferences that is the better one, and a model that saw it would know the labels. Ties and
    gaps say nothing. smoothing: is added to right and to wrong votes. Raises ValueError for fewer than three judges, of whom votes
    alone cannot say who is right.
    """
    side_NJ = directions(votes_NJ)
    if side_NJ.shape[1] < 3:
        raise ValueError(
            f"{side_NJ.shape[1]} judges: votes without labels say who is right from three judges on; weigh by accuracy"
        )
    num_votes_J = np.abs(side_NJ).sum(0)
    weights_J, moved, num_steps = np.ones(side_NJ.shape[1]), math.inf, 0
    while moved > _CLOSE and num_steps < _STEPS:
        lead_N = 2 * sigmoid(side_NJ @ weights_J) - 1  # P(first is better) less P(second is)
        right_J = (num_votes_J + side_NJ.T @ lead_N) / 2 + smoothing
        before_J, weights_J = weights_J, np.log(right_J) - np.log(num_votes_J + 2 * smoothing - right_J)
        moved, num_steps = float(np.abs(weights_J - before_J).max()), num_steps + 1
    return weights_J


def dawid_skene(
    labels_NJ: np.ndarray,
    *,
    num_classes: int,
    smoothing: float = 0.01,
) -> DawidSkene:
    """Chance of each class by expectation maximisation, from what most judges say. Dawid & Skene (1979).

    labels_NJ: numbers from 0, NaN where a judge gave none; an item without labels has the prior. smoothing: is added to every
    count, so that what was never seen is not impossible.
    Raises ValueError for a label out of range.
    """
    labels_NJ = np.asarray(labels_NJ, dtype=np.float64)
    given = labels_NJ[~np.isnan(labels_NJ)]
    if np.any((given < 0) | (given >= num_classes) | (given % 1 > 0)):
        raise ValueError(f"labels are numbers from 0 to {num_classes - 1}, not {given.min():g} to {given.max():g}")
    said_NJL = (labels_NJ[:, :, None] == np.arange(num_classes)).astype(np.float64)
    votes_NK = said_NJL.sum(1) + 1e-3
    posterior_NK = votes_NK / votes_NK.sum(1, keepdims=True)
    moved, num_steps = math.inf, 0
    while moved > _CLOSE and num_steps < _STEPS:
        num_steps += 1
        prior_K = (posterior_NK.sum(0) + smoothing) / (len(labels_NJ) + num_classes * smoothing)
        counts_JKL = np.einsum("nk,njl->jkl", posterior_NK, said_NJL, optimize=True) + smoothing
        confusion_JKL = counts_JKL / counts_JKL.sum(2, keepdims=True)
        logs_NK = np.log(prior_K) + np.einsum("njl,jkl->nk", said_NJL, np.log(confusion_JKL), optimize=True)
        logs_NK -= logs_NK.max(1, keepdims=True, initial=-math.inf)
        before_NK, posterior_NK = posterior_NK, np.exp(logs_NK) / np.exp(logs_NK).sum(1, keepdims=True)
        moved = float(np.abs(posterior_NK - before_NK).max(initial=0.0))
    return DawidSkene(
        posterior_NK=posterior_NK,
        prior_K=prior_K,
        confusion_JKL=confusion_JKL,
        num_steps=num_steps,
        has_converged=moved <= _CLOSE,
    )


def directions(votes_NJ: np.ndarray) -> np.ndarray:
    """+1 for the first answer, -1 for the second, 0 for a tie and where there is no vote: (N, J)."""
    return np.nan_to_num(np.sign(np.asarray(votes_NJ, dtype=np.float64) - 0.5))


def right_of_two(votes_N: np.ndarray, gold_N: np.ndarray) -> np.ndarray:
    """1 where a vote is for the better answer, 0 for the other, 0.5 for a tie: of two answers a toss finds one. (N,), NaN without a
    vote or where the label is a tie. `metrics.is_right` counts a tie of scores as wrong instead."""
    side_N = np.sign(np.asarray(gold_N, dtype=np.float64) - 0.5)
    return np.where((side_N == 0) | np.isnan(votes_N), np.nan, np.sign(np.asarray(votes_N) - 0.5) * side_N / 2 + 0.5)


def _of_sums(votes_NJ: np.ndarray, found_N: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(np.asarray(votes_NJ, dtype=np.float64)).all(1), np.nan, found_N)
