"""Calibration: from margins to probabilities, by a few numbers that are fitted on held-out pairs. Only `prefer` uses it.

There are two fits. Both are antisymmetric, P(-margin) = 1 - P(margin), since the order of the two answers carries no information.
"temperature" is sigmoid(margin / T), one number (Guo et al. 2017); it is the default. "monotone" is isotonic regression of being
right on |margin| (Zadrozny & Elkan 2002); it follows any non-decreasing shape but needs more pairs.

Suffixes: P pairs, B blocks of the isotonic fit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import numpy as np
from scipy.optimize import brentq
from sklearn.isotonic import IsotonicRegression

from assay.files import json_digest
from assay.records import Completion, PreferencePair, Rewards
from assay.scorers.base import OfInner, Scope, Scorer, margins
from assay.stats.linear import cross_fitted
from assay.stats.metrics import NO_INTERVAL, Interval, cluster_folds, sigmoid

Method = Literal["temperature", "monotone"]
MIN_PAIRS = 20
TEMPERATURE_SPAN = 1000.0  # the search runs from (median |margin|) / span to span x (median |margin|)


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """How the margins of one scorer map to probabilities.

    temperature: units of margin per logit; temperature_se: its standard error, clustered by prompt (NaN when the temperature is at
    a bound or comes from the prior). knot_margins (>= 0), knot_probabilities (in [0.5, 1)): the monotone fit, linear between knots,
    constant after the last.
    num_pairs, num_unscored: scored pairs it was fitted on, and pairs left out because their margin is NaN. largest_margin: the
    largest |margin| among them; beyond it the temperature is an extrapolation and the monotone fit constant (NaN = not recorded).
    split: which pairs those were; scorer: fingerprint of the scorer whose margins they are ("" = not recorded).
    mean_reward: of the answers of those pairs, the level that models are centred on when they are joined (NaN = not recorded).
    """

    temperature: float
    temperature_se: float
    knot_margins: tuple[float, ...]
    knot_probabilities: tuple[float, ...]
    num_pairs: int
    num_unscored: int
    split: str
    scorer: str = ""
    note: str = ""
    largest_margin: float = math.nan
    mean_reward: float = math.nan

    @property
    def fingerprint(self) -> str:
        """Digest of the two maps: equal for equal probabilities, wherever they were fitted."""
        return json_digest([self.temperature, self.knot_margins, self.knot_probabilities])

    def probability(self, margins_P: np.ndarray, method: Method = "temperature") -> np.ndarray:
        """P(chosen beats rejected) for margins in the scorer's raw units: (P,) float64 in [0, 1], NaN stays NaN."""
        margins_P = np.asarray(margins_P, dtype=np.float64)
        if method == "temperature":
            return sigmoid(margins_P / self.temperature)
        if method != "monotone":
            raise ValueError(f"unknown method {method!r}: use 'temperature' or 'monotone'")
        sure_P = np.interp(np.abs(margins_P), self.knot_margins, self.knot_probabilities)
        return np.where(margins_P >= 0, sure_P, 1 - sure_P) + np.where(np.isnan(margins_P), np.nan, 0.0)

    @property
    def temperature_interval(self) -> Interval:
        """95% interval of the temperature, inf where its upper end is beyond any that is looked for; none without a standard error.

        Normal in 1 / T, where the likelihood is concave: 1.96 standard errors of T itself miss a true T in 11% of fits on 40 pairs.
        """
        inverse, spread = 1 / self.temperature, 1.96 * self.temperature_se / self.temperature**2
        if math.isnan(spread):
            return NO_INTERVAL
        is_bounded = inverse - spread > inverse / TEMPERATURE_SPAN
        return Interval(1 / (inverse + spread), 1 / (inverse - spread) if is_bounded else math.inf)

    def is_beyond(self, margins_P: np.ndarray) -> np.ndarray:
        """Whether margins are larger than any that the calibration was fitted on: (P,) bool; false where that is not recorded."""
        return np.abs(np.asarray(margins_P, dtype=np.float64)) > self.largest_margin

    def to_json(self) -> dict[str, Any]:
        """A dict for strict JSON (what is NaN becomes None)."""
        return asdict(self) | {
            "temperature_se": _or_none(self.temperature_se),
            "largest_margin": _or_none(self.largest_margin),
            "mean_reward": _or_none(self.mean_reward),
            "knot_margins": list(self.knot_margins),
            "knot_probabilities": list(self.knot_probabilities),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Calibration:
        """The inverse of `to_json`. Raises ValueError that names missing or unknown entries; `largest_margin` and
        `mean_reward`, which were not kept at first, may be missing."""
        odd = {field.name for field in fields(cls)} ^ {*content, "largest_margin", "mean_reward"}
        if odd:
            raise ValueError(f"not a calibration: entries missing or unknown: {', '.join(sorted(odd))}")
        converted = {
            "temperature_se": _or_nan(content["temperature_se"]),
            "largest_margin": _or_nan(content.get("largest_margin")),
            "mean_reward": _or_nan(content.get("mean_reward")),
            "knot_margins": tuple(content["knot_margins"]),
            "knot_probabilities": tuple(content["knot_probabilities"]),
        }
        return cls(**{**content, **converted})


def fit_calibration(
    margins_P: np.ndarray,
    *,
    preference_P: np.ndarray | None = None,
    clusters_P: np.ndarray | None = None,
    split: str,
    scorer: str = "",
) -> Calibration:
    """Fit both maps on margins of pairs that the model was not trained on.

    margins_P: reward of chosen minus reward of rejected, raw; NaN rows are left out and counted.
    preference_P: P(chosen beats rejected) of the labels (default all 1); soft labels and ties are used as they are.
    clusters_P: prompts, for the standard error (default: each pair has its own).
    split, scorer: the name of the pairs' split and the scorer's fingerprint; both are kept in the result.
    Raises ValueError with fewer than 20 scored pairs, or columns of different lengths.
    """
    margins_P = np.asarray(margins_P, dtype=np.float64)
    preference_P = np.ones(len(margins_P)) if preference_P is None else np.asarray(preference_P, dtype=np.float64)
    clusters_P = np.arange(len(margins_P)) if clusters_P is None else np.asarray(clusters_P)
    if not len(margins_P) == len(preference_P) == len(clusters_P):
        lengths = f"{len(margins_P)} margins, {len(preference_P)} preferences, {len(clusters_P)} clusters"
        raise ValueError(f"{lengths}: give one of each for every pair")
    scored_P = np.isfinite(margins_P)
    num_pairs = int(scored_P.sum())
    if num_pairs < MIN_PAIRS:
        raise ValueError(
            f"{num_pairs} scored pairs ({len(margins_P) - num_pairs} unscored) are too few to calibrate on: "
            f"give at least {MIN_PAIRS} held-out pairs, better a few hundred"
        )
    margins_P, preference_P, clusters_P = margins_P[scored_P], preference_P[scored_P], clusters_P[scored_P]
    temperature, note = _fit_temperature(margins_P, preference_P)
    knot_margins, knot_probabilities = _fit_monotone(margins_P, preference_P)
    return Calibration(
        temperature=temperature,
        temperature_se=math.nan if note else _temperature_se(temperature, margins_P, preference_P, clusters_P),
        knot_margins=knot_margins,
        knot_probabilities=knot_probabilities,
        num_pairs=num_pairs,
        num_unscored=len(scored_P) - num_pairs,
        split=split,
        scorer=scorer,
        note=note,
        largest_margin=float(np.abs(margins_P).max()),
    )


def cross_fitted_probabilities(
    margins_P: np.ndarray,
    clusters_P: np.ndarray,
    *,
    preference_P: np.ndarray | None = None,
    num_folds: int = 5,
    seed: int = 0,
    method: Method = "temperature",
) -> np.ndarray:
    """Calibrated P(chosen beats rejected) of each pair, from a fit on the other folds' prompts: (P,) float64, NaN stays NaN.

    For unbiased figures after calibration when there is no second held-out set. Raises ValueError with fewer than two
    prompts, or when the other folds have too few scored pairs to fit on.
    """
    margins_P, clusters_P = np.asarray(margins_P, dtype=np.float64), np.asarray(clusters_P)
    preference_P = np.ones(len(margins_P)) if preference_P is None else np.asarray(preference_P, dtype=np.float64)
    num_clusters = len(np.unique(clusters_P))
    if num_clusters < 2:
        raise ValueError(f"{num_clusters} prompt: cross-fitting needs pairs of at least two prompts")

    def probabilities(fit_P: np.ndarray, held_P: np.ndarray) -> np.ndarray:
        fit = fit_calibration(margins_P[fit_P], preference_P=preference_P[fit_P], split="the other folds")
        return fit.probability(margins_P[held_P], method)

    return cross_fitted(probabilities, cluster_folds(clusters_P, min(num_folds, num_clusters), seed=seed))


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrated:
    """A wrapper with calibrated probabilities: `compare` gives calibrated P; the inner scorer's raw rewards are not changed.

    Scope and tolerance are the inner scorer's. Raises ValueError if the calibration was fitted on another scorer's margins.
    """

    scorer: Scorer
    calibration: Calibration
    method: Method = "temperature"
    scope = OfInner[Scope]()
    tolerance = OfInner[float]()

    def __post_init__(self) -> None:
        if self.method not in ("temperature", "monotone"):
            raise ValueError(f"unknown method {self.method!r}: use 'temperature' or 'monotone'")
        if self.calibration.scorer not in ("", self.scorer.fingerprint):
            raise ValueError(
                f"the calibration was fitted on scorer {self.calibration.scorer!r}, not on {self.scorer.fingerprint!r}: "
                "fit it again with fit_calibration on this scorer's margins"
            )

    @property
    def fingerprint(self) -> str:
        return json_digest([self.scorer.fingerprint, self.calibration.fingerprint, self.method])

    def score(self, completions: Sequence[Completion]) -> Rewards:
        """The inner scorer's rewards, unchanged."""
        return self.scorer.score(completions)

    def compare(self, pairs: Sequence[PreferencePair]) -> np.ndarray:
        """Calibrated P(chosen beats rejected): (P,) float64 in [0, 1], NaN where either answer could not be scored."""
        return self.probability(margins(self.scorer, pairs))

    def probability(self, margins_P: np.ndarray) -> np.ndarray:
        """Calibrated P(chosen beats rejected) of known margins."""
        return self.calibration.probability(margins_P, self.method)

    @property
    def origin(self) -> str:
        return f"calibrated ({self.method}, fitted on {self.calibration.split})"


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _fit_temperature(margins_P: np.ndarray, preference_P: np.ndarray) -> tuple[float, str]:
    """The T that maximises the likelihood, and a note when the pairs did not determine it.

    The log-likelihood is concave in 1/T, so the root of its slope is the maximum. One pseudo pair at the median |margin|, half won
    and half lost (the Jeffreys prior of a coin), keeps the root finite when the pairs alone would move it to infinity.
    """
    size_P = np.abs(margins_P)
    scale = float(np.median(size_P[size_P > 0])) if (size_P > 0).any() else 1.0

    def slope(log_inverse: float) -> float:
        inverse = math.exp(log_inverse) / scale
        prior = scale * (0.5 - float(sigmoid(np.asarray(inverse * scale))))
        return (float(np.sum(margins_P * (preference_P - sigmoid(margins_P * inverse)))) + prior) / scale

    span = math.log(TEMPERATURE_SPAN)
    if slope(-span) <= 0:
        return scale * TEMPERATURE_SPAN, "temperature at its upper bound, every P near 0.5: these margins do not predict the labels"
    if slope(span) >= 0:
        return scale / TEMPERATURE_SPAN, "temperature at its lower bound: nearly all right, with margins of very unequal size"
    temperature = scale / math.exp(float(brentq(slope, -span, span, xtol=1e-10)))
    if np.all(np.where(margins_P > 0, preference_P, 1 - preference_P)[size_P > 0] == 1):
        return (
            temperature,
            "every pair is ranked right, so a prior of one half-won pair sets the temperature: give more or harder pairs",
        )
    return temperature, ""


def _temperature_se(temperature: float, margins_P: np.ndarray, preference_P: np.ndarray, clusters_P: np.ndarray) -> float:
    """Sandwich standard error with scores summed by cluster (Liang & Zeger 1986), by the delta method from 1/T."""
    p_P = sigmoid(margins_P / temperature)
    index_P = np.unique(clusters_P, return_inverse=True)[1]
    score_C = np.bincount(index_P, weights=margins_P * (preference_P - p_P))
    information = float(np.sum(np.square(margins_P) * p_P * (1 - p_P)))
    if len(score_C) < 2 or information == 0:
        return math.nan
    inverse_se = math.sqrt(len(score_C) / (len(score_C) - 1) * float(np.sum(np.square(score_C)))) / information
    return temperature**2 * inverse_se


def _fit_monotone(margins_P: np.ndarray, preference_P: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Knots (|margin|, P) of the isotonic fit, from (0, 0.5) upwards.

    Each block of equal fitted values is shrunk to (right + 1) / (n + 2), so that no block is certain. The blocks are then made
    monotone again and clipped at 0.5 from below. A block's knot is at its mean |margin|.
    """
    is_decided_P = margins_P != 0
    if not is_decided_P.any():
        return (0.0,), (0.5,)
    size_P = np.abs(margins_P[is_decided_P])
    right_P = np.where(margins_P[is_decided_P] > 0, preference_P[is_decided_P], 1 - preference_P[is_decided_P])
    fitted_P = IsotonicRegression(increasing=True).fit_transform(size_P, right_P)
    block_P = np.unique(fitted_P, return_inverse=True)[1]
    n_B = np.bincount(block_P)
    shrunk_B = (np.bincount(block_P, weights=right_P) + 1) / (n_B + 2)
    knot_B = np.bincount(block_P, weights=size_P) / n_B
    level_B = IsotonicRegression(increasing=True).fit_transform(np.arange(len(n_B)), shrunk_B, sample_weight=n_B + 2)
    level_B = np.maximum(level_B, 0.5)
    return (0.0, *map(float, knot_B)), (0.5, *map(float, level_B))
