"""From rewards of a scorer to what a policy is trained on. Pure functions; NaN stays NaN, so that what was not scored leaves its
group. Suffixes: P prompts, K answers of a prompt.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import numpy as np

from assay.scorers.ensemble import robust_mean


def centred(rewards_PK: np.ndarray, reference_PR: np.ndarray) -> np.ndarray:
    """Rewards less the mean reward of reference answers to the same prompt: how much better than what the frozen policy says.

    It moves no advantage that is relative to a prompt's other answers; it gives numbers that can be compared between prompts, for
    `clipped`, `bounded` and a value head. A prompt whose reference answers have no reward has none.
    """
    rewards_PK, reference_PR = _table(rewards_PK), _table(reference_PR)
    if len(rewards_PK) != len(reference_PR):
        raise ValueError(f"reference rewards of {len(reference_PR)} prompts for {len(rewards_PK)}: give each prompt its own")
    scored_P = (~np.isnan(reference_PR)).sum(1)
    mean_P = np.where(scored_P > 0, np.nansum(reference_PR, axis=1) / np.maximum(scored_P, 1), np.nan)
    return rewards_PK - mean_P[:, None]


def clipped(rewards_PK: np.ndarray, low: float, high: float) -> np.ndarray:
    """Rewards between two ends. Beyond an end nothing is gained: a policy stops to climb there."""
    if not low < high:
        raise ValueError(f"low {low:g} must be below high {high:g}")
    return np.clip(_table(rewards_PK), low, high)


def bounded(rewards_PK: np.ndarray, scale: float = 1.0) -> np.ndarray:
    """sigmoid(reward / scale) of centred rewards: in [0, 1], steep at the reference, flat far above it.

    Source: "Reward Shaping to Mitigate Reward Hacking in RLHF" (PAR), arXiv 2502.18770.
    """
    if not scale > 0:
        raise ValueError(f"scale {scale:g} must be above 0")
    return 0.5 * (1 + np.tanh(_table(rewards_PK) / (2 * scale)))


def combined(columns: Mapping[str, np.ndarray], weights: Mapping[str, float]) -> np.ndarray:
    """Weighted sum of the rewards of several scorers, each (P, K). An answer without one of them has none: a sum of what is left
    would be another reward. Raises ValueError where names or shapes differ."""
    if set(columns) != set(weights) or not columns:
        raise ValueError(f"rewards of {sorted(columns)} and weights of {sorted(weights)}: name the same scorers, at least one")
    shapes = {np.shape(one_PK) for one_PK in columns.values()}
    if len(shapes) != 1:
        raise ValueError(f"rewards have the shapes {sorted(map(str, shapes))}: they are of other answers")
    return np.sum([weights[name] * _table(one_PK) for name, one_PK in columns.items()], axis=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class CostState:
    """A cost that is to stay at a limit on average: reward - multiplier (cost - limit). The multiplier grows while the cost is
    above the limit, and falls, to 0 at least, while it is below: dual ascent, as in safe RLHF (arXiv 2310.12773, section 3.3),
    whose logarithm of the multiplier is not taken here, so that it can be 0."""

    limit: float
    multiplier: float = 0.0
    rate: float = 0.05
    highest: float = 100.0

    def __post_init__(self) -> None:
        if self.multiplier < 0 or not self.rate > 0 or not math.isfinite(self.limit):
            raise ValueError(
                f"multiplier {self.multiplier:g} must be 0 or more, rate {self.rate:g} above 0, limit {self.limit:g} finite"
            )

    def less_cost(self, rewards_PK: np.ndarray, costs_PK: np.ndarray) -> np.ndarray:
        return _table(rewards_PK) - self.multiplier * (_table(costs_PK) - self.limit)

    def after_step(self, costs_PK: np.ndarray) -> Self:
        """The state after a step with these costs; without any cost that was scored it stays."""
        costs_PK = _table(costs_PK)
        if np.isnan(costs_PK).all():
            return self
        multiplier = self.multiplier + self.rate * (float(np.nanmean(costs_PK)) - self.limit)
        return replace(self, multiplier=min(max(multiplier, 0.0), self.highest))

    def saved(self) -> dict[str, Any]:
        return asdict(self)


def robust(members_MPK: Sequence[np.ndarray] | np.ndarray, beta: float) -> np.ndarray:
    """(P, K) the KL-robust reward of M members: -beta log mean exp(-r / beta), members centred in each prompt first.

    It is the mean for large beta, the least member for small, and mean - variance / (2 beta) to second order. Source: arXiv
    2606.09073. A member without a reward leaves the answer without one.
    """
    members_MPK = np.asarray(members_MPK, dtype=np.float64)
    if members_MPK.ndim != 3 or not len(members_MPK):
        raise ValueError(f"members' rewards have the shape (members, prompts, answers), not {members_MPK.shape}")
    if not beta > 0:
        raise ValueError(f"beta {beta:g} must be above 0: it is the temperature of the mean")
    scored_MPK = ~np.isnan(members_MPK)
    mean_MP1 = np.where(scored_MPK, members_MPK, 0).sum(2, keepdims=True) / np.maximum(scored_MPK.sum(2, keepdims=True), 1)
    return robust_mean(members_MPK - mean_MP1, beta)


def _table(rewards_PK: np.ndarray) -> np.ndarray:
    rewards_PK = np.asarray(rewards_PK, dtype=np.float64)
    if rewards_PK.ndim != 2:
        raise ValueError(f"rewards have the shape (prompts, answers), not {rewards_PK.shape}")
    return rewards_PK
