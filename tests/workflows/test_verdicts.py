import math

import pytest

from assay.records import Finding, Report
from assay.workflows.verdicts import MODES, below_verdicts, verdicts


def found(level, name, value=0.5, why="seen"):
    return Finding(level, name, value, 0.1, why)


def verdict_of(report, mode):
    return next(finding for finding in report.findings if finding.name == mode)


def test_what_was_not_measured_is_a_warning_that_says_how():
    judged = verdicts([], title="t")
    assert [finding.name for finding in judged.findings] == [mode.name for mode in MODES]
    assert all(finding.level == "warn" and math.isnan(finding.value) for finding in judged.findings)
    assert "assay probe" in verdict_of(judged, "can be hacked").why
    assert {row[-1] for row in judged.tables[0].rows} == {"not measured"}


def test_the_worst_finding_decides_and_the_others_are_counted():
    probes = Report(
        title="Probes",
        findings=(
            found("ok", "probe: filler"),
            found("warn", "probe: empty"),
            found("fail", "probe: flattery", 0.4, "mean rise +0.40"),
            found("fail", "probe: emoji", 0.3),
        ),
    )
    verdict = verdict_of(verdicts([Report(title="other"), probes], title="t"), "can be hacked")
    assert verdict == Finding("fail", "can be hacked", 0.4, 0.1, "probe: flattery: mean rise +0.40; 1 more: probe: emoji")


def test_a_passed_mode_asks_for_nothing():
    gap = Report(title="Training", findings=(found("ok", "train / held-out gap", 0.01, "gap 1 point"),))
    judged = verdicts([gap], title="t")
    assert verdict_of(judged, "overfitting") == Finding("ok", "overfitting", 0.01, 0.1, "gap 1 point")
    row = next(row for row in judged.tables[0].rows if row[0] == "overfitting")
    assert row[-2:] == ("", "Training")
    assert judged.facts["worst verdict"] == "warn"  # of the modes that nothing looked at


@pytest.mark.parametrize(
    ("finding", "mode"),
    [
        ("better than chance", "knows no more than a baseline"),
        ("better than the bag-of-words baseline", "knows no more than a baseline"),
        ("calibration", "its probabilities are wrong"),
        ("length dependence", "pays for length"),
        ("openers", "pays for surface and openers"),
        ("overoptimisation", "is overoptimised"),
        ("drift: new", "is far from what it was trained on"),
        ("above the length rule", "is weak on published suites"),
    ],
)
def test_every_kind_of_finding_has_its_mode(finding, mode):
    judged = verdicts([Report(title="r", findings=(found("fail", finding),))], title="t")
    assert [f.name for f in judged.findings if f.level == "fail"] == [mode]
    assert judged.facts["worst verdict"] == "fail"


def test_below_the_verdicts_what_did_not_pass_is_a_table_and_what_did_is_counted():
    report = Report(title="r", findings=(found("ok", "a"), found("warn", "b"), found("ok", "c")))
    left = below_verdicts(report)
    assert left.findings == ()
    assert left.tables[0].rows == (("warn", "b", 0.5, 0.1, "seen"),)
    assert left.facts["checks passed"] == "2"
    assert below_verdicts(Report(title="r", findings=(found("ok", "a"),))).tables == ()
