"""How much of the margins length, format and tone explain: a regression of margins on differences of surface features.

Everything is within prompts: margins and features are those of one answer less those of another answer to the same prompt, so that
levels of prompts, which preferences do not fix, play no part. Which answer of a pair is called chosen does not matter either: there
is no intercept. The features explain in the statistical sense; what causes a reward is tested in `openers`.

Suffixes: P pairs, C prompts, F features, M singular values, V words, S bootstrap samples.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_matrix

from assay.audit.attribution.features import FEATURES, LENGTH_FEATURES, feature_matrix
from assay.records import Finding, Metric, Parts, PreferencePair, Table
from assay.scorers.baselines import WORD, term_differences
from assay.stats.bootstrap import percentile_interval, resampled, resampled_sums
from assay.stats.linear import cross_fitted
from assay.stats.metrics import NO_INTERVAL, Interval, cluster_folds

ALL, LENGTH_ALONE, WORDS = "R2 of all surface features", "R2 of length alone", "R2 of words and pairs of words"
MIN_PAIRS, NUM_FOLDS = 30, 5
SURFACE_PAIRS = 200  # for a verdict on all features together: of fewer pairs their R2 comes out far too low
LENGTH_WARN, LENGTH_FAIL = 0.25, 0.5
SURFACE_WARN = 0.5
NUM_SAMPLES = 1000  # of the bootstrap
MIN_TEXTS = 3
NUM_TERMS_SHOWN = 12
RIDGE = 1e-3  # of the features, as a share of the pairs: columns that say the same share the credit
_PENALTIES = (1.0, 10.0, 100.0, 1000.0, 10_000.0)
_FEATURE_PENALTIES = tuple(10.0 ** (step / 2) for step in range(-6, 11))


class Explained(NamedTuple):
    """R^2 with its interval: the share of the margins' mean square that features explain on prompts that the fit never saw."""

    value: float
    interval: Interval


def attribute_margins(margins_P: np.ndarray, pairs: Sequence[PreferencePair], *, seed: int = 0) -> Parts:
    """Explain P margins (NaN = unscored, left out and counted) by features of the two answers.

    The metrics are R^2 of all surface features, of length alone and of words, in that order.
    R^2 is cross-fitted over 5 folds of prompts; its interval and those of the coefficients are 95%, resampled by prompt.
    Coefficients are standardised: the change of the margin in root mean squares of the margin, for a difference of one root mean
    square of the feature, the other features held. Features are under a ridge, its penalty by their marginal likelihood; words and
    pairs of words, as log counts, under one by generalised cross-validation (Golub, Heath & Wahba 1979). "surface" is decided from
    200 pairs on.
    Raises ValueError for fewer than 30 scored pairs or 5 prompts, or margins that are all 0.
    """
    scored_P = np.isfinite(margins_P)
    n, total = int(scored_P.sum()), len(pairs)
    if n < MIN_PAIRS:
        raise ValueError(f"{n} of {total} pairs were scored: at least {MIN_PAIRS} are needed, better 500")
    kept = [pair for pair, is_scored in zip(pairs, scored_P, strict=True) if is_scored]
    margins = np.asarray(margins_P, np.float64)[scored_P]
    prompts = np.unique([pair.prompt_key for pair in kept], return_inverse=True)[1]
    if prompts.max() + 1 < NUM_FOLDS:
        raise ValueError(f"the pairs have {prompts.max() + 1} prompts: at least {NUM_FOLDS} are needed, better 100")
    if not margins.any():
        raise ValueError("every margin is 0: both answers of each pair have the same reward, so there is nothing to explain")
    differences_PF = feature_matrix([pair.chosen for pair in kept]) - feature_matrix([pair.rejected for pair in kept])
    length = [list(FEATURES).index(name) for name in LENGTH_FEATURES]
    folds = cluster_folds(prompts, NUM_FOLDS, seed=seed)
    terms, words_PV = term_differences(kept, _terms, min_texts=MIN_TEXTS)
    kernel_PP = (words_PV @ words_PV.T).toarray()
    found = {
        ALL: explained(margins, _predict_features(differences_PF, margins, folds), prompts, seed),
        LENGTH_ALONE: explained(margins, _predict_features(differences_PF[:, length], margins, folds), prompts, seed),
        WORDS: explained(margins, _predict_words(kernel_PP, margins, folds), prompts, seed),
    }
    notes = {
        ALL: f"{len(FEATURES)} features, cross-fitted by prompt; below 0: they predict worse than nothing does",
        LENGTH_ALONE: "characters and their logarithm, cross-fitted by prompt",
        WORDS: f"{len(terms):,} terms that stand in at least {MIN_TEXTS} answers, cross-fitted by prompt",
    }
    metrics = [Metric(name, part.value, *part.interval, n, total, notes[name]) for name, part in found.items()]
    tables = (_coefficient_table(differences_PF, margins, prompts, seed), _term_table(terms, words_PV, kernel_PP, margins))
    return Parts(tuple(metrics), tables, _findings(found, n))


def explained(margins_P: np.ndarray, predicted_P: np.ndarray, clusters_P: np.ndarray, seed: int) -> Explained:
    """R^2 = 1 - sum (margin - predicted)^2 / sum margin^2, and its percentile interval over clusters drawn anew."""
    index_P = np.unique(clusters_P, return_inverse=True)[1]
    missed_C = np.bincount(index_P, weights=np.square(margins_P - predicted_P))
    square_C = np.bincount(index_P, weights=np.square(margins_P))
    value = 1 - float(missed_C.sum() / square_C.sum())
    if len(square_C) < 2:
        return Explained(value, NO_INTERVAL)
    sums_S2 = resampled_sums(np.stack([missed_C, square_C], axis=1), seed=seed, num_samples=NUM_SAMPLES)
    with np.errstate(divide="ignore", invalid="ignore"):
        return Explained(value, percentile_interval(1 - sums_S2[:, 0] / sums_S2[:, 1], num_clusters=len(square_C)))


def coefficients(
    differences_PF: np.ndarray, margins_P: np.ndarray, clusters_P: np.ndarray, *, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Standardised coefficients and the ends of their 95% intervals over clusters drawn anew: three of (F,).

    NaN where the two answers never differ in the feature.
    """
    scale_F, size = np.sqrt(np.mean(np.square(differences_PF), axis=0)), math.sqrt(float(np.mean(np.square(margins_P))))
    varies_F = scale_F > 0
    x_PF, y_P = differences_PF[:, varies_F] / scale_F[varies_F], margins_P / size
    index_P = np.unique(clusters_P, return_inverse=True)[1]
    num_clusters, width = int(index_P.max()) + 1, x_PF.shape[1]
    gram_CFF, cross_CF = np.zeros((num_clusters, width, width)), np.zeros((num_clusters, width))
    np.add.at(gram_CFF, index_P, x_PF[:, :, None] * x_PF[:, None])
    np.add.at(cross_CF, index_P, x_PF * y_P[:, None])
    ridge_FF = RIDGE * len(y_P) * np.eye(width)
    whole_F = np.linalg.solve(gram_CFF.sum(axis=0) + ridge_FF, cross_CF.sum(axis=0))

    def fitted(counts_SC: np.ndarray) -> np.ndarray:
        gram_SFF = np.tensordot(counts_SC, gram_CFF, axes=1) + ridge_FF
        return np.linalg.solve(gram_SFF, (counts_SC @ cross_CF)[:, :, None])[:, :, 0]

    drawn_SF = resampled(fitted, num_clusters, seed=seed, num_samples=NUM_SAMPLES)
    placed = np.full((3, differences_PF.shape[1]), np.nan)
    placed[:, varies_F] = (
        whole_F,
        *np.transpose([percentile_interval(drawn_S, num_clusters=num_clusters) for drawn_S in drawn_SF.T]),
    )
    return placed[0], placed[1], placed[2]


def _terms(text: str) -> Counter[str]:
    words = WORD.findall(text.lower())
    return Counter(words) + Counter(f"{first} {second}" for first, second in itertools.pairwise(words))


def _predict_features(differences_PF: np.ndarray, margins_P: np.ndarray, folds_P: np.ndarray) -> np.ndarray:
    """Ridge on the other folds: (P,)."""
    scale_F = np.sqrt(np.mean(np.square(differences_PF), axis=0))
    x_PF = differences_PF / np.where(scale_F > 0, scale_F, 1.0)

    def predict(fit_P: np.ndarray, held_P: np.ndarray) -> np.ndarray:
        return x_PF[held_P] @ _ridge_weights(x_PF[fit_P], margins_P[fit_P])

    return cross_fitted(predict, folds_P)


def _ridge_weights(x_PF: np.ndarray, margins_P: np.ndarray) -> np.ndarray:
    """(F,) weights of a ridge, its penalty by the likelihood of the margins with the weights integrated out (MacKay 1992).

    That holds weights back where features are nearly as many as pairs, and generalised cross-validation no longer does.
    """
    left_PM, values_M, right_MF = np.linalg.svd(x_PF, full_matrices=False)
    square_M, turned_M, num_pairs = np.square(values_M), left_PM.T @ margins_P, len(margins_P)
    outside = max(0.0, float(np.square(margins_P).sum() - np.square(turned_M).sum()))
    surprise = []
    for penalty in _FEATURE_PENALTIES:
        whole = float(np.sum(np.square(turned_M) / (1 + square_M / penalty))) + outside
        surprise.append(num_pairs * math.log(max(whole, 1e-300)) + float(np.log1p(square_M / penalty).sum()))
    penalty = _FEATURE_PENALTIES[int(np.argmin(surprise))]
    return np.asarray(right_MF.T @ (values_M / (square_M + penalty) * turned_M))


def _predict_words(kernel_PP: np.ndarray, margins_P: np.ndarray, folds_P: np.ndarray) -> np.ndarray:
    """Ridge on the other folds, in the space of the pairs: (P,)."""

    def predict(fit_P: np.ndarray, held_P: np.ndarray) -> np.ndarray:
        return kernel_PP[np.ix_(held_P, fit_P)] @ _dual_weights(kernel_PP[np.ix_(fit_P, fit_P)], margins_P[fit_P])

    return cross_fitted(predict, folds_P)


def _dual_weights(kernel_PP: np.ndarray, margins_P: np.ndarray) -> np.ndarray:
    """(kernel + penalty)^-1 margins, the penalty of least generalised cross-validation error."""
    values_P, vectors_PP = np.linalg.eigh(kernel_PP)
    values_P, turned_P = np.maximum(values_P, 0.0), vectors_PP.T @ margins_P
    errors = []
    for penalty in _PENALTIES:
        left_P = penalty / (values_P + penalty)
        errors.append(float(np.square(left_P * turned_P).mean()) / max(float(left_P.mean()), 1e-12) ** 2)
    return vectors_PP @ (turned_P / (values_P + _PENALTIES[int(np.argmin(errors))]))


def _coefficient_table(differences_PF: np.ndarray, margins_P: np.ndarray, prompts_P: np.ndarray, seed: int) -> Table:
    value_F, low_F, high_F = coefficients(differences_PF, margins_P, prompts_P, seed=seed)
    total = float(np.square(margins_P).sum())
    rows = []
    for f, name in enumerate(FEATURES):
        x_P = differences_PF[:, f]
        square = float(np.square(x_P).sum())
        alone = float(x_P @ margins_P) ** 2 / (square * total) if square > 0 else math.nan
        rows.append((name, float(value_F[f]), float(low_F[f]), float(high_F[f]), alone, int(np.count_nonzero(x_P))))
    rows.sort(key=lambda row: -abs(row[1]) if row[1] == row[1] else math.inf)
    note = "what a difference of one root mean square of the feature adds to the margin, in root mean squares of it, others held"
    columns = ("feature", "coefficient", "low", "high", "R2 alone, in sample", "pairs that differ in it")
    return Table(title="what the margins go with", columns=columns, rows=tuple(rows), note=note)


def _term_table(terms: Sequence[str], words_PV: csr_matrix, kernel_PP: np.ndarray, margins_P: np.ndarray) -> Table:
    """The terms of the largest and the smallest weights in the ridge over all pairs, times a use in one answer alone."""
    weights_V = np.asarray(words_PV.T @ _dual_weights(kernel_PP, margins_P))
    used_V = np.asarray((words_PV != 0).sum(axis=0)).reshape(-1)
    order = np.argsort(-weights_V, kind="stable")
    shown = [*order[:NUM_TERMS_SHOWN], *order[max(NUM_TERMS_SHOWN, len(order) - NUM_TERMS_SHOWN) :]]
    rows = tuple((terms[v], float(weights_V[v]) * math.log(2), int(used_V[v])) for v in shown)
    note = "shrunk estimates of what a use of the term adds to the reward, in its units; no intervals: hints"
    return Table(
        title="words that the margins go with", columns=("term", "reward", "pairs that differ in it"), rows=rows, note=note
    )


def _findings(found: dict[str, Explained], num_pairs: int) -> tuple[Finding, Finding]:
    length, surface = found[LENGTH_ALONE], found[ALL]
    seen = f"length alone explains {_shares(length)} of the margins"
    if length.value > LENGTH_FAIL:
        first = Finding("fail", "length", length.value, LENGTH_FAIL, f"{seen}: most of what it rewards is length", "length")
    elif length.value > LENGTH_WARN:
        first = Finding("warn", "length", length.value, LENGTH_WARN, f"{seen}: a policy will grow longer", "length")
    else:
        first = Finding("ok", "length", length.value, LENGTH_WARN, seen, "length")
    seen = f"surface features together explain {_shares(surface)} of the margins"
    if num_pairs < SURFACE_PAIRS:
        why = f"not decided on {num_pairs} pairs, {SURFACE_PAIRS} are needed: {seen}, and that comes out too low of few pairs"
        return first, Finding("warn", "surface", math.nan, SURFACE_WARN, why, "surface")
    if surface.value > SURFACE_WARN:
        why = f"{seen}: it judges the surface more than the content"
        return first, Finding("warn", "surface", surface.value, SURFACE_WARN, why, "surface")
    return first, Finding("ok", "surface", surface.value, SURFACE_WARN, seen, "surface")


def _shares(part: Explained) -> str:
    return f"{100 * part.value:.0f}% [{100 * part.interval.low:.0f}, {100 * part.interval.high:.0f}]"
