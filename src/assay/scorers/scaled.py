"""Another scorer's rewards times a constant: how a new model takes the place of an old one under the same KL coefficient."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from assay.records import Completion, Rewards
from assay.scorers.base import Scope, Scorer


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaled:
    """A Scorer that holds a Scorer: value, std and steps times `factor` (> 0). A scorer of its own, with its own fingerprint."""

    scorer: Scorer
    factor: float

    def __post_init__(self) -> None:
        if not 0 < self.factor < math.inf:
            raise ValueError(f"factor {self.factor} must be a positive number: anything else would turn or lose the order")

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(json.dumps([self.scorer.fingerprint, self.factor]).encode()).hexdigest()[:32]

    @property
    def scope(self) -> Scope:
        return self.scorer.scope

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
