"""A scorer's rewards times a constant, so that a new model can replace an old one at the same KL coefficient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from assay.files import json_digest
from assay.records import Completion, Rewards
from assay.scorers.base import OfInner, Scope, Scorer


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaled:
    """A wrapper that multiplies value, std and steps by `factor` (> 0). It has a fingerprint of its own."""

    scorer: Scorer
    factor: float
    changes_rewards = True
    scope = OfInner[Scope]()

    def __post_init__(self) -> None:
        if not 0 < self.factor < math.inf:
            raise ValueError(f"factor {self.factor} must be a positive number: anything else would turn or lose the order")

    @property
    def fingerprint(self) -> str:
        return json_digest([self.scorer.fingerprint, self.factor])

    @property
    def tolerance(self) -> float:
        return self.scorer.tolerance * self.factor

    def score(self, completions: Sequence[Completion]) -> Rewards:
        """N completions -> N rewards; what the inner scorer cannot score stays NaN with its reason."""
        rewards = self.scorer.score(completions)
        return Rewards(
            value=rewards.value * self.factor,
            std=None if rewards.std is None else rewards.std * self.factor,
            steps=None if rewards.steps is None else tuple(steps * self.factor for steps in rewards.steps),
            text=rewards.text,
            error=rewards.error,
        )
