"""What is said first: a summary never outgrows twelve lines of 100 characters, and no figure says more than was measured."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.records import Finding, Metric, Report
from assay.report.headline import (
    NUM_FIGURES,
    figure_text,
    headline,
    interval_text,
    report_rows,
    significant,
    summary_lines,
    value_text,
)
from assay.report.html import render_html
from assay.report.remedies import REMEDIES, remedy_of

NAN = math.nan
words = st.text(st.characters(codec="utf-8"), max_size=400)
figures = st.floats(allow_nan=True, allow_infinity=True)
metrics = st.builds(Metric, words, figures, figures, figures, st.integers(0, 9), st.integers(0, 9))
findings = st.builds(
    Finding, st.sampled_from(["ok", "warn", "fail"]), words, figures, figures, words, st.sampled_from([None, *REMEDIES])
)


@st.composite
def reports(draw: st.DrawFn) -> Report:
    several = tuple(draw(st.lists(metrics, max_size=6)))
    key = {metric.name: tuple(draw(st.lists(words, max_size=3))) for metric in several[: draw(st.integers(0, 6))]}
    checks = tuple(draw(st.lists(findings, max_size=4)))
    return Report(title=draw(words), lead=draw(words), metrics=several, findings=checks, key=key)


@settings(max_examples=60, deadline=None)
@given(st.lists(reports(), min_size=1, max_size=3), words, words)
def test_a_summary_has_at_most_twelve_lines_of_a_hundred_characters(several, path, command):
    lines = summary_lines(several, closing={"report": path, "next": command})
    assert 2 <= len(lines) <= 12
    assert all(len(line) <= 100 and "\n" not in line for line in lines)
    assert len(headline(several).figures) <= NUM_FIGURES


EVALUATION = Report(
    title="Evaluation on pairs.jsonl",
    lead="It ranks 74.5% of 161 pairs right.",
    metrics=(
        Metric("accuracy", 0.7453416, 0.6728712, 0.8063771, 161, 161),
        Metric("accuracy: length baseline", 0.4906832, 0.41, 0.56, 161, 161),
        Metric("length-controlled accuracy", NAN),
        Metric("Brier", 0.16700562, 0.13792171, 0.20079404, 161, 161),
    ),
    findings=(
        Finding("ok", "better than chance", 0.745, 0.5, "fine", "baseline"),
        Finding("warn", "ties", NAN, 0.01, "not measured"),
        Finding("warn", "length dependence", -0.24, 0.15, "worse where the longer answer is better", "length"),
    ),
    key={
        "accuracy": ("accuracy: length baseline",),
        "length-controlled accuracy": (),
        "Brier": ("always 0.5 gives 0.25",),
        "gone": (),
    },
)


def test_a_summary_by_hand():
    assert summary_lines([EVALUATION], closing={"report": "runs/a/report.html", "next": "assay audit all runs/a"}) == [
        "Evaluation on pairs.jsonl",
        "It ranks 74.5% of 161 pairs right.",
        "accuracy  74.5% [67.3, 80.6]    by length 49.1%",
        "Brier     0.167 [0.138, 0.201]  always 0.5 gives 0.25",
        "verdict     Of 3 checks: 2 to look at, 1 passed.",
        "look at     length dependence: worse where the longer answer is better",
        "what to do  --debias-length in training, or a Debiased wrapper around the model",
        "report      runs/a/report.html",
        "next        assay audit all runs/a",
    ]


def test_a_failure_comes_first_then_what_was_measured_and_last_what_could_not_be():
    failed = Report(title="Probes", findings=(Finding("fail", "flattery", 0.9, 0.1, "a policy will exploit it", "hacking"),))
    found = headline([EVALUATION, failed])
    assert [concern.finding.name for concern in found.concerns] == ["flattery", "length dependence", "ties"]
    assert found.worst == "fail"
    assert [concern.report for concern in found.concerns] == [1, 0, 0]
    page = render_html([EVALUATION, failed], title="t")
    assert page.index("flattery") < page.index("length dependence") < page.index("better than chance")
    assert "What to do:" in page
    assert "<summary>1 passed</summary>" in page, "what passed is folded"


def test_an_end_that_the_data_do_not_bound_is_said_and_never_a_number():
    for unbounded in (Metric("peak: n", 6.2, 3.1, math.inf, 24, 24), Metric("peak: n", 6.2, 3.1, NAN, 24, 24)):
        assert interval_text(unbounded) == "from 3.1, not bounded by these data"
        page = render_html([Report(title="r", metrics=(unbounded,))], title="t")
        assert page.count("not bounded by these data") == 2  # on the first screen, and in the table
    assert interval_text(Metric("m", 6.2, -math.inf, 7.0)) == "up to 7, not bounded by these data"
    assert interval_text(Metric("m", 6.2, NAN, NAN)) == ""


@pytest.mark.parametrize(
    ("metric", "shown"),
    [
        (Metric("m", 0.0234, 3.47e-08, 0.061), "0.0234 [<0.0001, 0.0610]"),
        (Metric("m", 0.21, -1e-9, 0.4), "0.210 [>-0.001, 0.400]"),
        (Metric("m", 0.004, 1e-9, 0.0094), "0.00400 [<0.00001, 0.00940]"),
        (Metric("largest difference", 3.47e-08), "3.47e-08"),
        (Metric("count", 3.0), "3"),
        (Metric("m", NAN), "n/a"),
    ],
)
def test_an_end_that_is_next_to_nothing_is_written_beside_the_others(metric, shown):
    assert figure_text(metric) == shown
    page = render_html([Report(title="r", metrics=(metric,))], title="t")
    assert ("e−0" in page) is ("e-0" in shown)


def test_a_remedy_of_several_checks_is_said_once():
    failed = [Finding("fail", name, 0.9, 0.1, "a policy will exploit it", "hacking") for name in ("flattery", "bullets")]
    found = headline([Report(title="Probes", findings=(*failed, Finding("warn", "length", 0.3, 0.1, "why", "length")))])
    assert [concern.remedy for concern in found.concerns] == [REMEDIES["hacking"], "", REMEDIES["length"]]


def test_the_rows_of_a_report_have_the_figures_of_its_summary():
    assert report_rows(EVALUATION)[0][:2] == ("accuracy", "74.5% [67.3, 80.6]")
    tiny = Report(title="r", metrics=(Metric("largest difference", 3.47e-08, n_scored=3, n=4, note="float32"),))
    assert report_rows(tiny) == [("largest difference", "3.47e-08", "3 of 4; float32")]


@given(st.floats(-1e30, 1e30))
def test_a_figure_has_at_most_four_significant_digits_or_is_a_whole_number(value):
    text = significant(value)
    digits = re.sub(r"e[+-]\d+$", "", text).replace(",", "").replace("-", "").strip("0.").replace(".", "")
    assert len(digits) <= (6 if float(value).is_integer() else 4)
    assert float(text.replace(",", "")) == pytest.approx(value, rel=6e-3, abs=1e-300)


def test_shares_are_percent_and_a_rise_is_not():
    assert value_text(Metric("accuracy on training pairs", 0.84)) == "84.0%"
    assert value_text(Metric("accuracy: B minus A", -0.05, -0.11, 0.006)) == "-5.0%"
    assert value_text(Metric("markdown: mean rise", 0.9432)) == "0.943"
    assert value_text(Metric("accuracy", NAN)) == "n/a"


def test_what_to_do_stands_beside_what_was_measured_and_decides_a_failure():
    assert remedy_of(Finding("fail", "a", 1.0, 0.1, "why", "hacking")) == REMEDIES["hacking"]
    assert remedy_of(Finding("fail", "a", 1.0, 0.1, "why", "hacking", "its own")) == "its own"
    assert remedy_of(Finding("warn", "a", 1.0, 0.1, "why", remedy="its own")) == "its own"
    assert remedy_of(Finding("ok", "a", 1.0, 0.1, "why", remedy="its own")) == ""
    for finding in (
        Finding("ok", "a", 1.0, 0.1, "why", "hacking"),
        Finding("warn", "a", NAN, 0.1, "why", "hacking"),
        Finding("warn", "a", 1.0, 0.1, "why"),
        Finding("warn", "a", 1.0, 0.1, f"why: {REMEDIES['length']}", "length"),
    ):
        assert remedy_of(finding) == ""
