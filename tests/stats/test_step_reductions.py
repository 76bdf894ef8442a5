"""One number of many steps: hand-computed, exact where the product itself is none, NaN for nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest

from assay.stats.step_reductions import REDUCTIONS, as_reduction, log_right, reduce_steps

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


@pytest.mark.parametrize("how", REDUCTIONS)
def test_no_steps_and_missing_ones_have_no_value(how):
    assert math.isnan(reduce_steps(np.empty(0), how))
    assert math.isnan(reduce_steps(np.array([1.0, np.nan, 2.0]), how))


@pytest.mark.parametrize("how", REDUCTIONS)
def test_one_step_is_its_own_reduction(how):
    assert reduce_steps(np.array([0.3]), how) == pytest.approx(math.log(1 / (1 + math.exp(-0.3))))


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="min, product, last, mean, not by 'median'"):
        as_reduction("median")
