"""Another's reward model through the commands: evaluated and audited as it lies there, adopted, verified, trained further."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import assay
from assay.cli import main
from assay.data.pairs import write_pairs
from assay.run_files import read_description, read_report
from tiny import save_tiny_encoder, save_tiny_published, toy_pairs

CPU = ["--device", "cpu", "--dtype", "float32"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    file = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    write_pairs(file, toy_pairs(60))
    return str(file)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory) -> Path:
    return save_tiny_published(tmp_path_factory.mktemp("hub") / "their-model", num_labels=2)


@pytest.fixture(scope="module")
def adopted(tmp_path_factory, theirs, data) -> Path:
    out = tmp_path_factory.mktemp("runs") / "theirs"
    assert main(["model", "adopt", str(theirs), "--out", str(out), "--data", data, *CPU]) == 0
    return out


def test_a_directory_and_its_artifact_give_the_same_rewards(theirs, adopted):
    completions = [completion for pair in toy_pairs(6) for completion in pair.completions()]
    as_it_lies, ours = (assay.load(path, dtype="float32", device="cpu").score(completions).value for path in (theirs, adopted))
    np.testing.assert_allclose(as_it_lies, ours, atol=1e-5)
    assert np.ptp(ours) > 0


def test_what_was_assumed_is_printed_and_kept(adopted, theirs, data, tmp_path, capsys):
    description = read_description(adopted)
    assert description["adopted"]["from"] == str(theirs)
    assert "LABEL_1" in description["adopted"]["assumed"]["label"]
    assert description["calibration"] is not None
    assert "# their-model, adopted" in (adopted / "README.md").read_text()
    assert main(["evaluate", str(theirs), "--data", data, "--out", str(tmp_path), *CPU]) == 0
    shown = " ".join(capsys.readouterr().err.split())
    assert "the reward is the logit of 'LABEL_1' less that of 'LABEL_0'" in shown
    assert "512 tokens, its positions" in shown
    report = next((tmp_path / "eval").glob("*.json")).read_text()
    assert "less that of 'LABEL_0'" in json.loads(report)["facts"]["read as"]


def test_verify_checks_an_adopted_model_as_one_of_its_own(adopted):
    assert main(["audit", "verify", str(adopted)]) == 0
    report = read_report(adopted, "verify")
    assert report is not None
    assert {finding.name for finding in report.findings if finding.level == "fail"} == set()
    assert "plain transformers" in {finding.name for finding in report.findings}


def test_a_trust_page_of_a_directory_in_one_command(theirs, data, tmp_path):
    assert main(["audit", "all", str(theirs), "--data", data, "--out", str(tmp_path), "--max-rows", "8", *CPU]) in (0, 7)
    assert "Can their-model be trusted?" in (tmp_path / "trust.html").read_text()


def test_an_encoder_is_adopted_and_verified(data, tmp_path):
    path = save_tiny_encoder(tmp_path / "deberta", num_labels=1)
    assert main(["model", "adopt", str(path), "--out", str(tmp_path / "ours"), "--data", data, *CPU]) == 0
    assert main(["audit", "verify", str(tmp_path / "ours")]) == 0
    assert "tokenizer(question, answer)" in (tmp_path / "ours" / "README.md").read_text()
    assert main(["evaluate", str(tmp_path / "ours"), "--data", data, *CPU]) == 0


def test_drift_and_calibration_of_a_directory_name_what_makes_an_artifact(theirs, data, capsys):
    assert main(["model", "calibrate", str(theirs), "--data", data, *CPU]) == 2
    assert f"assay model adopt {theirs} --out DIRECTORY" in " ".join(capsys.readouterr().err.split())


def test_what_is_no_checkpoint_is_refused(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert main(["model", "adopt", str(tmp_path / "empty"), "--out", str(tmp_path / "out")]) == 2
    assert "no checkpoint of transformers' form" in " ".join(capsys.readouterr().err.split())
    assert main(["evaluate", str(tmp_path / "empty"), "--data", "x.jsonl"]) == 2


def test_an_adopted_model_is_trained_further(adopted, data, tmp_path, capsys):
    shares = ["--calibration", "0.4", "--test", "0.1", "--params", "head", "--epochs", "1"]
    assert main(["train", "--data", data, "--init-from", str(adopted), "--out", str(tmp_path / "run"), *shares, *CPU]) == 0
    assert "does not say which prompts it was trained on" in " ".join(capsys.readouterr().err.split())


def test_a_reward_model_as_a_base_is_sent_to_init_from(theirs, data, tmp_path, capsys):
    assert main(["train", "--data", data, "--base", str(theirs), "--out", str(tmp_path / "run"), *CPU]) == 2
    assert f"give it as --init-from {theirs}" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run" / "cache").exists()  # refused before the data were read
