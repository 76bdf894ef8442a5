"""Best-of-n with any Scorer: rank, pick, rejection-sample; and what best-of-n would bring, from candidates that were recorded.

Suffixes: P prompts, N candidates of a prompt, M values of n.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln

from assay.metrics import cluster_bootstrap
from assay.records import Completion, Rewards
from assay.scorers.base import Scorer


@dataclass(frozen=True, slots=True, kw_only=True)
class BestOfN:
    """Best-of-n at M values of n: mean gold of the candidate with the highest proxy among n drawn without replacement.

    sizes, gold, low, high (95%, prompts resampled), kl: (M,). kl: log n - (n - 1) / n in nats, an upper bound of the policy's
    distance from its base (Beirami et al. 2024). num_prompts: (M,) that have n scored candidates.
    """

    sizes: np.ndarray
    gold: np.ndarray
    low: np.ndarray
    high: np.ndarray
    kl: np.ndarray
    num_prompts: np.ndarray


def rank(scorer: Scorer, completions: Sequence[Completion]) -> tuple[np.ndarray, Rewards]:
    """Indices of the answers to one prompt from best to worst, those that could not be scored last; and their rewards.

    Raises ValueError for answers to several prompts: rewards of two prompts are not on one scale.
    """
    if len({completion.messages for completion in completions}) > 1:
        raise ValueError("these are answers to several prompts, whose rewards are not on one scale: rank each prompt's own")
    rewards = scorer.score(completions)
    return np.argsort(np.where(rewards.ok, -rewards.value, np.inf), kind="stable"), rewards


def pick(scorer: Scorer, completions: Sequence[Completion]) -> int | None:
    """Index of the best answer to a prompt, the first of equals; None when none could be scored."""
    order, rewards = rank(scorer, completions)
    return int(order[0]) if len(order) and rewards.ok[order[0]] else None


def rejection_sample(
    scorer: Scorer, completions: Sequence[Completion], *, num_kept: int, temperature: float, seed: int
) -> list[int]:
    """Indices of `num_kept` answers to a prompt, drawn without replacement with probability ~ exp(reward / temperature).

    The Gumbel-top-k draw (Kool et al. 2019), a statistical rejection sampling of the policy that the rewards ask for at a KL
    coefficient of `temperature` (Liu et al. 2024). Fewer when fewer could be scored.
    """
    if not temperature > 0 or num_kept < 1:
        raise ValueError(f"temperature {temperature} and num_kept {num_kept} must be positive")
    order, rewards = rank(scorer, completions)
    scored = order[: int(rewards.ok.sum())]
    noise = np.random.default_rng(seed).gumbel(size=len(completions))
    keys = rewards.value.astype(np.float64) / temperature + noise
    return [int(i) for i in sorted(scored, key=lambda i: -keys[i])[:num_kept]]


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
    rows = []
    for column_P, found_P in zip(columns.T, found.T, strict=True):
        if not found_P.any():
            rows.append((math.nan, math.nan, math.nan))
            continue
        interval = cluster_bootstrap(column_P[found_P], np.flatnonzero(found_P), seed=seed, support=None)
        rows.append((float(column_P[found_P].mean()), interval.low, interval.high))
    means, lows, highs = np.array(rows).T if rows else np.empty((3, 0))
    n_M = np.array(sizes, dtype=np.int64)
    return BestOfN(sizes=n_M, gold=means, low=lows, high=highs, kl=best_of_n_kl(n_M), num_prompts=found.sum(0))


def best_of_n_kl(n: np.ndarray) -> np.ndarray:
    """log n - (n - 1) / n, in nats."""
    n = np.asarray(n, dtype=np.float64)
    return np.log(n) - (n - 1) / n


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
