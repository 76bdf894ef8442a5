"""What is said of a process model on labelled steps: by hand on a few solutions, beside what looks at nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest

from assay.data.steps.labelled_steps import LabelledSteps
from assay.evaluation.steps.evaluate_steps import AUROC, F1, FIRST_ERROR, PRM_SCORE, SOLUTIONS, evaluate_steps, measure_steps
from assay.evaluation.steps.outcome_figures import measure_outcomes
from assay.evaluation.steps.step_findings import above_chance, calibrated_on_few
from assay.evaluation.steps.step_rivals import LATER, LONGER, deciding_rivals, guesses, tilts
from assay.evaluation.steps.step_scores import labels_of, meant, score_steps
from assay.records import Completion, Metric, Rewards
from assay.report.headline import headline, summary_lines
from assay.report.remedies import remedy_of
from assay.stats.steps.platt import MIN_PROBLEMS
from assay.stats.steps.step_figures import StepLabels

NAN = math.nan


def solved(question, right, *, outcome=None, words=None, **more):
    steps = words or [f"step {k}\n" for k in range(len(right))]
    return LabelledSteps(completion=Completion(messages=question, steps=steps), right=tuple(right), outcome=outcome, **more)


class Known:
    """Gives each solution the scores under its text."""

    fingerprint, scope, tolerance = "known", "global", 0.0

    def __init__(self, scores, error=None):
        self.scores, self.error = scores, error

    def score(self, completions):
        steps = [np.array(self.scores[item.messages[0].content]) for item in completions]
        return Rewards(value=[one.min() if len(one) else NAN for one in steps], steps=tuple(steps), error=self.error)


ITEMS = [
    solved("a", [1, 0, None], outcome=0.0, source="x"),
    solved("b", [1, 1], outcome=1.0, source="x"),
    solved("c", [0, 0], outcome=1.0, source="y"),
    solved("d", [1, 1, 1], outcome=1.0, source="y"),
]
SCORES = {"a": [0.9, 0.2, 0.1], "b": [0.8, 0.5], "c": [0.6, 0.9], "d": [0.7, 0.6, 0.9]}


def test_figures_and_what_they_are_held_against():
    result = evaluate_steps(Known(SCORES), ITEMS, title="Steps")
    assert result.scores.threshold == 0.5
    assert result.found_errors.tolist() == [1, 1, -1, -1]
    assert result.first_error.value == 0.5
    assert result.f1.value == pytest.approx(0.5), "half of the wrong, half of the right ones"
    page = result.report()
    assert page.metric(f"{FIRST_ERROR}: a random step").value == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert page.metric(f"{FIRST_ERROR}: always step 1").value == 0.5
    assert page.metric(f"{PRM_SCORE}: all wrong").value == pytest.approx(0.25), "F1 0 and 2 x 3 / (6 + 6)"
    assert "0 of which it is not known" in page.facts["solutions"]
    assert "0.5" in page.facts["threshold"]
    assert {finding.name for finding in result.findings} >= {"better than chance", "better than position", "unscored steps"}
    assert any(table.title == "by source" for table in page.tables)
    lines = summary_lines([page], closing={"report": "here", "next": "assay"})
    assert len(lines) <= 12
    assert FIRST_ERROR in "\n".join(lines)


def test_what_to_do_is_said_of_steps_and_never_of_pairs():
    page = evaluate_steps(Known({name: scores[::-1] for name, scores in SCORES.items()}), ITEMS, title="Steps").report()
    concerns = headline([page]).concerns
    told = [concern.remedy for concern in concerns if concern.finding.failure == "baseline"]
    said = [remedy for remedy in told if remedy]
    assert len(said) == 1, "it is said once"
    assert "labels of steps" in said[0]
    assert not any("pairs" in concern.remedy + concern.finding.why for concern in concerns)


def test_a_calibration_on_few_problems_is_warned_of_with_what_to_do():
    entry = {"labelled": 49, "problems": 8, "problems_of_rarer": MIN_PROBLEMS - 1, "of": "steps"}
    few = calibrated_on_few(entry)
    assert few is not None
    assert (few.level, few.value, few.threshold) == ("warn", MIN_PROBLEMS - 1, MIN_PROBLEMS)
    assert "calibrated on 49 steps of 8 problems, 15 of which hold one of the rarer kind" in few.why
    assert "--calibration" in remedy_of(few)
    for enough in ({**entry, "problems_of_rarer": MIN_PROBLEMS}, {"labelled": 49, "problems": 8}, None):
        assert calibrated_on_few(enough) is None


def test_one_kind_of_solution_has_no_f1_and_the_page_says_why():
    result = evaluate_steps(Known(SCORES), [ITEMS[0], ITEMS[2]], title="Steps")
    assert result.f1 is None
    assert "no right one" in result.report().facts[f"no {F1}"]


def test_what_is_not_scored_is_counted_with_its_reason_and_in_no_figure():
    scores = {**SCORES, "a": [NAN, 0.2, 0.1], "d": [0.7, 0.6]}
    result = evaluate_steps(Known(scores), ITEMS, title="Steps")
    assert (result.first_error.n_scored, result.first_error.n) == (1, 2)
    finding = next(one for one in result.findings if one.name == "unscored steps")
    assert (finding.level, finding.value) == ("warn", 4)
    assert "the scorer gave 2 rewards for 3 steps (1 solutions)" in finding.why
    assert result.auroc.n - result.auroc.n_scored == 4


def test_rewards_outside_of_probabilities_are_log_odds():
    scores = score_steps(Known({"a": [2.0, -1.0, 0.0]}), ITEMS[:1])
    assert scores.threshold == 0.0
    assert scores.probabilities[0] == pytest.approx(1 / (1 + np.exp([-2.0, 1.0, 0.0])))
    assert score_steps(Known({"a": [2.0, -1.0, 0.0]}), ITEMS[:1], threshold=1.5).threshold == 1.5
    with pytest.raises(ValueError, match="must be a number"):
        score_steps(Known(SCORES), ITEMS[:1], threshold=NAN)


def test_a_scorer_that_says_what_its_steps_mean_is_believed():
    class Said(Known):
        step_threshold = 0.15

        def step_probability(self, rewards_S):
            return 1 - rewards_S

    scores = score_steps(Said(SCORES), ITEMS[:1])
    assert scores.threshold == 0.15
    assert scores.probabilities[0] == pytest.approx([0.1, 0.8, 0.9])
    assert "own threshold" in scores.said


def test_an_outcome_model_is_refused():
    class Outcome(Known):
        def score(self, completions):
            return Rewards(value=[0.0] * len(completions))

    with pytest.raises(ValueError, match="none for its steps"):
        evaluate_steps(Outcome(SCORES), ITEMS, title="Steps")
    with pytest.raises(ValueError, match="no solutions"):
        evaluate_steps(Known(SCORES), [], title="Steps")


def test_right_solutions_above_wrong_ones_of_the_same_problem():
    items = [solved("q", [1, 0]), solved("q", [1, 1], words=["one\n", "two\n"])]
    scores = meant([np.array([0.9, 0.1]), np.array([0.5, 0.4])], np.array([0.1, 0.4]))
    page = measure_steps(scores, items, title="Steps").report()
    assert page.metric(f"{SOLUTIONS}: min").value == 1.0
    assert page.metric(f"{SOLUTIONS}: mean").value == 0.0
    assert page.metric(f"{SOLUTIONS}: product").value == 1.0
    assert page.metric(f"{SOLUTIONS}: last").value == 1.0


def test_the_rivals_look_at_nothing():
    labels = StepLabels.of([[1, 1, 0], [1, 0]], ["a", "b"])
    assert [one.scores[0].tolist() for one in deciding_rivals(labels)] == [[1, 1, 1], [0, 0, 0], [1, 1, 0]]
    lengths = [np.array([5, 9, 7]), np.array([1, 2])]
    found = {one.name: one.figure.value for one in guesses(labels, lengths)}
    assert found == {
        "a random step": pytest.approx(5 / 12),
        "always step 2": 0.5,
        "the longest step": 0.5,
        "the second half is wrong": 1.0,
    }


def test_leaning_on_place_and_length_is_seen_among_right_steps_alone():
    labels = StepLabels.of([[1, 1, 0], [1, 1, 1]], ["a", "b"])
    lengths = [np.array([2, 1, 99]), np.array([1, 1, 2])]
    scores = [np.array([0.9, 0.1, 1.0]), np.array([0.2, 0.3, 0.1])]
    # solution 0: the later is lower. solution 1: up, down, down of three couples. lengths: 0: the longer is higher; 1: lower twice
    found = {one.name: one.figure for one in tilts(scores, labels, lengths)}
    assert found[LATER].value == pytest.approx((0 + 1 / 3) / 2)
    assert found[LONGER].value == pytest.approx((1 + 0) / 2)
    unscored = tilts([np.full(3, NAN), scores[1]], labels, lengths)
    assert (unscored[0].figure.num_scored, unscored[0].figure.num) == (1, 2)


def test_errors_that_a_right_answer_hides_are_told():
    items = [solved(f"{k}", [1, 0], outcome=float(k % 2)) for k in range(40)]
    scores = [np.array([0.9, 0.8 if k % 2 else 0.1]) for k in range(40)]
    result = measure_steps(meant(scores, np.zeros(40)), items, title="Steps")
    finding = next(one for one in result.findings if one.name == "errors behind right answers")
    assert (finding.level, finding.value) == ("warn", 1.0)


def test_a_model_that_knows_only_the_place_is_no_better_than_the_place():
    rng = np.random.default_rng(0)
    right = [[float(k < first) for k in range(6)] for first in rng.integers(1, 6, size=60)]
    items = [solved(str(i), row) for i, row in enumerate(right)]
    by_place = [1 - np.arange(6) / 6 for _ in items]
    levels = {one.name: one.level for one in measure_steps(meant(by_place, np.zeros(60)), items, title="Steps").findings}
    assert levels["better than chance"] == "ok"
    assert levels["better than position"] == "warn"
    knows = [np.array(row) * 0.6 + 0.2 for row in right]
    levels = {one.name: one.level for one in measure_steps(meant(knows, np.zeros(60)), items, title="Steps").findings}
    assert levels["better than position"] == levels["better than 'the second half is wrong'"] == "ok"


def test_labels_are_of_the_problem_that_the_prompt_is():
    assert labels_of([*ITEMS, solved("a", [1])]).problem.tolist().count(labels_of([*ITEMS, solved("a", [1])]).problem[0]) == 2
    assert AUROC in {metric.name for metric in evaluate_steps(Known(SCORES), ITEMS, title="Steps").report().metrics}


def test_too_few_problems_for_an_interval_are_no_verdict_on_the_model():
    """An AUROC without an interval was called no better than a coin, "in [nan, nan]"."""
    found = above_chance(Metric(AUROC, 0.667, math.nan, math.nan, 4, 4))
    assert (found.level, "no interval" in found.why, "nan" in found.why) == ("warn", True, False)
    (outcome,) = measure_outcomes(np.array([1.0, 0.0]), np.array([1.0, 0.0]), ["p", "p"], title="t").findings
    assert (outcome.level, "no interval" in outcome.why) == ("warn", True)
    (one_kind,) = measure_outcomes(np.array([1.0, 0.0]), np.array([1.0, 1.0]), ["p", "q"], title="t").findings
    assert one_kind.level == "fail"
    assert "no solutions of both kinds" in one_kind.why
