"""What one reward a solution is worth against the final answer being right: ranking, accuracy, calibration, intervals by problem.

Shape: N solutions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from assay.records import Finding, Metric, PageResult, Report, Table
from assay.report.remedies import SOLUTION_REMEDIES
from assay.stats.auroc_intervals import auroc_interval
from assay.stats.calibration_error import ece, expected_ece, reliability_rows
from assay.stats.mean_intervals import share_interval
from assay.stats.metrics import auroc, mean, sigmoid
from assay.stats.steps.step_figures import StepLabels, right_above_wrong


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeResult(PageResult):
    """Figures of outcomes on a set."""


def measure_outcomes(
    rewards_N: np.ndarray,
    labels_N: np.ndarray,
    problems: Sequence[str],
    *,
    title: str,
    scale: float = 1.0,
    shift: float = 0.0,
    seed: int = 0,
) -> OutcomeResult:
    """AUROC, accuracy, calibration and right above wrong solutions of a problem, of N rewards against outcomes in [0, 1].

    scale, shift: P(right) = sigmoid(scale x reward + shift). NaN of rewards is left out and counted.
    """
    problem_N, rewards_N = np.array(problems), rewards_N.astype(np.float64)
    right_N = np.where(labels_N == 0.5, np.nan, np.where(labels_N > 0.5, 1.0, 0.0))
    p_N = sigmoid(scale * rewards_N + shift)
    num, num_scored = len(labels_N), int(np.isfinite(rewards_N).sum())
    is_hit_N = np.where(np.isnan(right_N) | np.isnan(p_N), np.nan, (p_N > 0.5) == (right_N > 0.5))
    share, ranked = mean(right_N), auroc(rewards_N, right_N)
    above = right_above_wrong(rewards_N, StepLabels(right=tuple(np.array([label]) for label in right_N), problem=problem_N))
    chance = expected_ece(p_N, right_N, problem_N, seed=seed)
    note = f"always {'right' if share >= 0.5 else 'wrong'}: {max(share, 1 - share):.3f}"
    interval = auroc_interval(rewards_N, right_N, problem_N)
    metrics = (
        Metric("outcome AUROC", ranked, *interval, num_scored, num, "a right solution above a wrong one, of any problems"),
        Metric("outcome accuracy", mean(is_hit_N), *share_interval(is_hit_N, problem_N), num_scored, num, note),
        Metric("right above wrong solution", above.value, *above.interval, above.num_scored, above.num, "couples of one problem"),
        Metric("outcome ECE", ece(p_N, right_N), n_scored=num_scored, n=num, note="10 bins of equal mass; biased up"),
        Metric("outcome ECE if perfectly calibrated", *chance, num_scored, num, "what chance alone gives; 5% and 95% quantiles"),
    )
    found = _above_chance(ranked, interval[0])
    table = Table(
        title="reliability of outcomes",
        columns=("predicted", "observed", "low", "high", "n"),
        rows=reliability_rows(p_N, right_N, problem_N),
        chart="reliability",
        note="calibrated P(final answer right) against the share that is right; 95% intervals by problem",
    )
    facts = {"solutions": f"{num:,}", "problems": f"{len(set(problems)):,}"}
    lead = f"It puts a right solution above a wrong one {ranked:.1%} of the time ({num_scored:,} solutions)."
    page = Report(title=title, metrics=metrics, tables=(table,), findings=(found,), facts=facts, lead=lead)
    return OutcomeResult(page=page)


def _above_chance(ranked: float, low: float) -> Finding:
    """Of the AUROC of outcomes, and the lower end of its interval."""
    name, remedy = "outcome AUROC above chance", SOLUTION_REMEDIES["baseline"]
    if math.isnan(ranked):
        return Finding("fail", name, math.nan, 0.5, "not measured: no solutions of both kinds have a reward", "baseline", remedy)
    if math.isnan(low):
        why = f"{ranked:.3f} has no interval: too few problems hold right and wrong solutions"
        return Finding("warn", name, ranked, 0.5, why, "baseline", remedy)
    if low > 0.5:
        return Finding("ok", name, ranked, 0.5, "it tells right from wrong solutions", "baseline", remedy)
    why = "its interval holds one half: it tells no right from a wrong solution"
    return Finding("fail", name, ranked, 0.5, why, "baseline", remedy)
