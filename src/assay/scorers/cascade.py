"""A cheap scorer first, the next one where it is not sure, a person at the end: a cascade by |margin|.

Suffixes: P pairs, T stages.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from assay.files import json_digest
from assay.records import Completion, PreferencePair, Rewards
from assay.scorers.base import Scope, Scorer, prefer, reads_ground_truth
from assay.scorers.in_order import win_shares


class Cascade:
    """Scorers in order of cost, as a scorer that compares (`Comparer`). Rewards are `win_shares` among the answers of a prompt.

    thresholds: the least |logit of P| with which each stage settles a pair, one for each scorer: what lies below goes to the next
    stage, and below the last one's to a person (P is NaN; `left_to_people`). 0 settles all that the stage has a verdict on,
    infinity nothing. They
    are in units of calibrated margins, so every stage has to compare by itself, as a calibrated model or a judge does.
    Raises ValueError for no scorer, the same one twice, or thresholds that are not one number from 0 on for each.
    """

    scope: Scope = "prompt"

    def __init__(self, scorers: Sequence[Scorer], thresholds: Sequence[float]) -> None:
        self.scorers, self.thresholds = tuple(scorers), tuple(float(threshold) for threshold in thresholds)
        if not self.scorers:
            raise ValueError("a cascade has at least one scorer, got none")
        if len({scorer.fingerprint for scorer in self.scorers}) < len(self.scorers):
            raise ValueError("two stages of the cascade are the same scorer: the second would say nothing new")
        if len(self.thresholds) != len(self.scorers) or not all(threshold >= 0 for threshold in self.thresholds):
            raise ValueError(f"thresholds {self.thresholds} of {len(self.scorers)} scorers: give a number from 0 on for each")
        uncalibrated = [scorer.fingerprint for scorer in self.scorers if not hasattr(scorer, "compare")]
        if uncalibrated:
            raise ValueError(
                f"the scorer {uncalibrated[0]} has no probabilities to be sure by: calibrate it (assay model calibrate)"
            )
        self.tolerance = 0.0 if all(scorer.tolerance == 0 for scorer in self.scorers) else 1.0  # a pair may go to another stage

    @property
    def fingerprint(self) -> str:
        return f"cascade:{json_digest([[scorer.fingerprint for scorer in self.scorers], self.thresholds])}"

    @property
    def reads_ground_truth(self) -> bool:
        return any(reads_ground_truth(scorer) for scorer in self.scorers)

    def compare(self, pairs: Sequence[PreferencePair]) -> np.ndarray:
        """P(chosen beats rejected) of the stage that settles each pair: (P,), NaN where none does."""
        return self.settled(pairs)[0]

    def settled(self, pairs: Sequence[PreferencePair]) -> tuple[np.ndarray, np.ndarray]:
        """P(chosen beats rejected), and the number of the stage that settled it, T for a person: (P,) each.

        Each stage is asked only for what the ones before it left.
        """
        p_P, stage_P = np.full(len(pairs), np.nan), np.full(len(pairs), len(self.scorers), dtype=np.int64)
        left = np.arange(len(pairs))
        for stage, (scorer, threshold) in enumerate(zip(self.scorers, self.thresholds, strict=True)):
            if not len(left):
                break
            found = prefer(scorer, [pairs[int(i)] for i in left])
            is_settled = is_sure(found, threshold)
            p_P[left[is_settled]], stage_P[left[is_settled]] = found[is_settled], stage
            left = left[~is_settled]
        return p_P, stage_P

    def left_to_people(self, pairs: Sequence[PreferencePair]) -> list[PreferencePair]:
        """The pairs that no stage settles."""
        return [pair for pair, stage in zip(pairs, self.settled(pairs)[1], strict=True) if stage == len(self.scorers)]

    def score(self, completions: Sequence[Completion]) -> Rewards:
        """N completions -> how often each beats the other answers of its prompt, over what the stages settle."""
        return win_shares(self.compare, completions)


def is_sure(p_P: np.ndarray, threshold: float) -> np.ndarray:
    """Where |logit of P| is at least the threshold: (P,) bool, False for NaN. A P of 0 or 1 is sure for any finite threshold."""
    p_P = np.asarray(p_P, dtype=np.float64)
    if math.isinf(threshold):
        return np.zeros(len(p_P), dtype=bool)
    with np.errstate(divide="ignore"):
        sure_P = np.abs(np.log(p_P) - np.log1p(-p_P)) >= threshold
    return np.asarray(sure_P & ~np.isnan(p_P))
