"""Sequential tests by betting: evidence that a share lies below a bound, looked at after every comparison, as long as one likes.

A gambler bets that comparisons are lost. Each has a result in [0, 1] (1 won, 0 lost, 0.5 a tie). While the claim "given what came
before, the mean is at least `bound`" is true, no bet gains on average, so the capital is a supermartingale that begins at 1: the
probability that it ever reaches 1 / alpha is at most alpha (Ville 1939), however often it is looked at, and however dependent the
comparisons are beyond that. Bets of several sizes are held at once, with equal parts of the capital, so that no size has to be
guessed. Source: Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", arXiv 2010.09686, section 4;
comparisons of policies: arXiv 2506.16416.

`Detector` is its restarting form for what never ends: in front of every comparison a new gambler comes with a capital of 1, and
their capitals are added (Shin, Ramdas and Rinaldo, "E-detectors", arXiv 2203.03532, definition 2.2 and theorem 2.4): while the
claim is true, the mean number of comparisons to a false alarm is at least 1 / alpha.

Level claimed: P(an alarm, ever) at most alpha, of `Evidence`; benchmarks/levels.py. Suffixes: G sizes of bets, B comparisons.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

SIZES_G = np.array([0.05, 0.1, 0.2, 0.35, 0.55, 0.8])
"""Bets as shares of the largest that cannot ruin: small ones see a small loss of ground, large ones a large loss sooner."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What the comparisons so far say against "the mean is at least `bound`". Feed it with `seen`; it is saved by `state`.

    bound: in (0, 1). log_capital: (G,) logarithm of the capital of each size of bet. highest: the largest capital so far, all
    sizes together, as a logarithm. num: comparisons that were counted; num_missing: those without a result.
    """

    bound: float
    log_capital: tuple[float, ...] = (0.0,) * len(SIZES_G)
    highest: float = 0.0
    num: int = 0
    num_missing: int = 0

    def __post_init__(self) -> None:
        _check_bound(self.bound)
        _check_sizes(self.log_capital, "log_capital")

    @property
    def log_evidence(self) -> float:
        """Logarithm of the capital now: above log(1 / alpha) the claim is refuted at alpha."""
        return mean_of_logs(self.log_capital)

    def alarmed(self, alpha: float) -> bool:
        """Has the capital ever reached 1 / alpha."""
        return self.highest >= math.log(1 / checked_alpha(alpha))

    def seen(self, results_B: Sequence[float]) -> Self:
        """The evidence after more comparisons, in their order. NaN: without a result; it is counted, and nothing is bet on it.

        Leaving those out keeps the level if a comparison goes without a result no more often when it would be won than when it
        would be lost. Raises ValueError for a result outside of [0, 1].
        """
        all_B = checked_results(results_B)
        kept_B = all_B[~np.isnan(all_B)]
        steps_BG = np.log(gains(kept_B, self.bound))
        paths_BG = np.asarray(self.log_capital) + np.cumsum(steps_BG, axis=0)
        if not len(kept_B):
            return replace(self, num_missing=self.num_missing + len(all_B))
        return replace(
            self,
            log_capital=tuple(map(float, paths_BG[-1])),
            highest=max(self.highest, float((np.logaddexp.reduce(paths_BG, axis=1) - math.log(len(SIZES_G))).max())),
            num=self.num + len(kept_B),
            num_missing=self.num_missing + len(all_B) - len(kept_B),
        )

    @property
    def state(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def of_state(cls, state: Mapping[str, Any]) -> Self:
        return cls(**{**state, "log_capital": tuple(state["log_capital"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Detector:
    """The restarting form of `Evidence`: it tells of a change at any time, and is started anew after an alarm.

    log_sum: (G,) logarithm of the capitals of all gamblers so far, by size of bet; -inf before the first comparison.
    """

    bound: float
    log_sum: tuple[float, ...] = (-math.inf,) * len(SIZES_G)
    highest: float = -math.inf
    num: int = 0
    num_missing: int = 0

    def __post_init__(self) -> None:
        _check_bound(self.bound)
        _check_sizes(self.log_sum, "log_sum")

    def alarmed(self, alpha: float) -> bool:
        """Has the sum ever reached 1 / alpha since it was started."""
        return self.highest >= math.log(1 / checked_alpha(alpha))

    def seen(self, results_B: Sequence[float]) -> Self:
        """As `Evidence.seen`."""
        all_B = checked_results(results_B)
        kept_B = all_B[~np.isnan(all_B)]
        log_sum_G, highest = np.asarray(self.log_sum), self.highest
        for step_G in np.log(gains(kept_B, self.bound)):
            log_sum_G = step_G + np.logaddexp(log_sum_G, 0.0)
            highest = max(highest, mean_of_logs(log_sum_G))
        return replace(
            self,
            log_sum=tuple(map(float, log_sum_G)),
            highest=highest,
            num=self.num + len(kept_B),
            num_missing=self.num_missing + len(all_B) - len(kept_B),
        )

    @property
    def state(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def of_state(cls, state: Mapping[str, Any]) -> Self:
        return cls(**{**state, "log_sum": tuple(state["log_sum"])})


def gains(results_B: np.ndarray, bound: float) -> np.ndarray:
    """(B, G) factors by which each comparison changes each capital: 1 + size (bound - result) / (1 - bound), never below
    1 - size. Their mean is at most 1 where the mean of the result is at least `bound`."""
    return 1 + SIZES_G[None, :] * (bound - results_B[:, None]) / (1 - bound)


def mean_of_logs(logs_G: Sequence[float] | np.ndarray) -> float:
    """Logarithm of the mean of the numbers with these logarithms."""
    return float(np.logaddexp.reduce(np.asarray(logs_G)) - math.log(len(logs_G)))


def mean_evidence(of_opponents: Sequence[Evidence]) -> float:
    """Logarithm of the mean capital against several opponents: a mean of supermartingales is one, so that the level holds for
    all of them together. Raises ValueError for none."""
    if not of_opponents:
        raise ValueError("no evidence to take the mean of: give at least one opponent's")
    return mean_of_logs([one.log_evidence for one in of_opponents])


def checked_results(results_B: Sequence[float]) -> np.ndarray:
    checked_B = np.asarray(results_B, dtype=np.float64).reshape(-1)
    wrong_B = (checked_B < 0) | (checked_B > 1)
    if wrong_B.any():
        raise ValueError(f"the result of a comparison lies in [0, 1], NaN where there is none; one is {checked_B[wrong_B][0]:g}")
    return checked_B


def checked_alpha(alpha: float) -> float:
    if not 0 < alpha < 1:
        raise ValueError(f"alpha {alpha:g} must lie between 0 and 1: it is the probability of a false alarm that is accepted")
    return alpha


def _check_bound(bound: float) -> None:
    if not 0 < bound < 1:
        raise ValueError(f"bound {bound:g} must lie between 0 and 1: it is a share of comparisons won")


def _check_sizes(logs: Sequence[float], name: str) -> None:
    if len(logs) != len(SIZES_G):
        raise ValueError(f"{name} has {len(logs)} numbers for {len(SIZES_G)} sizes of bets: the state is of another version")
