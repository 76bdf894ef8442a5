"""What rewards of steps say, as a few numbers that a service can hand on. Suffix: S steps of one solution."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from assay.stats.metrics import sigmoid


class StepMeaning(NamedTuple):
    """What rewards of steps say: P(right) = sigmoid(scale x + shift) of log-odds, or scale x + shift of what lies in an interval. A
    step is taken for right above the threshold."""

    is_log_odds: bool
    scale: float
    shift: float
    threshold: float

    def right(self, rewards_S: np.ndarray) -> np.ndarray:
        """P(right) of steps, (S,) float64; NaN stays NaN."""
        found_S = self.scale * np.asarray(rewards_S, np.float64) + self.shift
        return sigmoid(found_S) if self.is_log_odds else found_S
