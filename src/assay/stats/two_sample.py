"""Two samples held against each other by exchanging whole prompts between them: figures, p-values, thresholds.

Suffixes: N rows of both samples, S exchanges (the first is none), C prompts, K figures, B bins, D hidden size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from assay.stats.metrics import mid_ranks

NUM_BINS = 10  # of the population stability index


class DriftTest(NamedTuple):
    """A figure of a new set, what it must exceed to alarm, and its p-value, adjusted for all tests of the set."""

    name: str
    value: float
    threshold: float
    p: float


def decile_edges(values_N: np.ndarray) -> np.ndarray:
    """The inner edges of bins that hold a tenth of the values each; fewer where values are equal."""
    return np.unique(np.quantile(values_N, np.linspace(0, 1, NUM_BINS + 1)[1:-1]))


def mmd_exchanged(states_ND: np.ndarray, prompt_N: np.ndarray, assign_SC: np.ndarray) -> np.ndarray:
    """(S,) squared maximum mean discrepancy of N rows under S exchanges; assign_SC: (S, C) bool, the second sample's prompts.

    Unbiased: about 0 when both samples are of one distribution, and also below. Kernel exp(-d^2 / (2 m^2)), m the median distance
    of all couples. Two answers to one prompt are no couple: they are alike whatever the distribution. Source: Gretton et al.
    (2012), "A Kernel Two-Sample Test", eq. 3 and section 8.
    """
    rows = np.asarray(states_ND, np.float32)
    square_N = np.square(rows).sum(axis=1)
    distance_NN = np.maximum(square_N[:, None] + square_N[None] - 2 * (rows @ rows.T), 0.0)
    apart_NN = prompt_N[:, None] != prompt_N[None]
    middle = float(np.median(distance_NN[apart_NN])) or 1.0
    kernel_NN = np.where(apart_NN, np.exp(-distance_NN / (2 * middle)), 0.0)
    order = np.argsort(prompt_N, kind="stable")
    size_C = np.bincount(prompt_N).astype(np.float64)
    starts_C = (np.cumsum(size_C) - size_C).astype(np.int64)
    kernel_CC = np.add.reduceat(np.add.reduceat(kernel_NN[order][:, order].astype(np.float64), starts_C, axis=0), starts_C, axis=1)
    new_SC = assign_SC.astype(np.float64)
    old_SC = 1 - new_SC

    def mean(left_SC: np.ndarray, right_SC: np.ndarray) -> np.ndarray:
        couples_S = (left_SC @ size_C) * (right_SC @ size_C) - (left_SC * right_SC) @ size_C**2
        return np.einsum("sc,sc->s", left_SC @ kernel_CC, right_SC) / np.maximum(couples_S, 1.0)

    return mean(new_SC, new_SC) + mean(old_SC, old_SC) - 2 * mean(new_SC, old_SC)


def ks_exchanged(values_N: np.ndarray, is_new_SN: np.ndarray) -> np.ndarray:
    """(S,) largest difference of the samples' empirical distribution functions, in [0, 1], under S exchanges.

    is_new_SN: (S, N) 1 where a row is the second sample's. Source: Kolmogorov (1933), Smirnov (1948).
    """
    order = np.argsort(values_N, kind="stable")
    last_of_run = np.flatnonzero(np.diff(values_N[order], append=np.inf))
    sorted_SN = is_new_SN[:, order]
    new_SN = np.cumsum(sorted_SN, axis=1, dtype=np.float64)[:, last_of_run]
    all_N = (last_of_run + 1).astype(np.float64)
    num_new_S = is_new_SN.sum(axis=1, dtype=np.float64)[:, None]
    gap_SN = new_SN / num_new_S - (all_N - new_SN) / (len(values_N) - num_new_S)
    return np.abs(gap_SN).max(axis=1)


def psi_exchanged(values_N: np.ndarray, is_new_SN: np.ndarray, edges_B: np.ndarray) -> np.ndarray:
    """(S,) population stability index under S exchanges: sum over bins of (q - p) log(q / p), half an answer added to each bin.

    By custom above 0.1 is some shift, above 0.25 a large one; in small samples chance alone exceeds that, hence the exchanges.
    Source: Siddiqi (2006), "Credit Risk Scorecards"; it is Jeffreys' divergence.
    """
    bin_N = np.searchsorted(edges_B, values_N, side="right")
    one_hot_NB = np.eye(len(edges_B) + 1, dtype=np.float32)[bin_N]
    new_SB = (is_new_SN @ one_hot_NB).astype(np.float64) + 0.5
    old_SB = ((1 - is_new_SN) @ one_hot_NB).astype(np.float64) + 0.5
    q_SB, p_SB = new_SB / new_SB.sum(axis=1, keepdims=True), old_SB / old_SB.sum(axis=1, keepdims=True)
    return ((q_SB - p_SB) * np.log(q_SB / p_SB)).sum(axis=1)


def auroc_exchanged(values_N: np.ndarray, is_new_SN: np.ndarray) -> np.ndarray:
    """(S,) chance that a row of the second sample lies above one of the first, under S exchanges."""
    num_new_S = is_new_SN.sum(axis=1, dtype=np.float64)
    above_S = is_new_SN.astype(np.float64) @ mid_ranks(values_N) - num_new_S * (num_new_S + 1) / 2
    return above_S / (num_new_S * (len(values_N) - num_new_S))


def adjusted(values: Mapping[str, np.ndarray], level: float) -> tuple[DriftTest, ...]:
    """Tests from figures (S,) under every exchange, the first being what was seen; threshold: the least figure that alarms.

    A p-value is adjusted by the smallest p of all figures under each exchange, so that the chance of any alarm is `level`: the
    single-step minP of Westfall & Young (1993), "Resampling-Based Multiple Testing", section 2.3.
    """
    values_KS = np.stack(list(values.values()))
    num_drawn = values_KS.shape[1]
    rounded_KS = np.round(values_KS, 10)  # equal figures summed in another order are equal
    ascending_KS = np.sort(rounded_KS, axis=1)
    below_KS = [np.searchsorted(row, own, side="left") for row, own in zip(ascending_KS, rounded_KS, strict=True)]
    p_KS = (num_drawn - np.stack(below_KS)) / num_drawn
    least_S = np.sort(p_KS.min(axis=0))
    adjusted_K = np.searchsorted(least_S, p_KS[:, 0] + 1e-12, side="right") / num_drawn
    allowed = [p for p in np.unique(least_S) if np.searchsorted(least_S, p + 1e-12, side="right") / num_drawn <= level]
    tests = []
    for k, name in enumerate(values):
        reached = rounded_KS[k][p_KS[k] <= allowed[-1] + 1e-12] if allowed else np.empty(0)
        threshold = float(reached.min()) if len(reached) else math.nan
        tests.append(DriftTest(name, float(values_KS[k, 0]), threshold, float(adjusted_K[k])))
    return tuple(tests)
