"""A distance to stop at: worked out by hand on runs of four looks."""

from __future__ import annotations

import math

import pytest

from assay.rl.stopping import best_budget, stop_at

KL = [0.0, 1.0, 4.0, 9.0]


def test_the_first_look_at_the_budget():
    assert stop_at(KL, 1.0) == 1
    assert stop_at(KL, 1.1) == 2
    assert stop_at(KL, 10.0) == 3  # it never gets there
    assert stop_at([0.0, math.nan, 4.0], 1.0) == 2
    with pytest.raises(ValueError, match="no evaluation"):
        stop_at([], 1.0)


def test_the_best_budget_is_that_of_the_mean():
    # alone, the first run is best at KL 4 and the second at 1; together: 0 -> 0, 1 -> (1 + 3) / 2, 4 -> (2 + 1) / 2, 9 -> 0
    gold = [[0, 1, 2, 0], [0, 3, 1, 0]]
    assert best_budget([KL, KL], gold) == 1.0
    assert best_budget([KL], gold[:1]) == 4.0


def test_a_run_that_only_gains_is_never_stopped_before_its_end():
    assert stop_at([0, 1, 100], best_budget([KL], [[0, 1, 2, 3]])) == 2


def test_a_run_without_gold_does_not_count():
    assert best_budget([KL, KL], [[0, 1, 2, 0], [math.nan] * 4]) == 4.0
    with pytest.raises(ValueError, match="no run has gold"):
        best_budget([KL], [[math.nan] * 4])
    with pytest.raises(ValueError, match="at least one run"):
        best_budget([], [])
