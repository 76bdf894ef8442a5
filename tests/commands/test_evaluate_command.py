"""Calibrate, evaluate, report: each on files alone, none on what the model was trained on."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import assay
from assay.commands import evaluate
from assay.commands.shared import Pairs, Where
from assay.data.pairs import write_pairs
from assay.data.raw.rows import slug
from assay.data.run_data import run_data
from assay.data.split import split_of
from assay.errors import DataError
from assay.evaluation.calibrate import calibrate
from assay.models.saved.artifact import verify_digest
from assay.records import Metric, Report
from assay.report.run_page import write_run_page
from assay.run_files import read_description, read_report
from assay.scorers.base import margins
from assay.scorers.opened import open_scorer, read_named
from assay.scorers.wrappers.calibrated import Calibrated
from assay.stats.metrics import sigmoid
from assay.wire import report_from_json
from tiny import toy_pairs

FLOAT32: dict[str, Any] = {"dtype": "float32", "device": "cpu"}


@pytest.fixture
def run(trained_run, tmp_path) -> Path:
    """A copy of the finished run that a test may change; its checkpoints and cache are not needed."""
    return Path(shutil.copytree(trained_run.path, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints", "cache")))


@pytest.fixture
def fresh(tmp_path) -> Path:
    """50 pairs of prompts that the model never saw; every fifth label is swapped, so that a temperature can be fitted."""
    pairs = [
        replace(pair, chosen=pair.rejected, rejected=pair.chosen) if i % 5 == 0 else pair
        for i, pair in enumerate(toy_pairs(50, first=500))
    ]
    write_pairs(tmp_path / "fresh.jsonl", pairs)
    return tmp_path / "fresh.jsonl"


def calibrated(model: Path, data: Path | None = None, limit: int | None = None) -> Metric:
    opened = open_scorer(model, **FLOAT32)
    return calibrate(opened, opened.own_pairs("calibration") if data is None else read_named([str(data)], limit=limit))


def evaluated(model: Path, data: Path, *, name: str | None = None, limit: int | None = None) -> Report:
    """By the command, and the report that it kept."""
    pairs, where = Pairs(data=str(data), limit=limit), Where(**FLOAT32)
    assert evaluate.run(evaluate.Config(model=str(model), name=name, pairs=pairs, where=where)) == 0
    report = read_report(model, slug(name or str(data)))
    assert report is not None
    return report


# calibrate


def test_calibrate_on_named_pairs_replaces_the_calibration_and_leaves_the_rewards(run, fresh):
    before = assay.load(run, **FLOAT32)
    completions = [completion for pair in toy_pairs(5, first=900) for completion in pair.completions()]
    raw = before.score(completions).value
    metric = calibrated(run, fresh)
    after = assay.load(run, **FLOAT32)
    assert isinstance(after, Calibrated)
    assert isinstance(before, Calibrated)
    assert after.calibration.split == fresh.name
    assert after.calibration.num_pairs == metric.n_scored == 50
    assert after.calibration.temperature == metric.value != before.calibration.temperature
    assert metric.low < metric.value < metric.high
    np.testing.assert_array_equal(after.score(completions).value, raw)
    verify_digest(run / "artifact")
    assert read_description(run / "artifact")["base_model"] == "tiny-base"  # the rest of the record is kept


def test_evaluating_on_what_it_was_calibrated_on_is_said(run, fresh):
    assert "prompts that it was calibrated on" not in {finding.name for finding in evaluated(run, fresh).findings}
    calibrated(run, fresh)
    (finding,) = [f for f in evaluated(run, fresh).findings if f.name == "prompts that it was calibrated on"]
    assert (finding.level, finding.value) == ("warn", 50)


def test_figures_of_an_earlier_calibration_are_called_stale(run, fresh):
    evaluated(run, fresh)
    assert "stale figures" not in write_run_page(run).read_text()
    calibrated(run, fresh)
    assert "stale figures" in write_run_page(run).read_text()


def test_the_fitted_temperature_is_the_best_there_is(run, fresh):
    metric = calibrated(run, fresh)
    scorer = assay.load(run, **FLOAT32)
    margins_P = margins(scorer, list(assay.read_pairs(fresh)))

    def loss(temperature: float) -> float:
        return float(-np.mean(np.log(sigmoid(margins_P / temperature))))

    assert loss(metric.value) < min(loss(0.8 * metric.value), loss(1.25 * metric.value))


def test_calibrate_without_data_takes_the_run_s_own_split(run):
    metric = calibrated(run)
    assert metric.n == sum(split_of(pair.prompt, calibration=0.2, test=0.2) == "calibration" for pair in toy_pairs(240))


def test_calibrate_says_no_error_bar_that_it_does_not_have(run, capsys):
    calibrated(run)  # every pair is ranked right: a prior sets the temperature
    printed = capsys.readouterr().err
    assert "temperature" in printed
    assert "nan" not in printed
    assert "note" in printed


def test_calibrating_on_training_pairs_is_refused(run, trained_run):
    with pytest.raises(DataError, match=r"prompts of .*toy.jsonl are also in the training set of"):
        calibrated(run, trained_run.data)


def test_calibrating_on_a_handful_is_refused(run, fresh):
    before = read_description(run / "artifact")
    with pytest.raises(ValueError, match="5 scored pairs"):
        calibrated(run, fresh, limit=5)
    assert read_description(run / "artifact") == before


# evaluate


def test_evaluate_named_pairs_is_kept_under_their_name(run, fresh):
    report = evaluated(run, fresh)
    assert report.metric("accuracy").n == 50
    assert report.metric("accuracy").value == pytest.approx(0.8, abs=0.05)
    assert report.facts["data"] == fresh.name
    assert report.facts["model"] == read_description(run / "artifact")["fingerprint"]
    assert report.facts["probabilities"] == "calibrated (temperature, fitted on calibration)"
    kept = report_from_json((run / "eval" / "fresh.json").read_text())
    assert kept.metric("accuracy").value == report.metric("accuracy").value


def test_evaluate_under_another_name_and_on_some_of_the_pairs(run, fresh):
    report = evaluated(run, fresh, name="my exam", limit=20)
    assert report.metric("accuracy").n == 20
    assert (run / "eval" / "my-exam.json").is_file()


def test_evaluating_on_training_pairs_is_refused(run, trained_run):
    with pytest.raises(DataError, match=r"prompts of .*toy.jsonl are also in the training set of"):
        evaluated(run, trained_run.data)


def test_an_artifact_alone_remembers_what_it_was_trained_on(run, trained_run, tmp_path, fresh):
    artifact = shutil.copytree(run / "artifact", tmp_path / "alone")
    with pytest.raises(DataError, match="also in the training set"):
        evaluated(artifact, trained_run.data)
    with pytest.raises(ValueError, match="is no run directory, so its splits are not known: give --data"):
        evaluate.run(evaluate.Config(model=str(artifact), where=Where(**FLOAT32)))
    evaluated(artifact, fresh)
    assert (artifact / "eval" / "fresh.json").is_file()


def test_the_same_evaluation_twice_gives_the_same_report(run, fresh):
    evaluated(run, fresh)
    first = (run / "eval" / "fresh.json").read_bytes()
    evaluated(run, fresh)
    assert (run / "eval" / "fresh.json").read_bytes() == first


# report


def test_report_takes_up_what_was_found_since(run, fresh):
    before = (run / "report.html").read_text()
    assert "fresh.jsonl" not in before
    evaluated(run, fresh)
    assert write_run_page(run) == run / "report.html"
    assert "fresh.jsonl" in (run / "report.html").read_text()
    assert "fresh.jsonl" in (run / "artifact" / "README.md").read_text()
    again = (run / "report.html").read_bytes()
    write_run_page(run)
    assert (run / "report.html").read_bytes() == again


def test_report_of_a_directory_without_evaluations_says_what_to_run(tmp_path):
    with pytest.raises(ValueError, match="holds no eval/ directory: run assay train or assay evaluate first"):
        write_run_page(tmp_path)


def test_the_run_s_own_data_comes_back_as_it_was(trained_run):
    data = run_data(trained_run.path)
    assert (data.calibration, data.test, data.seed, data.eval_data) == (0.2, 0.2, 0, None)
    assert data.files == (str(trained_run.data),)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("a/b/exam.jsonl", "exam"),
        ("a/v1.2-x.jsonl.gz", "v1.2-x"),
        ("hh/pairs.jsonl.gz", "hh-pairs"),
        ("test.jsonl", "data-test"),
        ("hub:org/name", "org-name"),
        ("my exam", "my-exam"),
        ("", "data"),
    ],
)
def test_slug(name, file):
    assert slug(name) == file
