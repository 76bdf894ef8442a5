"""What a process reward model is worth on solutions whose steps are labelled: first errors, steps, calibration, what it leans on.

Every interval is 95%, by problem. A figure that cannot be computed is left out, with the reason among the facts, or is NaN with a
note.

Suffixes: N solutions, T steps of all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from assay.data.steps.labelled_steps import LabelledSteps
from assay.evaluation.steps.step_findings import (
    above_chance,
    above_ranking,
    above_second_half,
    calibrated,
    errors_behind_right_answers,
    tilted,
    unscored_steps,
)
from assay.evaluation.steps.step_rivals import HALF, SECOND_HALF, deciding_rivals, guesses, ranking_rivals, tilts
from assay.evaluation.steps.step_scores import StepScores, labels_of, score_steps
from assay.records import Metric, PageResult, Report, Table, extended
from assay.scorers.base import Scorer
from assay.stats.calibration_error import ece, expected_ece, reliability_rows
from assay.stats.metrics import mean, squared_error
from assay.stats.steps.step_figures import (
    NO_ERROR,
    Figure,
    StepLabels,
    first_error_accuracy,
    found_errors,
    prm_score,
    process_f1,
    reduced,
    right_above_wrong,
    share,
    step_auroc,
)
from assay.stats.steps.step_reductions import REDUCED

FIRST_ERROR, NONE_FOUND = "first-error accuracy", "none-found accuracy on right solutions"
F1, PRM_SCORE, AUROC = "ProcessBench F1", "PRMScore", "step AUROC"
BRIER, ECE, EXPECTED_ECE = "step Brier", "step ECE", "step ECE if perfectly calibrated"
SOLUTIONS = "right above wrong solution"
DATA_SET = "data set"
"""Tag of a solution of several sets: each is a part of ProcessBench F1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepEvaluationResult(PageResult):
    """What was found on N solutions.

    found_errors (N,): index of the first step that is called wrong, `NO_ERROR` for none, NaN where it is not known. f1 is None
    where right or wrong solutions are missing. The findings decide "baseline".
    """

    scores: StepScores
    found_errors: np.ndarray
    first_error: Metric
    f1: Metric | None
    prm_score: Metric
    auroc: Metric
    ece: Metric


def evaluate_steps(
    scorer: Scorer,
    items: Sequence[LabelledSteps],
    *,
    title: str,
    threshold: float | None = None,
    seed: int = 0,
    advance: Callable[[int], None] = lambda n: None,
) -> StepEvaluationResult:
    """Score the steps of N solutions and say what they show. threshold: in place of the scorer's own, see `score_steps`.

    Raises ValueError for no solutions, and for a scorer that gives no rewards of steps.
    """
    result = measure_steps(score_steps(scorer, items, threshold=threshold, advance=advance), items, title=title, seed=seed)
    return replace(result, page=extended(result.page, first={"scorer": scorer.fingerprint}))


def measure_steps(scores: StepScores, items: Sequence[LabelledSteps], *, title: str, seed: int = 0) -> StepEvaluationResult:
    """What scores that are there already show, see `evaluate_steps`."""
    labels, lengths = labels_of(items), [np.array([len(step) for step in item.completion.steps or ()]) for item in items]
    found_N, threshold = found_errors(scores.scores, scores.threshold), scores.threshold
    first = _metric(FIRST_ERROR, first_error_accuracy(found_N, labels), "of wrong solutions, whose first error is found exactly")
    guessed = [_metric(f"{FIRST_ERROR}: {one.name}", one.figure, "a guess without a look") for one in guesses(labels, lengths)]
    none = _metric(
        NONE_FOUND, first_error_accuracy(found_N, labels, of="right"), "of right solutions, in which no step is called wrong"
    )
    f1, why_no_f1 = _f1(found_N, labels, items, seed)
    score = _metric(PRM_SCORE, prm_score(scores.scores, labels, threshold, seed=seed), "half F1 of right, half F1 of wrong steps")
    deciding = deciding_rivals(labels)
    scored = [
        _metric(f"{PRM_SCORE}: {one.name}", prm_score(one.scores, labels, HALF, seed=seed), "without a look") for one in deciding
    ]
    auroc = _metric(AUROC, step_auroc(scores.scores, labels), "P(a right step scores above a wrong one), all solutions together")
    ranking = ranking_rivals(labels, lengths)
    ranked = [_metric(f"{AUROC}: {one.name}", step_auroc(one.scores, labels), "earlier, shorter is right") for one in ranking]
    calibration = _calibration(scores, labels, seed)
    leaning = tilts(scores.scores, labels, lengths)
    behind = _behind_right_answers(found_N, labels, items)
    metrics = [first, *guessed, none, *([f1] if f1 else []), score, *scored, auroc, *ranked, *calibration]
    metrics += [*_solutions(scores, labels), *(_metric(one.name, one.figure, "0.5 is neutral") for one in leaning), *behind]
    findings = [
        above_chance(auroc),
        *(above_ranking(scores, one, labels) for one in ranking),
        above_second_half(scores, next(one for one in deciding if one.name == SECOND_HALF), labels, seed),
        calibrated(calibration[1], calibration[2]),
        unscored_steps(scores, labels),
        *(tilted(one) for one in leaning),
        *errors_behind_right_answers(behind),
    ]
    page = Report(
        title=title,
        metrics=tuple(metrics),
        tables=(
            _reliability(scores, labels),
            _by_place(scores, found_N, labels),
            *_by_source(scores, found_N, labels, items, seed),
        ),
        findings=tuple(findings),
        facts=_facts(scores, labels, why_no_f1, seed),
        lead=_lead(first, auroc, guessed),
        key=_key(guessed, f1, scored, ranked),
    )
    return StepEvaluationResult(
        scores=scores,
        found_errors=found_N,
        first_error=first,
        f1=f1,
        prm_score=score,
        auroc=auroc,
        ece=calibration[1],
        page=page,
    )


def _metric(name: str, figure: Figure, note: str) -> Metric:
    return Metric(name, figure.value, *figure.interval, figure.num_scored, figure.num, note)


def _f1(found_N: np.ndarray, labels: StepLabels, items: Sequence[LabelledSteps], seed: int) -> tuple[Metric | None, str]:
    """ProcessBench F1, or why there is none."""
    parts = [item.tags.get(DATA_SET, "all") for item in items]
    try:
        figure = process_f1(found_N, labels, parts, seed=seed)
    except ValueError as reason:
        return None, str(reason)
    several = f"mean of {len(set(parts))} sets, each the " if len(set(parts)) > 1 else ""
    return _metric(F1, figure, f"{several}harmonic mean of exact accuracy on wrong and on right solutions"), ""


def _calibration(scores: StepScores, labels: StepLabels, seed: int) -> tuple[Metric, Metric, Metric]:
    p_T, right_T, problem_T = _labelled(scores, labels)
    num_scored, n = int((~np.isnan(p_T)).sum()), len(p_T)
    errors = share(squared_error(p_T, right_T), problem_T)
    base = mean(right_T[~np.isnan(p_T)])
    chance = expected_ece(p_T, right_T, problem_T, seed=seed)
    return (
        _metric(BRIER, errors, f"always {base:.3f} gives {base * (1 - base):.3f}"),
        Metric(ECE, ece(p_T, right_T), n_scored=num_scored, n=n, note="10 bins of equal mass; biased up"),
        Metric(EXPECTED_ECE, *chance, num_scored, n, "what chance alone gives on such problems; 5% and 95% quantiles"),
    )


def _labelled(scores: StepScores, labels: StepLabels) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """P(right), label and problem of the steps with a label."""
    kept_T = np.abs(labels.right_T - 0.5) == 0.5
    return labels.scores_T(scores.probabilities)[kept_T], labels.right_T[kept_T], labels.problem_T[kept_T]


def _solutions(scores: StepScores, labels: StepLabels) -> list[Metric]:
    """How often a right solution scores above a wrong one to its problem, by each way to make one number of its steps."""
    rows = [(f"{SOLUTIONS}: its own reward", right_above_wrong(scores.value, labels))]
    rows += [(f"{SOLUTIONS}: {how}", right_above_wrong(reduced(scores.probabilities, how), labels)) for how in REDUCED]
    return [_metric(name, figure, "couples of one problem; ties are half") for name, figure in rows if figure.num]


def _behind_right_answers(found_N: np.ndarray, labels: StepLabels, items: Sequence[LabelledSteps]) -> list[Metric]:
    """Of solutions with a wrong step, the share in which some step is called wrong, by what became of the answer."""
    outcome_N = np.array([math.nan if item.outcome is None else item.outcome for item in items], np.float64)
    with np.errstate(invalid="ignore"):
        seen_N = np.where(np.isnan(found_N), np.nan, (found_N != NO_ERROR).astype(np.float64))
    rows = []
    for name, is_right in (("right", True), ("wrong", False)):
        with np.errstate(invalid="ignore"):
            chosen_N = labels.is_wrong_N & ((outcome_N > 0.5) if is_right else (outcome_N < 0.5))
        if chosen_N.any():
            figure = share(seen_N[chosen_N], labels.problem[chosen_N])
            rows.append(_metric(f"share of errors noticed behind a {name} answer", figure, "solutions with a step called wrong"))
    return rows


def _reliability(scores: StepScores, labels: StepLabels) -> Table:
    return Table(
        title="reliability of steps",
        columns=("predicted", "observed", "low", "high", "n"),
        rows=reliability_rows(*_labelled(scores, labels)),
        chart="reliability",
        note=f"P(right) of a step ({scores.said}), against the share that is right; 95% intervals by problem",
    )


def _by_place(scores: StepScores, found_N: np.ndarray, labels: StepLabels, most: int = 12) -> Table:
    """Steps and first errors by the number of the step."""
    score_T, rows = labels.scores_T(scores.scores), []
    for place in range(min(most, int(labels.size_N.max()))):
        here_T = labels.place_T == place
        is_here_N = labels.first_error_N == place
        exact = mean(np.where(np.isnan(found_N[is_here_N]), np.nan, found_N[is_here_N] == place)) if is_here_N.any() else math.nan
        right = mean(labels.right_T[here_T])
        rows.append((place + 1, int(here_T.sum()), right, mean(score_T[here_T]), int(is_here_N.sum()), exact))
    columns = ("step", "solutions", "share right", "mean reward", "first errors here", "found exactly")
    return Table(title="by place of the step", columns=columns, rows=tuple(rows), note=f"the first {most} steps")


def _by_source(
    scores: StepScores, found_N: np.ndarray, labels: StepLabels, items: Sequence[LabelledSteps], seed: int
) -> tuple[Table, ...]:
    """The figures of each source, where there are several."""
    names = [item.tags.get(DATA_SET) or item.source for item in items]
    if len(set(names)) < 2:
        return ()
    rows = []
    for name in sorted(set(names)):
        index = [i for i, one in enumerate(names) if one == name]
        part = StepLabels(right=tuple(labels.right[i] for i in index), problem=labels.problem[index])
        own = [scores.scores[i] for i in index]
        first = first_error_accuracy(found_N[index], part)
        score, auroc = prm_score(own, part, scores.threshold, seed=seed), step_auroc(own, part)
        rows.append((name, len(index), first.num, first.value, *first.interval, score.value, auroc.value))
    columns = ("source", "solutions", "wrong", FIRST_ERROR, "low", "high", PRM_SCORE, AUROC)
    return (Table(title="by source", columns=columns, rows=tuple(rows)),)


def _facts(scores: StepScores, labels: StepLabels, why_no_f1: str, seed: int) -> dict[str, str]:
    wrong, right = int(labels.is_wrong_N.sum()), int(labels.is_right_N.sum())
    unknown = len(labels) - right - wrong
    known = f"{right:,} right, {wrong:,} with a first error, {unknown:,} of which it is not known"
    facts = {
        "solutions": f"{len(labels):,}: {known}",
        "problems": f"{len(np.unique(labels.problem)):,}",
        "steps": f"{len(labels.right_T):,}: {int((labels.right_T == 1).sum()):,} right, {int((labels.right_T == 0).sum()):,} wrong",
        "threshold": f"{scores.threshold:g}: {scores.said}",
        "seed": str(seed),
    }
    return facts | ({f"no {F1}": why_no_f1} if why_no_f1 else {})


def _lead(first: Metric, auroc: Metric, guessed: Sequence[Metric]) -> str:
    if not math.isnan(first.value):
        best = max(guessed, key=lambda one: one.value)
        name = best.name.removeprefix(f"{FIRST_ERROR}: ")
        found = f"It finds the first error of {first.value:.1%} of {first.n_scored:,} wrong solutions"
        return f"{found} (a guess, {name}: {best.value:.1%})."
    if not math.isnan(auroc.value):
        return f"It puts a right step above a wrong one {auroc.value:.1%} of the time ({auroc.n_scored:,} steps)."
    return "Neither first errors nor steps of both kinds could be measured."


def _key(
    guessed: Sequence[Metric], f1: Metric | None, scored: Sequence[Metric], ranked: Sequence[Metric]
) -> dict[str, tuple[str, ...]]:
    """The figures to be seen first, and what each is held against."""
    best = sorted(guessed, key=lambda one: -one.value)[:2]
    key = {FIRST_ERROR: tuple(one.name for one in best)}
    key |= {F1: ("0 for whoever finds all right",)} if f1 else {}
    return key | {
        PRM_SCORE: tuple(one.name for one in sorted(scored, key=lambda one: -one.value)[:2]),
        AUROC: tuple(one.name for one in ranked),
    }
