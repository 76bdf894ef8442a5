"""Choosing among recorded solutions: worked out by hand for two problems, beside ways that do not need the model."""

from __future__ import annotations

import numpy as np
import pytest

from assay.audit.chosen_answers import MAJORITY, ORACLE, RANDOM
from assay.audit.chosen_solutions import BESIDE, OWN, Solved, choose_among, solution_rewards
from assay.data.steps.labelled_steps import LabelledSteps
from assay.records import Completion, Rewards


class Known:
    """Rewards under the last step of each solution; steps as probabilities where they are given."""

    fingerprint, scope, tolerance = "known", "global", 0.0

    def __init__(self, values, steps=None):
        self.values, self.steps = values, steps

    def score(self, completions):
        names = [item.steps[-1] for item in completions]
        steps = None if self.steps is None else tuple(np.array(self.steps[name]) for name in names)
        return Rewards(value=[self.values[name] for name in names], steps=steps)


def solutions(*rows):
    return [
        LabelledSteps(completion=Completion(messages=problem, steps=("a", name)), right=(None, None), outcome=outcome)
        for problem, name, outcome in rows
    ]


ITEMS = solutions(("p", "p1", 1.0), ("p", "p2", 0.0), ("p", "p3", 0.0), ("q", "q1", 0.0), ("q", "q2", 1.0), ("r", "r1", 1.0))
VALUES = {"p1": 0.5, "p2": 0.4, "p3": 0.1, "q1": 0.9, "q2": 0.3, "r1": 0.0}
STEPS = {"p1": [0.9, 0.5], "p2": [0.4, 0.9], "p3": [0.3, 0.3], "q1": [0.2, 0.9], "q2": [0.3, 0.8], "r1": [0.5, 0.5]}


def test_every_way_to_choose_is_worked_out_on_the_problems_with_two_solutions():
    """Of p the model chooses the right one of three, of q the wrong one of two; by min of the steps both are right; the wrong two
    of p give one answer."""
    rewards = solution_rewards(Known(VALUES, STEPS), ITEMS, beside=Known({**VALUES, "p1": 0.0}))
    np.testing.assert_allclose(rewards["product"][:3], np.log([0.45, 0.36, 0.09]))
    gold_N, answers_N = np.array([item.outcome for item in ITEMS]), np.array([0, 1, 1, 0, 1, -1])
    result = choose_among(Solved(ITEMS, gold_N, answers_N), rewards, title="Best of n", max_n=2)
    page = result.report()
    assert page.facts["problems"] == "2", "r has a single solution"
    at_2 = {name: metrics[-1].value for name, metrics in result.curves.figures.items()}
    assert at_2[RANDOM] == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert at_2[ORACLE] == pytest.approx((2 / 3 + 1) / 2)
    assert at_2[f"best of n: {OWN}"] == pytest.approx((2 / 3 + 0) / 2)
    assert at_2["best of n: min"] == pytest.approx((2 / 3 + 1) / 2)
    assert at_2[f"best of n: {BESIDE}"] == 0.0
    assert at_2[MAJORITY] == pytest.approx(((0.5 + 0.5 + 0) / 3 + 0.5) / 2), "two answers of a draw share"
    assert f"weighted vote: {OWN}" not in at_2
    found = {finding.name: finding for finding in result.findings}
    assert found[f"better than {BESIDE}"].value == pytest.approx(1 / 3)
    assert found[f"better than {BESIDE}"].level == "warn", "two problems show nothing"
    assert "right and wrong solutions to each" in found["better than majority"].remedy
    assert "Choosing among 2 solutions by its reward answers 33.3% of the problems rightly" in page.lead


def test_a_model_without_steps_has_its_own_reward_alone():
    assert list(solution_rewards(Known(VALUES), ITEMS)) == [OWN]


def test_problems_with_one_solution_leave_nothing_to_choose():
    one_each = solutions(("p", "p1", 1.0), ("q", "q1", 0.0), ("q", "q2", 1.0))
    solved = Solved(one_each, np.array([1.0, 0.0, 1.0]), np.zeros(3, np.int64))
    with pytest.raises(ValueError, match=r"1 problems have two solutions .* two are needed to choose"):
        choose_among(solved, {OWN: np.zeros(3)}, title="Best of n")
