"""Several judges as one: by majority, by votes weighted with how often each is right, or with how often the others agree.

Suffixes: P pairs, J judges.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from assay.files import json_digest
from assay.records import Completion, PreferencePair, Rewards
from assay.scorers.base import Scope, Scorer, prefer, reads_ground_truth
from assay.scorers.in_order import win_shares
from assay.stats.votes import log_odds_agreed, log_odds_right, majority, weighted

How = Literal["majority", "accuracy", "dawid-skene"]


class Jury:
    """Scorers that vote on pairs: a scorer that compares (`Comparer`). Rewards are `win_shares` among the answers of a prompt.

    weights: log odds that each scorer's vote is right, from `fit_jury`; left out, every vote counts alike and P is 1, 0 or, on a
    tied vote, 0.5. A judge without a verdict does not vote; P is NaN where fewer than `least` vote.
    Raises ValueError for fewer than two scorers, the same one twice, or weights that are not one finite number for each.
    """

    scope: Scope = "prompt"

    def __init__(self, scorers: Sequence[Scorer], *, weights: Sequence[float] | None = None, least: int = 1) -> None:
        self.scorers, self.least = tuple(scorers), least
        self.weights = None if weights is None else tuple(float(weight) for weight in weights)
        if len(self.scorers) < 2:
            raise ValueError(f"a jury has at least two judges, got {len(self.scorers)}")
        if len({scorer.fingerprint for scorer in self.scorers}) < len(self.scorers):
            raise ValueError("two judges of the jury are the same: one vote would count twice")
        if self.weights is not None and (len(self.weights) != len(self.scorers) or not all(map(math.isfinite, self.weights))):
            raise ValueError(f"weights {self.weights} of {len(self.scorers)} judges: give a finite number for each")
        if not 1 <= least <= len(self.scorers):
            raise ValueError(f"least {least} must be from 1 to {len(self.scorers)}, the number of judges")
        self.tolerance = 0.0 if all(scorer.tolerance == 0 for scorer in self.scorers) else 1.0  # a vote near a half may turn

    @property
    def fingerprint(self) -> str:
        return f"jury:{json_digest([[scorer.fingerprint for scorer in self.scorers], self.weights, self.least])}"

    @property
    def reads_ground_truth(self) -> bool:
        return any(reads_ground_truth(scorer) for scorer in self.scorers)

    def votes(self, pairs: Sequence[PreferencePair]) -> np.ndarray:
        """P(chosen beats rejected) by each judge: (P, J), NaN where one gave no verdict."""
        return votes_of(self.scorers, pairs)

    def compare(self, pairs: Sequence[PreferencePair]) -> np.ndarray:
        """P(chosen beats rejected) by the jury: (P,), NaN where fewer than `least` judges vote."""
        votes_PJ = self.votes(pairs)
        p_P = majority(votes_PJ) if self.weights is None else weighted(votes_PJ, np.array(self.weights))
        return np.where((~np.isnan(votes_PJ)).sum(1) < self.least, np.nan, p_P)

    def score(self, completions: Sequence[Completion]) -> Rewards:
        """N completions -> how often the jury has each beat the other answers of its prompt."""
        return win_shares(self.compare, completions)


def fit_jury(scorers: Sequence[Scorer], pairs: Sequence[PreferencePair], *, how: How, least: int = 1) -> Jury:
    """A jury whose weights are measured on pairs, to be used on others.

    how: "majority" measures nothing. "accuracy" takes the pairs' labels. "dawid-skene" takes votes alone, of three judges or more,
    and is blind to which answer is called chosen. A judge that is worse than chance gets a negative weight: its votes are turned.
    """
    jury = Jury(scorers, least=least)
    if how == "majority":
        return jury
    if not pairs:
        raise ValueError(f"a jury by {how} is fitted on pairs, and there are none")
    votes_PJ = jury.votes(pairs)
    if how == "accuracy":
        weights_J = log_odds_right(votes_PJ, np.array([pair.preference for pair in pairs]))
    elif how == "dawid-skene":
        weights_J = log_odds_agreed(votes_PJ)
    else:
        raise ValueError(f"a jury is by majority, accuracy or dawid-skene, not {how!r}")
    return Jury(scorers, weights=weights_J.tolist(), least=least)


def votes_of(scorers: Sequence[Scorer], pairs: Sequence[PreferencePair]) -> np.ndarray:
    """P(chosen beats rejected) by each scorer: (P, J), NaN where one gave no verdict."""
    return np.stack([prefer(scorer, pairs) for scorer in scorers], axis=1)
