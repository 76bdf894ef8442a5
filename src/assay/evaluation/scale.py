"""Map the scale of one reward model onto another's, so that it can take the other's place under the same KL coefficient.

Only margins (differences between two answers to one prompt) carry a scale; offsets need no mapping, since a constant added to all
answers of a prompt changes no policy. Suffixes: P pairs, S bootstrap samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from scipy.stats import rankdata

from assay.evaluation.equal_kl import EqualKl
from assay.records import Finding, Metric, PageResult, PreferencePair, Report
from assay.stats.bootstrap import percentile_interval, resampled
from assay.stats.mean_intervals import mean_interval
from assay.stats.metrics import CHANGE, NO_INTERVAL, UNIT, Interval, is_right, mean

SPREAD = "factor by the spread of the margins"
FACTOR, ROBUST, AGREEMENT, TIES, RANKS = "factor", "robust factor", "agreement", "tied pairs", "rank correlation of margins"
SPREAD_NOTE = (
    "new rewards times this are on the old scale: ratio of the root mean squares of the margins. It keeps the pull of a KL "
    "coefficient where rewards to a prompt lie evenly about their mean; a tail of high rewards pulls further, one of low ones less"
)
MIN_PAIRS = 20
MAX_ERROR, MAX_TAILS, MIN_AGREEMENT = 0.10, 0.20, 0.70
Measure: TypeAlias = Callable[[np.ndarray, np.ndarray], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleResult(PageResult):
    """How the scale of a new model compares with an old one's.

    factor: new rewards times this are on the old scale; solved for equal KL where candidates were given. agreement: share of the
    pairs that both order alike. num_pairs: pairs with the margins of both.
    """

    factor: Metric
    agreement: Metric
    num_pairs: int


def measure_scale(
    old_P: np.ndarray,
    new_P: np.ndarray,
    pairs: Sequence[PreferencePair],
    *,
    title: str = "Scale",
    equal_kl: EqualKl | None = None,
    seed: int = 0,
) -> ScaleResult:
    """Factor, agreement and accuracy from the margins (P,) of two models on the same pairs; NaN is left out and counted.

    equal_kl: the factor as it was solved from candidates (`equal_kl_factor`). Without it the factor is the ratio of the spreads of
    the margins, which keeps the pull of a KL coefficient for symmetric reward distributions alone: margins of two answers do not
    show skewness. Raises ValueError for fewer than 20 pairs with both margins, and for a model whose margins are all 0.
    """
    scored_P, n = np.isfinite(old_P) & np.isfinite(new_P), len(pairs)
    scored = int(scored_P.sum())
    if scored < MIN_PAIRS:
        raise ValueError(f"{scored} of {n} pairs were scored by both: give --data of at least {MIN_PAIRS}, better 500")
    old_P, new_P = np.asarray(old_P, dtype=np.float64)[scored_P], np.asarray(new_P, dtype=np.float64)[scored_P]
    for margins_P, which in ((old_P, "OLD"), (new_P, "NEW")):
        if not margins_P.any():
            raise ValueError(f"{which} gives equal rewards to both answers of every pair, so it has no scale: is it trained?")
    preference_P = np.array([pair.preference for pair in pairs])[scored_P]
    prompts_P = np.unique([pair.prompt_key for pair in pairs], return_inverse=True)[1][scored_P]

    def figure(name: str, measure: Measure, note: str) -> Metric:
        interval = paired_interval(measure, old_P, new_P, prompts_P, seed=seed)
        return Metric(name, measure(old_P, new_P), *interval, scored, n, note)

    def share(name: str, values_P: np.ndarray, out_of: int, note: str, support: Interval = UNIT) -> Metric:
        interval = mean_interval(values_P, prompts_P, seed=seed, support=support)
        return Metric(name, mean(values_P), *interval, int(np.sum(~np.isnan(values_P))), out_of, note)

    ties = [int(tied_P.sum()) for tied_P in ((old_P == 0) & (new_P != 0), (old_P != 0) & (new_P == 0), (old_P == 0) & (new_P == 0))]
    alike_P = np.where(old_P * new_P == 0, np.nan, np.sign(old_P) == np.sign(new_P))
    by_spread = figure(FACTOR if equal_kl is None else SPREAD, scale_factor, SPREAD_NOTE)
    metrics = [
        *(() if equal_kl is None else (equal_kl.metric(FACTOR),)),
        by_spread,
        figure(ROBUST, robust_factor, "ratio of the medians of |margin|, which large margins do not move"),
        share(AGREEMENT, alike_P, n, "pairs that both order alike, of those that neither ties"),
        Metric(TIES, sum(ties), n_scored=scored, n=n, note="margin 0: old alone {}, new alone {}, both {}".format(*ties)),
        figure(RANKS, rank_correlation, "Spearman, each pair in both orders: which answer is named first does not matter"),
    ]
    named = {metric.name: metric for metric in metrics}
    if (preference_P != 0.5).any():
        old_right_P, new_right_P = is_right(old_P, preference_P), is_right(new_P, preference_P)
        labelled = sum(not pair.is_tie for pair in pairs)
        metrics += [
            share("accuracy: old", old_right_P, labelled, "a score tie counts as wrong"),
            share("accuracy: new", new_right_P, labelled, "a score tie counts as wrong"),
            share("accuracy: new minus old", new_right_P - old_right_P, labelled, "paired, resampled by prompt", CHANGE),
        ]
    facts = {"pairs": str(n), "prompts": str(len(np.unique(prompts_P))), "seed": str(seed)}
    findings = _findings(named[FACTOR], by_spread, named[ROBUST], named[AGREEMENT])
    page = Report(title=title, metrics=tuple(metrics), findings=findings, facts=facts)
    return ScaleResult(factor=named[FACTOR], agreement=named[AGREEMENT], num_pairs=scored, page=page)


def scale_factor(old_P: np.ndarray, new_P: np.ndarray) -> float:
    """rms(old margins) / rms(new margins): new rewards times this move a policy as far as the old ones; swapped, it is 1 / factor.

    The best policy under reward r and KL coefficient b is proportional to reference x exp(r / b) (Rafailov et al. 2023, eq. 4). Its
    KL to the reference is Var(r | prompt) / (2 b^2) to second order, and margins of two answers drawn from the reference have mean
    square 2 Var: equal mean squares give equal KL. A regression of one model's margins on the other's would be shrunk by what
    either does not share with the other, though a policy follows that part too.
    """
    return _ratio(float(np.sqrt(np.mean(np.square(old_P)))), float(np.sqrt(np.mean(np.square(new_P)))))


def robust_factor(old_P: np.ndarray, new_P: np.ndarray) -> float:
    """median |old margin| / median |new margin|; NaN where the latter is 0."""
    return _ratio(float(np.median(np.abs(old_P))), float(np.median(np.abs(new_P))))


def rank_correlation(old_P: np.ndarray, new_P: np.ndarray) -> float:
    """Spearman's correlation of the margins over both orders of every pair, m and -m: in [-1, 1], NaN where one is all ties.

    The rank of m among all m and -m, less its mean, is sign(m) (rank of |m| - 1/2). Without the second order it would depend on
    which answer of a pair happens to be called chosen.
    """
    old, new = (np.sign(margins_P) * (rankdata(np.abs(margins_P)) - 0.5) for margins_P in (old_P, new_P))
    return _ratio(float(old @ new), math.sqrt(float(old @ old) * float(new @ new)))


def paired_interval(
    measure: Measure, old_P: np.ndarray, new_P: np.ndarray, clusters_P: np.ndarray, *, seed: int, num_samples: int = 1000
) -> Interval:
    """95% percentile interval of a figure of two columns when whole clusters (prompts) are drawn anew, the same for both columns.

    None with a single cluster, or when some draw has no figure.
    """
    index_P = np.unique(clusters_P, return_inverse=True)[1]
    num_clusters = int(index_P.max()) + 1

    def measured(counts_SC: np.ndarray) -> np.ndarray:
        return np.array([measure(np.repeat(old_P, n_P), np.repeat(new_P, n_P)) for n_P in counts_SC[:, index_P]])

    values_S = resampled(measured, num_clusters, seed=seed, num_samples=num_samples, width=len(index_P))
    return NO_INTERVAL if num_clusters < 2 or np.isnan(values_S).any() else percentile_interval(values_S, num_clusters=num_clusters)


def _ratio(over: float, under: float) -> float:
    return over / under if under > 0 else math.nan


def _findings(factor: Metric, by_spread: Metric, robust: Metric, agreement: Metric) -> tuple[Finding, ...]:
    def held(is_ok: bool, name: str, value: float, threshold: float, seen: str, why: str) -> Finding:
        return Finding("ok" if is_ok else "warn", name, value, threshold, seen if is_ok else f"{seen}: {why}")

    error = math.sqrt(_ratio(factor.high, factor.low)) - 1
    tails = float(np.maximum(_ratio(by_spread.value, robust.value), _ratio(robust.value, by_spread.value))) - 1
    unscored = by_spread.n - by_spread.n_scored
    interval = "no interval" if math.isnan(error) else f"95% interval [{factor.low:.4g}, {factor.high:.4g}]"
    certain = f"factor {factor.value:.4g}, {interval}"
    sizes = f"factor by the spread {by_spread.value:.3g}, robust factor {robust.value:.3g}"
    alike = f"both models order {agreement.value:.1%} of the pairs alike"
    other = "a factor maps how far a policy is pulled, not where to; this is another reward, not another scale"
    counted = f"{unscored} of {by_spread.n} pairs lack a margin of either model"
    return (
        held(error <= MAX_ERROR, "certainty of the factor", error, MAX_ERROR, certain, "give a reference with more prompts"),
        held(tails <= MAX_TAILS, "one factor for all", tails, MAX_TAILS, sizes, "large margins and usual ones differ in scale"),
        held(agreement.value >= MIN_AGREEMENT, "agreement", agreement.value, MIN_AGREEMENT, alike, other),
        held(unscored == 0, "unscored pairs", unscored, 0, counted, "they are in no figure"),
    )
