"""How well predicted ratings agree with those of the data. Shapes: R answers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from assay.records import Finding, Metric, Report, Table
from assay.stats.bootstrap import percentile_interval, resampled_sums
from assay.stats.metrics import NO_INTERVAL


@dataclass(frozen=True, slots=True, kw_only=True)
class RatingResult:
    """Figures of each attribute on a set. entries: what reward.json says of the heads."""

    title: str
    metrics: tuple[Metric, ...]
    entries: tuple[Mapping[str, Any], ...]

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Warns of an attribute of which the heads explain nothing: the whole interval lies below 0."""
        why = "the head is no better than always saying the mean of the training answers"
        explained = [metric for metric in self.metrics if "variance explained" in metric.name]
        return tuple(
            Finding("warn" if m.high < 0 else "ok", m.name, m.value, 0.0, why if m.high < 0 else m.note) for m in explained
        )

    def report(self) -> Report:
        columns = ("attribute", "weight in the reward", "mean", "standard deviation")
        rows = tuple((entry["name"], entry["weight"], entry["mean"], entry["scale"]) for entry in self.entries)
        table = Table(title="The heads", columns=columns, rows=rows, note="mean and standard deviation of the training answers")
        return Report(title=self.title, metrics=self.metrics, tables=(table,), findings=self.findings)


def rating_metrics(
    name: str, ratings_R: np.ndarray, predicted_R: np.ndarray, prompt_R: np.ndarray, mean: float, *, seed: int
) -> list[Metric]:
    """Variance explained, with an interval by prompt, and correlation of predicted with given ratings; NaN of either is left out.

    Explained: 1 - sum (rating - predicted)^2 / sum (rating - mean)^2. mean: of the training answers, so that a model which always
    says it explains nothing.
    """
    known_R = ~(np.isnan(ratings_R) | np.isnan(predicted_R))
    ratings, predicted = ratings_R[known_R].astype(np.float64), predicted_R[known_R].astype(np.float64)
    num_scored, num = int(known_R.sum()), len(ratings_R)
    if len(ratings) < 2 or np.ptp(ratings) == 0:
        return [
            Metric(f"{name}: variance explained", math.nan, n_scored=num_scored, n=num, note="fewer than two different ratings")
        ]
    errors = np.stack([(ratings - predicted) ** 2, (ratings - mean) ** 2], axis=1)
    index = np.unique(prompt_R[known_R], return_inverse=True)[1]
    sums_C2 = np.stack([np.bincount(index, weights=column) for column in errors.T], axis=1)
    interval = NO_INTERVAL
    if len(sums_C2) > 1:
        sums_S2 = resampled_sums(sums_C2, seed=seed)
        with np.errstate(invalid="ignore", divide="ignore"):
            interval = percentile_interval(np.where(sums_S2[:, 1] > 0, 1 - sums_S2[:, 0] / sums_S2[:, 1], np.nan))
    explained = 1 - float(errors[:, 0].sum() / errors[:, 1].sum())
    note = f"mean error {float(np.abs(ratings - predicted).mean()):.3g} in the units of the data"
    correlation = float(np.corrcoef(ratings, predicted)[0, 1]) if np.ptp(predicted) > 0 else math.nan
    return [
        Metric(f"{name}: variance explained", explained, *interval, num_scored, num, note),
        Metric(f"{name}: correlation", correlation, n_scored=num_scored, n=num),
    ]
