"""The factor that makes a new reward model pull a policy as far as an old one at one KL coefficient, solved from candidates.

Under reward r and KL coefficient beta the best policy is reference x exp(r / beta), up to a constant (Rafailov et al. 2023, eq. 4).
Of n candidates drawn from the reference its weights are p = softmax(r / beta), and its KL to the reference is estimated by
sum p log(n p), averaged over prompts. Unlike the spread of margins this sees skewness, of which a policy follows the upper tail.

n candidates can show log n nats at most, and less than the truth well before that: the jackknife takes off most of what is missing
(at .5 nats and 64 candidates, a new model with an exponential tail pulls 1.25 times as far as asked, without it 1.5), and a pull of
more than half of log n is refused.

Suffixes: N candidates of a prompt, C prompts, D prompts and one more, G points of a grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import stdtrit

from assay.records import Metric

MIN_PROMPTS = 20
MOST_OF_CAP = 0.5  # of log n, that the old rewards may pull
_SPAN, _STEPS = 1000.0, 241  # factors that are tried: from 1 / span to span times the ratio of the spreads


class EqualKl(NamedTuple):
    """factor: new rewards times this pull as far as the old ones at `beta`, with its 95% interval (see `_ends`).

    nats: how far the old ones pull, mean over prompts; cap: mean log n. num_scored of num prompts have candidates that both scored.
    """

    factor: float
    low: float
    high: float
    beta: float
    nats: float
    cap: float
    num_scored: int
    num: int

    def metric(self, name: str) -> Metric:
        """The factor as a figure of a report."""
        note = (
            f"new rewards times this pull {self.nats:.3g} nats at a KL coefficient of {self.beta:g}, as the old ones do, by "
            f"candidates to {self.num_scored} prompts, which can show {self.cap:.2g}; another coefficient may need another factor"
        )
        return Metric(name, self.factor, self.low, self.high, self.num_scored, self.num, note)


def equal_kl_factor(old: Sequence[np.ndarray], new: Sequence[np.ndarray], beta: float) -> EqualKl:
    """Solve the factor from rewards (N,) of the candidates of each prompt, by the old model and by the new one, row by row.

    beta: the KL coefficient of the old rewards, in their units. Candidates that either could not score (NaN) are left out. Raises
    ValueError for a beta that is not positive, fewer than 20 prompts with two candidates that both scored, a pull beyond half of
    log n, a new model that cannot pull as far, and prompts that do not bound the factor.
    """
    if not 0 < beta < math.inf:
        raise ValueError(f"beta {beta:g} must be a positive number: the KL coefficient of the old rewards, in their units")
    kept = [(o[ok], n[ok]) for o, n in zip(old, new, strict=True) if (ok := np.isfinite(o) & np.isfinite(n)).sum() > 1]
    if len(kept) < MIN_PROMPTS:
        raise ValueError(
            f"{len(kept)} of {len(old)} prompts have candidates that both scored: {MIN_PROMPTS} are needed, better 100"
        )
    cap = float(np.mean([math.log(len(rewards)) for rewards, _ in kept]))
    nats_C = np.array([plug_in_kl(rewards / beta)[0] for rewards, _ in kept])
    nats = float(nats_C.mean())
    if nats > MOST_OF_CAP * cap:
        raise ValueError(
            f"the old rewards pull {nats:.2f} nats at beta {beta:g}, more than half of the {cap:.2f} that these candidates can "
            "show: give more candidates a prompt, or a larger beta"
        )
    spread_old, spread_new = (math.sqrt(float(np.mean([np.var(both[k]) for both in kept]))) for k in (0, 1))
    if not (spread_old and spread_new):
        which = "OLD" if not spread_old else "NEW"
        raise ValueError(f"{which} gives one reward to all candidates of every prompt, so it has no scale: is it trained?")
    wanted_C = np.array([corrected_kl(rewards / beta)[0] for rewards, _ in kept])
    wanted, grid_G = float(wanted_C.mean()), spread_old / spread_new * np.geomspace(1 / _SPAN, _SPAN, _STEPS)
    reached_CG = np.stack([corrected_kl(rewards[None] * (grid_G / beta)[:, None]) for _, rewards in kept])
    above_G = reached_CG.mean(axis=0) >= wanted
    if not above_G.any() or above_G[0]:
        raise ValueError(f"NEW cannot pull {nats:.2f} nats at any factor: too many of its best candidates are equal")

    def excess(log_factor: float) -> float:
        return float(np.mean([corrected_kl(rewards * (math.exp(log_factor) / beta))[0] for _, rewards in kept])) - wanted

    first = int(np.argmax(above_G))
    factor = math.exp(float(brentq(excess, math.log(grid_G[first - 1]), math.log(grid_G[first]), xtol=1e-9)))

    low, high = _ends(reached_CG - wanted_C[:, None], grid_G)
    if math.isinf(high):
        raise ValueError(f"{len(kept)} prompts do not bound the factor from above: give more prompts, or more candidates to each")
    return EqualKl(factor, low, high, beta, nats, cap, len(kept), len(old))


def _ends(ahead_CG: np.ndarray, grid_G: np.ndarray) -> tuple[float, float]:
    """Ends of the 95% interval of the factor: the grid's factors at which a t-test does not tell the two pulls apart.

    ahead_CG: by how much the new rewards times a factor pull further, at each prompt. At either end one more prompt is counted,
    as far to that side as the farthest that was seen: few prompts carry the pull of a skewed reward, and those that were not drawn
    are missed. Without it 14% of intervals lie above the truth on 60 prompts whose new rewards have an exponential upper tail.
    Misses, by benchmarks/levels.py: at most 7% for normal rewards and a lower tail, 12% for an upper tail on 60 prompts.
    """
    reach = float(stdtrit(len(ahead_CG) - 1, 0.975))

    def t_with(more_G: np.ndarray) -> np.ndarray:
        """(G,) of the prompts and one more."""
        all_DG = np.vstack([ahead_CG, more_G])
        error_G = all_DG.std(axis=0, ddof=1) / math.sqrt(len(all_DG))
        return np.asarray(all_DG.mean(axis=0) / np.maximum(error_G, 1e-300))

    low = _crossing(grid_G, t_with(ahead_CG.max(axis=0)), -reach)
    return low, _crossing(grid_G, t_with(ahead_CG.min(axis=0)), reach)


def plug_in_kl(rewards_N: np.ndarray) -> np.ndarray:
    """KL in nats of softmax(rewards) to the uniform distribution over the candidates, along the last axis: (...,), at least (1,).

    rewards_N: already divided by the KL coefficient.
    """
    rewards_N = np.atleast_2d(rewards_N)
    shifted_N = rewards_N - rewards_N.max(axis=-1, keepdims=True)
    weight_N = np.exp(shifted_N)
    total = weight_N.sum(axis=-1)
    return np.asarray((weight_N * shifted_N).sum(axis=-1) / total - np.log(total) + math.log(rewards_N.shape[-1]))


def corrected_kl(rewards_N: np.ndarray) -> np.ndarray:
    """`plug_in_kl` less its bias, by leaving out each candidate once (Quenouille 1956): n KL - (n - 1) x the mean of the others."""
    rewards_N = np.atleast_2d(rewards_N)
    n, shifted_N = rewards_N.shape[-1], rewards_N - rewards_N.max(axis=-1, keepdims=True)
    weight_N = np.exp(shifted_N)
    total = weight_N.sum(axis=-1, keepdims=True)
    left_N, product_N = total - weight_N, (weight_N * shifted_N).sum(axis=-1, keepdims=True) - weight_N * shifted_N
    is_left_N = left_N > 1e-9  # else one candidate has all the weight, and of the others one would have
    safe_N = np.where(is_left_N, left_N, 1.0)
    without_N = np.where(is_left_N, product_N / safe_N - np.log(safe_N), 0.0) + math.log(n - 1)
    return np.asarray(n * plug_in_kl(rewards_N) - (n - 1) * without_N.mean(axis=-1))


def _crossing(grid_G: np.ndarray, values_G: np.ndarray, wanted: float) -> float:
    """The factor at which the values first reach what is wanted, between grid points by its logarithm; 0 below them,
    infinite above."""
    above_G = values_G >= wanted
    if not above_G.any():
        return math.inf
    right = int(np.argmax(above_G))
    if right == 0:
        return 0.0
    share = (wanted - values_G[right - 1]) / (values_G[right] - values_G[right - 1])
    return float(grid_G[right - 1] * (grid_G[right] / grid_G[right - 1]) ** share)
