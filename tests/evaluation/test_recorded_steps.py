"""Every figure that the recorded scores of published process models must give. Skipped where the data are not here."""

from __future__ import annotations

import gzip
import json
import os
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from assay.evaluation.steps.step_rivals import guesses
from assay.stats.steps.step_figures import (
    NO_ERROR,
    StepLabels,
    above,
    first_error_accuracy,
    found_errors,
    prm_score,
    process_f1,
    reduced,
    step_auroc,
)

DATA = Path(os.environ.get("ASSAY_DATA") or Path(__file__).parents[3] / "shared" / "data")
pytestmark = pytest.mark.skipif(not (DATA / "mr-gsm8k-wrong").is_dir(), reason="the shared data are not here")
FOUR = 5e-5
"""Figures are given to four digits."""


@cache
def rows(name: str) -> list[dict]:
    with gzip.open(DATA / name, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def values(scores: list) -> np.ndarray:
    """A number a step: as recorded, or of three classes neutral and good together (validity of ReasonEval)."""
    return np.array([one if isinstance(one, float) else one[1] + one[2] for one in scores])


@cache
def recorded(name: str) -> dict[str, dict]:
    """run -> id -> scores."""
    found: dict[str, dict] = {}
    for row in rows(name):
        found.setdefault(row["run"], {})[row["id"]] = row["scores"]
    return found


@cache
def first_errors() -> StepLabels:
    """mr-gsm8k-wrong: right before the first error, wrong there, unknown behind it."""
    labels = []
    for row in rows("mr-gsm8k-wrong/first_error_labels.jsonl.gz"):
        first, size = int(row["model_output_solution_first_error_step"]) - 1, len(row["model_output_steps"])
        labels.append([1.0] * first + [0.0] + [None] * (size - first - 1))
    return StepLabels.of(labels, [row["question"] for row in rows("mr-gsm8k-wrong/first_error_labels.jsonl.gz")])


def scores_of(run: str) -> list[np.ndarray]:
    scores = recorded("mr-gsm8k-wrong/recorded_step_scores.jsonl.gz")[run]
    return [values(scores[row["uuid"]]) for row in rows("mr-gsm8k-wrong/first_error_labels.jsonl.gz")]


@pytest.mark.parametrize(
    ("run", "accuracy", "auroc"),
    [
        ("math-shepherd_mistral-7b", 0.5593, 0.9114),
        ("reasoneval_llemma-34b", 0.5322, 0.9082),
        ("reasoneval_wizardmath-7b-v1.1", 0.4508, 0.9094),
        ("reasoneval_abel-7b-002", 0.3898, 0.9202),
        ("reasoneval_llemma-7b", 0.3712, 0.8874),
        ("reasoneval_mistral-7b", 0.2881, 0.9058),
        ("reasoneval_llama2-7b", 0.1458, 0.8436),
    ],
)
def test_first_error_at_a_half_and_auroc_of_steps(run, accuracy, auroc):
    scores = scores_of(run)
    found = first_error_accuracy(found_errors(scores, 0.5), first_errors())
    ranked = step_auroc(scores, first_errors())
    assert found.value == pytest.approx(accuracy, abs=FOUR)
    assert ranked.value == pytest.approx(auroc, abs=FOUR)
    assert found.num_scored == found.num == 590
    assert found.interval.low < accuracy < found.interval.high
    assert ranked.interval.low < auroc < ranked.interval.high


def test_math_shepherd_finds_no_error_in_85_of_a_thousand():
    found = found_errors(scores_of("math-shepherd_mistral-7b"), 0.5)
    assert (found == NO_ERROR).mean() == pytest.approx(0.085, abs=5e-4)


def test_always_step_3_and_a_random_step():
    labels = first_errors()
    assert (labels.first_error_N == 2).mean() == pytest.approx(0.2186, abs=FOUR)
    assert (1 / labels.size_N).mean() == pytest.approx(0.1426, abs=FOUR)
    texts = [row["model_output_steps"] for row in rows("mr-gsm8k-wrong/first_error_labels.jsonl.gz")]
    found = {one.name: one.figure.value for one in guesses(labels, [np.array([len(step) for step in one]) for one in texts])}
    assert found["always step 3"] == pytest.approx(0.2186, abs=FOUR)
    assert found["a random step"] == pytest.approx(0.1426, abs=FOUR)
    assert found["the longest step"] == pytest.approx(0.3407, abs=FOUR), "two of the seven scorers are below it at 0.5"


def test_f1_is_refused_where_all_solutions_are_wrong():
    with pytest.raises(ValueError, match="no right one"):
        process_f1(found_errors(scores_of("math-shepherd_mistral-7b"), 0.5), first_errors(), seed=0)


@pytest.mark.parametrize(
    ("perturbed", "original", "figures"),
    [
        (
            "math-shepherd_mistral-7b_perturbed",
            "math-shepherd_mistral_7b_original",
            {"min": 0.8620, "product": 0.9140, "last": 0.9005, "mean": 0.9412},
        ),
        (
            "reasoneval_llemma-34b_perturbed",
            "reasoneval_llemma_34b_original",
            {"min": 0.7511, "product": 0.8688, "last": 0.7557, "mean": 0.9186},
        ),
    ],
)
def test_original_above_perturbed(perturbed, original, figures):
    """The ids of the two runs are two name spaces: the originals are found by rid."""
    runs = recorded("reasoneval/recorded_step_scores_perturbation.jsonl.gz")
    kept = [row for row in rows("reasoneval/perturbation.jsonl.gz") if row["error_type"] not in ("repeat step", "remove step")]
    assert len(kept) == 221
    better = [values(runs[original][row["rid"]]) for row in kept]
    worse = [values(runs[perturbed][row["id"]]) for row in kept]
    problems = np.array([row["question"] for row in kept])
    for how, expected in figures.items():
        figure = above(reduced(better, how), reduced(worse, how), problems)
        assert figure.value == pytest.approx(expected, abs=FOUR), how
        assert figure.interval.low < expected < figure.interval.high
    within_one_run = [values(runs[perturbed][row["rid"]]) for row in kept]
    assert 0.4 < above(reduced(within_one_run, "min"), reduced(worse, "min"), problems).value < 0.6, "a join that says nothing"


@cache
def prmbench() -> StepLabels:
    """Steps that a row names beyond its last are no steps: they are dropped."""
    labels = []
    for row in rows("prmbench/data.jsonl.gz"):
        wrong = set(row["error_steps"] or ())
        labels.append([0.0 if k + 1 in wrong else 1.0 for k in range(len(row["modified_process"]))])
    return StepLabels.of(labels, [row["original_question"] for row in rows("prmbench/data.jsonl.gz")])


def test_prm_score_of_what_looks_at_nothing():
    labels = prmbench()
    assert len(labels.right_T) == 58_873
    assert (labels.right_T == 0).sum() == 8_973
    beyond = [row for row in rows("prmbench/data.jsonl.gz") if max(row["error_steps"] or (0,)) > len(row["modified_process"])]
    assert len(beyond) == 73
    ones = [np.ones(size) for size in labels.size_N]
    halves = [(np.arange(size) < size / 2).astype(float) for size in labels.size_N]
    for scores, expected in ((ones, 0.4588), ([0 * one for one in ones], 0.1323), (halves, 0.5049)):
        assert prm_score(scores, labels, 0.5, seed=0).value == pytest.approx(expected, abs=FOUR)


def test_gsm8k_best_of_four():
    writers = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
    right = np.array([[row[one]["is_correct"] for one in writers] for row in rows("gsm8k/model_solutions.jsonl.gz")])
    assert right.mean() == pytest.approx(0.3373, abs=FOUR)
    assert right.any(axis=1).mean() == pytest.approx(0.6434, abs=FOUR)
    assert right[:, 3].mean() == pytest.approx(0.5220, abs=FOUR)


def test_right_answers_with_a_wrong_step():
    tasks = ("dyck_languages", "multistep_arithmetic", "word_sorting")
    found = [row for task in tasks for row in rows(f"big-bench-mistake/{task}.jsonl.gz")]
    bias = [row for row in found if str(row["answer"]).strip() == str(row["target"]).strip() and row["mistake_index"] is not None]
    assert len(bias) == 163
