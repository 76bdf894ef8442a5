"""Rewards without the effect of the answer's length: a wrapper that subtracts a length slope.

The slope is measured on pairs that the model was not trained on, within prompts and at a fixed label, by least squares:

    margin = a + b (log length of chosen - log length of rejected) + noise

where chosen is the preferred answer. a is the margin of the better answer at equal length; b is the reward that length adds at
equal quality, which is then subtracted from every reward. Suffix: P pairs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from assay.files import json_digest
from assay.records import Completion, PreferencePair, Rewards, log_length
from assay.scorers.base import OfInner, Scope, Scorer, margins
from assay.stats.linear import clustered_errors, least_squares

MIN_PAIRS = 20
NO_ANSWER = "length debiasing needs messages + response: of a rendered text the length of the answer is not known"


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthSlope:
    """The reward that each unit of log(1 + characters) adds, its standard error (clustered by prompt), and what it was fitted on.

    gain: a, the margin of the preferred answer at equal length. scorer: fingerprint of the scorer whose rewards these are.
    """

    slope: float
    slope_se: float
    gain: float
    num_pairs: int
    num_prompts: int
    scorer: str
    split: str = ""

    def __post_init__(self) -> None:
        if not math.isfinite(self.slope):
            raise ValueError(f"the length slope {self.slope} is not finite: fit it on pairs with rewards")


@dataclass(frozen=True, slots=True, kw_only=True)
class Debiased:
    """The inner scorer's rewards less slope x log(1 + characters of the answer). Raises ValueError for another scorer's slope."""

    scorer: Scorer
    length: LengthSlope
    fingerprint: str = field(init=False)
    changes_rewards = True
    scope = OfInner[Scope]()

    def __post_init__(self) -> None:
        if self.scorer.fingerprint != self.length.scorer:
            raise ValueError(f"the slope is of {self.length.scorer!r}, not of {self.scorer.fingerprint!r}: fit it anew")
        digest = json_digest([self.scorer.fingerprint, self.length.slope])
        object.__setattr__(self, "fingerprint", f"debiased:length:1:{digest}")

    @property
    def tolerance(self) -> float:
        return self.scorer.tolerance + 1e-6

    def score(self, completions: Sequence[Completion]) -> Rewards:
        """Rewards in the inner scorer's units, with its std, steps and text. NaN for completions given as rendered text or ids."""
        rewards = self.scorer.score(completions)
        lengths = [math.nan if c.response is None else log_length(c.response) for c in completions]
        value = rewards.value.astype(np.float64) - self.length.slope * np.array(lengths, dtype=np.float64)
        known = rewards.error or (None,) * len(completions)
        error = tuple(e or (NO_ANSWER if c.response is None else None) for e, c in zip(known, completions, strict=True))
        return Rewards(value=value, std=rewards.std, steps=rewards.steps, text=rewards.text, error=error)


def fit_length_slope(scorer: Scorer, pairs: Sequence[PreferencePair], *, split: str = "") -> LengthSlope:
    """The slope of a scorer on pairs that it was not trained on. Raises ValueError for fewer than 20 usable pairs.

    Label ties and pairs without a margin are left out.
    """
    pairs = [pair for pair in pairs if not pair.is_tie]
    gap_P = np.array([log_length(pair.chosen) - log_length(pair.rejected) for pair in pairs], dtype=np.float64)
    sign_P = np.sign(np.array([pair.preference for pair in pairs], dtype=np.float64) - 0.5)
    margins_P = margins(scorer, pairs) * sign_P
    return fit_slope(margins_P, gap_P * sign_P, [pair.prompt_key for pair in pairs], scorer=scorer.fingerprint, split=split)


def fit_slope(margins_P: np.ndarray, gap_P: np.ndarray, prompts_P: Sequence[str], *, scorer: str, split: str = "") -> LengthSlope:
    """The slope from margins of the preferred answer over the other, (P,), and their differences of log length, (P,)."""
    scored_P = np.isfinite(margins_P)
    margins_P, gap_P = margins_P[scored_P], gap_P[scored_P]
    if len(margins_P) < MIN_PAIRS or np.ptp(gap_P) == 0:
        raise ValueError(f"{len(margins_P)} pairs have margins: at least {MIN_PAIRS} that differ in length are needed")
    design_P2 = np.stack([np.ones_like(gap_P), gap_P], axis=1)
    prompts = np.asarray(prompts_P)[scored_P]
    gain, slope = weights_2 = least_squares(design_P2, margins_P)
    errors_2 = clustered_errors(design_P2, margins_P - design_P2 @ weights_2, prompts)
    return LengthSlope(
        slope=float(slope),
        slope_se=float(errors_2[1]),
        gain=float(gain),
        num_pairs=len(margins_P),
        num_prompts=len(np.unique(prompts)),
        scorer=scorer,
        split=split,
    )
