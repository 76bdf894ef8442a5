"""The command: two artifacts and a set of pairs in, one report and an exit status out."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from assay.cli import main
from assay.data.pairs import write_pairs
from assay.errors import DataError
from assay.evaluation.compare import MINUS, is_worse
from assay.models.artifact import load_artifact, save_artifact
from assay.wire import report_from_json
from assay.workflows.diff import DiffConfig, diff
from assay.workflows.rundir import prompt_file
from tiny import toy_pairs

FLOAT32: dict[str, Any] = {"dtype": "float32", "device": "cpu"}


@pytest.fixture
def fresh(tmp_path) -> Path:
    """80 pairs of prompts that no model saw, half of them tagged."""
    pairs = [replace(pair, tags={"axis": ("one", "two")[i % 2]}) for i, pair in enumerate(toy_pairs(80, first=500))]
    write_pairs(tmp_path / "fresh.jsonl", pairs)
    return tmp_path / "fresh.jsonl"


@pytest.fixture
def contrary(trained_run, tmp_path) -> Path:
    """The trained model with its head turned round: wrong wherever it was right."""
    path = trained_run.path / "artifact"
    model, renderer, description = load_artifact(path)
    with torch.no_grad():
        model.head.weight.neg_()
    description["calibration"] = None
    save_artifact(model, renderer, tmp_path / "contrary", description, train_prompts=prompt_file(path, "train_prompts.npy"))
    return tmp_path / "contrary"


def test_a_worse_model_exits_with_5_and_leaves_json_and_page(trained_run, contrary, fresh, tmp_path, capsys):
    out = tmp_path / "compared"
    flags = ["--data", str(fresh), "--out", str(out), "--dtype", "float32", "--device", "cpu"]
    assert main(["diff", str(trained_run.path), str(contrary), *flags]) == 5
    printed = capsys.readouterr()
    assert "regression" in printed.out
    report = report_from_json((out / "eval" / "diff.json").read_text())
    assert report.title == "contrary (B) against run (A)"
    assert report.metric(f"accuracy: {MINUS}").value < -0.5
    assert report.metric("accuracy: A").n == 80
    assert {f.why.split(",")[0] for f in report.findings if f.level == "fail"} >= {"by axis: one", "by axis: two"}
    page = (out / "report.html").read_text()
    assert "false discoveries controlled over all slices" in page
    assert main(["diff", str(contrary), str(trained_run.path), *flags]) == 0
    assert main(["diff", str(trained_run.path), str(contrary), *flags, "--drop", "1"]) in (0, 5)  # 5 only if it lost everything


def test_a_model_against_itself_exits_with_0_beside_b(trained_run, fresh, tmp_path):
    copied = Path(shutil.copytree(trained_run.path / "artifact", tmp_path / "copied"))
    report = diff(DiffConfig(a=trained_run.path, b=copied, data=(str(fresh),), **FLOAT32))
    assert not is_worse(report)
    assert report.metric(f"accuracy: {MINUS}").value == 0
    assert report.metric(f"Brier: {MINUS}").value == 0
    assert (tmp_path / "diff-run-copied" / "report.html").is_file()
    assert report.facts["A"].split(", ")[1] == report.facts["B"].split(", ")[1]


def test_several_sets_are_pooled_and_each_is_a_slice(trained_run, fresh, tmp_path):
    write_pairs(tmp_path / "other.jsonl", toy_pairs(30, first=900))
    config = DiffConfig(
        a=trained_run.path,
        b=trained_run.path / "artifact",
        data=(str(fresh), str(tmp_path / "other.jsonl")),
        out=tmp_path / "out",
        limit=40,
        **FLOAT32,
    )
    report = diff(config)
    (by_set,) = [t for t in report.tables if t.title == "by data set"]
    assert [row[:2] for row in by_set.rows] == [("fresh", 40), ("other", 30)]
    assert report.metric("accuracy: A").n == 70
    assert report.facts["data"] == "fresh.jsonl and other.jsonl"


def test_prompts_that_either_was_trained_on_are_refused(trained_run, contrary, tmp_path):
    config = DiffConfig(a=contrary, b=trained_run.path, data=(str(trained_run.data),), out=tmp_path / "out", **FLOAT32)
    with pytest.raises(DataError, match=r"prompts of toy.jsonl are also in the training set of .*contrary"):
        diff(config)
    assert not (tmp_path / "out").exists()


def test_prompts_that_it_was_calibrated_on_are_warned_of(trained_run, fresh, tmp_path):
    model = Path(shutil.copytree(trained_run.path / "artifact", tmp_path / "b"))
    known = np.load(model / "calibration_prompts.npy")
    calibrated = [pair for pair in toy_pairs(240) if int(pair.prompt_key[:16], 16) in set(known.tolist())]
    write_pairs(tmp_path / "calibrated.jsonl", calibrated)
    report = diff(DiffConfig(a=trained_run.path, b=model, data=(str(tmp_path / "calibrated.jsonl"),), **FLOAT32))
    warned = [f for f in report.findings if f.name == "prompts that it was calibrated on"]
    assert [f.why[0] for f in warned] == ["A", "B"]
    assert warned[0].value == len(known) > 0


def test_flags_that_make_no_sense_are_refused(trained_run, fresh, tmp_path):
    config = DiffConfig(a=trained_run.path, b=trained_run.path, data=(str(fresh),), out=tmp_path / "out", **FLOAT32)
    with pytest.raises(ValueError, match="--fdr 5 lies outside"):
        diff(replace(config, fdr=5))
    with pytest.raises(ValueError, match="names no file"):
        diff(replace(config, data=()))
    with pytest.raises(ValueError, match="neither an artifact"):
        diff(replace(config, a=tmp_path))
