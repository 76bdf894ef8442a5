"""Sequential tests by betting: evidence that a share lies below a bound, looked at after every comparison, as long as one likes.

A gambler bets that comparisons are lost. Each has a result in [0, 1] (1 won, 0 lost, 0.5 a tie). While the claim "given what came
before, the mean is at least `bound`" is true, no bet gains on average, so the capital is a supermartingale that begins at 1: the
probability that it ever reaches 1 / alpha is at most alpha (Ville 1939), however often it is looked at, and however dependent the
comparisons are beyond that. Bets of several sizes are held at once, with equal parts of the capital, so that no size has to be
guessed. Source: Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", arXiv 2010.09686, section 4;
comparisons of policies: arXiv 2506.16416.

A loss that begins late finds a gambler ruined by what was won before. So only a part of the capital is bet from the first look on;
1 / (j (j + 1)) of it joins the bets at look j, and 1 / (j + 1) is still at rest. Proof of the level: what joins was put aside
before any result, what rests keeps its worth, and what is bet gains nothing on average; so their sum, which is the capital, is a
supermartingale from 1, and Ville holds for ever: nobody has to know the number of looks. Cost: the first part is a half, so that
the capital is at least half of what betting it all at once would have; a loss that begins at look j meets a fresh gambler of
1 / (j (j + 1)). These are gamblers that begin at every look, as in e-detectors (Shin, Ramdas and Rinaldo, arXiv 2203.03532,
definition 2.2), with weights that sum to 1 in place of weights of 1.

`endless` has those weights of 1, for what never ends: at every look a new gambler comes with a capital of 1, and their capitals are
added. While the claim is true, the mean number of looks to a false alarm is at least 1 / alpha (there, theorem 2.4), and it is
started anew after an alarm.

Level claimed: P(an alarm, ever) at most alpha; benchmarks/hack_nulls.py. Suffixes: G sizes of bets, B comparisons of a look.
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

    bound: in (0, 1). endless: see the module. log_bet: (G,) logarithm of the capital that is bet, by size of bet; -inf before the
    first look. highest: the largest capital so far, all sizes and what rests together, as a logarithm. num: comparisons that were
    counted; num_missing: those without a result.
    """

    bound: float
    endless: bool = False
    log_bet: tuple[float, ...] = (-math.inf,) * len(SIZES_G)
    looks: int = 0
    highest: float = 0.0
    num: int = 0
    num_missing: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.bound < 1:
            raise ValueError(f"bound {self.bound:g} must lie between 0 and 1: it is a share of comparisons won")
        if len(self.log_bet) != len(SIZES_G):
            raise ValueError(
                f"log_bet has {len(self.log_bet)} numbers for {len(SIZES_G)} sizes of bets: the state is of another version"
            )

    @property
    def log_rest(self) -> float:
        """Logarithm of the capital that no look has put into the bets yet."""
        return -math.inf if self.endless else -math.log(self.looks + 1)

    @property
    def log_evidence(self) -> float:
        """Logarithm of the capital now: above log(1 / alpha) the claim is refuted at alpha."""
        return float(np.logaddexp(mean_of_logs(self.log_bet), self.log_rest))

    def alarmed(self, alpha: float) -> bool:
        """Has the capital ever reached 1 / alpha."""
        return self.highest >= math.log(1 / checked_alpha(alpha))

    def seen(self, results_B: Sequence[float]) -> Self:
        """The evidence after one more look, its comparisons in their order. NaN: without a result; it is counted, and nothing is
        bet on it.

        Leaving those out keeps the level if a comparison goes without a result no more often when it would be won than when it
        would be lost. How many comparisons make a look is settled before they are made. Raises ValueError for a result outside of
        [0, 1].
        """
        all_B = checked_results(results_B)
        kept_B = all_B[~np.isnan(all_B)]
        look = self.looks + 1
        joins = 0.0 if self.endless else -math.log(look * (look + 1))
        begun_G = np.logaddexp(self.log_bet, joins)
        paths_BG = begun_G + np.cumsum(np.log(gains(kept_B, self.bound)), axis=0)
        after = replace(
            self,
            log_bet=tuple(map(float, paths_BG[-1] if len(kept_B) else begun_G)),
            looks=look,
            num=self.num + len(kept_B),
            num_missing=self.num_missing + len(all_B) - len(kept_B),
        )
        bet_B = np.logaddexp.reduce(paths_BG, axis=1) - math.log(len(SIZES_G))
        return replace(after, highest=float(np.logaddexp(bet_B, after.log_rest).max(initial=self.highest)))

    @property
    def state(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def of_state(cls, state: Mapping[str, Any]) -> Self:
        """Raises ValueError for a state that another version saved."""
        if state.keys() != cls.__dataclass_fields__.keys():
            raise ValueError(
                f"a state of evidence has {', '.join(sorted(state))}: it is of another version, whose bets cannot be gone on with"
            )
        return cls(**{**state, "log_bet": tuple(state["log_bet"])})


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
