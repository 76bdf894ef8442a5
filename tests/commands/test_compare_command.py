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
from assay.commands import compare
from assay.commands.shared import Pairs, Where
from assay.data.pairs import write_pairs
from assay.errors import DataError
from assay.evaluation.compare import MINUS
from assay.models.saved.artifact import load_artifact, save_artifact
from assay.records import Report
from assay.run_files import prompt_file, read_report
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


def compared(out: Path, *models: Path, data: tuple[Path, ...], limit: int | None = None, status: int = 0) -> Report:
    """By the command, and the report that it kept."""
    pairs, where = Pairs(data=tuple(map(str, data)), limit=limit), Where(out=out, **FLOAT32)
    assert compare.run(compare.Config(models=tuple(map(str, models)), pairs=pairs, where=where)) == status
    report = read_report(out, "compare")
    assert report is not None
    return report


def test_a_worse_model_exits_with_5_and_leaves_json_and_page(trained_run, contrary, fresh, tmp_path, capsys):
    out = tmp_path / "compared"
    flags = ["--data", str(fresh), "--out", str(out), "--dtype", "float32", "--device", "cpu"]
    assert main(["compare", str(trained_run.path), str(contrary), *flags]) == 5
    printed = capsys.readouterr()
    assert "regression" in printed.out
    report = read_report(out, "compare")
    assert report.title == "contrary (B) against run (A)"
    assert report.metric(f"accuracy: {MINUS}").value < -0.5
    assert report.metric("accuracy: A").n == 80
    assert {f.why.split(",")[0] for f in report.findings if f.level == "fail"} >= {"by axis: one", "by axis: two"}
    page = (out / "report.html").read_text()
    assert "false discoveries controlled over all slices" in page
    assert main(["compare", str(contrary), str(trained_run.path), *flags]) == 0
    assert main(["compare", str(trained_run.path), str(contrary), *flags, "--drop", "1"]) in (0, 5)  # 5 only if it lost everything


def test_a_model_against_itself_exits_with_0_beside_b(trained_run, fresh, tmp_path):
    copied = Path(shutil.copytree(trained_run.path / "artifact", tmp_path / "copied"))
    flags = ["--data", str(fresh), "--dtype", "float32", "--device", "cpu"]
    assert main(["compare", str(trained_run.path), str(copied), *flags]) == 0
    report = read_report(tmp_path / "compare-run-copied", "compare")
    assert report.metric(f"accuracy: {MINUS}").value == 0
    assert report.metric(f"Brier: {MINUS}").value == 0
    assert (tmp_path / "compare-run-copied" / "report.html").is_file()
    assert report.facts["A"].split(", ")[1] == report.facts["B"].split(", ")[1]


def test_several_sets_are_pooled_and_each_is_a_slice(trained_run, fresh, tmp_path):
    write_pairs(tmp_path / "other.jsonl", toy_pairs(30, first=900))
    data = (fresh, tmp_path / "other.jsonl")
    report = compared(tmp_path / "out", trained_run.path, trained_run.path / "artifact", data=data, limit=40)
    (by_set,) = [t for t in report.tables if t.title == "by data set"]
    assert [row[:2] for row in by_set.rows] == [("fresh", 40), ("other", 30)]
    assert report.metric("accuracy: A").n == 70
    assert report.facts["data"] == "fresh.jsonl and other.jsonl"


def test_prompts_that_either_was_trained_on_are_refused(trained_run, contrary, tmp_path):
    with pytest.raises(DataError, match=r"prompts of toy.jsonl are also in the training set of .*contrary"):
        compared(tmp_path / "out", contrary, trained_run.path, data=(trained_run.data,))
    assert not (tmp_path / "out").exists()


def test_prompts_that_it_was_calibrated_on_are_warned_of(trained_run, fresh, tmp_path):
    model = Path(shutil.copytree(trained_run.path / "artifact", tmp_path / "b"))
    known = np.load(model / "calibration_prompts.npy")
    calibrated = [pair for pair in toy_pairs(240) if int(pair.prompt_key[:16], 16) in set(known.tolist())]
    write_pairs(tmp_path / "calibrated.jsonl", calibrated)
    report = compared(tmp_path / "out", trained_run.path, model, data=(tmp_path / "calibrated.jsonl",))
    warned = [f for f in report.findings if f.name == "prompts that it was calibrated on"]
    assert [f.why[0] for f in warned] == ["A", "B"]
    assert warned[0].value == len(known) > 0


def test_flags_that_make_no_sense_are_refused(fresh, tmp_path):
    pairs = Pairs(data=(str(fresh),))
    with pytest.raises(ValueError, match="--fdr 5 lies outside"):
        compare.Config(models=("a", "b"), pairs=pairs, fdr=5)
    with pytest.raises(ValueError, match="names no file"):
        compare.Config(models=("a", "b"))
    with pytest.raises(ValueError, match="at least one to compare with it"):
        compare.Config(models=("a",), pairs=pairs)
    with pytest.raises(ValueError, match="neither an artifact"):
        compare.run(compare.Config(models=(str(tmp_path), str(tmp_path)), pairs=pairs))


def test_rules_are_compared_with_a_model_and_with_each_other(trained_run, fresh, tmp_path, monkeypatch):
    (tmp_path / "lengths_of_answers.py").write_text(
        "def longer(cs): return [len(c.response) for c in cs]\ndef shorter(cs): return [-len(c.response) for c in cs]\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    longer, shorter = "rule:lengths_of_answers:longer", "rule:lengths_of_answers:shorter"
    flags = ["--data", str(fresh), "--out", str(tmp_path / "out"), "--dtype", "float32", "--device", "cpu"]
    assert main(["compare", str(trained_run.path), longer, shorter, *flags]) == 5
    first, second = (read_report(tmp_path / "out", f"compare-lengths_of_answers.{name}") for name in ("longer", "shorter"))
    assert first.metric("accuracy: A") == second.metric("accuracy: A")
    assert first.metric("accuracy: B").value + second.metric("accuracy: B").value <= 1
    assert "lengths_of_answers.shorter (B) against run (A)" in (tmp_path / "out" / "report.html").read_text()
