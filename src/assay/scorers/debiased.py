"""Rewards without what the length of the answer adds to them: a scorer that holds a scorer.

The slope is measured on pairs that the model was not trained on, within prompts, with the label held fixed: from

    margin = a + b (log length of chosen - log length of rejected) + noise

by least squares, where chosen is the preferred answer. a is what the better answer gains at equal length, b what length gains for
an answer of equal label, which is then taken off every reward. Suffixes: P pairs, C clusters (prompts).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from assay.records import Completion, PreferencePair, Rewards, log_length
from assay.scorers.base import Scope, Scorer, margins

MIN_PAIRS = 20
NO_ANSWER = "length debiasing needs messages + response: of a rendered text the length of the answer is not known"


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthSlope:
    """Reward that each unit of log(1 + characters) adds: slope with its standard error (by prompt), and what it was fitted on.

    gain: a, what the preferred answer gains at equal length. scorer: fingerprint of the scorer that it is of.
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

    def save(self, path: str | Path) -> None:
        """Write as JSON."""
        Path(path).write_text(json.dumps({"kind": "length-slope", "version": 1, **asdict(self)}, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> LengthSlope:
        """Read what `save` wrote. Raises ValueError for another file."""
        raw: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(raw, dict) or raw.pop("kind", None) != "length-slope" or raw.pop("version", None) != 1:
            raise ValueError(f"{path} is not a length slope of version 1: make it with fit_length_slope(...).save(path)")
        return cls(**raw)


@dataclass(frozen=True, slots=True, kw_only=True)
class Debiased:
    """The inner scorer's rewards less slope x log(1 + characters of the response). Raises ValueError for another scorer's slope."""

    scorer: Scorer
    length: LengthSlope
    fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        if self.scorer.fingerprint != self.length.scorer:
            raise ValueError(f"the slope is of {self.length.scorer!r}, not of {self.scorer.fingerprint!r}: fit it anew")
        content = json.dumps([self.scorer.fingerprint, self.length.slope])
        digest = hashlib.sha256(content.encode()).hexdigest()[:32]
        object.__setattr__(self, "fingerprint", f"debiased:length:1:{digest}")

    @property
    def scope(self) -> Scope:
        return self.scorer.scope

    @property
    def tolerance(self) -> float:
        return self.scorer.tolerance + 1e-6

    def score(self, completions: Sequence[Completion]) -> Rewards:
        """Rewards in the inner scorer's units; std and text are its own. NaN for completions that come rendered."""
        rewards = self.scorer.score(completions)
        lengths = [math.nan if c.response is None else log_length(c.response) for c in completions]
        value = rewards.value.astype(np.float64) - self.length.slope * np.array(lengths, dtype=np.float64)
        known = rewards.error or (None,) * len(completions)
        error = tuple(e or (NO_ANSWER if c.response is None else None) for e, c in zip(known, completions, strict=True))
        return Rewards(value=value, std=rewards.std, text=rewards.text, error=error)


def fit_length_slope(scorer: Scorer, pairs: Sequence[PreferencePair], *, split: str = "") -> LengthSlope:
    """The slope of a scorer on pairs that it was not trained on. Raises ValueError for fewer than 20 that can be used.

    Label ties and pairs without a margin are left out.
    """
    pairs = [pair for pair in pairs if not pair.is_tie]
    gap_P = np.array([log_length(pair.chosen) - log_length(pair.rejected) for pair in pairs], dtype=np.float64)
    sign_P = np.sign(np.array([pair.preference for pair in pairs], dtype=np.float64) - 0.5)
    margins_P = margins(scorer, pairs) * sign_P
    return fit_slope(margins_P, gap_P * sign_P, [pair.prompt_key for pair in pairs], scorer=scorer.fingerprint, split=split)


def fit_slope(margins_P: np.ndarray, gap_P: np.ndarray, prompts_P: Sequence[str], *, scorer: str, split: str = "") -> LengthSlope:
    """The same from margins of the preferred answer over the other, (P,), and differences of log length, (P,)."""
    scored_P = np.isfinite(margins_P)
    margins_P, gap_P = margins_P[scored_P], gap_P[scored_P]
    if len(margins_P) < MIN_PAIRS or np.ptp(gap_P) == 0:
        raise ValueError(f"{len(margins_P)} pairs have margins: at least {MIN_PAIRS} that differ in length are needed")
    design_P2 = np.stack([np.ones_like(gap_P), gap_P], axis=1)
    (gain, slope), *_ = np.linalg.lstsq(design_P2, margins_P, rcond=None)
    labels, index_P = np.unique(np.asarray(prompts_P)[scored_P], return_inverse=True)
    scores_C2 = np.zeros((len(labels), 2))
    np.add.at(scores_C2, index_P, design_P2 * (margins_P - design_P2 @ [gain, slope])[:, None])
    bread = np.linalg.inv(design_P2.T @ design_P2)
    variance = bread @ (scores_C2.T @ scores_C2) @ bread * len(labels) / max(1, len(labels) - 1)
    return LengthSlope(
        slope=float(slope),
        slope_se=float(math.sqrt(variance[1, 1])),
        gain=float(gain),
        num_pairs=len(margins_P),
        num_prompts=len(labels),
        scorer=scorer,
        split=split,
    )
