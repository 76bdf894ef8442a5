"""`assay train --kind generative` on tiny models: a toy verdict is learnt, a stopped run goes on, and what cannot be is said."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import assay
from assay.cli import main
from assay.data.pairs import write_pairs
from assay.records import Completion
from assay.run_files import read_description, read_report
from assay.scorers.generative.golden_verdicts import golden_verdicts, largest_change, read_golden_verdicts
from assay.scorers.generative.own_forms import own_form
from assay.scorers.opened import open_scorer
from assay.training.generative import measure_generative
from assay.training.generative.generative_run import check_flags, fit_settings, room_for
from assay.training.generative.kind_words import GenerativeKind
from assay.training.generative.stage_figures import RIGHT, UNREAD
from assay.training.settings import TrainConfig
from tiny import save_tiny_base, save_tiny_published, toy_pairs

pytest.importorskip("trl")
USUAL = ("--params", "full", "--calibration", "0.1", "--dtype", "float32", "--device", "cpu", "--learning-rate", "5e-3")


def train(folder: Path, kind: str, *flags: str, pairs: int, out: str = "run", critiques: bool = False) -> int:
    base, data = folder / "base", folder / f"pairs-{pairs}.jsonl"
    if not base.is_dir():
        save_tiny_base(base, max_positions=1024)
    said = {"chosen_critique": "It is water.", "rejected_critique": "It is lazy.\nVerdict: No"} if critiques else {}
    write_pairs(data, toy_pairs(pairs), beside=lambda pair: said)
    words = ["train", "--kind", kind, "--data", str(data), "--base", str(base), "--out", str(folder / out), *USUAL, *flags]
    return main(words)


@pytest.fixture(scope="module")
def direct(tmp_path_factory) -> Path:
    """A finished run of single answers without critiques, to be read only."""
    folder = tmp_path_factory.mktemp("direct")
    assert train(folder, "generative:pointwise,direct,judged=24", "--epochs", "2", "--test", "0.2", pairs=120) == 0
    return folder / "run"


@pytest.mark.slow
def test_a_toy_verdict_is_learnt_and_measured_beside_the_baselines(direct):
    report = read_report(direct, "test")
    assert report.metric("accuracy").value >= 0.9
    assert report.metric("Brier").value < 0.1
    assert any("bag-of-words" in metric.name for metric in report.metrics)
    assert any("length" in metric.name for metric in report.metrics)
    stages = read_report(direct, "training")
    table = next(table for table in stages.tables if table.title == "Stages")
    assert [row[0] for row in table.rows] == ["base", "sft"]
    assert stages.metric(RIGHT).value >= 0.9
    assert stages.metric(UNREAD).value == 0.0
    assert stages.metric("tokens read a judgement").value > 50
    assert (direct / "report.html").is_file()
    assert "Verdict" not in json.loads((direct / "config.json").read_text())["config"]["kind"]


@pytest.mark.slow
def test_the_artifact_is_a_plain_language_model_and_scores_as_it_says(direct):
    artifact = direct / "artifact"
    description = read_description(artifact)
    assert description["kind"] == "generative"
    assert description["generative"]["form"] == "assay-pointwise"
    assert description["generative"]["critique"] is False
    assert len(np.load(artifact / "train_prompts.npy")) == description["splits"]["train"]["num_prompts"]
    _, loading = AutoModelForCausalLM.from_pretrained(artifact, output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    own = own_form("pointwise", critique=False)
    saved = read_golden_verdicts(artifact)
    assert len(saved) == 4
    assert largest_change(saved, golden_verdicts(artifact, own)) == 0.0
    scorer = assay.load(direct, dtype="float32", device="cpu")
    answers = [
        Completion(messages="Tell me about egg 900", response=f"It is {word} in the story, 2 of two.") for word in ("water", "lazy")
    ]
    rewards = scorer.score(answers)
    assert rewards.value[0] > 0 > rewards.value[1]
    card = (artifact / "README.md").read_text()
    assert "text-generation" in card
    assert "trained in stages: sft" in card


@pytest.mark.slow
def test_its_certificate_is_sound_until_its_verdicts_change(direct, tmp_path, capsys):
    copy = tmp_path / "artifact"
    shutil.copytree(direct / "artifact", copy)
    assert main(["audit", "verify", str(copy)]) == 0
    golden = json.loads((copy / "golden.json").read_text())
    golden["items"][0]["log_odds"] = 99.0
    (copy / "golden.json").write_text(json.dumps(golden))
    assert main(["audit", "verify", str(copy)]) == 4
    assert "golden verdicts" in capsys.readouterr().out


@pytest.mark.slow
def test_nothing_of_a_run_is_pickled(direct):
    suffixes = {file.suffix for file in direct.rglob("*") if file.is_file()}
    assert not suffixes & {".pt", ".pth", ".bin", ".pkl", ".pickle"}
    assert not any("optimizer" in file.name for file in direct.rglob("*"))


@pytest.mark.slow
def test_a_finished_run_is_not_lost_and_a_stage_that_is_there_is_not_trained_again(direct, tmp_path, capsys):
    folder = tmp_path / "again"
    shutil.copytree(direct.parent, folder)
    kind = "generative:pointwise,direct,judged=24"
    assert train(folder, kind, "--epochs", "2", "--test", "0.2", pairs=120) != 0
    assert "finished run" in capsys.readouterr().err
    shutil.rmtree(folder / "run" / "artifact")
    assert train(folder, kind, "--epochs", "2", "--test", "0.2", "--resume", pairs=120) == 0
    assert "is there already" in capsys.readouterr().err
    digests = [read_description(run / "artifact")["weights_digest"] for run in (direct, folder / "run")]
    assert digests[0] == digests[1]


@pytest.mark.slow
def test_too_few_held_out_verdicts_leave_a_model_uncalibrated_and_are_no_end(direct, monkeypatch, capsys):
    opened = open_scorer(direct, device="cpu", dtype="float32")
    assert not measure_generative._calibrated(opened, judged=4, num_held=50)
    assert "judged=4 and a calibration split of 50 pairs: 20 are needed" in capsys.readouterr().err

    def no_verdicts(*_):
        raise ValueError("3 scored pairs (21 unscored) are too few to calibrate on")

    monkeypatch.setattr(measure_generative, "calibrate", no_verdicts)
    monkeypatch.setattr(type(opened), "own_pairs", lambda *_: [])
    assert not measure_generative._calibrated(opened, judged=24, num_held=24)
    assert "not calibrated 3 scored pairs (21 unscored)" in capsys.readouterr().err


@pytest.mark.slow
def test_sampled_critiques_train_two_more_stages(tmp_path):
    kind = "generative:pointwise,star=4,keep=1,dpo,judged=4,tokens=12"
    assert train(tmp_path, kind, "--epochs", "4", "--test", "0.1", pairs=30, critiques=True) == 0
    description = read_description(tmp_path / "run" / "artifact")
    sampling = description["stages"]["sampling"]
    assert sampling["critiques sampled"] == 4 * sampling["questions"]
    assert sampling["with the right verdict"] > 0
    assert description["stages"]["star"]["replies of the model"] > 0
    stages = read_report(tmp_path / "run", "training")
    gains = [finding for finding in stages.findings if finding.name.startswith("gain of")]
    mixed = sampling["questions right and wrong"]
    assert [one.name for one in gains] == ["gain of sft", "gain of star", *(["gain of dpo"] if mixed else [])]
    assert all("on the same pairs" in one.why for one in gains)


@pytest.mark.slow
def test_without_a_right_critique_training_ends_before_and_says_so(tmp_path, capsys):
    kind = "generative:pointwise,star=2,dpo,judged=4,tokens=8"
    assert train(tmp_path, kind, "--epochs", "1", "--test", "0.2", "--learning-rate", "1e-6", pairs=12, critiques=True) == 0
    assert "no stage star" in capsys.readouterr().err
    description = read_description(tmp_path / "run" / "artifact")
    assert "trained in stages: sft." in description["card"]["lead"]
    assert "No stage star" in description["card"]["lead"]
    report = read_report(tmp_path / "run", "training")
    assert any(one.name == "a stage without material" for one in report.findings)
    assert not (tmp_path / "run" / "checkpoints" / "3-dpo").exists()


def config(**changed) -> TrainConfig:
    return TrainConfig(**({"kind": "generative", "data": ("x.jsonl",), "base": "b", "out": Path("run")} | changed))


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--params", "auto"), "has no head"),
        (("--depth", "1/3"), "--depth"),
        (("--quick", "--params", "head"), "has no head"),
        (("--params", "lora:2:1"), "adapters go into all of its blocks; use full"),
        (("--ensemble", "3"), "--ensemble"),
        (("--track", "tensorboard"), "--track"),
        (("--dropout", "0.1"), "--dropout"),
    ],
)
def test_flags_of_heads_are_refused_by_name(flags, says, tmp_path, capsys):
    words = ["train", "--kind", "generative", "--data", "x.jsonl", "--base", "b", "--out", str(tmp_path / "run"), *flags]
    try:
        status = main(words)
    except SystemExit as exit:
        status = exit.code
    assert status != 0
    assert says is None or says in capsys.readouterr().err


def test_the_usual_flags_pass():
    check_flags(config(params="full", epochs=3, learning_rate=1e-4))


def test_a_reward_model_is_no_start(tmp_path, capsys):
    base = save_tiny_published(tmp_path / "reward")
    write_pairs(tmp_path / "pairs.jsonl", toy_pairs(8))
    words = ["train", "--kind", "generative", "--data", str(tmp_path / "pairs.jsonl"), "--base", str(base)]
    assert main([*words, "--out", str(tmp_path / "run"), *USUAL]) != 0
    assert "cannot write" in capsys.readouterr().err


def test_critiques_that_nobody_has_are_refused(tmp_path, capsys):
    assert train(tmp_path, "generative:critique", "--test", "0.2", pairs=12) != 0
    assert "no row has a critique" in capsys.readouterr().err


def test_settings_follow_from_what_is_trained():
    from assay.models.device import Compute

    compute = Compute(torch.device("cpu"), torch.float32, "")
    found = {params: fit_settings(config(params=params), 3000, 576, compute)[0] for params in ("full", "blocks:4", "lora:8")}
    assert found["full"].learning_rate < found["blocks:4"].learning_rate < found["lora:8"].learning_rate
    assert fit_settings(config(params="full"), 3000, 1152, compute)[0].learning_rate == found["full"].learning_rate / 2
    assert found["full"].batch_size == 16
    assert fit_settings(config(params="full"), 60, 576, compute)[0].batch_size == 4
    given, reasons = fit_settings(config(params="full", epochs=7, batch_pairs=5, learning_rate=1e-5), 60, 576, compute)
    assert (given.epochs, given.batch_size, given.learning_rate) == (7, 5, 1e-5)
    assert reasons == {}


def test_a_reply_has_room_for_what_the_rows_have(tmp_path):
    class Writer:
        def reply(self, text):
            return text.split()

    class Question:
        critique = " ".join(["word"] * 100)

    own = own_form("pairwise")
    assert room_for(GenerativeKind(), own, [Question()], Writer()) == 150 + 24
    assert room_for(GenerativeKind(tokens=40), own, [Question()], Writer()) == 40 + 24
    assert room_for(GenerativeKind(), own_form("pairwise", critique=False), [Question()], Writer()) == 24
