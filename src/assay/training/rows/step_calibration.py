"""P(right) from log-odds, fitted on the calibration split of a run and kept in reward.json. Shapes: R reads of the rows of a
table."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from assay.console import say
from assay.data.split import prompt_hashes
from assay.data.steps.labelled_steps import LabelledSteps
from assay.data.tokens.answer_table import AnswerTable
from assay.evaluation.steps.step_findings import calibrated_on_few
from assay.files import replacing
from assay.run_files import CALIBRATION_PROMPTS_FILE
from assay.stats.calibration_error import ece
from assay.stats.metrics import cluster_folds, mean, sigmoid, squared_error
from assay.stats.steps.platt import Platt, fit_platt
from assay.training.rows.solution_rows import problem_of

NUM_FOLDS = 5


class Fitted(NamedTuple):
    """scale, shift: P(right) = sigmoid(scale x log-odds + shift). entry: for reward.json, with the figures before and after; see
    `calibrated_on_few`."""

    scale: float
    shift: float
    entry: dict[str, Any]


def calibrate_steps(
    log_odds_R: np.ndarray,
    labels_R: np.ndarray,
    table: AnswerTable,
    rows: np.ndarray,
    *,
    seed: int,
    what: str = "steps",
    offset: float = 0.0,
) -> Fitted:
    """Fit on the labelled reads of the rows, and say how far it brings probabilities to shares: figures after it are of folds by
    problem that the fit did not see. offset: what the model's own log-odds have beside the reward."""
    problem_R = np.repeat(table.prompt[rows], table.num_reward_positions[rows])
    found = fit_platt(log_odds_R, labels_R, problem_R, shift=offset)
    num, num_problems = int((~np.isnan(labels_R)).sum()), len(np.unique(problem_R[~np.isnan(labels_R)]))
    entry: dict[str, Any] = {
        "split": "calibration",
        "labelled": num,
        "problems": num_problems,
        "problems_of_rarer": found.num_problems,
        "of": what,
        "scale": found.scale,
        "shift": found.shift,
        "scale_se": _or_none(found.scale_se),
        "shift_se": _or_none(found.shift_se),
    }
    if found.note:
        say("note", f"calibration of {what}: {found.note}")
        entry["note"] = found.note
    if not num:
        return Fitted(found.scale, found.shift, entry)
    before = _figures(sigmoid(log_odds_R.astype(np.float64) + offset), labels_R)
    after = _figures(_cross_fitted(log_odds_R, labels_R, problem_R, found, offset, seed), labels_R)
    line = f"P(right) = sigmoid({found.scale:.3f} x log-odds {found.shift:+.3f})"
    moved = f"ECE {before['ECE']:.3f} before, {after['ECE']:.3f} after (held out)"
    say("calibrated", f"{line}, on {num:,} labelled {what} of {num_problems:,} problems; {moved}")
    if (few := calibrated_on_few(entry)) is not None:
        say("note", f"{few.why}: {few.remedy}")
    return Fitted(found.scale, found.shift, {**entry, "before": before, "after": after})


def keep_problems(artifact: Path, items: Iterable[LabelledSteps]) -> None:
    """Keep the hashes of the problems that the artifact was calibrated on beside it."""
    with replacing(artifact / CALIBRATION_PROMPTS_FILE) as work, work.open("wb") as file:
        np.save(file, prompt_hashes(problem_of(item) for item in items))


def _cross_fitted(
    log_odds_R: np.ndarray, labels_R: np.ndarray, problem_R: np.ndarray, whole: Platt, offset: float, seed: int
) -> np.ndarray:
    """(R,) probabilities, each by a fit on the folds that its problem is not in."""
    num_folds = min(NUM_FOLDS, len(np.unique(problem_R)))
    if num_folds < 2:
        return sigmoid(whole.scale * log_odds_R + whole.shift)
    folds_R, p_R = cluster_folds(problem_R, num_folds, seed=seed), np.full(len(labels_R), np.nan)
    for fold in range(num_folds):
        inside = folds_R == fold
        fitted = fit_platt(log_odds_R[~inside], labels_R[~inside], problem_R[~inside], shift=offset)
        p_R[inside] = sigmoid(fitted.scale * log_odds_R[inside].astype(np.float64) + fitted.shift)
    return p_R


def _figures(p_R: np.ndarray, labels_R: np.ndarray) -> dict[str, float]:
    """Brier score and ECE of P(right) against labels; soft ones are taken as they are."""
    known_R = ~np.isnan(labels_R)
    return {"Brier": mean(squared_error(p_R, labels_R)[known_R]), "ECE": ece(p_R[known_R], labels_R[known_R])}


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
