"""Two scorers on the same pairs: figures by hand, regressions that are found where they are, few alarms where there are none."""

from __future__ import annotations

import math

import numpy as np
import pytest

from assay.evaluation.compare import (
    ACCURACY,
    AGREEMENT,
    BRIER,
    ECE,
    MINUS,
    NEEDED,
    OVERALL,
    SLICES,
    SMALLEST,
    Side,
    compare_margins,
    paired,
)
from assay.evaluation.slices import columns_of, slice_tables, weak_slices
from assay.records import PreferencePair
from assay.report.html import render_html
from assay.stats.metrics import NO_INTERVAL, mcnemar, sigmoid
from assay.wire import report_from_json, report_to_json


def some_pairs(num_pairs, *, a_prompt=1, seed=0):
    """Pairs with two tags and lengths that say nothing of the label, `a_prompt` of them under each prompt."""
    rng = np.random.default_rng(seed)
    return [
        PreferencePair(
            prompt=f"question {i // a_prompt}",
            chosen="x" * int(rng.integers(20, 90)),
            rejected="y" * int(rng.integers(20, 90)),
            id=str(i),
            source="ab"[int(rng.integers(2))],
            tags={"axis": ("maths", "code", "safety", "chat")[int(rng.integers(4))], "many": f"value {int(rng.integers(12))}"},
        )
        for i in range(num_pairs)
    ]


def margins_of(right_P, seed=0):
    """Margins of any size whose sign says whether the pair is ranked right."""
    return np.where(np.asarray(right_P) > 0.5, 1.0, -1.0) * np.random.default_rng(seed).uniform(0.1, 2, size=len(right_P))


def finding(report, name):
    (found,) = [f for f in report.findings if f.name == name]
    return found


def table(report, title):
    (found,) = [t for t in report.tables if t.title == title]
    return found


@pytest.fixture
def no_intervals(monkeypatch):
    """Intervals have no part in tests of significance; without them a simulation takes seconds."""
    for module in ("compare", "slices"):
        monkeypatch.setattr(f"assay.evaluation.{module}.mean_interval", lambda *args, **settings: NO_INTERVAL)


def test_figures_by_hand():
    pairs = some_pairs(6)
    a = Side(np.array([1.0, 1.0, 1.0, -1.0, 1.0, math.nan]))
    b = Side(np.array([2.0, -1.0, -1.0, -2.0, math.nan, 1.0]))
    result = compare_margins(a, b, pairs, title="by hand")
    report = result.report()
    figures = {name: report.metric(f"{ACCURACY}: {name}") for name in ("A", "B", MINUS)}
    assert {name: m.value for name, m in figures.items()} == {"A": 3 / 4, "B": 1 / 4, MINUS: -2 / 4}
    assert {(m.n_scored, m.n) for m in figures.values()} == {(4, 6)}
    assert "p = 0.5" in figures[MINUS].note  # two prompts differ, both for A: two of four patterns
    assert "McNemar's test is the same" in figures[MINUS].note
    assert report.metric(AGREEMENT).value == 2 / 4
    error = math.sqrt(4 / 3 * (0.5**2 + 0.5**2 + 0.5**2 + 0.5**2)) / 4
    assert report.metric(SMALLEST).value == pytest.approx(2.8016 * error, rel=1e-4)
    assert report.metric(NEEDED).value == math.ceil(4 * (report.metric(SMALLEST).value / 0.01) ** 2 - 1e-9)
    assert [row[1] for row in table(report, "who is right").rows] == [1, 2, 0, 1]
    unscored = finding(report, "pairs that both scored")
    assert (unscored.level, unscored.value) == ("warn", 2)
    assert [e["kind"] for e in report.examples] == ["only A is right", "only A is right"]
    side = table(report, "side by side")
    assert side.rows[0][:4] == ("accuracy", 3 / 4, 1 / 4, -2 / 4)
    assert side.rows[0][-2:] == (4, 6)


def test_several_pairs_a_prompt_rule_mcnemar_out():
    a_P, b_P = np.array([1, 1, 1, 0, 1, 0.0]), np.array([0, 0, 1, 1, 0, 1.0])
    assert paired(a_P, b_P, np.arange(6)).mcnemar == pytest.approx(mcnemar(a_P, b_P))
    assert math.isnan(paired(a_P, b_P, np.array([0, 0, 1, 1, 2, 2])).mcnemar)
    result = compare_margins(Side(margins_of(a_P)), Side(margins_of(b_P)), some_pairs(6, a_prompt=2), title="t")
    report = result.report()
    assert "McNemar's test does not hold" in report.metric(f"{ACCURACY}: {MINUS}").note


def test_a_model_against_itself_is_no_regression_and_nothing_is_said_of_what_could_be_seen():
    pairs, margins_P = some_pairs(200), margins_of(np.arange(200) % 4 > 0)
    p_P = sigmoid(margins_P)
    result = compare_margins(Side(margins_P, p_P), Side(margins_P, p_P), pairs, title="same")
    report = result.report()
    assert not result.is_worse
    assert {f.level for f in report.findings} == {"ok"}
    for name in (ACCURACY, BRIER, ECE):
        assert report.metric(f"{name}: {MINUS}").value == 0
    assert math.isnan(report.metric(SMALLEST).value)
    assert "right on the same pairs" in report.metric(SMALLEST).note
    assert report.metric(AGREEMENT).value == 1
    assert report.examples == ()


def test_a_worse_model_is_a_regression_and_a_better_one_is_none():
    rng = np.random.default_rng(0)
    pairs, good_P, bad_P = some_pairs(800), rng.random(800) < 0.8, rng.random(800) < 0.7
    worse = compare_margins(Side(margins_of(good_P)), Side(margins_of(bad_P)), pairs, title="worse")
    assert worse.is_worse
    assert finding(worse, OVERALL).level == "fail"
    assert finding(worse, OVERALL).value == pytest.approx(bad_P.mean() - good_P.mean())
    better = compare_margins(Side(margins_of(bad_P)), Side(margins_of(good_P)), pairs, title="better")
    assert not better.is_worse
    assert "B is better than A" in finding(better, OVERALL).why
    tolerated = compare_margins(Side(margins_of(good_P)), Side(margins_of(bad_P)), pairs, title="t", drop=0.5)
    assert not tolerated.is_worse
    assert "by less than 0.5" in finding(tolerated, OVERALL).why


def test_a_regression_in_one_slice_is_found_though_the_whole_is_no_worse():
    rng = np.random.default_rng(1)
    pairs = some_pairs(2000)
    safety_P = np.array([pair.tags["axis"] == "safety" for pair in pairs])
    a_P, b_P = rng.random(2000) < 0.75, rng.random(2000) < np.where(safety_P, 0.58, 0.81)
    result = compare_margins(Side(margins_of(a_P)), Side(margins_of(b_P)), pairs, title="t")
    report = result.report()
    assert finding(report, OVERALL).level == "ok"
    assert result.is_worse
    found = finding(report, SLICES)
    assert found.why.startswith("by axis: safety, ")
    rows = {row[0]: row for row in table(report, "by axis").rows}
    assert rows["safety"][1] == safety_P.sum()
    assert rows["safety"][5] == pytest.approx(b_P[safety_P].mean() - a_P[safety_P].mean())
    assert rows["safety"][-1] < 0.001
    assert not compare_margins(Side(margins_of(a_P)), Side(margins_of(b_P)), pairs, title="t", fdr=1e-12).is_worse


@pytest.mark.slow
def test_equal_models_are_called_worse_in_at_most_one_comparison_of_twenty(no_intervals):
    rng = np.random.default_rng(2)
    pairs = some_pairs(300, a_prompt=3)
    prompts_P, alarms = np.repeat(np.arange(100), 3), 0
    for _ in range(150):
        easy_P = np.repeat(rng.uniform(0.4, 1.0, size=100), 3)  # pairs of a prompt are alike
        a_P, b_P = (np.where(rng.random(100)[prompts_P] < 0.3, rng.random(100)[prompts_P], rng.random(300)) for _ in "ab")
        result = compare_margins(Side(margins_of(a_P < easy_P)), Side(margins_of(b_P < easy_P)), pairs, title="t", num_examples=0)
        alarms += result.is_worse
    assert alarms / 150 <= 0.05 + 0.03


def test_slices_of_one_model_that_is_equally_good_everywhere_raise_few_alarms(no_intervals):
    rng = np.random.default_rng(3)
    pairs, alarms = some_pairs(400, a_prompt=2), 0
    for _ in range(100):
        shared_P = np.repeat(rng.random(200), 2)
        right_P = np.where(np.repeat(rng.random(200) < 0.4, 2), shared_P, rng.random(400)) < 0.75
        tables = slice_tables(columns_of(margins_of(right_P), pairs, None, 0))
        q_values = [row[6] for cut in tables for row in cut.rows]
        assert len(q_values) == 4 + 12 + 2 + 4 + 3
        alarms += min(q for q in q_values if not math.isnan(q)) <= 0.05
    assert alarms / 100 <= 0.05 + 0.04


def test_a_weak_slice_of_one_model_is_found_and_warned_of():
    rng = np.random.default_rng(4)
    pairs = some_pairs(1500)
    weak_P = np.array([pair.tags["axis"] == "code" for pair in pairs])
    right_P = rng.random(1500) < np.where(weak_P, 0.6, 0.85)
    tables = slice_tables(columns_of(margins_of(right_P), pairs, None, 0))
    (by_axis,) = [t for t in tables if t.title == "by axis"]
    q = {row[0]: row[6] for row in by_axis.rows}
    assert min(q, key=q.get) == "code"
    assert q["code"] < 1e-6
    found = weak_slices(tables, float(right_P.mean()))
    assert found.level == "warn"
    assert "by axis: code" in found.why
    assert found.value == pytest.approx(right_P.mean() - right_P[weak_P].mean())


def test_worse_probabilities_are_warned_of_and_are_no_regression():
    pairs = some_pairs(600)
    rng = np.random.default_rng(5)
    margins_P = margins_of(rng.random(600) < 0.7)
    result = compare_margins(Side(margins_P, sigmoid(margins_P)), Side(margins_P, sigmoid(9 * margins_P)), pairs, title="t")
    report = result.report()
    assert not result.is_worse
    assert finding(report, "probabilities").level == "warn"
    assert report.metric(f"{BRIER}: {MINUS}").low > 0
    assert report.metric(f"{ECE}: B").value > report.metric(f"{ECE}: A").value
    plain = compare_margins(Side(margins_P, sigmoid(margins_P)), Side(margins_P), pairs, title="t")
    assert not any(metric.name.startswith((BRIER, ECE)) for metric in plain.report().metrics)


def test_the_report_is_a_page_and_survives_json():
    pairs = some_pairs(60)
    rng = np.random.default_rng(6)
    result = compare_margins(Side(rng.normal(size=60)), Side(rng.normal(size=60)), pairs, title="<b> against a")
    report = result.report()
    back = report_from_json(report_to_json(report))
    assert [m.name for m in back.metrics] == [m.name for m in report.metrics]
    page = render_html([back], title="t")
    assert "false discoveries controlled over all slices" in page  # the rule stands on the page
    assert "only B is right" in page


def test_nothing_scored_by_both_is_no_verdict_and_never_raises():
    nothing = np.full(4, np.nan)
    result = compare_margins(Side(nothing), Side(np.ones(4)), some_pairs(4), title="t")
    report = result.report()
    assert finding(report, OVERALL).level == "warn"
    assert not result.is_worse
    assert (finding(report, SLICES).level, math.isnan(finding(report, SLICES).value)) == ("warn", True)
    assert all(m.note for m in report.metrics if math.isnan(m.value))


def test_callers_mistakes_are_refused():
    with pytest.raises(ValueError, match="3 margins of A and 2 of B"):
        compare_margins(Side(np.ones(3)), Side(np.ones(2)), some_pairs(3), title="t")
    with pytest.raises(ValueError, match="fdr 5 lies outside"):
        compare_margins(Side(np.ones(3)), Side(np.ones(3)), some_pairs(3), title="t", fdr=5)
    with pytest.raises(ValueError, match="drop -1 lies outside"):
        compare_margins(Side(np.ones(3)), Side(np.ones(3)), some_pairs(3), title="t", drop=-1)
