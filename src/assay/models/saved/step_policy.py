"""How a process reward model's artifact reads a solution: where steps end, how sure it is of each, and one number of them all.

It is the entry "steps" of reward.json. Suffix: S steps of one solution.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from assay.data.steps.step_rules import STEP_RULES, StepRule, with_steps
from assay.records import Completion
from assay.run_files import STEPS
from assay.stats.metrics import sigmoid
from assay.stats.steps.step_reductions import STATISTICS, Reduction, as_reduction, reduce_steps

_TYPICAL = 16.0  # how far a product of many steps moves, in units of how far one step does


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPolicy:
    """rule: how a response without steps is cut into them, see `data/steps/step_rules`. reduction: how the steps become one number.

    scale, shift: P(right) of a step = sigmoid(scale x log-odds + shift), as calibrated; 1 and 0 as the model says it. weights: of
    the reduction "learned", see `learn_reduction`. Raises ValueError for a name that is none, and for a scale that would turn the
    order of steps round.
    """

    rule: StepRule = "blank-lines"
    reduction: Reduction = "min"
    scale: float = 1.0
    shift: float = 0.0
    weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        as_reduction(self.reduction)
        object.__setattr__(self, "weights", tuple(map(float, self.weights)))
        num_weights = 1 + len(STATISTICS) if self.reduction == "learned" else 0
        if len(self.weights) != num_weights or not all(map(math.isfinite, self.weights)):
            raise ValueError(f"the reduction {self.reduction} has {num_weights} finite weights, not {self.weights}")
        if self.rule not in STEP_RULES:
            raise ValueError(f"the rule for steps {self.rule!r} is not known: use {' or '.join(STEP_RULES)}")
        if not (self.scale > 0 and math.isfinite(self.scale) and math.isfinite(self.shift)):
            raise ValueError(f"calibration of steps: scale {self.scale} must be positive and finite, shift {self.shift} finite")

    @staticmethod
    def from_description(description: Mapping[str, Any]) -> StepPolicy:
        """The policy of an artifact. Raises ValueError for an entry that does not hold one."""
        entry = description.get(STEPS) or {}
        try:
            return StepPolicy(**{name: entry[name] for name in StepPolicy.__slots__ if name in entry})
        except TypeError as error:
            raise ValueError(f"the entry {STEPS!r} of reward.json cannot be read ({error})") from error

    def entry(self) -> dict[str, Any]:
        """What reward.json holds of it."""
        return asdict(self)

    def in_steps(self, completions: Sequence[Completion]) -> list[Completion]:
        """The same completions; a response without steps is cut into steps by the rule."""
        return [self._in_steps(completion) for completion in completions]

    def _in_steps(self, completion: Completion) -> Completion:
        if completion.steps is not None or completion.response is None or not completion.response.strip():
            return completion
        return with_steps(completion, self.rule)

    @property
    def threshold(self) -> float:
        """Log-odds at which the calibrated P(right) is one half."""
        return -self.shift / self.scale

    def right(self, log_odds_S: np.ndarray) -> np.ndarray:
        """Calibrated P(right) of steps, (S,) float64 in [0, 1]; NaN stays NaN."""
        return sigmoid(self.scale * np.asarray(log_odds_S, np.float64) + self.shift)

    def value(self, log_odds_S: np.ndarray) -> float:
        """The reward of a solution: see `reduce_steps`, of calibrated probabilities."""
        return reduce_steps(self.scale * np.asarray(log_odds_S, np.float64) + self.shift, self.reduction, self.weights)

    def tolerance(self, of_step: float) -> float:
        """How far a value may move when each step moves by at most `of_step`; of a product, when they do not all move one way."""
        if self.reduction == "learned":
            return of_step * self.scale * max(1.0, _TYPICAL * max(map(abs, self.weights[1:])))
        return of_step * self.scale * (_TYPICAL if self.reduction == "product" else 1.0)
