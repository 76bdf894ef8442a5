"""What best-of-n would bring, from candidates that were recorded, unbiased.

Suffixes: P prompts, N candidates of a prompt, M values of n, G groups of candidates with equal proxy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import gammaln

from assay.errors import DataError
from assay.stats.mean_intervals import mean_interval
from assay.stats.metrics import NO_INTERVAL, Interval
from assay.wire import report_from_json

BY_SIZE, REWARD_GAINED = "best-of-n", "reward gained"
"""The table of a report of `assay audit best-of-n` with a row for each n, and its column of the proxy in its own unit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BestOfN:
    """Best-of-n at M values of n: mean gold of the candidate with the highest proxy among n drawn without replacement.

    sizes, gold, low, high (95%, prompts resampled), kl: (M,). kl: log n - (n - 1) / n in nats, an upper bound of the policy's
    distance from its base (Beirami et al. 2024). num_prompts: (M,) that have n scored candidates. reward: (M,) what the proxy
    gains over a random choice, in its own unit; None where it is not known.
    """

    sizes: np.ndarray
    gold: np.ndarray
    low: np.ndarray
    high: np.ndarray
    kl: np.ndarray
    num_prompts: np.ndarray
    reward: np.ndarray | None = None


def read_best_of_n(path: Path) -> BestOfN:
    """The curve that `assay audit best-of-n` kept as eval/best-of-n-NAME.json, of prompts that have the largest n of candidates.

    Raises DataError for a file that is none: a report of labelled steps has no gold, and candidates have to be scored first.
    """
    hint = "give the eval/best-of-n-NAME.json that assay audit best-of-n kept of candidates with gold"
    try:
        report = report_from_json(path.read_text(encoding="utf-8"))
        table = next(table for table in report.tables if table.title == BY_SIZE)
        rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
        columns = {name: np.array([float(str(row[name])) for row in rows]) for name in ("n", "gold", "low", "high")}
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error}): {hint}") from None
    except (ValueError, KeyError, TypeError, StopIteration):
        raise DataError(f"{path} is no curve of best-of-n: {hint}") from None
    sizes = columns["n"].astype(np.int64)
    counted = next((metric.n_scored for metric in report.metrics if metric.n_scored), 0)
    return BestOfN(
        sizes=sizes,
        gold=columns["gold"],
        low=columns["low"],
        high=columns["high"],
        kl=best_of_n_kl(sizes),
        num_prompts=np.full(len(sizes), counted),
        reward=np.array([float(str(row[REWARD_GAINED])) for row in rows]) if REWARD_GAINED in table.columns else None,
    )


def best_of_n_curve(proxy: Sequence[np.ndarray], gold: Sequence[np.ndarray], sizes: Sequence[int], *, seed: int = 0) -> BestOfN:
    """Mean gold of best-of-n by the proxy, unbiased, from N recorded candidates of each of P prompts (N may differ).

    With candidates sorted by proxy, the i-th (from 1) is the best of n drawn with probability C(i - 1, n - 1) / C(N, n): the
    estimator of Nakano et al. (2021, WebGPT); candidates with equal proxy share their gold. A candidate whose proxy or
    gold is NaN is left out, and a prompt that has fewer than n left does not count at n (`num_prompts`).
    """
    if len(proxy) != len(gold) or any(len(p) != len(g) for p, g in zip(proxy, gold, strict=True)):
        raise ValueError("proxy and gold must have the same prompts, each with the same candidates")
    if any(n < 1 for n in sizes):
        raise ValueError(f"sizes {list(sizes)} must be at least 1")
    columns = np.array([[expected_best(p, g, n) for n in sizes] for p, g in zip(proxy, gold, strict=True)]).reshape(-1, len(sizes))
    found = ~np.isnan(columns)
    gold_N = np.concatenate([*gold, np.empty(0)]).astype(np.float64)
    possible = Interval(float(np.nanmin(gold_N)), float(np.nanmax(gold_N))) if found.any() else NO_INTERVAL
    columns = np.clip(columns, *possible)  # a mean of gold lies within, but for rounding
    rows = []
    for column_P, found_P in zip(columns.T, found.T, strict=True):
        if not found_P.any():
            rows.append((math.nan, math.nan, math.nan))
            continue
        interval = mean_interval(
            column_P[found_P], np.flatnonzero(found_P), seed=seed, support=possible if np.ptp(possible) else None
        )
        rows.append((float(column_P[found_P].mean()), interval.low, interval.high))
    means, lows, highs = np.array(rows).T if rows else np.empty((3, 0))
    n_M = np.array(sizes, dtype=np.int64)
    return BestOfN(sizes=n_M, gold=means, low=lows, high=highs, kl=best_of_n_kl(n_M), num_prompts=found.sum(0))


def best_of_n_kl(n: np.ndarray) -> np.ndarray:
    """log n - (n - 1) / n, in nats."""
    n = np.asarray(n, dtype=np.float64)
    return np.log(n) - (n - 1) / n


def size_at(distance: float) -> float:
    """The n (a real number) whose best-of-n lies at a distance sqrt(KL): solves log n - (n - 1) / n = distance^2 by halving."""
    if not distance < 25:  # e^625 answers
        return math.nan if math.isnan(distance) else math.inf
    low, high = 0.0, distance**2 + 1  # of log n, as (n - 1) / n < 1
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if middle - 1 + math.exp(-middle) < distance**2 else (low, middle)
    return math.exp((low + high) / 2)


def sizes_up_to(largest: int) -> np.ndarray:
    """1, 2, 3, 4, 6, 8, 12, 16 ... up to `largest`: powers of two and the halves between."""
    powers = [2**k for k in range(largest.bit_length())]
    return np.array(sorted({n for power in powers for n in (power, 3 * power // 2) if n <= largest}), dtype=np.int64)


def expected_best(proxy_N: np.ndarray, gold_N: np.ndarray, n: int) -> float:
    """Expected gold of the candidate with the highest proxy among n of the N, over all draws; NaN for fewer than n."""
    proxy_N, gold_N = np.asarray(proxy_N, np.float64), np.asarray(gold_N, np.float64)
    scored = ~(np.isnan(proxy_N) | np.isnan(gold_N))
    proxy_N, gold_N = proxy_N[scored], gold_N[scored]
    num_all = len(proxy_N)
    if n > num_all:
        return math.nan
    values, group_N = np.unique(proxy_N, return_inverse=True)
    size_G = np.bincount(group_N, minlength=len(values))
    gold_G = np.bincount(group_N, weights=gold_N, minlength=len(values)) / size_G
    upto_G = np.cumsum(size_G)  # the best of n is at most this good with probability C(upto, n) / C(N, n)
    chance_G = np.exp(_log_choose(upto_G, n) - _log_choose(np.array([num_all]), n))
    return float(np.diff(chance_G, prepend=0.0) @ gold_G)


def _log_choose(m: np.ndarray, n: int) -> np.ndarray:
    """log C(m, n), minus infinity for m < n."""
    m = m.astype(np.float64)
    enough = m >= n
    safe = np.where(enough, m, n)
    return np.where(enough, gammaln(safe + 1) - gammaln(n + 1) - gammaln(safe - n + 1), -np.inf)
