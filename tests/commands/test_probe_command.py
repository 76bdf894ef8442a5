"""assay audit probe as a user runs it, and training on counter-examples and without what length says."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from assay.audit.probes.selection import load_probes
from assay.cli import main
from assay.data.pairs import write_pairs
from assay.data.run_data import run_data
from assay.data.tokens.table import PairTable
from assay.records import PreferencePair
from assay.run_files import read_description
from assay.training.fits.neutral import with_neutral_labels
from assay.training.losses import bradley_terry
from assay.training.objective import Objective, batch_loss, length_log_odds
from assay.training.prepare import prepare
from assay.training.rows.augment import augment
from assay.training.run import train
from assay.training.settings import Regularization
from assay.training.tasks.task import CHECKED, COUNTER_EXAMPLES
from assay.wire import report_from_json
from tiny import toy_pairs
from toy_runs import config_of

OWN = '''
from assay.audit.probes.battery import Probe

def watering(completion, rng):
    """The word that the toy model was taught, in place of the other."""
    return completion.response.replace("lazy", "water")

def _helper(text):
    return text

nothing = Probe("nothing left", "destructive", lambda completion, rng: ".")
'''


@pytest.fixture
def run(trained_run, tmp_path) -> Path:
    """A copy, since reports are kept with the model."""
    return shutil.copytree(trained_run.path, tmp_path / "run")


@pytest.fixture
def own(tmp_path) -> Path:
    path = tmp_path / "own.py"
    path.write_text(OWN)
    return path


def test_a_hack_exits_with_6_and_is_kept_as_a_report_and_a_page(run, own, capsys):
    arguments = ["audit", "probe", str(run), "--probes", str(own), "--max-rows", "120", "--dtype", "float32"]
    assert main([*arguments, "--only", "watering", "bold", "nothing left", "--verbose"]) == 6
    out = capsys.readouterr().out
    assert "watering" in out
    assert "fail: worthless" in out
    report = report_from_json((run / "eval" / "probes.json").read_text())
    assert [row[0] for row in report.tables[0].rows] == ["watering", "bold", "nothing left"]
    share = report.metric("watering: share raised")
    assert (share.value > 0.9, share.n_scored, share.n) == (True, share.n, share.n)
    assert report.facts["model"] == read_description(run / "artifact")["fingerprint"]
    assert "watering" in (run / "probes.html").read_text()
    assert main(["report", str(run)]) == 0
    assert "watering" in (run / "report.html").read_text()
    assert "watering" in (run / "artifact" / "README.md").read_text()


def test_a_bound_that_nothing_exceeds_exits_with_0_and_other_data_has_a_report_of_its_own(run, trained_run, own, tmp_path):
    write_pairs(tmp_path / "fresh.jsonl", toy_pairs(30, first=5000))
    arguments = ["audit", "probe", str(run), "--data", str(tmp_path / "fresh.jsonl"), "--dtype", "float32"]
    assert main([*arguments, "--probes", str(own), "--only", "watering", "--max-rise", "100"]) == 0
    report = report_from_json((run / "eval" / "probes-fresh.json").read_text())
    assert report.facts["data"] == "fresh.jsonl"
    assert {finding.name for finding in report.findings} == {"watering"}
    calm = ["--only", "bold", "--max-rows", "20", "--max-rise", "100"]
    assert main(["audit", "probe", str(run), "--data", str(trained_run.data), *calm]) == 0
    report = report_from_json((run / "eval" / f"probes-{trained_run.data.stem}.json").read_text())
    assert any(finding.name == "prompts that it was trained on" for finding in report.findings)


def test_mistakes_exit_with_2(run, tmp_path, own, capsys):
    (tmp_path / "none.py").write_text("x = 1\n")
    (tmp_path / "broken.py").write_text("raise KeyError('a')\n")
    for arguments, message in (
        (["--only", "flatery"], "there is no probe 'flatery'"),
        (["--probes", str(tmp_path / "missing.py")], "there is no such file"),
        (["--probes", str(tmp_path / "none.py")], "it defines no function"),
        (["--probes", str(tmp_path / "broken.py")], "it cannot be run: KeyError"),
        (["--max-rise", "-1", "--max-rows", "2"], "max_rise -1.0 must be 0 or more"),
    ):
        assert main(["audit", "probe", str(run), *arguments]) == 2
        assert message in " ".join(capsys.readouterr().err.split())
    assert [(probe.name, probe.kind) for probe in load_probes(own)] == [("nothing left", "destructive"), ("watering", "worthless")]


# Counter-examples in training


@pytest.mark.slow
def test_counter_examples_are_a_share_of_what_is_trained_on_and_nothing_is_held_out_of_them(tmp_path):
    config = config_of(tmp_path, toy_pairs(200), regularization=Regularization(augment="probes", augment_share=0.4))
    plain = replace(config, out=tmp_path / "plain", regularization=Regularization())
    prepared, before = prepare(config), prepare(plain)
    table = prepared.table
    train_rows, added = table.rows("train"), table.rows(COUNTER_EXAMPLES)
    assert len(added) == int(len(train_rows) * 0.4 / 0.6)
    assert sorted(prepared.train_rows) == sorted([*train_rows, *added])
    assert set(table.prompt[added]) <= set(table.prompt[train_rows])
    for name in ("train", "calibration", "test"):
        mine, theirs = table.rows(name), before.table.rows(name)
        assert len(mine) == len(theirs)
        assert all(np.array_equal(table[i].chosen, before.table[j].chosen) for i, j in zip(mine, theirs, strict=True))
    assert before.train_rows.tolist() == before.table.rows("train").tolist()


def test_the_artifact_says_how_many_there_were_and_the_run_is_evaluated_on_plain_pairs(tmp_path):
    config = config_of(tmp_path, toy_pairs(120), regularization=Regularization(augment="probes"))
    artifact = train(config)
    splits = read_description(artifact)["splits"]
    assert splits[COUNTER_EXAMPLES]["num_pairs"] == round(splits["train"]["num_pairs"] / 3)
    report = report_from_json((config.out / "eval" / "training.json").read_text())
    assert report.facts["counter-examples"] == f"{splits[COUNTER_EXAMPLES]['num_pairs']}, from probes"
    assert report.metric("accuracy on training pairs").n == splits["train"]["num_pairs"]
    assert json.loads((config.out / "config.json").read_text())["config"]["regularization"] == asdict(config.regularization)
    assert len(list(run_data(config.out).pairs("train"))) == splits["train"]["num_pairs"]


def test_labels_are_found_and_said_with_what_the_edits_are_worth_on_calibration_prompts_in_the_end(tmp_path, capsys):
    regularization = Regularization(augment="probes", augment_share=0.5)
    config = config_of(tmp_path, toy_pairs(200), params="head", regularization=regularization)
    settings = read_description(train(config))["settings"]
    labels = {name: entry["value"] for name, entry in settings.items() if name.startswith("label_of_")}
    assert labels
    assert all(0.5 <= label <= 1 for label in labels.values())
    assert "training prompts kept apart" in settings["label_of_worthless_edits"]["reason"]
    report = report_from_json((config.out / "eval" / "training.json").read_text())
    table = next(table for table in report.tables if table.title == "labels of the counter-examples")
    assert {f"label_of_{row[0].replace(' ', '_')}" for row in table.rows} == set(labels)
    assert sum(row[-1] for row in table.rows) > 0, "prompts of the calibration split"
    assert "at most 4 fits" in " ".join(capsys.readouterr().err.split())


def test_a_label_that_is_given_is_kept_and_nothing_is_looked_for(tmp_path):
    regularization = Regularization(augment="probes", augment_label=0.8)
    prepared = prepare(config_of(tmp_path, toy_pairs(200), params="head", regularization=regularization))
    parts = prepared.table.parts(COUNTER_EXAMPLES)
    assert {kind for kind, _ in (name.split("/") for name in parts)} == {"worthless", "style"}
    for name, rows in parts.items():
        assert prepared.table.preference[rows] == pytest.approx(0.8 if name.startswith("worthless") else 0.5)
    assert len(prepared.table.rows(CHECKED)) == 0
    assert with_neutral_labels(prepared) is prepared
    for label, message in ((0.4, "must lie between 0.5"), (1.5, "must lie between 0.5")):
        with pytest.raises(ValueError, match=message):
            Regularization(augment="probes", augment_label=label)
    with pytest.raises(ValueError, match="give that too"):
        Regularization(augment_label=0.9)


def test_only_what_failed_in_a_report_is_made_and_another_file_is_refused(tmp_path, trained_run):
    probes = tmp_path / "probes.json"
    real = json.loads((trained_run.path / "eval" / "training.json").read_text())
    failed = {"level": "fail", "value": 0.5, "threshold": 0.1, "why": ""}
    real["findings"] = [{**failed, "name": name, "failure": "hacking"} for name in ("echo alone", "other answer")]
    probes.write_text(json.dumps(real))
    config = config_of(tmp_path, toy_pairs(120), regularization=Regularization(augment=str(probes), augment_share=0.5))
    table = prepare(config).table
    assert len(table.rows(COUNTER_EXAMPLES)) >= len(table.rows("train")) - 5, "the first pairs have no other prompt's answer yet"
    with pytest.raises(ValueError, match="give probes, or a report of assay audit probe"):
        prepare(replace(config, regularization=Regularization(augment="filler")))
    with pytest.raises(ValueError, match=r"--augment-share 1.0 must lie between 0 and 1"):
        Regularization(augment="probes", augment_share=1.0)


def test_pairs_that_were_augmented_by_hand_are_split_like_all_others(tmp_path):
    config = config_of(tmp_path, augment(toy_pairs(100), share=0.5))
    prepared = prepare(config)
    assert len(prepared.table.rows(COUNTER_EXAMPLES)) == 0
    assert len(prepared.table) == 200
    sides = [set(prepared.table.prompt[prepared.table.rows(name)]) for name in ("train", "calibration", "test")]
    assert not sides[0] & (sides[1] | sides[2])


# Without what length says


def test_the_log_odds_of_length_by_hand():
    gap, labels = np.array([1.0] * 40), np.array([1.0] * 30 + [0.0] * 10)
    assert length_log_odds(gap, labels, np.ones(40), l2=1e-9) == pytest.approx(math.log(3), abs=1e-6)
    assert length_log_odds(-gap, labels, np.ones(40), l2=1e-9) == pytest.approx(-math.log(3), abs=1e-6)
    assert length_log_odds(gap, np.full(40, 0.5), np.ones(40)) == 0.0
    assert length_log_odds(gap, np.ones(40), np.ones(40)) < 10, "length that tells all stays finite"


def test_the_loss_is_that_of_the_margin_plus_what_length_says(tmp_path):
    pairs = [PreferencePair(prompt=f"egg {i}", chosen="water " * (i + 1), rejected="lazy") for i in range(4)]
    table: PairTable = prepare(config_of(tmp_path, [*pairs, *toy_pairs(60)])).table
    rows = np.arange(4)
    rewards = torch.tensor([[0.3, 0.1], [1.0, -1.0], [0.0, 0.5], [0.2, 0.2]])
    loss, _ = batch_loss(rewards, table, rows, Objective(centring=0.0), 0.7)
    gaps = [math.log1p(6 * (i + 1)) - math.log1p(4) for i in range(4)]
    assert table.length_gap[:4] == pytest.approx(gaps, rel=1e-6)
    shifted = rewards[:, 0] + 0.7 * torch.tensor(gaps)
    expected = bradley_terry(shifted, rewards[:, 1], torch.ones(4)).sum()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_debiasing_is_recorded_and_refused_where_it_has_no_meaning(tmp_path):
    rng = np.random.default_rng(0)
    pairs = [
        replace(pair, chosen=pair.chosen + " the dog" * int(rng.integers(0, 4)), id=str(i)) for i, pair in enumerate(toy_pairs(120))
    ]
    config = config_of(tmp_path, pairs, objective=Objective(debias_length=True))
    prepared = prepare(config)
    rows = prepared.table.rows("train")
    expected = length_log_odds(prepared.table.length_gap[rows], prepared.table.preference[rows], prepared.table.weight[rows])
    assert prepared.settings["length_slope"] == prepared.task.length_slope == expected > 0
    settings = read_description(train(config))["settings"]
    assert settings["length_slope"]["value"] == pytest.approx(expected)
    assert "training labels" in settings["length_slope"]["reason"]
    with pytest.raises(ValueError, match="--debias-length cannot be joined with --loss davidson"):
        Objective(debias_length=True, loss="davidson")
