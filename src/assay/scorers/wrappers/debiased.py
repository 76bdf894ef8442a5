"""Rewards without the effect of the answer's length: a wrapper that subtracts a length slope, the whole of it or a part.

There are two ways to measure the slope, both on answers that the model was not trained on.

From labels (`fit_length_slope`), within prompts and at a fixed label, by least squares:

    margin = a + b (log length of chosen - log length of rejected) + noise

where chosen is the preferred answer. a is the margin of the better answer at equal length; b is the reward that goes with length. A
label is one bit, so b also holds what longer answers gain by being better than the label can say: a scorer that never looks at
length has b > 0 where better answers are longer, and subtracting all of it punishes what is good.

From edits (`fit_edited_slope`), which say the same in fewer words and in more: rise = b (difference of log length) + noise. Nothing
but the length changes, so b is what length does. It is measured on changes of a few percent, and taken to hold beyond them.

Suffixes: P pairs, E edited answers, 1 and 2 columns of a design.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from assay.data.probe_edits.edits import Edit
from assay.data.probe_edits.length_edits import rewording
from assay.files import json_digest
from assay.messages import prompt_key
from assay.records import Completion, PreferencePair, Rewards, log_length
from assay.scorers.base import OfInner, Scope, Scorer, margins
from assay.stats.length import MIN_APART, share_left
from assay.stats.linear import clustered_errors, least_squares
from assay.stats.metrics import accuracy

MIN_PAIRS = 20
NO_ANSWER = "length debiasing needs messages + response: of a rendered text the length of the answer is not known"


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthSlope:
    """The reward that each unit of log(1 + characters) adds, its standard error (clustered by prompt), and what it was fitted on.

    gain: a, the margin of the preferred answer at equal length; NaN from edits. num_pairs, num_prompts: what the slope was fitted
    on, edited answers where it is from edits. scorer: fingerprint of the scorer whose rewards these are. accuracy_before,
    accuracy_after: on the pairs, of the scorer as it is and with the whole slope subtracted. note: what the slope may hold besides
    length, "" when nothing is known of it.
    """

    slope: float
    slope_se: float
    gain: float
    num_pairs: int
    num_prompts: int
    scorer: str
    split: str = ""
    accuracy_before: float = math.nan
    accuracy_after: float = math.nan
    note: str = ""

    def __post_init__(self) -> None:
        if not math.isfinite(self.slope):
            raise ValueError(f"the length slope {self.slope} is not finite: fit it on pairs with rewards")


@dataclass(frozen=True, slots=True, kw_only=True)
class Debiased:
    """The inner scorer's rewards less strength x slope x log(1 + characters of the answer).

    strength: the share of the slope that is subtracted, in [0, 1]. Raises ValueError for another strength and for another scorer's
    slope.
    """

    scorer: Scorer
    length: LengthSlope
    strength: float = 1.0
    fingerprint: str = field(init=False)
    changes_rewards = True
    scope = OfInner[Scope]()

    def __post_init__(self) -> None:
        if self.scorer.fingerprint != self.length.scorer:
            raise ValueError(f"the slope is of {self.length.scorer!r}, not of {self.scorer.fingerprint!r}: fit it anew")
        if not 0 <= self.strength <= 1:
            raise ValueError(f"strength {self.strength:g} lies outside [0, 1]: 1 subtracts the whole slope, 0 nothing")
        digest = json_digest([self.scorer.fingerprint, self.strength * self.length.slope])
        object.__setattr__(self, "fingerprint", f"debiased:length:1:{digest}")

    @property
    def tolerance(self) -> float:
        return self.scorer.tolerance + 1e-6

    def score(self, completions: Sequence[Completion]) -> Rewards:
        """Rewards in the inner scorer's units, with its std, steps and text. NaN for completions given as rendered text or ids."""
        rewards = self.scorer.score(completions)
        lengths = [math.nan if c.response is None else log_length(c.response) for c in completions]
        taken = self.strength * self.length.slope * np.array(lengths, dtype=np.float64)
        known = rewards.error or (None,) * len(completions)
        error = tuple(e or (NO_ANSWER if c.response is None else None) for e, c in zip(known, completions, strict=True))
        value = rewards.value.astype(np.float64) - taken
        return Rewards(value=value, std=rewards.std, steps=rewards.steps, text=rewards.text, error=error)


def fit_length_slope(scorer: Scorer, pairs: Sequence[PreferencePair], *, split: str = "") -> LengthSlope:
    """The slope at a fixed label, on pairs that the scorer was not trained on. Raises ValueError for fewer than 20 usable pairs,
    and where length and label cannot be told apart.

    Label ties and pairs without a margin are left out. Where longer answers are better, part of it is quality: `fit_edited_slope`.
    """
    labelled = _Labelled.of(scorer, pairs)
    return fit_slope(labelled.margins_P, labelled.gap_P, labelled.prompts, scorer=scorer.fingerprint, split=split)


def fit_slope(margins_P: np.ndarray, gap_P: np.ndarray, prompts_P: Sequence[str], *, scorer: str, split: str = "") -> LengthSlope:
    """The slope from margins of the preferred answer over the other, (P,), and their differences of log length, (P,)."""
    scored_P = np.isfinite(margins_P)
    margins_P, gap_P = margins_P[scored_P], gap_P[scored_P]
    if len(margins_P) < MIN_PAIRS or np.ptp(gap_P) == 0:
        raise ValueError(f"{len(margins_P)} pairs have margins: at least {MIN_PAIRS} that differ in length are needed")
    design_P2 = np.stack([np.ones_like(gap_P), gap_P], axis=1)
    if share_left(design_P2[:, 0], design_P2[:, 1:]) < MIN_APART:
        raise ValueError(
            f"the preferred answer is longer by nearly the same in every pair ({gap_P.mean():.3g} +- {gap_P.std():.2g} in log "
            "length): length and label cannot be told apart; take fit_edited_slope, or pairs whose lengths vary"
        )
    prompts = np.asarray(prompts_P)[scored_P]
    gain, slope = weights_2 = least_squares(design_P2, margins_P)
    errors_2 = clustered_errors(design_P2, margins_P - design_P2 @ weights_2, prompts)
    longer = float(np.mean(gap_P > 0))
    return LengthSlope(
        slope=float(slope),
        slope_se=float(errors_2[1]),
        gain=float(gain),
        num_pairs=len(margins_P),
        num_prompts=len(np.unique(prompts)),
        scorer=scorer,
        split=split,
        accuracy_before=float(np.mean(margins_P > 0)),
        accuracy_after=float(np.mean(margins_P - slope * gap_P > 0)),
        note=f"the preferred answer is longer in {longer:.0%} of the pairs: what longer answers gain by being better is in it too",
    )


def fit_edited_slope(
    scorer: Scorer, pairs: Sequence[PreferencePair], *, edits: Sequence[Edit] = (rewording,), split: str = "", seed: int = 0
) -> LengthSlope:
    """The slope from answers of the pairs that were made longer or shorter and are otherwise as good: what length alone does.

    edits: plain functions (`data.edits.Edit`) that change the length and nothing else; `rewording` puts English phrases in fewer
    and in more words. Of each answer and edit the rise of the reward is held against the difference of log length, by least
    squares without an intercept. The pairs' labels serve only for the accuracies before and after. Raises ValueError when fewer
    than 20 answers could be edited and scored.
    """
    answers = {answer.key: answer for pair in pairs for answer in pair.completions()}
    before_E, after_E = _edited(list(answers.values()), edits, seed)
    rewards = scorer.score([*before_E, *after_E]).value.astype(np.float64)
    rise_E = rewards[len(before_E) :] - rewards[: len(before_E)]
    gap_E = np.array([log_length(str(a.response)) - log_length(str(b.response)) for b, a in zip(before_E, after_E, strict=True)])
    kept_E = np.isfinite(rise_E) & (gap_E != 0)
    rise_E, gap_E = rise_E[kept_E], gap_E[kept_E]
    if len(rise_E) < MIN_PAIRS:
        named = ", ".join(getattr(edit, "__name__", "?") for edit in edits)
        raise ValueError(
            f"{len(rise_E)} of {len(answers)} answers were made longer or shorter by {named} and scored: at least {MIN_PAIRS} are "
            "needed; give more answers, or edits= of your own that suit their language"
        )
    prompts = np.array([prompt_key(answer.messages) for answer in before_E])[kept_E]
    (slope,) = weights_1 = least_squares(gap_E[:, None], rise_E)
    errors_1 = clustered_errors(gap_E[:, None], rise_E - gap_E * weights_1, prompts)
    labelled = _Labelled.of(scorer, pairs)
    left_P = labelled.margins_P - slope * labelled.gap_P
    return LengthSlope(
        slope=float(slope),
        slope_se=float(errors_1[0]),
        gain=math.nan,
        num_pairs=len(rise_E),
        num_prompts=len(np.unique(prompts)),
        scorer=scorer.fingerprint,
        split=split,
        accuracy_before=accuracy(labelled.margins_P, np.ones(len(left_P))).value,
        accuracy_after=accuracy(left_P, np.ones(len(left_P))).value,
        note=f"from edits that change the length by {100 * float(np.mean(np.expm1(np.abs(gap_E)))):.0f}% on average",
    )


@dataclass(frozen=True, slots=True)
class _Labelled:
    """Of P pairs with a preferred answer: its margin, its log length less the other's, and the prompt."""

    margins_P: np.ndarray
    gap_P: np.ndarray
    prompts: list[str]

    @classmethod
    def of(cls, scorer: Scorer, pairs: Sequence[PreferencePair]) -> _Labelled:
        pairs = [pair for pair in pairs if not pair.is_tie]
        gap_P = np.array([log_length(pair.chosen) - log_length(pair.rejected) for pair in pairs], dtype=np.float64)
        sign_P = np.sign(np.array([pair.preference for pair in pairs], dtype=np.float64) - 0.5)
        return cls(margins(scorer, pairs) * sign_P, gap_P * sign_P, [pair.prompt_key for pair in pairs])


def _edited(answers: Sequence[Completion], edits: Sequence[Edit], seed: int) -> tuple[list[Completion], list[Completion]]:
    """Each answer before and after each edit that applies to it."""
    rng = np.random.default_rng(seed)
    before, after = [], []
    for answer in answers:
        for edit in edits:
            found = edit(answer, rng)
            if isinstance(found, str):
                found = replace(answer, response=found, steps=None, id="")
            if found is not None:
                first, second = found if isinstance(found, tuple) else (answer, found)
                before.append(first)
                after.append(second)
    return before, after
