"""Best-of-n from recorded candidates: the estimator against every draw, and by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from assay.audit.best_of_n import best_of_n_curve, best_of_n_kl, expected_best
from assay.stats.metrics import wilson_interval


def by_every_draw(proxy: list[float], gold: list[float], n: int) -> float:
    """Mean over all subsets of n, equals in proxy drawn by lot."""
    found = []
    for drawn in itertools.combinations(range(len(proxy)), n):
        best = max(proxy[i] for i in drawn)
        found.append(np.mean([gold[i] for i in drawn if proxy[i] == best]))
    return float(np.mean(found))


@pytest.mark.parametrize("n", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("proxy", [[3, 1, 2, 7, 5, 6, 4], [1, 1, 2, 2, 2, 3, 0], [4, 4, 4, 4, 4, 4, 4]])
def test_the_estimator_is_the_mean_over_every_draw(proxy, n):
    gold = [0.3, -1.0, 2.0, 0.5, 0.0, 4.0, 1.0]
    assert expected_best(np.array(proxy), np.array(gold), n) == pytest.approx(by_every_draw(proxy, gold, n))


def test_by_hand():
    """Gold 1, 2, 4 in the proxy's order: best of two is 4 in two draws of three, 2 in one."""
    assert expected_best(np.array([0.1, 0.2, 0.3]), np.array([1.0, 2.0, 4.0]), 2) == pytest.approx((2 * 4 + 2) / 3)
    assert math.isnan(expected_best(np.array([0.1, 0.2]), np.array([1.0, 2.0]), 3))
    np.testing.assert_allclose(best_of_n_kl(np.array([1, 2, 16])), [0, math.log(2) - 0.5, math.log(16) - 15 / 16])


def test_large_n_does_not_overflow():
    rng = np.random.default_rng(0)
    proxy = rng.normal(size=5000)
    assert expected_best(proxy, proxy, 5000) == pytest.approx(proxy.max())
    best = np.sort(proxy)[::-1]  # of every second one drawn the best is the best of all in 1/2, the next in 1/4, ...
    assert expected_best(proxy, proxy, 2500) == pytest.approx(best[:20] @ 0.5 ** np.arange(1, 21), abs=1e-3)


def test_what_could_not_be_scored_is_left_out_and_counted():
    proxy = [np.array([1.0, math.nan, 3.0]), np.array([2.0]), np.array([math.nan, math.nan])]
    gold = [np.array([0.0, 9.0, 1.0]), np.array([0.5]), np.array([1.0, 1.0])]
    curve = best_of_n_curve(proxy, gold, [1, 2, 3])
    assert curve.num_prompts.tolist() == [2, 1, 0]
    np.testing.assert_allclose(curve.gold, [0.5, 1.0, math.nan])
    assert np.isnan(curve.low[2])


def test_a_perfect_proxy_rises_and_a_random_one_stays():
    rng = np.random.default_rng(1)
    gold = [rng.normal(size=40) for _ in range(200)]
    good = best_of_n_curve(gold, gold, [1, 4, 16])
    assert np.all(np.diff(good.gold) > 0.5)
    noise = best_of_n_curve([rng.normal(size=40) for _ in range(200)], gold, [1, 4, 16])
    assert np.all((noise.low <= 0.05) & (noise.high >= -0.05))


def test_where_every_prompt_shows_the_same_the_interval_is_wilsons():
    gold = [np.random.default_rng(seed).permutation(8) / 7 for seed in range(30)]
    curve = best_of_n_curve(gold, gold, [1, 8])
    for value, low, high, right in zip(curve.gold, curve.low, curve.high, (15, 30), strict=True):
        assert value == pytest.approx(right / 30)
        assert (low, high) == pytest.approx(wilson_interval(right, 30))
    assert np.isnan(best_of_n_curve(gold, [np.ones(8)] * 30, [2]).low[0]), "gold that never differs has no range"


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="same prompts"):
        best_of_n_curve([np.ones(2)], [np.ones(3)], [1])
    with pytest.raises(ValueError, match="at least 1"):
        best_of_n_curve([np.ones(2)], [np.ones(2)], [0])
