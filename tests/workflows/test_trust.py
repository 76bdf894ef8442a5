"""assay trust as a user runs it: all that there is to measure on a small trained run, and verdicts on one page."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
from test_bestofn import toy_candidates

from assay.cli import main
from assay.data.pairs import write_pairs
from assay.wire import report_from_json
from assay.workflows.verdicts import MODES
from tiny import toy_pairs


@pytest.fixture
def run(trained_run, tmp_path) -> Path:
    """A copy, since reports are kept with the model."""
    return shutil.copytree(trained_run.path, tmp_path / "run")


def test_every_failure_has_a_verdict_on_the_page_and_in_the_file(run, tmp_path, capsys):
    pairs, candidates = tmp_path / "fresh.jsonl", tmp_path / "candidates.jsonl"
    write_pairs(pairs, toy_pairs(40, first=5000))
    candidates.write_text("".join(json.dumps(row) + "\n" for row in toy_candidates(6000, 12)))
    arguments = ["--data", str(pairs), "--candidates", str(candidates), "--against", str(pairs), "--suite", str(pairs)]
    status = main(["trust", str(run), *arguments, "--max-rows", "20", "--dtype", "float32"])
    judged = report_from_json((run / "eval" / "trust.json").read_text())
    assert [finding.name for finding in judged.findings] == [mode.name for mode in MODES]
    assert status == (7 if any(finding.level == "fail" for finding in judged.findings) else 0)
    assert all(row[-1] != "not measured" for row in judged.tables[0].rows)
    assert not any(finding.why.startswith("not measured") for finding in judged.findings)
    page, printed = (run / "trust.html").read_text(), " ".join(capsys.readouterr().out.split())
    assert "can be hacked" in printed
    for mode in MODES:
        assert mode.name in page
    for kept in ("fresh", "attribution", "probes-fresh", "drift", "suite-fresh", "best-of-n-candidates"):
        assert (run / "eval" / f"{kept}.json").is_file(), kept


def test_what_there_is_no_data_for_is_said(run):
    assert main(["trust", str(run), "--max-rows", "20", "--dtype", "float32"]) in (0, 7)
    judged = report_from_json((run / "eval" / "trust.json").read_text())
    verdict = {finding.name: finding for finding in judged.findings}
    for mode, flag in (("is overoptimised", "--candidates"), ("is weak on published suites", "--suite")):
        assert verdict[mode].level == "warn"
        assert math.isnan(verdict[mode].value)
        assert flag in verdict[mode].why
    assert verdict["overfitting"].why.startswith("training ")
