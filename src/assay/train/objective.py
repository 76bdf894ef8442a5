"""Which objective a run follows, and the loss of its pairs. The formulas are in models/objectives.py.

Shapes: P pairs of a micro-batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from assay.models.objectives import bradley_terry, davidson, flipped_bradley_terry, rao_kupper, smooth_labels, unflip_labels

Loss = Literal["bradley-terry", "rdpo", "flips", "rao-kupper", "davidson"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """What is minimised over the pairs."""

    loss: Loss = "bradley-terry"
    """rdpo, flips: for wrong labels; rao-kupper, davidson: for ties."""
    label_smoothing: float = 0.0
    """Share of each label that goes to the other answer."""
    flip_rate: float = 0.0
    """Known share of wrong labels, for rdpo and flips."""
    tie_share: float = 0.5
    """How often two equal answers tie, for rao-kupper and davidson."""
    use_margin: bool = False
    """Margins of the data, which must be logits, enter the loss."""
    centring: float = 0.01
    """Coefficient that keeps each prompt's mean reward near zero."""
    debias_length: bool = False
    """Do not reward what the length alone says of the labels."""

    def __post_init__(self) -> None:
        for name in ("label_smoothing", "flip_rate"):
            if not 0 <= getattr(self, name) < 0.5:
                raise ValueError(f"--{name.replace('_', '-')} {getattr(self, name)} must be at least 0 and below 0.5")
        if not 0 < self.tie_share < 1:
            raise ValueError(f"--tie-share {self.tie_share} must lie between 0 and 1")
        if not 0 <= self.centring < math.inf:
            raise ValueError(f"--centring {self.centring} must be 0 or more")
        if self.flip_rate and self.loss not in ("rdpo", "flips"):
            raise ValueError(f"--flip-rate {self.flip_rate} says nothing to --loss {self.loss}: use --loss flips or rdpo")
        if self.debias_length and self.loss in ("rao-kupper", "davidson"):
            raise ValueError(f"--debias-length cannot be joined with --loss {self.loss}: its ties stand for equal answers")
        if self.use_margin and self.loss in ("rao-kupper", "davidson"):
            raise ValueError(f"--use-margin cannot be joined with --loss {self.loss}: its ties stand for small margins")


def pair_losses(
    chosen_P: torch.Tensor,
    rejected_P: torch.Tensor,
    preference_P: torch.Tensor,
    margin_P: torch.Tensor | None,
    objective: Objective,
) -> torch.Tensor:
    """Loss of each pair, (P,), before weights and centring."""
    if objective.loss in ("rao-kupper", "davidson"):
        # Between equals the probability of a tie is tanh(width / 2) and w / (2 + w).
        share = objective.tie_share
        if objective.loss == "rao-kupper":
            return rao_kupper(chosen_P, rejected_P, preference_P, 2 * math.atanh(share))
        return davidson(chosen_P, rejected_P, preference_P, math.log(2 * share / (1 - share)))
    if objective.label_smoothing:
        preference_P = smooth_labels(preference_P, objective.label_smoothing)
    if objective.loss == "flips":
        return flipped_bradley_terry(chosen_P, rejected_P, preference_P, objective.flip_rate, margin_P)
    if objective.loss == "rdpo":
        preference_P = unflip_labels(preference_P, objective.flip_rate)
    return bradley_terry(chosen_P, rejected_P, preference_P, margin_P)


def length_log_odds(gap_P: np.ndarray, preference_P: np.ndarray, weight_P: np.ndarray, *, l2: float = 1.0) -> float:
    """The slope b of the model of the labels that knows the length only: P(chosen wins) = sigmoid(b x gap), in logits.

    gap_P: log length of chosen less that of rejected, (P,). Logistic regression without an intercept, labels as they are, Newton
    steps; l2 keeps b finite where length tells all. Taken off the loss, the first half of fitting the residual of a known bias:
    He et al. (2019), "Unlearn dataset bias in natural language inference by fitting the residual"; Clark et al. (2019).
    """
    gap_P, weight_P = gap_P.astype(np.float64), weight_P.astype(np.float64)
    slope = 0.0
    for _ in range(50):
        p_P = 1 / (1 + np.exp(-np.clip(slope * gap_P, -30, 30)))
        gradient = float(np.sum(weight_P * (p_P - preference_P) * gap_P)) + l2 * slope
        curvature = float(np.sum(weight_P * p_P * (1 - p_P) * gap_P**2)) + l2
        step = gradient / curvature
        slope -= max(-1.0, min(1.0, step))
        if abs(step) < 1e-9:
            break
    return slope
