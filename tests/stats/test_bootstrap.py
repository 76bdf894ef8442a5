"""The cluster bootstrap: what is drawn, and the laws of its intervals by seeded simulation."""

import math
import time

import numpy as np
import pytest

from assay.stats.bootstrap import cluster_bootstrap, percentile_interval, resampled, resampled_sums
from assay.stats.metrics import NO_INTERVAL


def test_as_many_clusters_are_drawn_as_there_are_each_as_often_as_any_other():
    counts_SC = resampled(lambda counts_SC: counts_SC, 7, seed=0, num_samples=5000)
    assert counts_SC.shape == (5000, 7)
    assert (counts_SC.sum(axis=1) == 7).all()
    assert counts_SC.mean(axis=0) == pytest.approx(np.ones(7), abs=0.06)
    assert counts_SC.var(axis=0) == pytest.approx(np.full(7, 6 / 7), abs=0.1)  # of Binomial(7, 1/7)


def test_the_draws_do_not_depend_on_how_many_samples_are_held_at_once():
    whole = resampled(lambda counts_SC: counts_SC, 30, seed=3, num_samples=50)
    parts = resampled(lambda counts_SC: counts_SC, 30, seed=3, num_samples=50, width=10**6)
    np.testing.assert_array_equal(whole, parts)


def test_all_columns_of_sums_are_of_the_same_clusters():
    values_C = np.random.default_rng(0).integers(0, 3, size=900).astype(float)
    for columns_CK in (values_C[:, None] * [1.0, 2.0], (values_C + np.arange(900) / 1e4)[:, None] * [1.0, 2.0]):  # few kinds, many
        sums_S2 = resampled_sums(columns_CK, seed=0, num_samples=400)
        assert sums_S2[:, 1] == pytest.approx(2 * sums_S2[:, 0])
        assert sums_S2[:, 0].mean() == pytest.approx(columns_CK[:, 0].sum(), rel=0.01)
        assert sums_S2[:, 0].std() == pytest.approx(columns_CK[:, 0].std() * 30, rel=0.1)  # sqrt(900) draws


def test_a_percentile_interval_leaves_samples_without_a_figure_out():
    assert percentile_interval(np.array([*range(101), math.nan])) == pytest.approx((2.5, 97.5))
    assert percentile_interval(np.arange(101.0), level=0.8) == pytest.approx((10, 90))
    assert percentile_interval(np.full(3, math.nan)) == pytest.approx(NO_INTERVAL, nan_ok=True)


def test_the_expanded_interval_has_the_width_of_a_t_interval():
    """Ten clusters: the 95% interval of a normal bootstrap is that of t with 9 degrees of freedom, 2.262 standard errors."""
    values_C = np.random.default_rng(1).normal(size=10)
    sums_S = resampled_sums(values_C[:, None], seed=0, num_samples=40_000)[:, 0] / 10
    low, high = percentile_interval(sums_S, num_clusters=10)
    assert (high - low) / 2 == pytest.approx(2.262 * values_C.std(ddof=1) / math.sqrt(10), rel=0.06)
    assert math.isnan(percentile_interval(sums_S, num_clusters=1).low)


def test_values_that_do_not_vary_have_no_interval():
    assert math.isnan(cluster_bootstrap(np.full(50, 3.0), np.arange(50), seed=0).low)
    assert math.isnan(cluster_bootstrap(np.array([math.nan]), np.array([0]), seed=0).low)
    with pytest.raises(ValueError, match="2 values but 3 clusters"):
        cluster_bootstrap(np.ones(2), np.ones(3), seed=0)


def test_both_ways_of_resampling_agree_and_take_any_labels():
    rng = np.random.default_rng(7)
    values_P, names = rng.integers(0, 2, size=600).astype(float), np.array([f"prompt {i}" for i in range(600)])
    counted = cluster_bootstrap(values_P, names, seed=0)
    gathered = cluster_bootstrap(values_P + rng.normal(scale=1e-9, size=600), names, seed=0)  # 600 different sums
    assert counted == pytest.approx(gathered, abs=0.01)
    assert counted == cluster_bootstrap(values_P, names, seed=0)


def test_bootstrap_of_ten_thousand_pairs_is_quick():
    values_P = np.random.default_rng(8).normal(size=10_000)
    start = time.perf_counter()
    low, high = cluster_bootstrap(values_P, np.arange(10_000), seed=0)
    assert time.perf_counter() - start < 3
    assert high - low == pytest.approx(2 * 1.96 / 100, rel=0.1)
