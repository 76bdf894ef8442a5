"""What a scorer is worth on a set of labelled pairs: intervals, baselines, calibration, slices and verdicts.

`evaluate` scores the pairs; `evaluate_margins` takes margins that are there already (the out-of-fold ones of a cross-validation).
Every interval is 95%, resampled by prompt. A figure that cannot be computed is NaN with a note.

Suffixes: P pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from assay.evaluation.disagreement import diversity
from assay.evaluation.margin_std import margin_std_figures
from assay.evaluation.pair_scores import score_pairs
from assay.evaluation.rivals import Rival, above_rival, accuracy_of, rivals_of
from assay.evaluation.rounding import rounding_metrics
from assay.evaluation.slices import (
    EQUAL_LENGTH,
    LENGTH_CONTROLLED,
    Columns,
    columns_of,
    group_accuracy,
    length_metrics,
    preferred_longer,
    slice_tables,
    weak_slices,
)
from assay.records import Finding, Metric, PageResult, PreferencePair, Report, Table, extended
from assay.scorers.base import Scorer
from assay.scorers.ensemble import members_of
from assay.scorers.wrappers.calibrated import Calibrated, Calibration
from assay.stats.calibration_error import ece, expected_ece, reliability_rows
from assay.stats.mean_intervals import groups_interval
from assay.stats.metrics import Interval, accuracy, brier, confidence, difference_interval, mean, squared_error

ACCURACY = "accuracy"
SCORE_TIES = "score ties"
LABEL_TIES = "label ties"
BRIER = "Brier"
ECE = "ECE"
EXPECTED_ECE = "ECE if perfectly calibrated"
MEAN_MARGIN = "mean margin"

MAX_TIES = 0.01
MAX_LENGTH_GAP = 0.15
GAP_WARN, GAP_FAIL = 0.05, 0.10
MAX_BEYOND = 0.05  # share of the margins that may be larger than any that the calibration saw


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationResult(PageResult):
    """What was found on P pairs.

    margins (P,): reward of chosen minus reward of rejected. rewards (P, 2): of both, None where the scorer compares by itself.
    baselines: accuracy by name of the baseline. The findings decide "baseline", "calibration" and "length".
    """

    margins: np.ndarray
    rewards: np.ndarray | None
    accuracy: Metric
    baselines: Mapping[str, Metric]
    brier: Metric
    ece: Metric


def evaluate(
    scorer: Scorer,
    pairs: Sequence[PreferencePair],
    *,
    title: str,
    seed: int = 0,
    baselines: Mapping[str, Scorer] | None = None,
    slices: bool = True,
    num_examples: int = 6,
    advance: Callable[[int], None] = lambda n: None,
) -> EvaluationResult:
    """Score the pairs and say what they show. Arguments as for `evaluate_margins`; advance: as for `score_pairs`.

    The probabilities are the scorer's own where it compares by itself or is calibrated; of an ensemble, what its members add is
    measured too. Raises ValueError for an empty list of pairs, never for pairs that cannot be scored.
    """
    pairs = list(pairs)
    scores = score_pairs(scorer, pairs, advance)
    result = evaluate_margins(
        scores.margins,
        pairs,
        scores.probabilities,
        rewards_P2=scores.rewards,
        title=title,
        seed=seed,
        baselines=baselines,
        slices=slices,
        num_examples=num_examples,
        reasons=scores.reasons,
    )
    page, members = result.page, members_of(scorer)
    if members is not None and scores.members is not None:
        preference_P, prompts_P = np.array([pair.preference for pair in pairs]), np.array([pair.prompt_key for pair in pairs])
        page = extended(page, *diversity(scores.members, preference_P, prompts_P, members.combination, seed=seed))
    if scores.std is not None:
        preference_P, prompts_P = np.array([pair.preference for pair in pairs]), np.array([pair.prompt_key for pair in pairs])
        page = extended(page, *margin_std_figures(scores.margins, scores.std, preference_P, prompts_P))
    if scores.uncalibrated is not None:
        page = extended(page, _uncalibrated(scores.uncalibrated, pairs))
    if isinstance(scorer, Calibrated):
        page = extended(page, findings=_beyond(scorer.calibration, scores.margins))
    return replace(result, page=extended(page, first={"scorer": scorer.fingerprint}, facts={"probabilities": scores.origin}))


def _uncalibrated(raw_P: np.ndarray, pairs: Sequence[PreferencePair]) -> tuple[Metric, Metric]:
    preference_P = np.array([pair.preference for pair in pairs])
    scored, note = int(np.isfinite(raw_P).sum()), "sigmoid of the raw margin: what the calibration changed"
    return (
        Metric(f"{BRIER}, not calibrated", brier(raw_P, preference_P), n_scored=scored, n=len(pairs), note=note),
        Metric(f"{ECE}, not calibrated", ece(*confidence(raw_P, preference_P)), n_scored=scored, n=len(pairs), note=note),
    )


def _beyond(calibration: Calibration, margins_P: np.ndarray) -> tuple[Finding, ...]:
    """Margins that no pair of the calibration's came near: nothing checks the probabilities of those."""
    name, largest = "margins beyond the calibration", calibration.largest_margin
    share = mean(np.where(np.isnan(margins_P), np.nan, calibration.is_beyond(margins_P)))
    if math.isnan(largest) or math.isnan(share):
        return ()
    seen = f"{share:.1%} of the margins are larger than {largest:.3g}, the largest of the {calibration.num_pairs:,} it is fitted on"
    if share > MAX_BEYOND:
        why = f"{seen}: their probabilities are extrapolated, too sure where labels have errors; calibrate on pairs like these"
        return (Finding("warn", name, share, MAX_BEYOND, why, "calibration"),)
    return (Finding("ok", name, share, MAX_BEYOND, seen, "calibration"),)


def evaluate_margins(
    margins_P: np.ndarray,
    pairs: Sequence[PreferencePair],
    probabilities_P: np.ndarray | None = None,
    *,
    rewards_P2: np.ndarray | None = None,
    title: str,
    seed: int = 0,
    baselines: Mapping[str, Scorer] | None = None,
    slices: bool = True,
    num_examples: int = 6,
    reasons: Mapping[str, int] | None = None,
) -> EvaluationResult:
    """What margins of P pairs show (reward of chosen minus reward of rejected, NaN = unscored).

    probabilities_P: P(chosen beats rejected); without them the calibration figures are NaN.
    rewards_P2: rewards of chosen and rejected, for what rounding to bfloat16 would do; without them there are no such figures.
    baselines: fitted scorers to be beaten, by name. "length" and "bag-of-words" are always there: the first is the length of the
    answer, the second, unless given, is cross-validated on these very pairs.
    slices: also by tag, source, turns and length. num_examples: how many of the best and of the worst pairs to show.
    reasons: why answers could not be scored -> how many. Raises ValueError for an empty list of pairs or columns of another length.
    """
    columns = columns_of(margins_P, pairs, probabilities_P, seed)
    if rewards_P2 is not None and np.shape(rewards_P2) != (len(columns.pairs), 2):
        raise ValueError(
            f"rewards of shape {np.shape(rewards_P2)} for {len(columns.pairs)} pairs: give chosen and rejected of each"
        )
    accuracy_metric = accuracy_of(ACCURACY, columns.margins_P, columns)
    rivals = rivals_of(columns, baselines or {})
    calibration, calibration_finding = _calibration(columns)
    brier_metric, ece_metric, _ = calibration
    lengths = length_metrics(columns)
    metrics = [accuracy_metric, *(rival.metric for rival in rivals), *lengths, *calibration, *_counts(columns)]
    metrics += [_mean_margin(columns), *(rounding_metrics(rewards_P2, columns) if rewards_P2 is not None else ())]
    cuts = slice_tables(columns) if slices else ()
    findings = [
        _above_chance(accuracy_metric, columns.margins_P),
        *(above_rival(rival, columns) for rival in rivals),
        calibration_finding,
    ]
    findings += [_unscored(columns, reasons or {}), _score_ties(columns), _length_dependence(columns)]
    findings += [weak_slices(cuts, accuracy_metric.value)] if slices else []
    page = Report(
        title=title,
        metrics=tuple(metrics),
        tables=(_reliability(columns), _margin_histogram(columns.margins_P), *cuts),
        examples=_examples(columns, num_examples),
        findings=tuple(findings),
        facts={"pairs": str(len(columns.pairs)), "prompts": str(columns.num_prompts), "seed": str(seed)},
        lead=_lead(accuracy_metric, rivals),
        key={
            ACCURACY: tuple(rival.metric.name for rival in rivals),
            LENGTH_CONTROLLED: (EQUAL_LENGTH,),
            BRIER: ("always 0.5 gives 0.25",),
        },
    )
    return EvaluationResult(
        margins=columns.margins_P,
        rewards=rewards_P2,
        accuracy=accuracy_metric,
        baselines={rival.name: rival.metric for rival in rivals},
        brier=brier_metric,
        ece=ece_metric,
        page=page,
    )


def _reliability(columns: Columns) -> Table:
    return Table(
        title="reliability",
        columns=("predicted", "observed", "low", "high", "n"),
        rows=reliability_rows(*columns.confidence, columns.prompts_P),
        chart="reliability",
        note="of the pairs on which the model is this sure, the share that it ranks right; 95% intervals by prompt",
    )


def _lead(metric: Metric, rivals: Sequence[Rival]) -> str:
    """How often it is right, and by how much more than the best of the baselines."""
    if math.isnan(metric.value):
        return f"Its accuracy is not known: {metric.note}."
    best = max((r for r in rivals if not math.isnan(r.metric.value)), key=lambda rival: rival.metric.value, default=None)
    ranks = f"It ranks {100 * metric.value:.1f}% of {metric.n_scored:,} pairs right"
    if best is None:
        return f"{ranks}."
    points = 100 * (metric.value - best.metric.value)
    return f"{ranks}, {abs(points):.1f} points {'more' if points >= 0 else 'fewer'} than the best baseline ({best.name})."


def gap_finding(train_metric: Metric, heldout_metric: Metric) -> Finding:
    """Overfitting, from the accuracies on training pairs and on held-out ones, each with its interval.

    The lower end of the gap's interval (Newcombe) is held against 5 points (warn) and 10 points (fail).
    """
    name, gap = "train / held-out gap", train_metric.value - heldout_metric.value
    low, high = _difference(train_metric, heldout_metric)
    seen = f"training {train_metric.value:.3f}, held-out {heldout_metric.value:.3f}"
    if math.isnan(low):
        return Finding("warn", name, gap, GAP_WARN, f"the gap has no interval ({seen}): score both sets", "overfitting")
    seen += f", gap {100 * gap:.1f} points [{100 * low:.1f}, {100 * high:.1f}]"
    if low > GAP_WARN:
        level: Literal["warn", "fail"] = "fail" if low > GAP_FAIL else "warn"
        why = f"{seen}: the model has memorised its training pairs; --early-stopping, fewer blocks, or more prompts"
        return Finding(level, name, gap, GAP_FAIL if level == "fail" else GAP_WARN, why, "overfitting")
    return Finding("ok", name, gap, GAP_WARN, f"{seen}: its lower end is below {100 * GAP_WARN:.0f}", "overfitting")


def _counts(columns: Columns) -> tuple[Metric, Metric]:
    result = accuracy(columns.margins_P, columns.preference_P)
    scored, labelled, n = result.num_scored, result.num_labelled, len(columns.pairs)
    return (
        Metric(SCORE_TIES, result.num_score_ties, n_scored=scored, n=labelled, note="margin exactly 0: wrong in accuracy"),
        Metric(LABEL_TIES, result.num_label_ties, n_scored=n, n=n, note="preference 0.5: left out of accuracy"),
    )


def _mean_margin(columns: Columns) -> Metric:
    """Mean over labelled pairs of the reward of the preferred answer minus that of the other."""
    direction_P = np.sign(columns.preference_P - 0.5)
    signed_P = np.where(direction_P == 0, np.nan, columns.margins_P * direction_P)
    scored, labelled = int(np.sum(~np.isnan(signed_P))), int(np.sum(direction_P != 0))
    note = "preferred answer minus the other, in the scorer's raw units" if scored else "no pair could be scored"
    return Metric(MEAN_MARGIN, mean(signed_P), *columns.interval(signed_P, support=None), scored, labelled, note)


def _calibration(columns: Columns) -> tuple[tuple[Metric, Metric, Metric], Finding]:
    """Brier, ECE, and the ECE that chance alone would give; the verdict compares the last two."""
    p_P, (predicted_P, outcome_P) = columns.probabilities_P, columns.confidence
    scored, n = int(np.sum(~np.isnan(p_P))), len(p_P)
    errors_P = squared_error(p_P, columns.preference_P)
    observed, chance = ece(predicted_P, outcome_P), expected_ece(predicted_P, outcome_P, columns.prompts_P, seed=columns.seed)
    missing = "" if scored else "no probabilities"
    metrics = (
        Metric(BRIER, brier(p_P, columns.preference_P), *columns.interval(errors_P), scored, n, missing or "always 0.5 gives 0.25"),
        Metric(ECE, observed, n_scored=scored, n=n, note=missing or "10 bins of equal mass, both orders of a pair; biased up"),
        Metric(EXPECTED_ECE, *chance, scored, n, missing or "what chance alone gives on such prompts; 5% and 95% quantiles"),
    )
    if not scored:
        return metrics, Finding(
            "warn", "calibration", math.nan, math.nan, "no probabilities: calibration could not be checked", "calibration"
        )
    if observed > chance.high:
        direction = "over" if mean(predicted_P - outcome_P) > 0 else "under"
        why = f"probabilities are {direction}confident beyond chance: fit a calibration on held-out pairs"
        return metrics, Finding("warn", "calibration", observed, chance.high, why, "calibration")
    return metrics, Finding(
        "ok", "calibration", observed, chance.high, "the ECE is what chance gives a calibrated model", "calibration"
    )


def _above_chance(metric: Metric, margins_P: np.ndarray) -> Finding:
    if math.isnan(metric.value):
        level: Literal["warn", "fail"] = "fail" if metric.n else "warn"  # nothing scored is the scorer's fault, no label the data's
        return Finding(level, "better than chance", math.nan, 0.5, f"not measured: {metric.note}", "baseline")
    if metric.low > 0.5:
        return Finding("ok", "better than chance", metric.value, 0.5, f"the interval starts at {metric.low:.3f}", "baseline")
    equal = mean(np.where(np.isnan(margins_P), np.nan, margins_P == 0))
    why = "does not exclude a coin"
    if metric.high < 0.5 and metric.value + equal >= 0.5:
        why = f"is below chance: both answers have the same reward in {equal:.1%} of the pairs, which does not count as right"
    elif metric.high < 0.5:
        why = "is below chance: are chosen and rejected swapped?"
    return Finding(
        "fail", "better than chance", metric.value, 0.5, f"accuracy in [{metric.low:.3f}, {metric.high:.3f}] {why}", "baseline"
    )


def _unscored(columns: Columns, reasons: Mapping[str, int]) -> Finding:
    unscored, n = int(np.isnan(columns.margins_P).sum()), len(columns.pairs)
    why = f"{unscored} of {n} pairs have no margin and are in no figure" if unscored else f"all {n} pairs have a margin"
    if unscored and reasons:
        most = sorted(reasons, key=lambda reason: -reasons[reason])[:3]
        why += f": {'; '.join(f'{reason} ({reasons[reason]:,} answers)' for reason in most)}"
    return Finding("warn" if unscored else "ok", "unscored pairs", unscored, 0, why)


def _score_ties(columns: Columns) -> Finding:
    """Different answers with the same reward: a sign of a head computed in half precision."""
    differ_P = np.array([pair.chosen != pair.rejected for pair in columns.pairs])
    ties_P = differ_P & (columns.margins_P == 0)
    share = mean(np.where(differ_P & ~np.isnan(columns.margins_P), ties_P, np.nan))
    if math.isnan(share):
        return Finding("warn", "score ties", share, MAX_TIES, "not measured: no pair of different answers could be scored")
    if share > MAX_TIES:
        why = f"{int(ties_P.sum())} pairs of different answers tie: is the reward rounded, in bfloat16 perhaps?"
        return Finding("warn", "score ties", share, MAX_TIES, why)
    return Finding("ok", "score ties", share, MAX_TIES, f"{int(ties_P.sum())} pairs of different answers tie")


def _length_dependence(columns: Columns) -> Finding:
    """Accuracy where the preferred answer is the longer one, against where it is the shorter one."""
    name = "length dependence"
    direction_P = preferred_longer(columns)
    longer, shorter = group_accuracy(direction_P > 0, columns), group_accuracy(direction_P < 0, columns)
    gap = longer.value - shorter.value
    interval = groups_interval(columns.right_P, direction_P > 0, direction_P < 0, columns.prompts_P)
    if math.isnan(gap):
        why = "not measured: no scored pairs of both kinds (preferred longer, shorter)"
        return Finding("warn", name, gap, MAX_LENGTH_GAP, why, "length")
    seen = f"accuracy {longer.value:.3f} where the preferred answer is longer, {shorter.value:.3f} where it is shorter"
    if abs(gap) > MAX_LENGTH_GAP and not interval.low <= 0 <= interval.high:
        return Finding("warn", name, gap, MAX_LENGTH_GAP, f"{seen}: a policy will exploit length", "length")
    return Finding("ok", name, gap, MAX_LENGTH_GAP, seen, "length")


def _difference(a: Metric, b: Metric) -> Interval:
    return difference_interval(a.value, Interval(a.low, a.high), b.value, Interval(b.low, b.high))


def _margin_histogram(margins_P: np.ndarray, num_bars: int = 20) -> Table:
    """Counts of raw margins between their 1% and 99% quantiles; the end bars hold what lies beyond."""
    scored = margins_P[~np.isnan(margins_P)]
    rows: tuple[tuple[object, ...], ...] = ()
    if len(scored):
        low, high = np.quantile(scored, [0.01, 0.99])
        edges = np.linspace(low, high, num_bars + 1) if high > low else np.array([low - 0.5, low + 0.5])
        counts = np.histogram(np.clip(scored, edges[0], edges[-1]), edges)[0]
        rows = tuple((f"{(a + b) / 2:.3g}", int(n)) for a, b, n in zip(edges[:-1], edges[1:], counts, strict=True))
    note = f"{len(scored)} of {len(margins_P)} pairs scored; the end bars hold the outermost 1% on either side"
    return Table(title="margins", columns=("margin", "pairs"), rows=rows, chart="bars", note=note)


def _examples(columns: Columns, num_examples: int) -> tuple[Mapping[str, object], ...]:
    """The pairs that are most confidently wrong, then those most confidently right; label ties and unscored pairs apart."""
    signed_P = columns.margins_P * np.sign(columns.preference_P - 0.5)
    order = [int(i) for i in np.argsort(signed_P, kind="stable") if not math.isnan(columns.right_P[i])]
    worst = [i for i in order if not columns.right_P[i]][:num_examples]
    best = [i for i in reversed(order) if columns.right_P[i]][:num_examples]
    return tuple(_example(kind, i, columns) for kind, index in (("worst", worst), ("best", best)) for i in index)


def _example(kind: str, i: int, columns: Columns) -> Mapping[str, object]:
    pair = columns.pairs[i]
    return {
        "kind": kind,
        "prompt": [message.as_dict() for message in pair.prompt],
        "chosen": pair.chosen,
        "rejected": pair.rejected,
        "preference": pair.preference,
        "margin": float(columns.margins_P[i]),
        "probability": float(columns.probabilities_P[i]),
        "source": pair.source,
        "id": pair.id,
    }
