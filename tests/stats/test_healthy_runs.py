"""Thresholds from whole healthy runs: the rate that they promise, by hand and simulated."""

from __future__ import annotations

import numpy as np
import pytest

from assay.stats.healthy_runs import battery, rate_of, sign_threshold


def test_the_second_largest_of_39_runs_has_a_rate_of_one_in_twenty():
    found = sign_threshold(np.arange(39.0), rate=0.05)
    assert (found.value, found.rate, found.runs) == (37.0, rate_of(2, 39), 39)
    assert found.rate == 0.05


def test_too_few_runs_for_the_rate_are_refused_with_how_many_would_do():
    with pytest.raises(ValueError, match=r"make at least 19 for 0\.05"):
        sign_threshold(np.arange(18.0), rate=0.05)
    assert sign_threshold(np.arange(19.0), rate=0.05).value == 18.0


def test_a_run_without_a_maximum_and_a_rate_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="1 of 3 healthy runs"):
        sign_threshold(np.array([1.0, np.nan, 2.0]), rate=0.5)
    with pytest.raises(ValueError, match="rate 1 must"):
        sign_threshold(np.arange(3.0), rate=1.0)


def test_new_healthy_runs_pass_at_the_rate_whatever_the_distribution():
    rng = np.random.default_rng(0)
    passed = []
    for _ in range(4000):
        maxima = rng.standard_cauchy(40)
        passed.append(maxima[-1] > sign_threshold(maxima[:-1], rate=0.05).value)
    assert abs(np.mean(passed) - 0.05) < 2.6 * np.sqrt(0.05 * 0.95 / 4000)


def test_a_battery_of_six_signs_has_one_rate_and_six_thresholds_apart_do_not():
    rng = np.random.default_rng(1)
    names = tuple("abcdef")
    together, apart = [], []
    for _ in range(2000):
        maxima = rng.standard_normal((79, 6)) * 10.0 ** np.arange(6)
        new = maxima[-1]
        found = battery(names, maxima[:-1], rate=0.05)
        together.append(found.alarms(new[None])[0])
        apart.append(any(new[s] > sign_threshold(maxima[:-1, s], rate=0.05).value for s in range(6)))
    assert np.mean(together) <= 0.05 + 2.6 * np.sqrt(0.05 * 0.95 / 2000)
    assert np.mean(together) > 0.03
    assert np.mean(apart) > 0.15


def test_signs_that_could_not_be_measured_are_passed_over_in_a_run_and_refused_in_the_healthy_ones():
    found = battery(("a", "b"), np.arange(80.0).reshape(40, 2), rate=0.1)
    assert found.alarms(np.array([[np.nan, 1e6], [np.nan, np.nan], [0.0, 0.0]])).tolist() == [True, False, False]
    assert np.isnan(found.largest(np.array([[np.nan, np.nan]]))[0])
    with pytest.raises(ValueError, match="no maximum"):
        battery(("a", "b"), np.full((8, 2), np.nan), rate=0.3)
    with pytest.raises(ValueError, match="too few for a battery"):
        battery(("a",), np.zeros((3, 1)), rate=0.3)
    with pytest.raises(ValueError, match="2 columns"):
        found.alarms(np.zeros((3, 3)))


def test_a_sign_that_never_moved_in_the_first_half_is_in_its_own_unit():
    found = battery(("still",), np.concatenate([np.zeros((10, 1)), np.ones((10, 1))]), rate=0.2)
    assert found.units == (1.0,)
    assert found.threshold.value == 1.0
