"""Verdicts on a process reward model: is it better than chance and than what looks at nothing, calibrated, and what it leans on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from assay.evaluation.steps.step_rivals import HALF, StepRival, Tilt
from assay.evaluation.steps.step_scores import StepScores
from assay.records import Finding, Metric
from assay.report.remedies import STEP_REMEDIES
from assay.stats.auroc_intervals import auroc_gain_interval
from assay.stats.metrics import Interval, auroc, difference_interval
from assay.stats.steps.platt import MIN_PROBLEMS
from assay.stats.steps.step_figures import StepLabels, prm_score_gain, step_auroc

_BASELINE, _CALIBRATION = STEP_REMEDIES["baseline"], STEP_REMEDIES["calibration"]
MAX_TILT = 0.15
"""How far from a half the order of right steps may lean on place or length."""
MAX_UNNOTICED = 0.15
"""How many fewer errors may be noticed behind a right answer than behind a wrong one."""


def above_chance(metric: Metric) -> Finding:
    """Of the AUROC of steps."""
    name = "better than chance"
    if math.isnan(metric.value):
        return Finding("fail", name, math.nan, 0.5, "not measured: no steps of both kinds have a reward", "baseline", _BASELINE)
    if math.isnan(metric.low):
        why = f"step AUROC {metric.value:.3f} has no interval: too few problems hold right and wrong steps"
        return Finding("warn", name, metric.value, 0.5, why, "baseline", _BASELINE)
    if metric.low > 0.5:
        return Finding("ok", name, metric.value, 0.5, f"the interval starts at {metric.low:.3f}", "baseline")
    turned = metric.high < 0.5
    why = "is below chance: are the labels of steps, or the classes of the head, swapped?" if turned else "does not exclude a coin"
    return Finding(
        "fail", name, metric.value, 0.5, f"step AUROC in [{metric.low:.3f}, {metric.high:.3f}] {why}", "baseline", _BASELINE
    )


def above_ranking(scores: StepScores, rival: StepRival, labels: StepLabels) -> Finding:
    """Paired on the same steps, against the rival's better direction."""
    name = f"better than {rival.name}"
    score_T, rival_T = labels.scores_T(scores.scores), labels.scores_T(rival.scores)
    right_T = np.where(labels.right_T == 0.5, np.nan, labels.right_T)
    turned = step_auroc(rival.scores, labels).value < 0.5
    rival_T = -rival_T if turned else rival_T
    kept_T = ~np.isnan(score_T)
    gain = auroc(score_T, right_T) - auroc(rival_T[kept_T], right_T[kept_T])
    interval = auroc_gain_interval(score_T, rival_T, right_T, labels.problem_T)
    return _gain(name, "step AUROC", gain, interval, " (the other way round here)" if turned else "")


def above_second_half(scores: StepScores, rival: StepRival, labels: StepLabels, seed: int) -> Finding:
    """Paired: PRMScore of the scorer less that of a rival, problems drawn anew for both."""
    gain = prm_score_gain(scores.scores, rival.scores, labels, (scores.threshold, HALF), seed=seed)
    return _gain(f"better than {rival.name!r}", "PRMScore", gain.value, gain.interval, "")


def _gain(name: str, what: str, gain: float, interval: Interval, rule: str) -> Finding:
    if math.isnan(gain) or math.isnan(interval.low):
        return Finding("warn", name, math.nan, 0.0, "not measured: no steps of both kinds have a reward", "baseline", _BASELINE)
    seen = f"{what} differs by {gain:+.3f}, interval [{interval.low:+.3f}, {interval.high:+.3f}]{rule}"
    if interval.low > 0:
        return Finding("ok", name, gain, 0.0, seen, "baseline")
    return Finding("warn", name, gain, 0.0, f"{seen}: it may have learnt no more than this", "baseline", _BASELINE)


def calibrated(observed: Metric, chance: Metric) -> Finding:
    """ECE of P(a step is right), against what chance gives a calibrated model."""
    if math.isnan(observed.value):
        return Finding("warn", "calibration of steps", math.nan, math.nan, "no probabilities: not checked")
    level: Literal["ok", "warn"] = "warn" if observed.value > chance.high else "ok"
    why = (
        "P(a step is right) is off beyond chance: do not read it as a probability before it is calibrated on solutions of its own"
        if level == "warn"
        else "the ECE is what chance gives a calibrated model"
    )
    return Finding(level, "calibration of steps", observed.value, chance.high, why, remedy=_CALIBRATION)


def calibrated_on_few(entry: Mapping[str, Any] | None) -> Finding | None:
    """Whether P(right) rests on fewer problems than `platt.MIN_PROBLEMS`; None where it does not, or where that is not known.

    entry: what reward.json says of the calibration of steps or outcomes.
    """
    num = (entry or {}).get("problems_of_rarer")
    if entry is None or num is None or num >= MIN_PROBLEMS:
        return None
    what, whole = entry.get("of", "steps"), entry["problems"]
    held = f"{entry['labelled']:,} {what} of {whole:,} problems, {num:,} of which hold one of the rarer kind"
    why = f"P(right) was calibrated on {held}: on fewer than {MIN_PROBLEMS} it can be off by more than 0.1"
    return Finding("warn", f"problems calibrated on ({what})", num, MIN_PROBLEMS, why, remedy=_CALIBRATION)


def unscored_steps(scores: StepScores, labels: StepLabels) -> Finding:
    """How many steps have no reward, and why."""
    score_T = labels.scores_T(scores.scores)
    num, size = int(np.isnan(score_T).sum()), len(score_T)
    why = f"{num:,} of {size:,} steps have no reward and are in no figure" if num else f"all {size:,} steps have a reward"
    if num and scores.reasons:
        most = sorted(scores.reasons, key=lambda reason: -scores.reasons[reason])[:3]
        why += f": {'; '.join(f'{reason} ({scores.reasons[reason]:,} solutions)' for reason in most)}"
    return Finding("warn" if num else "ok", "unscored steps", num, 0, why)


def tilted(tilt: Tilt) -> Finding:
    """Whether right steps are ranked by place or length."""
    figure = tilt.figure
    if math.isnan(figure.value):
        return Finding("ok", tilt.name, math.nan, MAX_TILT, "not measured: no two right steps of a solution to compare")
    away = figure.value - 0.5
    seen = f"in {figure.value:.1%} of the couples [{100 * figure.interval.low:.1f}, {100 * figure.interval.high:.1f}]"
    leans = abs(away) > MAX_TILT and not figure.interval.low <= 0.5 <= figure.interval.high
    if not leans:
        return Finding("ok", tilt.name, away, MAX_TILT, seen)
    return Finding("warn", tilt.name, away, MAX_TILT, f"{seen}: it goes by this where there is no error; a search will find it")


def errors_behind_right_answers(metrics: Sequence[Metric]) -> list[Finding]:
    """Whether wrong steps are noticed less where the answer came out right."""
    if len(metrics) != 2:
        return []
    right, wrong = metrics
    name, gap = "errors behind right answers", wrong.value - right.value
    if math.isnan(gap):
        return [Finding("warn", name, math.nan, MAX_UNNOTICED, "not measured: no such solution could be scored")]
    interval = difference_interval(wrong.value, Interval(wrong.low, wrong.high), right.value, Interval(right.low, right.high))
    seen = f"noticed in {right.value:.1%} of solutions with a right answer, {wrong.value:.1%} of those with a wrong one"
    if gap > MAX_UNNOTICED and interval.low > 0:
        return [Finding("warn", name, gap, MAX_UNNOTICED, f"{seen}: it looks at the answer more than at the steps")]
    return [Finding("ok", name, gap, MAX_UNNOTICED, seen)]
