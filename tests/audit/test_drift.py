"""Drift: fresh samples of the same data alarm no oftener than they may, shifted ones are caught, figures equal those by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from assay.audit.drift.detect import (
    LENGTH,
    MAHALANOBIS,
    NEIGHBOURS,
    SCORE,
    SMALL_MARGIN,
    STD,
    NewSet,
    drift_tests,
    make_detector,
    measure_drift,
)
from assay.audit.drift.reference import make_reference
from assay.records import PreferencePair, Report
from watched import observed, reference


def alarms(seed: int, **settings) -> bool:
    """Whether any test of a new set alarms; the reference is drawn anew too, and the model knows its bank by heart."""
    bank = observed(40, seed=3 * seed)
    bank = replace(bank, states=1.5 * bank.states, score=3 * bank.score)
    detector = make_detector(make_reference(bank, observed(40, seed=3 * seed + 1), {}))
    tests = drift_tests(detector, observed(30, seed=3 * seed + 2, **settings), seed=seed, num_permutations=399)
    return any(test.p <= 0.05 for test in tests)


@pytest.mark.slow
def test_fresh_samples_of_the_same_data_alarm_in_five_percent_of_cases_at_most():
    found = sum(alarms(seed) for seed in range(1, 201))
    assert 1 <= found <= 20, "of 200: more than 20 has a chance under 0.1% when the rate is 5%, none at all one of 0.004%"


@pytest.mark.slow
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


def pairs_of(num_prompts: int) -> list[PreferencePair]:
    return [PreferencePair(prompt=f"question {i}", chosen="yes", rejected="no") for i in range(num_prompts)]


def labelled_set(name: str, seed: int, num_prompts: int = 60, **settings) -> NewSet:
    return NewSet(name=name, observed=observed(num_prompts, seed=seed, **settings), pairs=pairs_of(num_prompts))


def whole_report() -> Report:
    return measure_drift(reference(), [labelled_set("alike", 11), labelled_set("moved", 12, shift=1.0)], seed=0).report()


def test_the_report_tells_the_moved_set_and_counts_everything():
    report = whole_report()
    levels = {finding.name: finding.level for finding in report.findings}
    assert levels["drift: alike"] == "ok"
    assert levels["drift: moved"] == "warn"
    detections, errors, tests = report.tables
    rows = {(row[0], row[1]): row for row in detections.rows}
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
    report = measure_drift(
        make_reference(kept[0], kept[1], {}), [NewSet(name="new", observed=kept[2], pairs=pairs_of(80))]
    ).report()
    rows = {row[1]: row for row in report.tables[1].rows}
    assert rows[STD][3] > 0.6
    assert SMALL_MARGIN in rows
    finding = next(f for f in report.findings if f.name == "a signal that detects wrong pairs")
    assert (finding.level, finding.value) == ("ok", rows[STD][2])


def test_one_labelled_prompt_says_nothing_of_wrong_pairs():
    new = labelled_set("one", 13)
    pairs = [*new.pairs[:-1], replace(new.pairs[-1], preference=0.5)]
    new = replace(new, pairs=pairs, observed=replace(new.observed, prompt=np.repeat([1, 2], [118, 2])))
    found = next(f for f in measure_drift(reference(), [new]).findings if f.name == "a signal that detects wrong pairs")
    assert found.level == "warn"
    assert "nan" not in found.why


def test_unscored_rows_are_counted_and_a_set_of_nothing_is_a_warning():
    new = labelled_set("holes", 13)
    new.observed.score[:6] = np.nan
    report = measure_drift(reference(), [new]).report()
    far, accuracy = report.metric("far out: holes"), report.metric("accuracy: holes")
    assert (far.n_scored, far.n) == (114, 120)
    assert (accuracy.n_scored, accuracy.n) == (57, 60)
    empty = labelled_set("empty", 14)
    empty.observed.score[:] = np.nan
    finding = measure_drift(reference(), [empty]).findings[0]
    assert (finding.level, math.isnan(finding.value)) == ("warn", True)
    lone = NewSet(name="lone", observed=observed(1, seed=15))
    assert "fewer than two of its prompts" in measure_drift(reference(), [lone]).findings[0].why
    with pytest.raises(ValueError, match="1 prompts of the new set"):
        drift_tests(make_detector(reference()), lone.observed, seed=0)
    with pytest.raises(ValueError, match="no set"):
        measure_drift(reference(), [])
