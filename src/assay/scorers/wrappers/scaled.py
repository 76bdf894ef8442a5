"""A scorer's rewards on another scale: that of a model which it replaces at one KL coefficient, or of an ensemble's members."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from assay.files import json_digest
from assay.records import Completion, Rewards
from assay.scorers.base import OfInner, Scope, Scorer


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaled:
    """A wrapper that takes `centre` off value and steps and multiplies them, and std, by `factor` (> 0). It has its own
    fingerprint."""

    scorer: Scorer
    factor: float
    centre: float = 0.0
    changes_rewards = True
    scope = OfInner[Scope]()

    def __post_init__(self) -> None:
        if not 0 < self.factor < math.inf:
            raise ValueError(f"factor {self.factor} must be a positive number: anything else would turn or lose the order")
        if not math.isfinite(self.centre):
            raise ValueError(f"centre {self.centre} must be a number: a mean of rewards that could be scored")

    @property
    def fingerprint(self) -> str:
        return json_digest([self.scorer.fingerprint, self.factor, *([self.centre] if self.centre else [])])

    @property
    def tolerance(self) -> float:
        return self.scorer.tolerance * self.factor

    def score(self, completions: Sequence[Completion]) -> Rewards:
        """N completions -> N rewards; what the inner scorer cannot score stays NaN with its reason."""
        rewards = self.scorer.score(completions)
        return Rewards(
            value=(rewards.value - self.centre) * self.factor,
            std=None if rewards.std is None else rewards.std * self.factor,
            steps=None if rewards.steps is None else tuple((steps - self.centre) * self.factor for steps in rewards.steps),
            text=rewards.text,
            error=rewards.error,
        )
