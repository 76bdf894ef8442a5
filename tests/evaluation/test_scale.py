"""The factor between two models keeps its laws."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import spearmanr

from assay.evaluation.scale import (
    measure_scale,
    paired_interval,
    rank_correlation,
    robust_factor,
    scale_factor,
)
from assay.records import Report
from assay.stats.metrics import Interval, difference_interval
from tiny import toy_pairs

DRAWN = np.random.default_rng(0).normal(size=(2, 60))


# the factor


def test_the_factor_of_a_multiple_is_the_multiple_and_known_exactly():
    old_P = DRAWN[0]
    assert scale_factor(2.5 * old_P, old_P) == pytest.approx(2.5)
    assert robust_factor(2.5 * old_P, old_P) == pytest.approx(2.5)
    interval = paired_interval(scale_factor, 2.5 * old_P, old_P, np.arange(60) // 2, seed=0)
    assert interval == pytest.approx((2.5, 2.5))


def test_there_and_back_is_one_whatever_the_two_models_share():
    assert scale_factor(*DRAWN) * scale_factor(*DRAWN[::-1]) == pytest.approx(1)
    assert robust_factor(*DRAWN) * robust_factor(*DRAWN[::-1]) == pytest.approx(1)
    there, back = (paired_interval(scale_factor, *pair, np.arange(60), seed=0) for pair in (DRAWN, DRAWN[::-1]))
    assert there.low * back.high == pytest.approx(1, abs=1e-3)


def test_which_answer_is_called_chosen_changes_nothing():
    signs_P = np.where(np.arange(60) % 3 == 0, -1.0, 1.0)
    for measure in (scale_factor, robust_factor, rank_correlation):
        assert measure(*(signs_P * DRAWN)) == pytest.approx(measure(*DRAWN))


def test_figures_by_hand():
    old_P, new_P = np.array([3.0, -4.0, 0.0]), np.array([1.0, -2.0, 2.0])
    assert scale_factor(old_P, new_P) == pytest.approx(5 / 3)  # sqrt(9 + 16) / sqrt(1 + 4 + 4)
    assert robust_factor(old_P, new_P) == pytest.approx(3 / 2)
    # signed mid-ranks of |margin| less 1/2: old 1.5, -2.5, 0; new 0.5, -2, 2
    assert rank_correlation(old_P, new_P) == pytest.approx((0.75 + 5) / math.sqrt(8.5 * 8.25))
    assert math.isnan(robust_factor(old_P, np.array([1.0, 0.0, 0.0])))


def test_the_rank_correlation_is_spearman_s_over_both_orders():
    old_P, new_P = DRAWN[0].round(1), (DRAWN[0] + DRAWN[1]).round(1)  # with ties and zeros
    both = [np.concatenate([margins_P, -margins_P]) for margins_P in (old_P, new_P)]
    assert rank_correlation(old_P, new_P) == pytest.approx(float(spearmanr(*both).statistic))


def test_noise_in_either_model_does_not_shrink_the_factor_as_a_regression_would():
    rng = np.random.default_rng(1)
    shared_P = rng.normal(size=20_000)
    old_P, new_P = (shared_P + rng.normal(size=20_000) for _ in range(2))
    assert scale_factor(old_P, new_P) == pytest.approx(1, abs=0.02)
    assert float(old_P @ new_P / (new_P @ new_P)) == pytest.approx(0.5, abs=0.02)


def test_the_interval_covers_the_factor_when_pairs_share_prompts():
    """40 prompts of three pairs whose margins share a size: taking the pairs as independent would cover too rarely."""
    rng, covered = np.random.default_rng(2), 0
    for trial in range(100):
        old_P, new_P = (np.repeat(rng.normal(size=40), 3) + 0.3 * rng.normal(size=120) for _ in range(2))
        low, high = paired_interval(scale_factor, 2 * old_P, new_P, np.repeat(np.arange(40), 3), seed=trial, num_samples=200)
        covered += low <= 2 <= high
    assert covered >= 88


def test_one_prompt_has_no_interval():
    assert np.isnan(paired_interval(scale_factor, *DRAWN, np.zeros(60), seed=0)).all()


# what is reported


def level(report: Report, name: str) -> str:
    (finding,) = [finding for finding in report.findings if finding.name == name]
    return finding.level


def test_ties_and_unscored_pairs_are_counted_and_left_out():
    pairs = toy_pairs(26)
    old_P, new_P = np.ones(26), np.ones(26)
    old_P[0], new_P[1], new_P[2] = np.nan, np.inf, -1
    old_P[3] = old_P[4] = new_P[4] = new_P[5] = new_P[6] = 0
    report = measure_scale(old_P, new_P, pairs).report()
    agreement, ties, factor = (report.metric(name) for name in ("agreement", "tied pairs", "factor"))
    assert (agreement.value, agreement.n_scored, agreement.n) == (pytest.approx(19 / 20), 20, 26)
    assert (ties.value, ties.n_scored, ties.n) == (4, 24, 26)
    assert ties.note == "margin 0: old alone 1, new alone 2, both 1"
    assert (factor.value, factor.n_scored) == (pytest.approx(math.sqrt(22 / 21)), 24)
    assert level(report, "unscored pairs") == "warn"
    accuracies = [report.metric(f"accuracy: {name}").value for name in ("old", "new", "new minus old")]
    assert accuracies == pytest.approx([22 / 24, 20 / 24, -2 / 24])


def test_a_set_of_ties_has_no_accuracy_and_all_else():
    report = measure_scale(*DRAWN, [replace(pair, preference=0.5) for pair in toy_pairs(60)]).report()
    assert [metric.name for metric in report.metrics][-1] == "rank correlation of margins"
    assert report.metric("factor").n_scored == 60


def test_the_difference_in_accuracy_is_paired():
    """Two models that differ on three pairs of sixty: their own intervals, taken as independent, would say far less."""
    new_P = np.where(np.arange(60) < 3, -np.abs(DRAWN[0]), DRAWN[0])
    report = measure_scale(DRAWN[0], new_P, toy_pairs(60)).report()
    old, new, paired = (report.metric(f"accuracy: {name}") for name in ("old", "new", "new minus old"))
    assert paired.value == pytest.approx(new.value - old.value)
    apart = difference_interval(new.value, Interval(new.low, new.high), old.value, Interval(old.low, old.high))
    assert paired.high - paired.low < 0.5 * (apart.high - apart.low)


def test_what_casts_doubt_on_the_factor_is_warned_of():
    pairs, same_P = toy_pairs(60), DRAWN[0]
    names = ("certainty of the factor", "one factor for all", "agreement", "unscored pairs")
    fine = measure_scale(2 * same_P, same_P, pairs).report()
    assert [finding.name for finding in fine.findings] == list(names)
    assert {finding.level for finding in fine.findings} == {"ok"}
    unrelated = measure_scale(*DRAWN, pairs).report()
    assert (level(unrelated, names[0]), level(unrelated, names[2])) == ("warn", "warn")
    tails_P = same_P.copy()
    tails_P[:3] *= 20
    assert level(measure_scale(tails_P, same_P, pairs).report(), names[1]) == "warn"
    one_prompt = measure_scale(2 * same_P, same_P, toy_pairs(60, num_prompts=1)).report()
    assert level(one_prompt, names[0]) == "warn"
    assert math.isnan(one_prompt.metric("factor").low)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (np.full(60, np.nan), DRAWN[0], "0 of 60 pairs were scored by both"),
        (np.zeros(60), DRAWN[0], "OLD gives equal rewards"),
        (DRAWN[0], np.zeros(60), "NEW gives equal rewards"),
    ],
)
def test_what_has_no_scale_is_refused(old, new, message):
    with pytest.raises(ValueError, match=message):
        measure_scale(old, new, toy_pairs(60)).report()
