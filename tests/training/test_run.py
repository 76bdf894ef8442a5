"""From a file of pairs and a base to a run directory: what lies in it, what it says, and what is refused before any work."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import assay
from assay.commands.train import train_all
from assay.data.pairs import read_pairs, write_pairs
from assay.data.run_data import run_data
from assay.data.split import prompt_hashes, split_of
from assay.errors import DataError, TrainingError
from assay.models.saved.artifact import verify_digest
from assay.models.saved.plain import plain_scores
from assay.run_files import PROMPTS_FILE, prompt_file
from assay.scorers.wrappers.calibrated import Calibrated
from assay.training.prepare import prepare
from assay.training.run import train
from assay.wire import report_from_json
from tiny import save_tiny_base, toy_pairs
from toy_runs import MACHINE, config_of


def test_a_run_directory_holds_everything(trained_run):
    run = trained_run.path
    for name in (
        "config.json",
        "metrics.jsonl",
        "artifact/reward.json",
        "artifact/README.md",
        "artifact/model.safetensors",
        "eval/training.json",
        "eval/test.json",
        "report.html",
    ):
        assert (run / name).stat().st_size > 0, name
    assert len(list((run / "checkpoints").glob("step-*"))) == 2
    assert list(run.rglob("*.tmp")) == []
    assert [path for path in run.iterdir() if path.name.startswith(".")] == []
    assert run_data(run).files == (str(trained_run.data),)
    settings = json.loads((run / "config.json").read_text())["config"]
    assert (settings["params"], settings["out"], settings["base"]) == ("blocks:2", str(run), str(trained_run.base))


def test_the_toy_word_is_learnt_and_the_held_out_figure_says_so(trained_run):
    test = report_from_json((trained_run.path / "eval" / "test.json").read_text())
    assert test.metric("accuracy").value > 0.9
    held_out = [pair for pair in toy_pairs(240) if split_of(pair.prompt, calibration=0.2, test=0.2) == "test"]
    assert test.metric("accuracy").n == len(held_out) > 30
    training = report_from_json((trained_run.path / "eval" / "training.json").read_text())
    assert training.metric("accuracy on calibration pairs").value > 0.9
    assert training.metric("reload check: largest difference").value < 1e-4


def test_it_is_calibrated_on_the_calibration_split(trained_run):
    scorer = assay.load(trained_run.path, dtype="float32")
    assert isinstance(scorer, Calibrated)
    calibration = [pair for pair in toy_pairs(240) if split_of(pair.prompt, calibration=0.2, test=0.2) == "calibration"]
    assert scorer.calibration.num_pairs == len(calibration) > 20
    assert scorer.calibration.split == "calibration"


def test_the_evaluation_uses_the_calibrated_probabilities_and_shows_the_raw_ones_beside(trained_run):
    report = report_from_json((trained_run.path / "eval" / "test.json").read_text())
    assert report.facts["probabilities"] == "calibrated (temperature, fitted on calibration)"
    scorer = assay.load(trained_run.path, dtype="float32")
    pairs = list(run_data(trained_run.path).pairs("test"))
    calibrated = scorer.compare(pairs)
    assert report.metric("Brier").value == pytest.approx(float(np.mean((1 - calibrated) ** 2)), abs=1e-4)
    raw = assay.prefer(scorer.scorer, pairs)
    assert report.metric("Brier, not calibrated").value == pytest.approx(float(np.mean((1 - raw) ** 2)), abs=1e-4)
    assert report.metric("Brier").value != report.metric("Brier, not calibrated").value


def test_the_artifact_is_whole_and_plain_transformers_agrees(trained_run):
    artifact = trained_run.path / "artifact"
    verify_digest(artifact)
    completions = [completion for pair in toy_pairs(4, first=900) for completion in pair.completions()]
    ours = assay.load(artifact, dtype="float32").score(completions).value
    np.testing.assert_allclose(ours, plain_scores(artifact, completions), atol=1e-4)


def test_the_trained_blocks_differ_from_the_base_and_the_frozen_ones_do_not(trained_run):
    base, tuned = load_file(trained_run.base / "model.safetensors"), load_file(trained_run.path / "artifact" / "model.safetensors")
    layers = {name: not torch.equal(base[name].to(value.dtype), value) for name, value in tuned.items() if name in base}
    assert len(layers) > 30
    for name, changed in layers.items():
        assert changed == (".layers.2." in name or ".layers.3." in name or name == "model.norm.weight"), name


def test_the_record_says_what_the_run_stood_on(trained_run):
    record = json.loads((trained_run.path / "artifact" / "reward.json").read_text())
    assert record["base_model"] == trained_run.base.name
    assert record["params"] == "blocks:2"
    assert record["data"][0]["num_pairs"] == 240
    assert sum(split["num_pairs"] for split in record["splits"].values()) == 240
    assert record["versions"]["torch"] == torch.__version__
    train_pairs = [pair for pair in toy_pairs(240) if split_of(pair.prompt, calibration=0.2, test=0.2) == "train"]
    assert record["splits"]["train"]["num_pairs"] == len(train_pairs)
    np.testing.assert_array_equal(prompt_file(trained_run.path / "artifact", PROMPTS_FILE), prompt_hashes(train_pairs))


def test_the_splits_share_no_prompt_and_lose_no_pair(trained_run):
    settings = run_data(trained_run.path)
    parts = {name: list(settings.pairs(name)) for name in ("train", "calibration", "test")}
    assert sum(map(len, parts.values())) == 240
    prompts = [{pair.prompt_key for pair in part} for part in parts.values()]
    assert len(set.union(*prompts)) == sum(map(len, prompts))


def test_the_cache_s_size_is_printed_before_and_a_limit_is_enforced(tmp_path, capsys):
    with pytest.raises(TrainingError, match=r"--cache-limit-gb.*--params full"):
        train(config_of(tmp_path, toy_pairs(60), params="blocks:1", machine=replace(MACHINE, cache_limit_gb=1e-6)))
    assert "MB on disk for" in capsys.readouterr().err
    assert not (tmp_path / "run" / "cache" / "activations.bin").exists()
    assert not (tmp_path / "run" / "artifact").exists()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("params", ["full", "head", "blocks:2"])
def test_a_base_in_bfloat16_trains_in_either_format_and_is_saved_as_it_came(tmp_path, params, dtype):
    config = config_of(tmp_path, toy_pairs(60), params=params, machine=replace(MACHINE, dtype=dtype))
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.bfloat16)
    base.save_pretrained(tmp_path / "base")
    artifact = train(config)
    assert json.loads((artifact / "config.json").read_text())["dtype"] == "bfloat16"
    report = report_from_json((config.out / "eval" / "training.json").read_text())
    assert report.metric("reload check: largest difference").value < 1e-4


@pytest.mark.slow
def test_an_unfinished_run_is_not_trampled_on(tmp_path):
    config = config_of(tmp_path, toy_pairs(60))
    artifact = train(config)
    before = (artifact / "reward.json").read_bytes()
    with pytest.raises(ValueError, match=r"holds a finished run.*--overwrite"):
        train(config)
    assert (artifact / "reward.json").read_bytes() == before
    train(replace(config, machine=replace(MACHINE, overwrite=True)))
    shutil.rmtree(artifact)
    with pytest.raises(ValueError, match="unfinished run: go on with --resume"):
        train(config)
    train(replace(config, machine=replace(MACHINE, resume=True)))
    assert (artifact / "reward.json").is_file()
    with pytest.raises(ValueError, match="give one of the two"):
        replace(config, machine=replace(MACHINE, resume=True, overwrite=True))


@pytest.mark.slow
@pytest.mark.parametrize("params", ["full", "head"])
def test_the_other_modes_run_too(tmp_path, params):
    out = train_all(config_of(tmp_path, toy_pairs(120), params=params, learning_rate=1e-3))
    test = report_from_json((out / "eval" / "test.json").read_text())
    assert 0.5 < test.metric("accuracy").value <= 1
    assert "activations.bin" not in {file.name for file in (out / "cache").iterdir()}


@pytest.mark.slow
def test_a_base_changed_in_place_is_cached_anew(tmp_path):
    """The same path, other weights: states of the old trunk under the new top would train a model that does not exist."""
    config = config_of(tmp_path, toy_pairs(60), params="blocks:2")

    def cached() -> str:
        return hashlib.sha256((config.out / "cache" / "activations.bin").read_bytes()).hexdigest()

    prepare(config)
    first = cached()
    prepare(config)
    assert cached() == first
    shutil.rmtree(tmp_path / "base")
    save_tiny_base(tmp_path / "base", seed=1)
    prepare(config)
    assert cached() != first
    train(config)
    assert not (config.out / "cache" / "activations.bin").exists()  # no step reads it again
    report = report_from_json((config.out / "eval" / "training.json").read_text())
    assert report.metric("reload check: largest difference").value < 1e-4


def test_depth_keeps_the_first_layers_and_saves_a_plain_shallower_model(tmp_path):
    artifact = train(config_of(tmp_path, toy_pairs(60), depth="2"))
    assert json.loads((artifact / "config.json").read_text())["num_hidden_layers"] == 2
    completions = list(toy_pairs(1)[0].completions())
    ours = assay.load(artifact, dtype="float32").score(completions).value
    np.testing.assert_allclose(ours, plain_scores(artifact, completions), atol=1e-4)


def test_evaluation_pairs_that_share_prompts_with_the_training_set_are_refused_by_name(tmp_path):
    pairs = toy_pairs(60)
    seen = [pair for pair in pairs if split_of(pair.prompt, calibration=0.2, test=0.0) == "train"][:2]
    write_pairs(tmp_path / "exam.jsonl", [*toy_pairs(10, first=700), *seen])
    with pytest.raises(DataError) as caught:
        train(config_of(tmp_path, pairs, eval_data=str(tmp_path / "exam.jsonl")))
    message = str(caught.value)
    assert "2 of the 12 prompts" in message
    assert str(tmp_path / "exam.jsonl") in message
    assert str(tmp_path / "toy.jsonl") in message
    assert repr(seen[0].prompt[-1].content) in message
    assert not (tmp_path / "run" / "artifact").exists()


def test_evaluation_pairs_of_their_own_take_the_place_of_the_test_split(tmp_path):
    write_pairs(tmp_path / "exam.jsonl", toy_pairs(31, first=700))
    config = config_of(tmp_path, toy_pairs(60), eval_data=str(tmp_path / "exam.jsonl"))
    report = report_from_json((train_all(config) / "eval" / "exam.json").read_text())
    assert report.metric("accuracy").n == 31
    assert json.loads((config.out / "artifact" / "reward.json").read_text())["splits"]["test"]["num_pairs"] == 0


def test_too_few_pairs_to_calibrate_on_are_said_to_be_and_the_run_still_ends(tmp_path, capsys):
    out = train_all(config_of(tmp_path, toy_pairs(40)))
    printed = " ".join(capsys.readouterr().err.split())
    assert "not calibrated" in printed
    assert "pairs, 20 are needed: raise --calibration" in printed
    assert (out / "report.html").is_file()
    assert not isinstance(assay.load(out, dtype="float32"), Calibrated)


def test_the_reload_check_leaves_out_what_was_cut(tmp_path):
    """Assay keeps the first token of a cut sequence, plain truncation does not: their scores may differ there, and only there."""
    pairs = [replace(pair, chosen=pair.chosen * (20 if i % 2 else 1)) for i, pair in enumerate(toy_pairs(80))]
    artifact = train(config_of(tmp_path, pairs, max_length=64))
    report = report_from_json((artifact.parent / "eval" / "training.json").read_text())
    checked = report.metric("reload check: largest difference")
    assert checked.value < 1e-4
    assert 8 <= checked.n < 16
    record = json.loads((artifact / "reward.json").read_text())
    assert record["max_length"] == 64


def test_without_a_calibration_pair_the_reload_check_takes_training_pairs(tmp_path, capsys):
    pairs = [pair for pair in toy_pairs(60) if split_of(pair.prompt, calibration=0.2, test=0.2) != "calibration"]
    config = config_of(tmp_path, pairs)
    train(config)
    checked = report_from_json((config.out / "eval" / "training.json").read_text()).metric("reload check: largest difference")
    num_trained = sum(split_of(pair.prompt, calibration=0.2, test=0.2) == "train" for pair in pairs)
    assert checked.n == 2 * num_trained > 40
    assert checked.value < 1e-4
    assert "nan" not in capsys.readouterr().err


def test_without_a_whole_answer_the_reload_check_says_why_it_is_left_out(tmp_path, capsys):
    pairs = [replace(pair, chosen=pair.chosen * 20, rejected=pair.rejected * 20) for pair in toy_pairs(60)]
    train(config_of(tmp_path, pairs, max_length=64))
    printed = " ".join(capsys.readouterr().err.split())
    assert "reload check left out: no answer fits into --max-length 64 whole" in printed
    assert "nan" not in printed


def test_a_base_with_broken_weights_is_refused_by_the_name_of_the_weight(tmp_path):
    config = config_of(tmp_path, toy_pairs(40))
    weights = load_file(tmp_path / "base" / "model.safetensors")
    name = next(name for name in weights if "layers.2.mlp.down" in name)
    weights[name][0, 0] = math.nan
    save_file(weights, tmp_path / "base" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"base 'base': a weight tensor is NaN.*layers\.2\.mlp\.down.*another base"):
        train(config)


def test_what_is_set_aside_is_counted(tmp_path, capsys):
    data = tmp_path / "toy.jsonl"
    config = config_of(tmp_path, toy_pairs(60))
    with data.open("a") as file:
        file.write('not json\n{"prompt": "x", "chosen": 3, "rejected": "y"}\n')
    train(config)
    printed = " ".join(capsys.readouterr().err.split())
    assert "62 rows -> 60 pairs" in printed
    assert "2 set aside" in printed
    assert "not JSON (line 61)" in printed
    with pytest.raises(DataError, match="line 61"):
        train(replace(config, machine=replace(MACHINE, strict=True, overwrite=True)))


def test_all_prompts_in_one_place_leave_nothing_to_train_on(tmp_path):
    pair = next(pair for pair in toy_pairs(200) if split_of(pair.prompt, calibration=0.2, test=0.2) == "test")
    with pytest.raises(DataError, match="no pair is in the training split"):
        train(config_of(tmp_path, [pair]))


def test_a_path_with_brackets_is_printed_as_it_is(tmp_path, capsys):
    folder = tmp_path / "a [bold] name"
    folder.mkdir()
    train(config_of(folder, toy_pairs(60)))
    assert "a [bold] name/toy.jsonl: 60 rows" in capsys.readouterr().err.replace("\n", "")


def test_the_pairs_are_read_back_as_they_were_written(trained_run):
    assert list(read_pairs(trained_run.data)) == toy_pairs(240)
    rows = [json.loads(line) for line in (trained_run.path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(len(rows)))
    assert all(math.isfinite(row["loss"]) for row in rows[1:])
