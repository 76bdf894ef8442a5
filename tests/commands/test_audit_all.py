"""assay audit all as a user runs it: all that there is to measure on a small trained run, and verdicts on one page."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
from test_best_of_n_command import toy_candidates
from test_last_words import is_a_summary

from assay.audit.verdicts import MODES
from assay.cli import main
from assay.data.pairs import write_pairs
from assay.run_files import MONITOR
from assay.scorers import local
from assay.wire import report_from_json
from forwarded import forwarded_texts
from tiny import toy_pairs


@pytest.fixture
def run(trained_run, tmp_path) -> Path:
    """A copy, since reports are kept with the model."""
    return shutil.copytree(trained_run.path, tmp_path / "run")


@pytest.mark.slow
def test_every_failure_has_a_verdict_on_the_page_and_in_the_file(run, tmp_path, capsys):
    pairs, candidates = tmp_path / "fresh.jsonl", tmp_path / "candidates.jsonl"
    write_pairs(pairs, toy_pairs(40, first=5000))
    candidates.write_text("".join(json.dumps(row) + "\n" for row in toy_candidates(6000, 12)))
    assert main(["audit", "verify", str(run)]) == 0
    assert is_a_summary(capsys.readouterr().out)
    arguments = ["--data", str(pairs), "--candidates", str(candidates), "--against", str(pairs), "--suite", str(pairs)]
    status = main(["audit", "all", str(run), *arguments, "--max-rows", "20", "--dtype", "float32"])
    judged = report_from_json((run / "eval" / "trust.json").read_text())
    assert [finding.name for finding in judged.findings] == [mode.name for mode in MODES]
    assert status == (7 if any(finding.level == "fail" for finding in judged.findings) else 0)
    assert all(row[-1] != "not measured" for row in judged.tables[0].rows)
    assert not any(finding.why.startswith("not measured") for finding in judged.findings)
    page, printed = (run / "trust.html").read_text(), capsys.readouterr().out
    assert is_a_summary(printed), printed
    assert main(["audit", "drift", str(run), "--data", str(pairs), "--dtype", "float32"]) == 0
    assert is_a_summary(capsys.readouterr().out)
    for mode in MODES:
        assert mode.name in page
    for kept in ("fresh", "attribution", "probes-fresh", "drift", "suite-fresh", "best-of-n-candidates"):
        assert (run / "eval" / f"{kept}.json").is_file(), kept


def test_what_there_is_no_data_for_is_said(run, tmp_path):
    pairs = tmp_path / "fresh.jsonl"
    write_pairs(pairs, toy_pairs(5, first=5000))
    shutil.rmtree(run / "artifact" / MONITOR)
    asked = ["--max-rows", "20", "--dtype", "float32", "--data", str(pairs), "--against", str(pairs)]
    assert main(["audit", "all", str(run), *asked]) in (0, 7)
    judged = report_from_json((run / "eval" / "trust.json").read_text())
    verdict = {finding.failure: finding for finding in judged.findings}
    for failure, why in (
        ("overoptimization", "--candidates"),
        ("suites", "--suite"),
        ("parity", "assay audit verify"),
        ("surface", "5 of 5 pairs were scored: at least 30 are needed"),
        ("drift", "has no reference to compare with: make one: assay audit drift MODEL --fit"),
    ):
        assert verdict[failure].level == "warn"
        assert math.isnan(verdict[failure].value)
        assert verdict[failure].why.startswith("not measured")
        assert why in verdict[failure].why
    assert verdict["overfitting"].why.startswith("training ")


@pytest.mark.slow
def test_the_model_is_loaded_once(run, tmp_path, monkeypatch):
    loads, load_artifact = [], local.load_artifact
    monkeypatch.setattr(local, "load_artifact", lambda path, **settings: loads.append(path) or load_artifact(path, **settings))
    other = tmp_path / "other.jsonl"
    write_pairs(other, toy_pairs(30, first=7000))
    main(["audit", "all", str(run), "--max-rows", "10", "--against", str(other), "--dtype", "float32"])
    assert json.loads((run / "eval" / "drift.json").read_text())["metrics"], "drift was measured too"
    assert len(loads) == 1


@pytest.mark.slow
def test_no_text_is_forwarded_twice(run, tmp_path):
    """Evaluation, attribution and probes ask for the same answers; what attribution traces token by token is counted apart."""
    pairs = tmp_path / "fresh.jsonl"
    fresh = toy_pairs(40, first=5000)
    write_pairs(pairs, fresh)
    with forwarded_texts() as forwarded:
        main(["audit", "all", str(run), "--data", str(pairs), "--max-rows", "10", "--dtype", "float32"])
    answers = {completion.key for pair in fresh for completion in pair.completions()}
    assert len(forwarded) > len(answers) + 10, "edited answers too"
    assert set(forwarded.values()) == {1}
    assert (run / "eval" / "attribution.json").is_file()


@pytest.mark.slow
def test_a_certificate_of_another_calibration_counts_for_nothing(run, tmp_path):
    assert main(["audit", "verify", str(run)]) == 0
    write_pairs(tmp_path / "fresh.jsonl", toy_pairs(60, first=5000))
    assert main(["model", "calibrate", str(run), "--data", str(tmp_path / "fresh.jsonl"), "--dtype", "float32"]) == 0
    main(["audit", "all", str(run), "--max-rows", "10", "--dtype", "float32"])
    judged = report_from_json((run / "eval" / "trust.json").read_text())
    assert next(finding for finding in judged.findings if finding.failure == "parity").why.startswith("not measured")


@pytest.mark.slow
def test_a_file_that_is_not_there_is_a_mistake_of_the_call(run, tmp_path, capsys):
    assert main(["audit", "all", str(run), "--max-rows", "10", "--against", str(tmp_path / "none.jsonl")]) == 2
    assert "none.jsonl" in " ".join(capsys.readouterr().err.split())
