"""`assay audit drift` and `assay audit attribute` on a small trained run: what is kept, what is refused, what the reports say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from assay.audit.drift.detect import STD
from assay.audit.drift.reference import load_reference
from assay.audit.drift.samples import read_sample
from assay.cli import main
from assay.data.pairs import write_pairs
from assay.data.run_data import run_data
from assay.models.saved.artifact import verify_digest
from assay.records import PreferencePair
from assay.run_files import MONITOR, read_description
from assay.scorers.load import load
from assay.training.settings import Machine
from assay.wire import report_from_json
from tiny import toy_pairs

FLOAT = ["--dtype", "float32", "--device", "cpu"]


@pytest.fixture
def run(trained_run, tmp_path) -> Path:
    return Path(shutil.copytree(trained_run.path, tmp_path / "run"))


def odd_pairs(num_pairs: int) -> list[PreferencePair]:
    """Other prompts, other words, other lengths than the toy pairs."""
    text = "The quick brown fox jumps over the lazy dog and puts the keeper in water! " * 3
    return [PreferencePair(prompt=f"{i}? " * 5, chosen=f"{text}{i}", rejected=f"{i} {text}", id=str(i)) for i in range(num_pairs)]


def test_training_keeps_a_reference_of_training_and_calibration_prompts(trained_run):
    artifact = trained_run.path / "artifact"
    kept = load_reference(artifact / MONITOR)
    assert kept is not None
    splits = read_description(artifact)["splits"]
    assert len(np.unique(kept.bank.prompt)) == splits["train"]["num_prompts"]
    assert len(np.unique(kept.held.prompt)) == splits["calibration"]["num_prompts"]
    assert kept.facts["computed in"] == "float32"
    verify_digest(artifact)  # a reference is no part of what decides a score


def test_a_reference_does_not_change_the_scorer(run):
    completions = toy_pairs(1, first=900)[0].completions()
    before = load(run, dtype="float32")
    value = before.score(completions).value
    shutil.rmtree(run / "artifact" / MONITOR)
    after = load(run, dtype="float32")
    assert after.fingerprint == before.fingerprint
    np.testing.assert_array_equal(after.score(completions).value, value)


def test_drift_passes_alike_text_and_warns_of_other_text(run, tmp_path, capsys):
    alike, other = tmp_path / "alike.jsonl", tmp_path / "other.jsonl"
    write_pairs(alike, run_data(run).pairs("test"))
    write_pairs(other, odd_pairs(60))
    assert main(["audit", "drift", str(run), "--data", str(alike), str(other), "--verbose"]) == 0
    out = capsys.readouterr().out
    assert "warn: drift: other" in out
    report = report_from_json((run / "eval/drift.json").read_text())
    levels = {finding.name: finding.level for finding in report.findings}
    assert levels["drift: alike"] == "ok"
    assert levels["drift: other"] == "warn"
    assert report.metric("far out: other").value > 0.5 > report.metric("far out: alike").value
    assert "which signal detects each set" in (run / "drift.html").read_text()
    assert main(["report", str(run)]) == 0
    assert "drift: other" in (run / "report.html").read_text()


def test_completions_without_labels_are_held_against_the_reference_too(run, tmp_path):
    rows = [
        {"prompt": f"Tell me about egg {2000 + i}", "response": f"It is water in the story, {i % 7} of two."} for i in range(40)
    ]
    (tmp_path / "new.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert main(["audit", "drift", str(run), "--data", str(tmp_path / "new.jsonl"), "--limit", "30"]) == 0
    report = report_from_json((run / "eval/drift.json").read_text())
    assert report.metric("far out: new").n == 30
    assert [table.title for table in report.tables] == ["which signal detects each set", "tests against the reference"]


@pytest.mark.slow
def test_a_reference_can_be_fitted_later_and_one_of_other_weights_is_refused(run, trained_run, tmp_path, capsys):
    artifact = run / "artifact"
    shutil.rmtree(artifact / MONITOR)
    data = tmp_path / "fresh.jsonl"
    write_pairs(data, toy_pairs(60, first=1000))
    assert main(["audit", "drift", str(run), "--data", str(data)]) == 2
    assert "has no reference" in capsys.readouterr().err
    assert main(["audit", "drift", str(run), "--fit", "--data", str(trained_run.data)]) == 0
    kept = load_reference(artifact / MONITOR)
    assert kept is not None
    trained_on = set(np.load(artifact / "train_prompts.npy").tolist())
    assert len(np.unique(kept.bank.prompt)) == len(trained_on)
    assert kept.facts["note"].startswith("bank: prompts that it was trained on")
    assert main(["audit", "drift", str(run), "--fit", "--data", str(data)]) == 0
    kept = load_reference(artifact / MONITOR)
    assert kept is not None
    assert (len(np.unique(kept.bank.prompt)), len(np.unique(kept.held.prompt))) == (30, 30)
    note = json.loads((artifact / MONITOR / "reference.json").read_text())
    note["facts"]["model"] = "another"
    (artifact / MONITOR / "reference.json").write_text(json.dumps(note))
    capsys.readouterr()
    assert main(["audit", "drift", str(run), "--data", str(data)]) == 2
    assert "made with other weights" in " ".join(capsys.readouterr().err.split())


def test_a_calibration_leaves_the_reference_valid(run, tmp_path):
    data = tmp_path / "fresh.jsonl"
    write_pairs(data, toy_pairs(40, first=1000))
    assert main(["model", "calibrate", str(run), "--data", str(data), *FLOAT]) == 0
    assert main(["audit", "drift", str(run), "--data", str(data)]) == 0


def test_attribute_reports_features_openers_and_a_trace(run, tmp_path, capsys):
    data = tmp_path / "fresh.jsonl"
    write_pairs(data, toy_pairs(60, first=1000))
    assert main(["audit", "attribute", str(run), "--data", str(data), "--openers", "2", "--edits", "30", *FLOAT]) == 0
    assert "R2 of length alone" in capsys.readouterr().out
    report = report_from_json((run / "eval/attribution.json").read_text())
    titles = [table.title for table in report.tables]
    assert titles == [
        "what the margins go with",
        "words that the margins go with",
        "what openers add to the reward",
        "reward by token",
    ]
    assert "water" in [row[0] for row in report.tables[1].rows[:4]], "the word that decides the toy pairs"
    assert len(report.examples) == 3
    for example in report.examples:
        assert example["trace"][-1][1] == pytest.approx(example["reward"])
    page = (run / "attribution.html").read_text()
    assert 'class="up3"' in page


def test_sets_are_drawn_by_prompt_and_completions_cannot_be_attributed(run, tmp_path, capsys):
    data, rows = tmp_path / "pairs.jsonl", tmp_path / "rows.jsonl"
    write_pairs(data, toy_pairs(60, num_prompts=20))
    kept = read_sample(str(data), 9)
    assert kept.pairs is not None
    assert len(kept.completions) == 2 * len(kept.pairs) == 18
    assert len({pair.prompt_key for pair in kept.pairs}) == 3
    assert read_sample(str(data), 9) == kept
    rows.write_text(json.dumps({"prompt": "egg", "response": "water"}) + "\n")
    assert main(["audit", "attribute", str(run), "--data", str(rows)]) == 2
    assert "rows.jsonl" in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_members_give_their_disagreement_as_a_sign_and_reference_0_keeps_none(trained_run, tmp_path):
    train = ["train", "--data", str(trained_run.data), "--base", str(trained_run.base), "--params", "head", "--calibration", "0.2"]
    assert main([*train, "--out", str(tmp_path / "two"), "--ensemble", "2", "--epochs", "2", *FLOAT]) == 0
    data = tmp_path / "other.jsonl"
    write_pairs(data, odd_pairs(20))
    assert main(["audit", "drift", str(tmp_path / "two"), "--data", str(data)]) == 0
    report = report_from_json((tmp_path / "two/eval/drift.json").read_text())
    assert STD in {row[1] for row in report.tables[0].rows}
    assert main([*train, "--out", str(tmp_path / "none"), "--epochs", "1", "--reference", "0", *FLOAT]) == 0
    assert not (tmp_path / "none/artifact" / MONITOR).exists()


def test_a_negative_reference_is_refused():
    with pytest.raises(ValueError, match="--reference -1 must be a number of answers, or 0 for none"):
        Machine(reference=-1)


def test_recorded_candidates_are_new_text_as_well_and_their_gold_is_not_looked_at(tmp_path, capsys):
    rows = tmp_path / "candidates.jsonl"
    lines = [{"prompt": f"egg {i}", "candidates": ["water", "lazy", "water water"], "gold": [1, 0, 0]} for i in range(5)]
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    sample = read_sample(str(rows), 9)
    assert sample.pairs is None
    assert len(sample.completions) == 9
    assert len({completion.messages for completion in sample.completions}) == 3, "whole prompts"
    assert "15 candidates; their gold is not looked at" in " ".join(capsys.readouterr().err.split())
