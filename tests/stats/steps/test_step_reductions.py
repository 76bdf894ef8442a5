"""One number of many steps: hand-computed, exact where the product itself is none, NaN for nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest

from assay.stats.metrics import auroc
from assay.stats.steps.step_reductions import (
    REDUCTIONS,
    STATISTICS,
    as_reduction,
    learn_reduction,
    log_right,
    reduce_steps,
    statistics_of,
)

LOGITS = np.log(np.array([0.8, 0.5, 0.9]) / np.array([0.2, 0.5, 0.1]))


@pytest.mark.parametrize(("how", "right"), [("min", 0.5), ("product", 0.36), ("last", 0.9), ("mean", 2.2 / 3)])
def test_a_hand_computed_solution(how, right):
    assert reduce_steps(LOGITS, how) == pytest.approx(math.log(right))


def test_a_product_of_many_sure_errors_is_a_number_and_orders_them():
    values = [reduce_steps(np.full(40, -30.0 - extra), "product") for extra in (0.0, 1.0)]
    assert values == pytest.approx([-1200.0, -1240.0])
    assert np.exp(values[0]) == 0, "what a product in float64 would have given for both"


def test_certainty_keeps_its_digits():
    assert log_right(np.array([30.0]))[0] == pytest.approx(-math.exp(-30), rel=1e-6)


PLAIN = [how for how in REDUCTIONS if how != "learned"]


@pytest.mark.parametrize("how", PLAIN)
def test_no_steps_and_missing_ones_have_no_value(how):
    assert math.isnan(reduce_steps(np.empty(0), how))
    assert math.isnan(reduce_steps(np.array([1.0, np.nan, 2.0]), how))


@pytest.mark.parametrize("how", PLAIN)
def test_one_step_is_its_own_reduction(how):
    assert reduce_steps(np.array([0.3]), how) == pytest.approx(math.log(1 / (1 + math.exp(-0.3))))


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="min, product, last, mean, learned, not by 'median'"):
        as_reduction("median")


def test_statistics_of_a_hand_computed_solution():
    expected = [math.log(0.5), np.log([0.8, 0.5, 0.9]).mean(), math.log(0.9), math.log(0.36), math.log(3), 0.0]
    np.testing.assert_allclose(statistics_of(LOGITS), expected, rtol=1e-9)
    assert len(expected) == len(STATISTICS)
    assert statistics_of(np.array([-1.0, 2.0]))[-1] == 0.5


def test_a_learned_reduction_finds_what_decides_the_outcome():
    """The outcome is that of the last step, whatever the others say: the minimum ranks worse than what is learned."""
    rng = np.random.default_rng(0)
    solutions = [rng.normal(size=int(rng.integers(2, 7))) * 3 for _ in range(400)]
    outcome = np.array([float(steps[-1] > 0) for steps in solutions])
    weights = learn_reduction(solutions[:300], outcome[:300])
    assert not isinstance(weights, str)
    learned, lowest = (
        auroc(np.array([reduce_steps(steps, how, given) for steps in solutions[300:]]), outcome[300:])
        for how, given in (("learned", weights), ("min", ()))
    )
    assert learned > 0.97 > lowest
    assert all(reduce_steps(steps, "learned", weights) <= 0 for steps in solutions)


def test_too_few_outcomes_teach_nothing_and_say_so():
    steps = [np.array([1.0, 2.0])] * 60
    assert "10 solutions with a known outcome" in learn_reduction(steps[:10], np.ones(10))
    assert "all of one kind" in learn_reduction(steps, np.ones(60))
    assert "0 solutions" in learn_reduction(steps, np.full(60, np.nan))
