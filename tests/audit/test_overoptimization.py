"""Overoptimisation: curves that were made to follow Gao's form, laws of centring and scaling, and verdicts on planted cases."""

from __future__ import annotations

import math

import numpy as np
import pytest

from assay.audit.best_of_n import best_of_n_kl, expected_best, size_at, sizes_up_to
from assay.audit.gains import gain_curves
from assay.audit.gao_fit import GaoFit
from assay.audit.overoptimization import (
    ALPHA,
    BETA,
    CORRELATION,
    ENSEMBLE_GAIN,
    GAINED,
    GAP,
    GOLD_GAIN,
    MAX_RESIDUAL,
    OVEROPTIMISED,
    PEAK,
    PEAK_N,
    PROXY_GAIN,
    RANDOM,
    SHARE,
    SHORTFALL,
    USEFUL,
    overoptimization,
)
from assay.stats.metrics import wilson_interval


def finding(report, name):
    return next(found for found in report.findings if found.name == name)


def gold_of_form(alpha: float, beta: float, num_candidates: int) -> np.ndarray:
    """Gold by rank of the proxy for which best-of-n gives exactly d (alpha - beta d) at every n: one linear system."""
    ranks, sizes = np.arange(num_candidates, dtype=float), np.arange(1, num_candidates + 1)
    draws_MN = np.array([[expected_best(ranks, unit, n) for unit in np.eye(num_candidates)] for n in sizes])
    distance = np.sqrt(best_of_n_kl(sizes))
    return np.linalg.solve(draws_MN, distance * (alpha - beta * distance))


def prompts_of_form(alpha, beta, *, num_prompts=40, num_candidates=12, noise=0.0, seed=0):
    """Proxy and gold of prompts that follow the form, each in an order and at a level of its own."""
    rng = np.random.default_rng(seed)
    by_rank, proxy, gold = gold_of_form(alpha, beta, num_candidates), [], []
    for _ in range(num_prompts):
        order = rng.permutation(num_candidates)
        proxy.append(order + 10 * rng.normal())
        gold.append(by_rank[order] + rng.normal() + noise * rng.normal(size=num_candidates))
    return proxy, gold, float(by_rank.std())


def test_alpha_beta_and_peak_of_curves_that_follow_the_form():
    """In standard deviations of gold: alpha and beta are divided by it, the peak at alpha / (2 beta) = 0.75 is not."""
    proxy, gold, scale = prompts_of_form(1.2, 0.8)
    report = overoptimization(proxy, gold, title="t", sizes=range(1, 13)).report()
    assert report.metric(ALPHA).value == pytest.approx(1.2 / scale, rel=1e-6)
    assert report.metric(BETA).value == pytest.approx(0.8 / scale, rel=1e-6)
    assert report.metric(PEAK).value == pytest.approx(0.75, rel=1e-6)
    assert best_of_n_kl(report.metric(PEAK_N).value) == pytest.approx(0.75**2)
    assert report.metric(MAX_RESIDUAL).value < 1e-6


def test_with_noise_the_intervals_hold_the_truth_and_the_fall_is_found():
    proxy, gold, _ = prompts_of_form(1.2, 0.8, num_prompts=300, noise=0.3)
    report = overoptimization(proxy, gold, title="t").report()
    scale = gain_curves(proxy, gold, np.array([1, 2])).gold_scale
    for name, truth in ((ALPHA, 1.2 / scale), (BETA, 0.8 / scale), (PEAK, 0.75)):
        assert report.metric(name).low < truth < report.metric(name).high, name
    found = finding(report, OVEROPTIMISED)
    assert found.level == "fail"
    assert "choose among fewer" in found.why
    assert found.value == pytest.approx(size_at(0.75), rel=0.25)


@pytest.mark.slow
def test_a_peak_beyond_what_was_seen_is_called_an_extrapolation():
    """alpha / (2 beta) = 3 against sqrt(KL) = 1.25 at n = 12."""
    proxy, gold, _ = prompts_of_form(1.2, 0.2, num_prompts=300, noise=0.05)
    report = overoptimization(proxy, gold, title="t", sizes=range(1, 13)).report()
    found = finding(report, OVEROPTIMISED)
    assert found.level == "ok"
    assert "no peak within the range seen" in found.why
    assert "extrapolation" in found.why
    assert "extrapolation" in report.metric(PEAK).note


def noisy(rng, num_prompts, num_candidates, correlation):
    gold = [rng.normal(size=num_candidates) for _ in range(num_prompts)]
    return [correlation * g + math.sqrt(1 - correlation**2) * rng.normal(size=num_candidates) for g in gold], gold


@pytest.mark.slow
def test_a_noisy_proxy_that_is_not_exploited_raises_few_alarms():
    """Normal gold and noise: gold follows the proxy at every n. Of 40 sets at most a few may seem to turn down by chance."""
    rng = np.random.default_rng(0)
    levels = []
    for _ in range(40):
        proxy, gold = noisy(rng, 40, 16, 0.5)
        levels.append(finding(overoptimization(proxy, gold, title="t").report(), OVEROPTIMISED).level)
    assert levels.count("fail") <= 2
    assert levels.count("ok") >= 34


@pytest.mark.slow
def test_the_correlation_foretells_the_gain_of_a_noisy_proxy():
    proxy, gold = noisy(np.random.default_rng(1), 400, 16, 0.5)
    report = overoptimization(proxy, gold, title="t").report()
    assert report.metric(CORRELATION).value == pytest.approx(0.5, abs=0.02)
    assert report.metric(GOLD_GAIN).value == pytest.approx(0.5 * 1.766, abs=0.1)  # E max of 16 normals
    assert report.metric(PROXY_GAIN).value == pytest.approx(1.766, abs=0.1)
    assert report.metric(GAP).value == pytest.approx(report.metric(PROXY_GAIN).value - report.metric(GOLD_GAIN).value)
    shortfall = report.metric(SHORTFALL)
    assert shortfall.low < 0 < shortfall.high


def test_a_proxy_whose_top_is_worthless_falls_short_of_its_correlation():
    """Gold follows the proxy but for the top tenth, which is exploited."""
    rng = np.random.default_rng(2)
    proxy = [rng.normal(size=40) for _ in range(100)]
    gold = [np.where(p > 1.28, -2.0, p) for p in proxy]
    report = overoptimization(proxy, gold, title="t").report()
    assert report.metric(SHORTFALL).high < 0
    assert finding(report, OVEROPTIMISED).level in ("fail", "warn")
    assert finding(report, USEFUL).level == "fail"


def test_by_hand():
    """Two prompts. Gold (0, 1, 5) and (2, 2, 2) in the proxy's order: means 2 and 2, best of two 11/3 and 2, best of three 5 and 2.
    Variance within: (4 + 1 + 9) / 3 and 0, pooled 7/3."""
    proxy, gold = [np.array([1.0, 2, 3]), np.array([5.0, 6, 7])], [np.array([0.0, 1, 5]), np.array([2.0, 2, 2])]
    report = overoptimization(proxy, gold, title="t", sizes=[2, 3]).report()
    table = next(table for table in report.tables if table.title == "best-of-n")
    assert [row[0] for row in table.rows] == [1, 2, 3]
    assert [row[2] for row in table.rows] == pytest.approx([2.0, (11 / 3 + 2) / 2, 3.5])
    assert [row[5] for row in table.rows] == pytest.approx([0, 5 / 6 / math.sqrt(7 / 3), 1.5 / math.sqrt(7 / 3)])
    assert report.metric(RANDOM).value == pytest.approx(2.0)
    assert report.metric(GAINED).value == pytest.approx(1.5)
    assert report.metric(SHARE).value == pytest.approx(1.0)
    assert report.metric(PROXY_GAIN).value == pytest.approx(1 / math.sqrt(2 / 3))


def test_levels_of_prompts_and_units_change_nothing():
    rng = np.random.default_rng(3)
    proxy, gold = noisy(rng, 30, 12, 0.4)
    moved = [7 * p + rng.normal() for p in proxy], [0.1 * g + rng.normal() for g in gold]
    one, other = (overoptimization(*columns, title="t").report() for columns in ((proxy, gold), moved))
    for name in (ALPHA, BETA, GOLD_GAIN, PROXY_GAIN, GAP, SHARE, CORRELATION, SHORTFALL):
        for mine, theirs in zip(one.metric(name)[1:4], other.metric(name)[1:4], strict=True):
            assert mine == pytest.approx(theirs), name
    assert other.metric(GAINED).value == pytest.approx(0.1 * one.metric(GAINED).value)


def test_gold_as_its_own_proxy_never_falls():
    rng = np.random.default_rng(4)
    gold = [rng.random(20) > 0.7 for _ in range(40)]
    report = overoptimization(gold, gold, title="t").report()
    lines = next(table for table in report.tables if table.chart == "line")
    assert all(after[1] >= before[1] - 1e-12 for before, after in zip(lines.rows, lines.rows[1:], strict=False))
    assert report.metric(SHARE).value == pytest.approx(1.0)
    assert finding(report, OVEROPTIMISED).level in ("ok", "warn"), "a curve that saturates is no fall"


ORDERS = [np.random.default_rng(seed).permutation(16).astype(float) for seed in range(40)]
DETERMINED = (RANDOM, GAINED, SHARE, GOLD_GAIN, PROXY_GAIN, GAP, CORRELATION, SHORTFALL)


@pytest.mark.parametrize("of_gold", [lambda g: g, lambda g: 3 * g - 7, np.exp, np.cbrt], ids=["equal", "affine", "exp", "cbrt"])
@pytest.mark.parametrize("seen", ["the same in every prompt", "drawn anew"])
def test_a_perfect_proxy_is_better_than_random_with_a_real_interval_and_no_peak(of_gold, seen):
    """Gold of 0 .. 15 in every prompt has one curve, which resampling cannot vary; its fit bends slightly far beyond n = 16."""
    gold = ORDERS if seen == "the same in every prompt" else [np.random.default_rng(seed).normal(size=16) for seed in range(40)]
    report = overoptimization([of_gold(g) for g in gold], gold, title="t").report()
    found = finding(report, USEFUL)
    assert found.level == "ok"
    assert "nan" not in found.why
    for name in DETERMINED:
        metric = report.metric(name)
        assert metric.low <= metric.value <= metric.high, name
        assert metric.low < metric.high, name
    assert report.metric(SHARE).value == pytest.approx(1.0)
    assert math.isnan(report.metric(PEAK_N).value)
    assert math.isnan(finding(report, OVEROPTIMISED).value)
    assert finding(report, OVEROPTIMISED).level == "ok"


def test_a_proxy_turned_round_is_worse_than_random():
    for gold in (ORDERS, [np.random.default_rng(seed).normal(size=16) for seed in range(40)]):
        report = overoptimization([-g for g in gold], gold, title="t").report()
        assert finding(report, USEFUL).level == "fail"
        assert report.metric(CORRELATION)[1:4] == pytest.approx((-1.0, -1.0, -1.0 + 2 * wilson_interval(0, 40).high))


def test_a_constant_reward_gains_nothing_and_has_no_correlation():
    for gold in (ORDERS, [np.random.default_rng(seed).normal(size=16) for seed in range(40)]):
        report = overoptimization([np.full(16, 0.1)] * 40, gold, title="t").report()
        assert finding(report, USEFUL).level == "warn"
        assert finding(report, OVEROPTIMISED).level == "warn"
        gained = report.metric(GOLD_GAIN)
        assert gained.value == 0
        assert gained.low < 0 < gained.high
        for name in (CORRELATION, SHORTFALL):
            assert math.isnan(report.metric(name).value)
            assert "the proxy is the same" in report.metric(name).note


def test_two_prompts_are_too_few_for_a_verdict_and_a_lone_one_among_equals_is_not_many():
    """Of two prompts alike, up to z^2 / (2 + z^2) = 66% of others may be otherwise; of one whose gold differs 79%."""
    report = overoptimization(ORDERS[:2], ORDERS[:2], title="t").report()
    assert finding(report, USEFUL).level == "warn"
    assert report.metric(SHARE).low == pytest.approx(1 - 2 * wilson_interval(0, 2).high)
    gold = [ORDERS[0], *[np.zeros(16)] * 39]
    alone = overoptimization(ORDERS, gold, title="t").report().metric(SHARE)
    assert alone.low == pytest.approx(1 - 2 * wilson_interval(0, 1).high), "the worst choice loses what the best one gains"


def test_what_has_no_figure_says_why():
    report = overoptimization([o[:2] for o in ORDERS], [o[:2] for o in ORDERS], title="two candidates").report()
    for name in (ALPHA, BETA, PEAK, PEAK_N, MAX_RESIDUAL):
        assert math.isnan(report.metric(name).value)
        assert "three values of n" in report.metric(name).note
    assert finding(report, OVEROPTIMISED).level == "warn"
    alike = overoptimization(ORDERS, ORDERS, title="t").report()
    for name in (ALPHA, BETA):
        assert math.isnan(alike.metric(name).low)
        assert "every prompt shows the same curve" in alike.metric(name).note


@pytest.mark.slow
def test_a_peak_is_a_number_only_within_the_range_seen():
    """sqrt(KL) is 1.25 at n = 12: d* = 0.75 is within, d* = 3 is not."""
    proxy, gold, _ = prompts_of_form(1.2, 0.8, num_prompts=300, noise=0.3)
    assert report_of(proxy, gold, 12).metric(PEAK_N).value == pytest.approx(size_at(0.75), rel=0.25)
    proxy, gold, _ = prompts_of_form(1.2, 0.2, num_prompts=300, noise=0.05)
    far = report_of(proxy, gold, 12)
    for name in (PEAK, PEAK_N):
        assert [math.isnan(figure) for figure in far.metric(name)[1:4]] == [True] * 3
        assert "no peak within n <= 12" in far.metric(name).note
    rivals = next(table for table in far.tables if table.title == "the proxy and its controls")
    assert math.isnan(rivals.rows[0][-1])


def report_of(proxy, gold, largest):
    return overoptimization(proxy, gold, title="t", sizes=range(1, largest + 1)).report()


def test_units_of_gold_change_no_verdict():
    for scale in (1e-15, 1e12):
        report = overoptimization(ORDERS, [scale * g for g in ORDERS], title="t").report()
        assert finding(report, USEFUL).level == "ok"
        assert report.metric(GAINED).value == pytest.approx(7.5 * scale)


def test_what_could_not_be_scored_is_left_out_for_all_and_counted():
    proxy = [np.array([1.0, math.nan, 3.0, 2.0]), np.array([2.0, 1.0, 0.0, 4.0]), np.array([math.nan, math.nan, 1.0, 2.0])]
    gold = [np.array([0.0, 9.0, 1.0, 0.0]), np.array([0.0, 1.0, math.nan, 3.0]), np.array([1.0, 1.0, 0.0, 1.0])]
    control = [np.ones(4), np.ones(4), np.ones(4)]
    report = overoptimization(proxy, gold, title="t", sizes=[2, 3], controls={"constant": control}).report()
    assert report.facts["prompts"] == "2 of 3 with 3 scored candidates"
    assert report.facts["candidates"].startswith("6 of 12")
    metric = report.metric(RANDOM)
    assert (metric.n_scored, metric.n) == (2, 3)
    assert metric.value == pytest.approx((1 / 3 + 4 / 3) / 2)
    rivals = next(table for table in report.tables if table.title == "the proxy and its controls")
    assert {row[0]: row[1] for row in rivals.rows}["constant"] == pytest.approx(0.0)
    assert finding(report, "prompts").level == "warn"


@pytest.mark.slow
def test_an_ensemble_is_compared_with_its_members_in_pairs():
    """Members are gold and noise of their own: their mean is the better proxy, and the difference is above noise."""
    rng = np.random.default_rng(5)
    gold = [rng.normal(size=24) for _ in range(80)]
    members = [[g + 1.5 * rng.normal(size=24) for g in gold] for _ in range(5)]
    mean = [np.mean(of_prompt, axis=0) for of_prompt in zip(*members, strict=True)]
    report = overoptimization(mean, gold, title="t", members=members, ensembles={"mean": mean}).report()
    gain = report.metric(f"{ENSEMBLE_GAIN}: mean")
    assert gain.low > 0.2
    assert finding(report, f"{ENSEMBLE_GAIN}: mean").level == "ok"
    one = [members[0]] * 2
    same = overoptimization(members[0], gold, title="t", members=one, ensembles={"mean": members[0]}).report()
    assert same.metric(f"{ENSEMBLE_GAIN}: mean").value == pytest.approx(0.0)
    assert finding(same, f"{ENSEMBLE_GAIN}: mean").level == "warn"


def test_the_size_of_a_distance_is_the_inverse():
    for n in (1, 2, 17, 1000):
        assert size_at(math.sqrt(best_of_n_kl(n))) == pytest.approx(n)
    assert math.isnan(size_at(math.nan))
    assert size_at(math.inf) == math.inf


def test_sizes_are_powers_of_two_and_the_halves_between():
    assert sizes_up_to(1).tolist() == [1]
    assert sizes_up_to(7).tolist() == [1, 2, 3, 4, 6]
    assert sizes_up_to(50).tolist() == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48]


def test_a_curve_without_a_significant_bend_has_no_peak():
    rng = np.random.default_rng(0)
    flat = GaoFit(1.0, 0.1, rng.normal(1, 0.1, 100), rng.normal(0.1, 0.2, 100))
    assert not flat.has_peak
    assert math.isnan(flat.peak()[0])
    bent = GaoFit(1.0, 0.5, rng.normal(1, 0.1, 100), rng.normal(0.5, 0.05, 100))
    value, interval = bent.peak()
    assert value == pytest.approx(1.0)
    assert interval.low < 1.0 < interval.high


def test_bad_input_is_refused():
    two = [np.arange(3.0), np.arange(3.0)]
    with pytest.raises(ValueError, match="same prompts"):
        overoptimization([np.ones(2), np.ones(3)], two, title="t").report()
    with pytest.raises(ValueError, match="nothing to choose"):
        overoptimization(two, [np.ones(3), np.ones(3)], title="t").report()
    with pytest.raises(ValueError, match="two are needed"):
        overoptimization(two, two, title="t", sizes=[4]).report()
    with pytest.raises(ValueError, match="at least 1"):
        overoptimization(two, two, title="t", sizes=[0]).report()
