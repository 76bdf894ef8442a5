"""What best-of-n by a proxy gains over a random choice, prompt by prompt.

Gold and proxy are centred on the mean of the prompt's own candidates (a random choice is 0, at d = 0) and measured in standard
deviations within a prompt, pooled over the prompts: rewards have neither level nor unit, and a scale for each prompt would blow up
prompts whose answers are all equally good. Suffixes: P prompts, N candidates of a prompt, M values of n.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from assay.audit.best_of_n import best_of_n_kl, expected_best
from assay.stats.metrics import Interval

Columns: TypeAlias = Sequence[np.ndarray]
"""One number for every candidate of every prompt: P arrays (N,)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gains:
    """What best-of-n by one proxy gains over a random choice, on P prompts, at M values of n.

    distance: (M,) sqrt(KL). gold, proxy: (P, M) in standard deviations within a prompt; column n = 1 is 0. gold_scale,
    proxy_scale: that standard deviation, each in its own unit. moments: (P, 3) of each prompt's candidates in scaled units:
    variance of the proxy, variance of gold, their covariance. gold_range, proxy_range: of a candidate less the mean of its prompt;
    so of any gain.
    """

    sizes: np.ndarray
    distance: np.ndarray
    gold: np.ndarray
    proxy: np.ndarray
    gold_scale: float
    proxy_scale: float
    moments: np.ndarray
    gold_range: Interval
    proxy_range: Interval


def gain_curves(proxy: Columns, gold: Columns, sizes: np.ndarray) -> Gains:
    """Gains of best-of-n by the proxy, unbiased (`expected_best`), from P prompts with at least max(sizes) candidates each.

    Raises ValueError when gold does not differ within any prompt: whatever is chosen is then equally good.
    """
    centred = [_centred(column) for column in (proxy, gold)]
    moments = np.array([(np.mean(p * p), np.mean(g * g), np.mean(p * g)) for p, g in zip(*centred, strict=True)])
    scales = np.sqrt(moments[:, :2].mean(axis=0))
    if not scales[1]:
        raise ValueError("gold does not differ between the candidates of any prompt: there is nothing to choose")
    scales[0] = scales[0] or 1.0
    flat = [np.concatenate(column) / scale for column, scale in zip(centred, scales, strict=True)]
    proxy_range, gold_range = (Interval(float(one.min()), float(one.max())) for one in flat)
    best_2PM = np.array([[[expected_best(p, c, n) for n in sizes] for p, c in zip(proxy, part, strict=True)] for part in centred])
    scaled_2PM = best_2PM / scales[:, None, None]
    scaled_2PM[np.abs(scaled_2PM) < 1e-12] = 0.0  # the prompt's mean, at n = 1 and among equals, but for rounding
    return Gains(
        sizes=sizes,
        distance=np.sqrt(np.maximum(best_of_n_kl(sizes), 0)),
        gold=scaled_2PM[1],
        proxy=scaled_2PM[0],
        gold_scale=float(scales[1]),
        proxy_scale=float(scales[0]),
        moments=moments / (scales[[0, 1, 0]] * scales[[0, 1, 1]]),
        gold_range=gold_range,
        proxy_range=proxy_range,
    )


def _centred(column: Columns) -> list[np.ndarray]:
    """Each prompt's values less their mean; what is only the rounding of that is 0."""
    rounding = 1e-14 * max(float(np.abs(values_N).max()) for values_N in column)
    centred = [np.subtract(values_N, np.mean(values_N), dtype=np.float64) for values_N in column]
    return [np.where(np.abs(values_N) <= rounding, 0.0, values_N) for values_N in centred]
