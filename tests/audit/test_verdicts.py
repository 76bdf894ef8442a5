import math
from typing import get_args

import pytest

from assay.audit.verdicts import MODES, NOT_MEASURED, TrustResult, below_verdicts, verdicts
from assay.records import Failure, Finding, Report


def found(level, name, failure=None, value=0.5, why="seen"):
    return Finding(level, name, value, 0.1, why, failure)


def named(judged: TrustResult, name: str) -> Finding:
    return next(finding for finding in judged.findings if finding.name == name)


def test_there_is_a_mode_for_every_failure():
    assert {mode.failure for mode in MODES} == set(get_args(Failure))
    assert len(MODES) == len(get_args(Failure)) == len({mode.name for mode in MODES})


def test_what_was_not_measured_is_a_warning_that_says_how():
    judged = verdicts([], title="t")
    assert [finding.name for finding in judged.findings] == [mode.name for mode in MODES]
    assert all(finding.level == "warn" and math.isnan(finding.value) for finding in judged.findings)
    assert "assay audit probe" in named(judged, "rewards or fines worthless edits").why
    assert {row[-1] for row in judged.report().tables[0].rows} == {NOT_MEASURED}


def test_a_reason_why_it_could_not_be_measured_takes_the_place_of_how():
    judged = verdicts([], title="t", unmeasured={"drift": "it takes hidden states"})
    assert judged.of("drift").finding.why == "not measured: it takes hidden states"
    shifted = Report(title="Drift", findings=(found("warn", "drift: new", "drift", why="2 tests"),))
    assert verdicts([shifted], title="t", unmeasured={"drift": "x"}).of("drift").finding.why == "drift: new: 2 tests"


def test_the_worst_finding_decides_and_the_others_are_counted():
    probes = Report(
        title="Probes",
        findings=(
            found("ok", "filler", "hacking"),
            found("warn", "empty", "hacking"),
            found("fail", "flattery", "hacking", 0.4, "mean rise +0.40"),
            found("fail", "emoji", "hacking", 0.3),
        ),
    )
    verdict = named(verdicts([Report(title="other"), probes], title="t"), "rewards or fines worthless edits")
    assert verdict == Finding(
        "fail", "rewards or fines worthless edits", 0.4, 0.1, "flattery: mean rise +0.40; 1 more: emoji", "hacking"
    )


def test_a_passed_mode_asks_for_nothing():
    gap = Report(title="Training", findings=(found("ok", "train / held-out gap", "overfitting", 0.01, "gap 1 point"),))
    judged = verdicts([gap], title="t")
    assert named(judged, "overfitting") == Finding("ok", "overfitting", 0.01, 0.1, "gap 1 point", "overfitting")
    row = next(row for row in judged.report().tables[0].rows if row[0] == "overfitting")
    assert row[-2:] == ("", "Training")
    assert judged.report().facts["worst verdict"] == judged.worst == "warn"  # of the modes that nothing looked at


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.failure)
def test_a_finding_decides_its_failure_and_no_other_whatever_its_name(mode):
    judged = verdicts([Report(title="r", findings=(found("fail", "probe: length", mode.failure),))], title="t")
    assert [finding.name for finding in judged.findings if finding.level == "fail"] == [mode.name]
    assert judged.of(mode.failure).measured_by == "r"
    assert judged.worst == judged.report().facts["worst verdict"] == "fail"


def test_a_finding_without_a_failure_decides_nothing():
    judged = verdicts([Report(title="r", findings=(found("fail", "length"),))], title="t")
    assert judged.worst == "warn"


def test_a_pass_without_a_value_passes_nothing():
    """Beside a pass with a value it takes no part; alone it is no measurement."""
    nothing = found("ok", "length dependence", "length", math.nan, "no pairs of both kinds")
    alone = verdicts([Report(title="r", findings=(nothing,))], title="t").of("length")
    assert alone.finding.level == "warn"
    assert alone.finding.why == "not measured: no pairs of both kinds"
    assert alone.measured_by == ""
    beside = verdicts([Report(title="r", findings=(nothing, found("ok", "length", "length", 0.1)))], title="t").of("length")
    assert (beside.finding.level, beside.finding.value) == ("ok", 0.1)


def test_of_equally_bad_findings_one_with_a_value_is_named():
    findings = (found("warn", "bullets", "hacking", math.nan), found("warn", "empty", "hacking", 0.2))
    assert verdicts([Report(title="r", findings=findings)], title="t").of("hacking").finding.value == 0.2


def test_below_the_verdicts_what_did_not_pass_is_a_table_and_what_did_is_counted():
    report = Report(title="r", findings=(found("ok", "a"), found("warn", "b"), found("ok", "c")))
    left = below_verdicts(report)
    assert left.findings == ()
    assert left.tables[0].rows == (("warn", "b", 0.5, 0.1, "seen"),)
    assert left.facts["checks passed"] == "2"
    assert below_verdicts(Report(title="r", findings=(found("ok", "a"),))).tables == ()
