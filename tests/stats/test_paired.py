"""Paired replicates: sign patterns counted by hand, Student's interval, and the level of the test."""

from __future__ import annotations

import math

import numpy as np
import pytest

from assay.stats.paired import flip_test, least_p, paired


def test_sign_patterns_counted_by_hand():
    # 1, 2, 4 sum to 7; of the 8 patterns only +++ and --- are as far from 0
    assert flip_test([1, 2, 4]) == pytest.approx(2 / 8)
    # -1, 2, 4 sum to 5; +-7 and +-5 are as far
    assert flip_test([-1, 2, 4]) == pytest.approx(4 / 8)
    assert flip_test([0.1, -0.1]) == 1.0  # a sum of 0: every pattern is as far


def test_a_replicate_that_was_not_measured_is_left_out():
    assert paired([1.0, 2.0, math.nan, 4.0]) == paired([1.0, 2.0, 4.0])
    assert math.isnan(flip_test([math.nan]))


def test_the_interval_is_students():
    found = paired([1.0, 2.0, 3.0])
    half = 4.302653 / math.sqrt(3)  # t of 2 degrees of freedom at .975; standard deviation 1
    assert found[:3] == pytest.approx((2.0, 2 - half, 2 + half), abs=1e-5)
    assert found.smallest == pytest.approx((4.302653 + 1.060660) / math.sqrt(3), abs=1e-5)  # t of 2 at .8


def test_one_replicate_has_no_interval():
    found = paired([0.5])
    assert found.mean == 0.5
    assert found.p == 1.0
    assert math.isnan(found.low)
    assert math.isnan(found.smallest)


def test_the_least_p_of_five_is_above_a_twentieth():
    assert flip_test([1.0] * 5) == least_p(5) == 0.0625
    assert flip_test([1.0] * 6) == least_p(6) < 0.05


def test_drawn_patterns_agree_with_counted_ones():
    rng = np.random.default_rng(0)
    differences = rng.normal(0.5, 1, 18)
    counted = flip_test(differences)
    drawn = flip_test([*differences, 0.0])  # a difference of 0 changes no sum, but is one too many to count
    assert drawn == pytest.approx(counted, abs=4 * math.sqrt(counted * (1 - counted) / 99_999))


def test_the_test_keeps_its_level():
    rng = np.random.default_rng(1)
    refused = np.mean([flip_test(rng.standard_t(3, 8)) <= 0.05 for _ in range(1500)])
    assert refused < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 1500)


def test_a_table_is_refused():
    with pytest.raises(ValueError, match="one number a replicate"):
        paired(np.zeros((2, 2)))
