"""What a run can be asked beyond the plain one: adapters, a probed depth, an earlier model, regularization, trackers."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel

from assay.data.pairs import write_pairs
from assay.data.split import prompt_hashes, split_of
from assay.errors import DataError
from assay.models.lora import add_lora, merge_lora
from assay.run_files import PROMPTS_FILE, read_description
from assay.scorers.local import load_raw
from assay.training.fits.weight_decay import DECAYS
from assay.training.loop import best_loss, evals_since_best
from assay.training.objective import Objective
from assay.training.prepare import prepare
from assay.training.run import fit_and_save, train
from assay.training.settings import Regularization, TrainConfig
from assay.wire import report_from_json
from tiny import save_tiny_base, tiny_model, toy_pairs
from toy_runs import MACHINE, config_of


def training_report(run: Path):
    return report_from_json((run / "eval" / "training.json").read_text())


def metrics(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


# Adapters


@pytest.mark.slow
def test_a_merged_adapter_is_the_model_that_was_trained(tmp_path):
    config = config_of(tmp_path, toy_pairs(120), params="lora:4", epochs=3, learning_rate=5e-3)
    artifact = train(config)
    weights, base = load_file(artifact / "model.safetensors"), load_file(tmp_path / "base" / "model.safetensors")
    assert not [name for name in weights if "lora" in name]
    assert set(weights) - {"score.weight"} == {name for name in base if name != "lm_head.weight"}
    changed = {name for name in base if name in weights and not torch.equal(weights[name], base[name])}
    assert changed == {name for name in base if "proj" in name}
    for name in changed:
        assert np.linalg.matrix_rank((weights[name] - base[name]).numpy(), tol=1e-5) <= 4
    report = training_report(config.out)
    assert report.metric("reload check: largest difference").value < 1e-4
    assert report.metric("accuracy on calibration pairs").value > 0.9


def test_an_adapter_starts_as_nothing_and_merges_exactly():
    backbone = tiny_model("llama").backbone
    tokens = torch.arange(5, 25)[None]
    before = backbone.model(input_ids=tokens).last_hidden_state
    adapted = add_lora(backbone, 3)
    torch.testing.assert_close(backbone.model(input_ids=tokens).last_hidden_state, before)
    trained = [name for name, parameter in backbone.named_parameters() if parameter.requires_grad]
    assert len(trained) == 2 * 7 * backbone.num_layers
    with torch.no_grad():
        for name, parameter in backbone.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1)
    after = backbone.model(input_ids=tokens).last_hidden_state
    merge_lora(adapted)
    torch.testing.assert_close(backbone.model(input_ids=tokens).last_hidden_state, after, atol=1e-4, rtol=1e-4)
    assert (after - before).abs().max() > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("params", ["lora:2", "head:mean"])
def test_a_killed_run_of_what_is_merged_at_its_end_is_resumed(tmp_path, params):
    config = config_of(tmp_path, toy_pairs(60), params=params, epochs=2, batch_pairs=8)
    whole = load_file(train(replace(config, out=tmp_path / "whole")) / "model.safetensors")
    train(config)
    last = sorted((config.out / "checkpoints").glob("step-*"))[-1]
    (last / "state.json").write_text("cut")
    resumed = load_file(train(replace(config, machine=replace(config.machine, resume=True))) / "model.safetensors")
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())


# Depth


def test_auto_cuts_the_base_at_the_probed_depth_and_reports_it(tmp_path):
    config = config_of(tmp_path, toy_pairs(120), depth="auto")
    artifact = train(config)
    (table,) = [table for table in training_report(config.out).tables if table.title == "where the reward is read best"]
    assert [row[0] for row in table.rows] == [1, 2, 3, 4]
    depth = read_description(artifact)["depth"]
    assert json.loads((artifact / "config.json").read_text())["num_hidden_layers"] == depth
    assert f"after layer {depth} of 4" in table.note
    assert json.loads((config.out / "config.json").read_text())["config"]["depth"] == "auto"


def test_the_probe_never_sees_a_held_out_pair_and_what_it_forwards_is_not_forwarded_again(tmp_path, monkeypatch):
    from assay.training.states import depth as module

    seen: list[int] = []
    real = module.layer_states

    def spy(backbone, table, rows, **settings):
        seen.extend(rows)
        return real(backbone, table, rows, **settings)

    monkeypatch.setattr(module, "layer_states", spy)
    prepared = prepare(config_of(tmp_path, toy_pairs(120), depth="auto"))
    assert 0 < len(seen) == len(set(seen))
    assert set(seen) <= set(prepared.table.rows("train").tolist())


def test_a_base_that_cannot_be_cut_keeps_its_layers_unless_auto_was_asked_for(tmp_path):
    config = config_of(tmp_path, toy_pairs(60))
    shape = GPT2Config(vocab_size=400, n_embd=32, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=2, pad_token_id=2)
    GPT2LMHeadModel(shape).save_pretrained(tmp_path / "base")
    prepared = prepare(config)
    assert prepared.probe is None
    assert prepared.trained.whole.backbone.num_layers == 2
    with pytest.raises(ValueError, match=r"GPT2Model has no plain .layers and .norm to cut at"):
        prepare(replace(config, depth="auto", out=tmp_path / "asked"))


def test_a_run_on_too_few_prompts_to_probe_still_ends_in_a_report(tmp_path):
    config = config_of(tmp_path, toy_pairs(40, num_prompts=6))
    artifact = train(config)
    assert read_description(artifact)["depth"] == 3
    (table,) = [table for table in training_report(config.out).tables if table.title == "where the reward is read best"]
    assert math.isnan(table.rows[0][1])
    assert "too few to probe" in table.note


# The mean over the text beside the last token


@pytest.mark.slow
def test_a_head_of_both_reads_is_saved_as_a_plain_model_that_gives_the_rewards_it_was_trained_with(tmp_path):
    config = config_of(tmp_path, toy_pairs(120), params="head:mean", depth="3", epochs=20, learning_rate=1e-2)
    prepared = prepare(config)
    saved = fit_and_save(prepared)
    assert read_description(saved.path)["depth"] == 4
    assert json.loads((saved.path / "config.json").read_text())["num_hidden_layers"] == 4
    assert saved.checked.value < 1e-4
    report = training_report(config.out)
    assert report.metric("accuracy on calibration pairs").value > 0.9
    weight_D, width = prepared.model.head.weight[0].detach(), prepared.trained.whole.backbone.hidden_size
    assert float(weight_D[width:].abs().max()) > 0.01, "the mean was learnt"
    rows = prepared.table.rows("calibration")
    kept_P2 = prepared.task.rewards(prepared.model, rows)
    pairs = list(config.run_data.pairs("calibration"))
    answers = [completion for pair in pairs for completion in pair.completions()]
    np.testing.assert_allclose(load_raw(saved.path, dtype="float32").score(answers).value.reshape(-1, 2), kept_P2, atol=1e-4)
    layers = [name for name in load_file(saved.path / "model.safetensors") if ".layers.3." in name]
    assert {name.split(".layers.3.")[1] for name in layers} >= {"self_attn.v_proj.weight", "mlp.down_proj.weight"}


def test_a_base_of_another_form_is_refused_before_its_states_are_computed(tmp_path):
    config = config_of(tmp_path, toy_pairs(60), params="head:mean", depth="2")
    save_tiny_base(tmp_path / "gemma", "gemma")
    with pytest.raises(ValueError, match="--params head:mean cannot be given for Gemma3TextModel"):
        prepare(replace(config, base=str(tmp_path / "gemma")))
    assert not (config.out / "cache" / "activations.bin").exists()


@pytest.mark.slow
def test_how_far_a_head_is_held_back_is_found_in_the_training_pairs_unless_it_is_asked_for(tmp_path):
    config = config_of(tmp_path, toy_pairs(120))
    description = read_description(train(config))
    found = description["settings"]["weight_decay"]
    assert found["value"] in DECAYS
    assert f"in 3 folds of {description['splits']['train']['num_pairs']} training rows" in found["reason"]
    asked = prepare(replace(config, regularization=Regularization(weight_decay=0.5), out=tmp_path / "asked"))
    assert asked.derived.loop.weight_decay == 0.5
    assert "weight_decay" not in asked.derived.reasons
    blocks = prepare(replace(config, params="blocks:1", out=tmp_path / "blocks"))
    assert blocks.derived.loop.weight_decay == 0.01


# From an earlier reward model


@pytest.fixture
def earlier(tmp_path) -> TrainConfig:
    config = config_of(tmp_path, toy_pairs(120), params="blocks:2", epochs=2, learning_rate=1e-3)
    train(config)
    return config


def after(earlier: TrainConfig, pairs, **settings) -> TrainConfig:
    data = earlier.out.parent / "new.jsonl"
    write_pairs(data, pairs)
    out = earlier.out.parent / "second"
    return replace(earlier, data=(str(data),), base=None, init_from=earlier.out, out=out, **settings)


def test_training_goes_on_from_the_head_and_weights_of_an_earlier_model(earlier):
    config = after(earlier, toy_pairs(60, first=500), params="head", epochs=1, learning_rate=1e-7)
    weights = load_file(train(config) / "model.safetensors")
    before = load_file(earlier.out / "artifact" / "model.safetensors")
    assert weights.keys() == before.keys()
    torch.testing.assert_close(weights["score.weight"], before["score.weight"], atol=1e-4, rtol=0)
    assert all(torch.equal(weights[name], before[name]) for name in before if name != "score.weight")
    assert metrics(config.out)[0]["heldout_accuracy"] > 0.9  # before the first step
    assert "run" in read_description(config.out / "artifact")["base_note"]


@pytest.mark.slow
def test_a_mean_read_goes_on_from_an_earlier_model_and_from_one_that_reads_the_mean(earlier):
    """It starts with the rewards of the earlier model, each time one plain layer deeper."""
    answers = [completion for pair in toy_pairs(8, first=900) for completion in pair.completions()]
    settings = {"params": "head:mean", "epochs": 1, "learning_rate": 1e-7, "regularization": Regularization(weight_decay=0.0)}
    first = after(earlier, toy_pairs(60, first=500), **settings)
    second = replace(after(earlier, toy_pairs(60, first=700), **settings), init_from=first.out, out=first.out.parent / "third")
    expected = load_raw(earlier.out / "artifact", dtype="float32").score(answers).value
    depth = read_description(earlier.out / "artifact")["depth"]
    for number, config in enumerate((first, second), start=1):
        artifact = train(config)
        assert json.loads((artifact / "config.json").read_text())["num_hidden_layers"] == depth + number
        np.testing.assert_allclose(load_raw(artifact, dtype="float32").score(answers).value, expected, atol=1e-3)
        assert training_report(config.out).metric("reload check: largest difference").value < 1e-4


def test_replay_draws_the_asked_share_from_the_old_training_pairs(earlier):
    new = toy_pairs(100, first=500)
    prepared = prepare(after(earlier, new, regularization=Regularization(replay=0.25)))
    train_prompts = set(prepared.table.prompt[prepared.table.rows("train")].tolist())
    old = set(prompt_hashes(earlier.run_data.pairs("train")).tolist())
    num_new = sum(split_of(pair.prompt, calibration=0.2, test=0.2) == "train" for pair in new)
    assert len(prepared.table.rows("train")) - num_new == round(num_new / 3)
    assert len(train_prompts & old) > 0
    for split in ("calibration", "test"):
        assert not set(prepared.table.prompt[prepared.table.rows(split)].tolist()) & old
    with pytest.raises(ValueError, match="is no run directory"):
        prepare(replace(after(earlier, new, regularization=Regularization(replay=0.25)), init_from=earlier.out / "artifact"))


@pytest.mark.slow
def test_prompts_that_the_earlier_model_was_trained_on_are_never_held_out(earlier):
    known = np.load(earlier.out / "artifact" / PROMPTS_FILE)
    config = after(earlier, toy_pairs(160))  # the first 120 prompts are those of the earlier run
    prepared = prepare(config)
    for split in ("calibration", "test"):
        assert len(prepared.table.rows(split)) > 0
        assert not np.isin(prepared.table.prompt[prepared.table.rows(split)], known).any()
    again = [pair for split in ("calibration", "test") for pair in config.run_data.pairs(split)]
    assert not np.isin(prompt_hashes(again), known).any()
    train(config)
    assert np.isin(known, np.load(config.out / "artifact" / PROMPTS_FILE)).all()
    with pytest.raises(DataError, match="are also in"):
        prepare(replace(after(earlier, toy_pairs(60, first=500)), eval_data=earlier.data[0]))
    with pytest.raises(ValueError, match="neither an artifact"):
        prepare(replace(config, init_from=earlier.out.parent))


# Regularization


@pytest.mark.slow
def test_early_stopping_keeps_the_best_parameters(tmp_path):
    """Half of the labels are random: the held-out loss rises after a few looks, and what is saved is the model of the best."""
    rng = np.random.default_rng(0)
    pairs = [replace(pair, preference=float(rng.integers(2))) for pair in toy_pairs(150)]
    regularization = Regularization(early_stopping=3)
    config = config_of(tmp_path, pairs, params="full", epochs=20, learning_rate=3e-3, regularization=regularization)
    train(config)
    rows = metrics(config.out)
    looks = [row for row in rows if "heldout_loss" in row and row["step"]]
    assert rows[-1]["epoch"] < 20
    assert evals_since_best(rows) == 3
    assert looks[-4]["heldout_loss"] == best_loss(rows) < looks[-1]["heldout_loss"]
    held = training_report(config.out).metric("accuracy on calibration pairs")
    assert held.value == pytest.approx(looks[-4]["heldout_accuracy"], abs=1e-6)


def test_evals_since_best():
    rows = [{"step": 0, "heldout_loss": 0.1}] + [
        {"step": i, "heldout_loss": loss} for i, loss in enumerate((0.7, 0.5, 0.6, 0.6), 1)
    ]
    assert (best_loss(rows), evals_since_best(rows)) == (0.5, 2)
    assert (best_loss(rows[:1]), evals_since_best(rows[:1])) == (math.inf, 0)


def test_dropout_acts_in_training_only(tmp_path):
    config = config_of(tmp_path, toy_pairs(60), params="blocks:2", regularization=Regularization(dropout=0.5))
    prepared = prepare(config)
    rows = np.arange(10)
    (batch, *_) = prepared.task.batches(rows)

    def score(training: bool) -> torch.Tensor:
        prepared.model.train(training)
        return prepared.task.source.outputs(prepared.model, batch).detach()

    assert torch.equal(score(False), score(False))
    assert not torch.equal(score(True), score(True))
    plain = prepare(replace(config, regularization=Regularization(), out=tmp_path / "plain"))
    plain.model.eval()
    torch.testing.assert_close(plain.task.source.outputs(plain.model, batch).detach(), score(False))


# The rest


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["flips", "rdpo", "rao-kupper", "davidson"])
def test_every_objective_learns_the_toy_word(tmp_path, loss):
    objective = Objective(loss=loss, flip_rate=0.1 if loss in ("flips", "rdpo") else 0.0)
    config = config_of(tmp_path, toy_pairs(120), params="blocks:2", epochs=3, learning_rate=1e-3, objective=objective)
    assert read_description(train(config))["objective"] == loss
    assert training_report(config.out).metric("accuracy on calibration pairs").value > 0.9


@pytest.mark.slow
def test_gradient_checkpointing_changes_no_number(tmp_path):
    for params in ("full", "blocks:2"):
        found = []
        for checkpointing in (False, True):
            machine = replace(MACHINE, gradient_checkpointing=checkpointing)
            config = config_of(tmp_path, toy_pairs(40), params=params, machine=machine, out=tmp_path / f"{params}-{checkpointing}")
            prepared = prepare(config)
            assert prepared.trained.whole.backbone.model.is_gradient_checkpointing is checkpointing
            train(replace(config, out=tmp_path / f"{params}-{checkpointing}-trained"))
            found.append(load_file(tmp_path / f"{params}-{checkpointing}-trained" / "artifact" / "model.safetensors"))
        for name, value in found[0].items():
            torch.testing.assert_close(found[1][name], value, atol=1e-6, rtol=1e-5)


def test_trackers_are_given_the_rows_of_the_log(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = config_of(tmp_path, toy_pairs(60), machine=replace(MACHINE, track=("tensorboard",)))
    train(config)
    folders = {str(path.parent) for path in config.out.rglob("events.out.tfevents*")}
    found = [EventAccumulator(folder).Reload() for folder in sorted(folders)]
    (events,) = [events for events in found if "loss" in events.Tags()["scalars"]]
    logged = {event.step: event.value for event in events.Scalars("loss")}
    assert logged == pytest.approx({row["step"]: row["loss"] for row in metrics(config.out) if row["step"]}, rel=1e-6)


def test_a_tracker_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"--track wandb: it is not installed \(pip install wandb\)"):
        train(config_of(tmp_path, toy_pairs(60), machine=replace(MACHINE, track=("wandb",))))
