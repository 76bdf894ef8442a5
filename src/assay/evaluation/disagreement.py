"""What the members of an ensemble add: are they different, is their disagreement where they are wrong, does the mean gain by it.

Accuracies are of pairs; a disagreement about a pair is the standard deviation of the members' margins. Intervals are 95%,
resampled by prompt. A figure that cannot be computed is NaN with a note.

Suffixes: K members, P pairs, R runs of equally sure pairs, 2 chosen and rejected.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from assay.records import Finding, Metric, Parts, Table
from assay.scorers.ensemble import Combination
from assay.stats.auroc_intervals import auroc_interval
from assay.stats.mean_intervals import mean_interval
from assay.stats.metrics import CHANGE, UNIT, Interval, auroc, is_right

MEMBER, MEAN, VALUE = "accuracy: a member, on average", "accuracy: mean of the members", "accuracy: combined value"
GAIN = "accuracy: mean of the members minus a member"
CORRELATION = "error correlation of the members"
WITHIN, BETWEEN = "disagreement within prompts", "disagreement between prompts"
AUROC = "AUROC of the disagreement for wrong pairs"
COVERED, COVERED_ALONE = "accuracy at 80% coverage", "accuracy at 80% coverage: a member by its own margin"


def diversity(
    members_KP2: np.ndarray, preference_P: np.ndarray, clusters_P: np.ndarray, combination: Combination, *, seed: int = 0
) -> Parts:
    """Accuracy of members, mean and value; how alike their errors are; whether they disagree more where they are wrong.

    Pairs without a label or a reward are left out. Raises ValueError for fewer than two members.
    """
    members_KP2 = np.asarray(members_KP2, np.float64)
    value_P2 = combination(members_KP2.reshape(len(members_KP2), -1))[0].reshape(-1, 2)
    kept_P = (preference_P != 0.5) & ~np.isnan(members_KP2).any(axis=(0, 2))
    rewards_KP2, labels_P, clusters = members_KP2[:, kept_P], preference_P[kept_P], np.asarray(clusters_P)[kept_P]
    n, total = int(kept_P.sum()), len(kept_P)
    margins_KP = rewards_KP2[:, :, 0] - rewards_KP2[:, :, 1]
    right_KP = np.stack([is_right(margins_P, labels_P) for margins_P in margins_KP])
    mean_P, std_P = margins_KP.mean(axis=0), margins_KP.std(axis=0, ddof=1)
    right_P = is_right(mean_P, labels_P)
    value_right_P = is_right(value_P2[kept_P, 0] - value_P2[kept_P, 1], labels_P)

    def share(name: str, values_P: np.ndarray, note: str = "", support: Interval = UNIT) -> Metric:
        if not n:
            return Metric(name, math.nan, n=total, note="no pair has a label and a reward")
        low, high = mean_interval(values_P, clusters, seed=seed, support=support)
        return Metric(name, float(values_P.mean()), low, high, n, total, note)

    level_KP = rewards_KP2.mean(axis=2)
    within = np.sqrt((rewards_KP2 - level_KP[:, :, None]).var(axis=0, ddof=1).mean()) if n else math.nan
    between = np.sqrt(level_KP.var(axis=0, ddof=1).mean()) if n else math.nan
    spread = float(np.abs(mean_P).mean()) if n else math.nan
    scale = f"in units of reward; the mean margin is {spread:.3g} in size"
    disputed, (low, high) = auroc(std_P, 1 - right_P), auroc_interval(std_P, 1 - right_P, clusters)
    covered = _at_coverage(right_P, np.abs(mean_P) / np.maximum(std_P, 1e-12), 0.8)
    alone = [_at_coverage(right, np.abs(margins), 0.8) for right, margins in zip(right_KP, margins_KP, strict=True)]
    metrics = (
        share(MEMBER, right_KP.mean(axis=0)),
        share(MEAN, right_P),
        share(VALUE, value_right_P, combination.words),
        share(GAIN, right_P - right_KP.mean(axis=0), "paired", CHANGE),
        Metric(CORRELATION, error_correlation(right_KP), n_scored=n, n=total, note="1: the members are wrong on the same pairs"),
        Metric(WITHIN, float(within), n_scored=n, n=total, note=scale),
        Metric(BETWEEN, float(between), n_scored=n, n=total, note="of a prompt's level, which the data do not fix"),
        Metric(
            AUROC, disputed, low, high, n, total, "0.5: it says nothing; 1: each wrong pair is more disputed than any right one"
        ),
        Metric(COVERED, covered, n_scored=n, n=total, note="by |mean| / std of the margin"),
        Metric(COVERED_ALONE, float(np.mean(alone)) if n else math.nan, n_scored=n, n=total, note="mean over the members"),
    )
    return Parts(metrics, _tables(margins_KP, right_KP, right_P, mean_P, std_P), (wrong_pairs_verdict(disputed, low, n),))


def error_correlation(right_KP: np.ndarray) -> float:
    """Mean correlation of being wrong over all couples of members; NaN when a member is never, or always, wrong."""
    if right_KP.shape[1] < 2 or (right_KP.std(axis=1) == 0).any():
        return math.nan
    correlation_KK = np.corrcoef(right_KP)
    return float(correlation_KK[np.triu_indices(len(right_KP), 1)].mean())


def risk_coverage(right_P: np.ndarray, sureness_P: np.ndarray, coverages: Sequence[float]) -> list[float]:
    """Accuracy on the surest share of the pairs, for each share (Geifman & El-Yaniv 2017).

    Of equally sure pairs that the share holds in part, each counts by that part: the expectation over their order, so that the
    order of the rows does not matter. NaN in either column is left out; NaN when nothing is left.
    """
    return [_at_coverage(right_P, sureness_P, coverage) for coverage in coverages]


def risk_area(right_P: np.ndarray, sureness_P: np.ndarray) -> float:
    """Area under the curve of risk by coverage: the share of wrong pairs among the k surest, averaged over k = 1 to P. In a random
    order it is the share of wrong pairs. Equally sure pairs and NaN: as `risk_coverage`. Source: AURC, Geifman, Uziel & El-Yaniv
    (2019), equation 3."""
    scored_P = ~(np.isnan(right_P) | np.isnan(sureness_P))
    if not scored_P.any():
        return math.nan
    _, run_P = np.unique(-sureness_P[scored_P], return_inverse=True)
    expected_P = (np.bincount(run_P, weights=right_P[scored_P]) / np.bincount(run_P))[np.sort(run_P)]
    return float(1 - np.mean(np.cumsum(expected_P) / np.arange(1, len(expected_P) + 1)))


def _at_coverage(right_P: np.ndarray, sureness_P: np.ndarray, coverage: float) -> float:
    scored_P = ~(np.isnan(right_P) | np.isnan(sureness_P))
    if not scored_P.any():
        return math.nan
    _, run_P = np.unique(-sureness_P[scored_P], return_inverse=True)  # runs of equally sure pairs, the surest first
    size_R, right_R = np.bincount(run_P), np.bincount(run_P, weights=right_P[scored_P])
    kept = max(1, round(coverage * len(run_P)))
    kept_R = np.clip(kept - (np.cumsum(size_R) - size_R), 0, size_R)
    return float((right_R * kept_R / size_R).sum() / kept)


def _tables(
    margins_KP: np.ndarray, right_KP: np.ndarray, right_P: np.ndarray, mean_P: np.ndarray, std_P: np.ndarray
) -> tuple[Table, ...]:
    if not len(right_P):
        return ()
    rows = tuple((f"member {k}", float(right_P.mean())) for k, right_P in enumerate(right_KP))
    coverages = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5]
    by_ratio = risk_coverage(right_P, np.abs(mean_P) / np.maximum(std_P, 1e-12), coverages)
    by_margin = risk_coverage(right_P, np.abs(mean_P), coverages)
    alone = np.mean([risk_coverage(r, np.abs(m), coverages) for r, m in zip(right_KP, margins_KP, strict=True)], axis=0)
    curve = tuple(zip(coverages, by_ratio, by_margin, alone.tolist(), strict=True))
    return (
        Table(title="accuracy of each member", columns=("member", "accuracy"), rows=rows, chart="bars"),
        Table(
            title="risk and coverage",
            columns=("coverage", "ensemble by |mean| / std", "ensemble by |mean|", "a member by its margin"),
            rows=curve,
            chart="line",
            note="accuracy on the surest share of the pairs",
        ),
    )


def wrong_pairs_verdict(auroc: float, low: float, n: int, doubt: str = "the disagreement") -> Finding:
    """Whether the doubt (its AUROC, and the low end of the interval) is larger where pairs are wrong."""
    name, none = f"{doubt} detects wrong pairs", 0.5
    if math.isnan(low):
        return Finding("warn", name, auroc, none, f"not known: {n} pairs with a label and a reward are too few, or none is wrong")
    if low > none:
        return Finding("ok", name, auroc, none, f"its interval begins at {low:.3f}, above chance")
    return Finding("warn", name, auroc, none, f"its interval begins at {low:.3f}: a penalty on the std is not justified here")
