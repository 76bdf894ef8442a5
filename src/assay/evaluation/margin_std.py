"""What the std of a margin is worth: does it tell the wrong pairs, and does it tell more than the size of the margin.

Intervals are 95%, by prompt. A figure that cannot be computed is NaN with a note. Suffixes: P pairs.
"""

from __future__ import annotations

import math

import numpy as np

from assay.evaluation.disagreement import AUROC, risk_area, risk_coverage, wrong_pairs_verdict
from assay.records import Metric, Parts, Table
from assay.stats.auroc_intervals import auroc_interval
from assay.stats.metrics import auroc, is_right

STD_AUROC = AUROC.replace("disagreement", "std of the margin")
RATIO_AUROC, MARGIN_AUROC = "AUROC of std / |margin| for wrong pairs", "AUROC of a small margin for wrong pairs"
AREA, MARGIN_AREA = "area under risk and coverage, by |margin| / std", "area under risk and coverage, by |margin|"
COVERAGES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)


def margin_std_figures(margins_P: np.ndarray, std_P: np.ndarray, preference_P: np.ndarray, clusters_P: np.ndarray) -> Parts:
    """Pairs without a label, a margin or a std are left out. Small margins are the rival: they cost nothing."""
    kept_P = (preference_P != 0.5) & np.isfinite(margins_P) & np.isfinite(std_P)
    total, n, clusters = len(kept_P), int(kept_P.sum()), np.asarray(clusters_P)[kept_P]
    size_P, std_P = np.abs(margins_P[kept_P]), std_P[kept_P]
    right_P = is_right(margins_P[kept_P], preference_P[kept_P])
    ratio_P = size_P / np.maximum(std_P, 1e-12)
    note = "0.5: it says nothing; 1: each wrong pair is less sure than any right one"

    def told(name: str, doubt_P: np.ndarray) -> Metric:
        if not n:
            return Metric(name, math.nan, n=total, note="no pair has a label, a margin and a std")
        return Metric(name, auroc(doubt_P, 1 - right_P), *auroc_interval(doubt_P, 1 - right_P, clusters), n, total, note)

    def area(name: str, sureness_P: np.ndarray) -> Metric:
        chance = f"mean share of wrong pairs among the surest; {1 - right_P.mean():.3f} in a random order" if n else "no pair"
        return Metric(name, risk_area(right_P, sureness_P), n_scored=n, n=total, note=chance)

    by_std = told(STD_AUROC, std_P)
    metrics = (
        by_std,
        told(RATIO_AUROC, -ratio_P),
        told(MARGIN_AUROC, -size_P),
        area(AREA, ratio_P),
        area(MARGIN_AREA, size_P),
    )
    if not n:
        return Parts(metrics, (), (wrong_pairs_verdict(math.nan, math.nan, 0, "the std of the margin"),))
    curve = zip(COVERAGES, *(risk_coverage(right_P, by, COVERAGES) for by in (ratio_P, size_P, -std_P)), strict=True)
    table = Table(
        title="risk and coverage",
        columns=("coverage", "by |margin| / std", "by |margin|", "by a small std"),
        rows=tuple(curve),
        chart="line",
        note="accuracy on the surest share of the pairs",
    )
    return Parts(metrics, (table,), (wrong_pairs_verdict(by_std.value, by_std.low, n, "the std of the margin"),))
