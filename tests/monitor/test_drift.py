"""Drift: fresh samples of the same data alarm no oftener than they may, shifted ones are caught, figures equal those by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import ks_2samp

from assay.metrics import auroc, auroc_interval
from assay.monitor.drift import (
    LENGTH,
    MAHALANOBIS,
    NEIGHBOURS,
    SCORE,
    SMALL_MARGIN,
    STD,
    NewSet,
    drift_report,
    drift_tests,
    make_detector,
)
from assay.monitor.exchange import adjusted, decile_edges, ks_distance, mmd, psi
from assay.monitor.reference import make_reference
from assay.records import PreferencePair, Report
from watched import observed, reference


def alarms(seed: int, **settings) -> bool:
    """Whether any test of a new set alarms; the reference is drawn anew too, and the model knows its bank by heart."""
    bank = observed(40, seed=3 * seed)
    bank = replace(bank, states=1.5 * bank.states, score=3 * bank.score)
    detector = make_detector(make_reference(bank, observed(40, seed=3 * seed + 1), {}))
    tests = drift_tests(detector, observed(30, seed=3 * seed + 2, **settings), seed=seed, num_permutations=399)
    return any(test.p <= 0.05 for test in tests)


def test_fresh_samples_of_the_same_data_alarm_in_five_percent_of_cases_at_most():
    found = sum(alarms(seed) for seed in range(1, 201))
    assert 1 <= found <= 20, "of 200: more than 20 has a chance under 0.1% when the rate is 5%, none at all one of 0.004%"


def test_samples_with_more_answers_a_prompt_do_not_alarm_more_often():
    found = sum(alarms(seed, answers=4) for seed in range(1, 101))
    assert found <= 13


def test_a_shifted_sample_is_caught():
    assert sum(alarms(seed, shift=0.7) for seed in range(1, 21)) >= 19


def test_only_what_moved_alarms_when_one_thing_moved():
    detector = make_detector(reference())
    new = observed(60, seed=9)
    longer = {t.name: t.p for t in drift_tests(detector, replace(new, length=2 * new.length), seed=0)}
    assert {name for name, p in longer.items() if p <= 0.05} == {"KS of the length", "PSI of the length"}
    raised = {t.name: t.p for t in drift_tests(detector, replace(new, score=new.score + 3), seed=0)}
    assert {name for name, p in raised.items() if p <= 0.05} == {"KS of the score", "PSI of the score"}


def test_a_value_alarms_exactly_from_its_threshold_on():
    detector = make_detector(reference())
    for shift in (0.0, 0.2, 0.5):
        for test in drift_tests(detector, observed(40, seed=7, shift=shift), seed=0, num_permutations=199):
            assert (test.p <= 0.05) == (test.value >= test.threshold - 1e-9)


def test_adjusted_p_by_hand():
    """20 draws, two figures: what was seen is the largest of its row in the first, the smallest in the second."""
    values = {"a": np.array([99.0, *range(19)]), "b": np.array([-1.0, *range(19)])}
    first, second = adjusted(values, 0.05)
    # the smallest p of both is 1/20 in what was seen and in the draw that is largest in b: 2 of 20
    assert (first.p, second.p) == (0.1, 1.0)
    assert math.isnan(first.threshold), "with 20 draws no figure can reach 5%"
    assert [test.threshold for test in adjusted(values, 0.1)] == [99.0, 18.0]


def test_mmd_is_the_unbiased_estimate_over_couples_of_different_prompts():
    first, second = np.random.default_rng(0).normal(size=(6, 3)), np.random.default_rng(1).normal(size=(4, 3)) + 1
    prompts, others = np.array([0, 0, 1, 2, 3, 4]), np.array([0, 1, 2, 2])
    pooled, labels = np.concatenate([first, second]), [*((0, p) for p in prompts), *((1, p) for p in others)]
    square = ((pooled[:, None] - pooled[None]) ** 2).sum(-1)
    apart = np.array([[a != b for b in labels] for a in labels])
    kernel = np.exp(-square / (2 * np.median(square[apart])))
    is_new = np.array([label[0] == 1 for label in labels])

    def mean(rows, columns):
        kept = apart & rows[:, None] & columns[None]
        return kernel[kept].mean()

    expected = mean(is_new, is_new) + mean(~is_new, ~is_new) - 2 * mean(is_new, ~is_new)
    assert mmd(first, second, prompts, others) == pytest.approx(expected, rel=1e-5)


def test_ks_is_that_of_scipy_ties_included():
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 9, 50).astype(float), rng.integers(2, 12, 70).astype(float)
    assert ks_distance(first, second) == pytest.approx(ks_2samp(first, second).statistic)


def test_psi_by_hand():
    # bins: below 5 and from 5 on; shares with half an answer added: 4.5/10, 5.5/10 against 1.5/5, 3.5/5
    first, second = np.array([0, 0, 0, 0, 6, 6, 6, 6, 6.0]), np.array([0, 7, 7, 7.0])
    p, q = np.array([0.45, 0.55]), np.array([0.3, 0.7])
    assert psi(first, second, np.array([5.0])) == pytest.approx(((q - p) * np.log(q / p)).sum())
    assert len(decile_edges(np.ones(10))) == 1


def test_auroc_interval_covers_and_knows_perfect_separation():
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(100):
        shared = rng.normal(size=60)
        positive = np.repeat(rng.random(60) < 0.5, 3)
        score = np.repeat(shared, 3) + rng.normal(size=180) + positive
        low, high = auroc_interval(score, positive, np.repeat(np.arange(60), 3), seed=seed)
        covered += low <= 0.691 <= high  # P(N(1, 2) > N(0, 2)) = Phi(1 / 2)
    assert covered >= 85
    low, high = auroc_interval(np.arange(20.0), np.arange(20) >= 10, np.arange(20), seed=0)
    assert (auroc(np.arange(20.0), np.arange(20) >= 10), high) == (1.0, 1.0)
    assert 0.8 < low < 0.9
    assert math.isnan(auroc_interval(np.arange(3.0), np.ones(3), np.arange(3), seed=0).low)


def pairs_of(num_prompts: int) -> list[PreferencePair]:
    return [PreferencePair(prompt=f"question {i}", chosen="yes", rejected="no") for i in range(num_prompts)]


def labelled_set(name: str, seed: int, num_prompts: int = 60, **settings) -> NewSet:
    return NewSet(name=name, observed=observed(num_prompts, seed=seed, **settings), pairs=pairs_of(num_prompts))


def whole_report() -> Report:
    return drift_report(reference(), [labelled_set("alike", 11), labelled_set("moved", 12, shift=1.0)], seed=0)


def test_the_report_tells_the_moved_set_and_counts_everything():
    report = whole_report()
    levels = {finding.name: finding.level for finding in report.findings}
    assert levels["drift: alike"] == "ok"
    assert levels["drift: moved"] == "warn"
    telling, errors, tests = report.tables
    rows = {(row[0], row[1]): row for row in telling.rows}
    assert {signal for _, signal in rows} == {MAHALANOBIS, NEIGHBOURS, SCORE, LENGTH}
    assert rows["moved", MAHALANOBIS][2] > rows["moved", MAHALANOBIS][3] > 0.6
    assert rows["alike", MAHALANOBIS][3] < 0.5 < rows["alike", MAHALANOBIS][4]
    assert {row[0] for row in errors.rows} == {"alike", "moved", "all sets together"}
    assert all(row[6] == row[7] == (120 if row[0].startswith("all") else 60) for row in errors.rows)
    assert len(tests.rows) == 2 * 7
    assert report.metric("far out: moved").value > report.metric("far out: alike").value
    assert report.metric("accuracy: alike").n_scored == 60


def test_an_error_signal_is_found_when_there_is_one():
    """Answers whose std is high are ranked at random, the others rightly."""
    rng = np.random.default_rng(0)
    kept = []
    for seed in (1, 2, 3):
        sample = observed(80, seed=seed)
        std = np.repeat(rng.random(80), 2)
        score = np.where(np.arange(160) % 2 == 0, 1.0, 0.0)
        flip = np.repeat((std[::2] > 0.5) & (rng.random(80) < 0.5), 2)
        kept.append(replace(sample, std=std, score=np.where(flip, 1 - score, score) + 1e-3 * rng.normal(size=160)))
    report = drift_report(make_reference(kept[0], kept[1], {}), [NewSet(name="new", observed=kept[2], pairs=pairs_of(80))])
    rows = {row[1]: row for row in report.tables[1].rows}
    assert rows[STD][3] > 0.6
    assert SMALL_MARGIN in rows
    finding = next(f for f in report.findings if f.name == "a signal that tells wrong pairs")
    assert (finding.level, finding.value) == ("ok", rows[STD][2])


def test_unscored_rows_are_counted_and_a_set_of_nothing_is_a_warning():
    new = labelled_set("holes", 13)
    new.observed.score[:6] = np.nan
    report = drift_report(reference(), [new])
    far, accuracy = report.metric("far out: holes"), report.metric("accuracy: holes")
    assert (far.n_scored, far.n) == (114, 120)
    assert (accuracy.n_scored, accuracy.n) == (57, 60)
    empty = labelled_set("empty", 14)
    empty.observed.score[:] = np.nan
    finding = drift_report(reference(), [empty]).findings[0]
    assert (finding.level, math.isnan(finding.value)) == ("warn", True)
    lone = NewSet(name="lone", observed=observed(1, seed=15))
    assert "fewer than two of its prompts" in drift_report(reference(), [lone]).findings[0].why
    with pytest.raises(ValueError, match="1 prompts of the new set"):
        drift_tests(make_detector(reference()), lone.observed, seed=0)
    with pytest.raises(ValueError, match="no set"):
        drift_report(reference(), [])
