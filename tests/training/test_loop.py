"""The loop's laws: what is cached, how pairs are packed and how they are cut into micro-batches changes no loss and no gradient."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from assay.data.tokens.table import PairTable, build_table
from assay.errors import CheckpointError, TrainingError
from assay.models.backbone import split_backbone
from assay.models.reward_model import RewardModel, new_head
from assay.training.batches import Source, StateSource, TokenSource
from assay.training.checkpoint import latest_checkpoint
from assay.training.loop import LoopSettings, fit, schedule, step_rows
from assay.training.states.cache import build_cache, final_states
from assay.training.tasks.pairs import PairTask
from tiny import labelled_pairs, tiny_model, tiny_renderer, toy_pairs

SETTINGS = LoopSettings(epochs=2, batch_size=8, learning_rate=1e-3, head_learning_rate=1e-3, batch_tokens=300)
TRAIN, HELDOUT = np.arange(0, 60), np.arange(60, 80)


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> PairTable:
    return build_table(labelled_pairs(80), tiny_renderer(max_length=128), tmp_path_factory.mktemp("table") / "tokens.arrow")[0]


@pytest.fixture(scope="module")
def toy_table(tmp_path_factory) -> PairTable:
    return build_table(toy_pairs(200), tiny_renderer(), tmp_path_factory.mktemp("toy") / "tokens.arrow")[0]


def tokens(table: PairTable, *, max_tokens: int = 300, share: bool = True) -> PairTask:
    source = TokenSource(table=table, max_tokens=max_tokens, layout="rows" if share else "plain")
    return PairTask(table=table, source=source)


def on_states(table: PairTable, states_RD: np.ndarray) -> PairTask:
    return PairTask(table=table, source=StateSource(table=table, states_RD=states_RD))


def top_blocks(model: RewardModel, table: PairTable, num_blocks: int, cache: Path | None) -> tuple[RewardModel, PairTask]:
    """The model of blocks:K, over a cached trunk or, without a cache, whole with everything below frozen."""
    model.backbone.requires_grad_(False)
    trunk, top = split_backbone(model.backbone, num_blocks)
    top.model.layers.requires_grad_(True)
    top.model.norm.requires_grad_(True)
    share = model.backbone.can_branch
    trunk.can_branch = top.can_branch = share
    if cache is None:
        return model, tokens(table, share=share)
    task = tokens(table, share=share)
    task.source.cache = build_cache(trunk, table, cache, identity="", max_tokens=300, dtype=torch.float32, limit_bytes=10**9)
    return RewardModel(top, model.head), task


def losses(rows: list[dict]) -> np.ndarray:
    return np.array([row["loss"] for row in rows if "loss" in row])


def gradient(model: RewardModel, task: PairTask, rows: np.ndarray) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    total = 0.0
    for batch in task.batches(rows):
        loss, _ = task.loss(model, batch)
        (loss / len(rows)).backward()
        total += loss.item() / len(rows)
    return total, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


# What must not change the numbers


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "qwen", "gemma"])
@pytest.mark.parametrize("num_blocks", [1, 3])
def test_cached_training_equals_uncached_training_of_the_same_blocks(table, tmp_path, kind, num_blocks):
    model = tiny_model(kind)
    twin = copy.deepcopy(model)
    cached = fit(*top_blocks(model, table, num_blocks, tmp_path / "a.bin"), TRAIN, SETTINGS, heldout_rows=HELDOUT)
    uncached = fit(*top_blocks(twin, table, num_blocks, None), TRAIN, SETTINGS, heldout_rows=HELDOUT)
    np.testing.assert_allclose(losses(cached), losses(uncached), atol=1e-5, rtol=0)
    assert cached[-1]["heldout_loss"] == pytest.approx(uncached[-1]["heldout_loss"], abs=1e-5)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, twin.state_dict()[name], atol=1e-4, rtol=1e-3)


def test_epoch_one_already_trains_from_the_cache(table, tmp_path):
    model = tiny_model("llama")
    top, task = top_blocks(model, table, 2, tmp_path / "a.bin")
    calls: list[int] = []
    for layer in model.backbone.model.layers[:2]:
        layer.register_forward_hook(lambda *_: calls.append(1))
    rows = fit(top, task, TRAIN, replace(SETTINGS, epochs=1))
    assert len(losses(rows)) == 8
    assert calls == []


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["full", "cached"])
def test_a_backbone_that_cannot_branch_trains_with_the_same_losses(table, tmp_path, mode):
    runs = []
    for can_branch in (True, False):
        model = tiny_model("llama")
        model.backbone.can_branch = can_branch
        if mode == "cached":
            model, task = top_blocks(model, table, 2, tmp_path / f"{can_branch}.bin")
        else:
            task = tokens(table, share=can_branch)
        runs.append(losses(fit(model, task, TRAIN, SETTINGS)))
    np.testing.assert_allclose(runs[0], runs[1], atol=1e-5, rtol=0)


@pytest.mark.slow
def test_a_head_over_stored_states_trains_as_over_the_frozen_backbone(table, tmp_path):
    model = tiny_model("llama")
    model.backbone.requires_grad_(False)
    twin = copy.deepcopy(model)
    states = final_states(model.backbone, table, tmp_path / "s.bin", identity="", max_tokens=300, limit_bytes=10**9)
    stored = fit(model, on_states(table, states), TRAIN, SETTINGS)
    direct = fit(twin, tokens(table), TRAIN, SETTINGS)
    np.testing.assert_allclose(losses(stored), losses(direct), atol=1e-5, rtol=0)


@pytest.mark.parametrize("share", [True, False])
def test_the_micro_batch_budget_changes_neither_loss_nor_gradient(table, share):
    model = tiny_model("llama")
    rows = np.random.default_rng(0).permutation(80)[:16]
    one, whole = gradient(model, tokens(table, max_tokens=10**6, share=share), rows)
    task = tokens(table, max_tokens=120, share=share)
    assert len(task.batches(rows)) > 8
    many, parts = gradient(model, task, rows)
    assert many == pytest.approx(one, abs=1e-6)
    assert whole.keys() == parts.keys()
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], atol=1e-5, rtol=1e-4)


# What is trained, and in which numbers


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["full", "head", "blocks"])
def test_frozen_parameters_are_bitwise_unchanged_and_trained_ones_change(table, tmp_path, mode):
    whole = tiny_model("llama")
    before = copy.deepcopy(whole.state_dict())
    if mode == "full":
        model, task = whole, tokens(table)
    elif mode == "blocks":
        model, task = top_blocks(whole, table, 2, tmp_path / "a.bin")
    else:
        whole.backbone.requires_grad_(False)
        states = final_states(whole.backbone, table, tmp_path / "s.bin", identity="", max_tokens=300, limit_bytes=10**9)
        model, task = whole, on_states(table, states)
    fit(model, task, TRAIN, SETTINGS)
    changed = {name for name, value in whole.state_dict().items() if not torch.equal(value, before[name])}
    trained = {
        "full": set(before),
        "head": {"head.weight"},
        "blocks": {name for name in before if ".layers.2." in name or ".layers.3." in name or "model.norm" in name}
        | {"head.weight"},
    }
    assert changed == trained[mode]


def test_the_head_starts_at_one_over_the_root_of_hidden_plus_one():
    for hidden_size in (256, 4096):
        weight = new_head(hidden_size, 8, seed=3).weight
        assert weight.dtype == torch.float32
        assert weight.std().item() == pytest.approx(1 / math.sqrt(hidden_size + 1), rel=0.1)
        assert abs(weight.mean().item()) < 3 / math.sqrt(hidden_size + 1) / math.sqrt(8 * hidden_size)
    assert torch.equal(new_head(64, seed=1).weight, new_head(64, seed=1).weight)
    assert not torch.equal(new_head(64, seed=1).weight, new_head(64, seed=2).weight)


@pytest.mark.slow
def test_head_and_loss_are_float32_when_the_backbone_computes_in_bfloat16(table, tmp_path):
    whole = tiny_model("llama")
    model = RewardModel(whole.backbone, whole.head, compute_dtype=torch.bfloat16)
    seen: list[torch.dtype] = []
    model.backbone.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    inside: list[torch.dtype] = []
    model.backbone.model.layers[0].mlp.register_forward_hook(lambda module, args, output: inside.append(output.dtype))
    task = tokens(table)
    (batch, *_) = task.batches(np.arange(8))
    rewards = task.source.outputs(model, batch)
    loss, sums = task.loss(model, batch)
    assert set(inside) == {torch.bfloat16}
    assert seen
    assert rewards.dtype == loss.dtype == sums.dtype == model.head.weight.dtype == torch.float32
    fine = rewards.detach().flatten()
    assert not torch.equal(fine, fine.bfloat16().float())  # not rounded to the steps of bfloat16
    rows = fit(model, task, TRAIN, replace(SETTINGS, epochs=1))
    assert all(math.isfinite(row["loss"]) for row in rows)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "kind"), [("full", "llama"), ("blocks", "llama"), ("blocks", "gemma")])
def test_one_word_is_learnt_quickly(toy_table, tmp_path, mode, kind):
    model = tiny_model(kind)
    if mode == "full":
        task = tokens(toy_table, max_tokens=1024)
    else:
        model, task = top_blocks(model, toy_table, 2, tmp_path / "a.bin")
    settings = LoopSettings(epochs=3, batch_size=16, learning_rate=1e-3, head_learning_rate=1e-2)
    rows = fit(model, task, np.arange(150), settings, heldout_rows=np.arange(150, 200))
    assert rows[-1]["heldout_accuracy"] > 0.9
    assert rows[-1]["heldout_loss"] < rows[0]["heldout_loss"]


# Determinism and the plan of a run


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights_bit_by_bit_and_another_seed_others(table):
    def weights(seed: int) -> dict[str, torch.Tensor]:
        model = tiny_model("llama")
        fit(model, tokens(table), TRAIN, replace(SETTINGS, seed=seed))
        return model.state_dict()

    first, second, other = weights(0), weights(0), weights(1)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_step_rows_are_a_fresh_permutation_each_epoch():
    train_rows = np.arange(100, 150)
    settings = replace(SETTINGS, batch_size=16)
    steps = [step_rows(train_rows, settings, step) for step in range(8)]
    assert [len(rows) for rows in steps] == [16, 16, 16, 2] * 2
    epochs = np.concatenate(steps[:4]), np.concatenate(steps[4:])
    for epoch in epochs:
        assert sorted(epoch) == list(train_rows)
    assert not np.array_equal(*epochs)
    assert not np.array_equal(epochs[0], train_rows)
    assert np.array_equal(step_rows(train_rows, settings, 5), steps[5])
    assert not np.array_equal(step_rows(train_rows, replace(settings, seed=1), 0), steps[0])


def test_the_schedule_by_hand():
    # 100 steps, 10 of them warm: 0.1, 0.2, ... 1.0, then a half cosine over the other 90
    assert [schedule(step, 100, 0.1) for step in (0, 4, 9, 10)] == pytest.approx([0.1, 0.5, 1.0, 1.0])
    assert schedule(55, 100, 0.1) == pytest.approx(0.5)
    assert schedule(40, 100, 0.1) == pytest.approx(0.75)  # a third of the way: (1 + cos 60 degrees) / 2
    assert schedule(99, 100, 0.1) == pytest.approx(0.5 * (1 + math.cos(math.pi * 89 / 90)))
    assert schedule(0, 1, 0.05) == 1.0
    assert schedule(0, 10, 0.0) == 1.0


def test_the_learning_rates_follow_the_schedule_and_reach_the_parameters(table):
    """With the backbone's rate at a hundredth, AdamW's first step moves the head a hundred times as far."""
    model = tiny_model("llama")
    before = copy.deepcopy(model.state_dict())
    settings = replace(SETTINGS, epochs=1, batch_size=60, learning_rate=1e-5, head_learning_rate=1e-3, weight_decay=0.0)
    rows = fit(model, tokens(table), TRAIN, settings)
    assert len(rows) == 1
    moved = {name: (value - before[name]).abs().max().item() for name, value in model.state_dict().items()}
    assert moved["head.weight"] == pytest.approx(1e-3, rel=0.01)
    assert moved["backbone.model.layers.3.mlp.up_proj.weight"] == pytest.approx(1e-5, rel=0.05)


# The log, and what stops a run


@pytest.mark.slow
def test_metrics_jsonl_has_one_row_a_logged_step_in_rising_order(table, tmp_path):
    settings = replace(SETTINGS, log_every=3, checkpoint_every=1000)
    rows = fit(tiny_model("llama"), tokens(table), TRAIN, settings, heldout_rows=HELDOUT, run_dir=tmp_path)
    written = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert written == rows
    assert [row["step"] for row in rows] == [0, 3, 6, 8, 9, 12, 15, 16]  # every third, and each epoch's end
    assert [row["step"] for row in rows if "heldout_loss" in row] == [0, 8, 16]
    assert [row["epoch"] for row in rows if "heldout_loss" in row] == [0.0, 1.0, 2.0]
    for row in rows[1:]:
        assert 0 <= row["accuracy"] <= 1
        assert row["grad_norm"] > 0
        assert row["seconds"] > 0
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-00000008", "step-00000016"]


def test_an_empty_held_out_set_is_left_out(table):
    rows = fit(tiny_model("llama"), tokens(table), TRAIN, replace(SETTINGS, epochs=1), heldout_rows=np.array([], np.int64))
    assert len(rows) == 8
    assert not any("heldout_loss" in row for row in rows)


class Poisoned:
    """A source whose outputs are not finite from one batch on."""

    def __init__(self, source: Source, good_batches: int) -> None:
        self.source, self.left, self.table = source, good_batches, source.table

    def batches(self, rows):
        return self.source.batches(rows)

    def outputs(self, model, batch):
        self.left -= 1
        outputs = self.source.outputs(model, batch)
        return outputs if self.left >= 0 else outputs * math.nan


def poisoned(task: PairTask, good_batches: int) -> PairTask:
    return replace(task, source=Poisoned(task.source, good_batches))


@pytest.mark.parametrize("log_every", [1, 3])
def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_last_good_checkpoint(table, tmp_path, log_every):
    settings = replace(SETTINGS, checkpoint_every=2, log_every=log_every)
    task = poisoned(tokens(table, max_tokens=10**6), good_batches=5)
    with pytest.raises(TrainingError, match=r"loss nan.* at step 6; the last good checkpoint is .*step-00000004.*--learning-rate"):
        fit(tiny_model("llama"), task, TRAIN, settings, run_dir=tmp_path)
    resumed = latest_checkpoint(tmp_path / "checkpoints")
    assert resumed is not None
    assert resumed.step == 4
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-00000002", "step-00000004"]
    written = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert written
    assert all(math.isfinite(row["loss"]) for row in written)


def test_a_loss_that_is_not_finite_before_any_checkpoint(table):
    with pytest.raises(TrainingError, match=r"at step 1, before the first update: .*--dtype float32"):
        fit(tiny_model("llama"), poisoned(tokens(table), 0), TRAIN, SETTINGS)


# Resuming, in one process (tests/train/test_resume.py kills one)


def stop_at(step: int):
    def on_row(row):
        if row["step"] == step:
            raise KeyboardInterrupt

    return on_row


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["full", "cached"])
def test_a_resumed_run_equals_the_uninterrupted_one_bit_by_bit(table, tmp_path, mode):
    def run(name: str, **options) -> tuple[RewardModel, list[dict]]:
        model = tiny_model("llama")
        if mode == "cached":
            model, task = top_blocks(model, table, 2, tmp_path / name / "a.bin")
        else:
            task = tokens(table)
        settings = replace(SETTINGS, checkpoint_every=3, log_every=2)
        rows = fit(model, task, TRAIN, settings, heldout_rows=HELDOUT, run_dir=tmp_path / name, identity="me", **options)
        return model, rows

    with pytest.raises(KeyboardInterrupt):
        run("stopped", on_row=stop_at(10))
    resumed, resumed_rows = run("stopped", resume=True)
    whole, whole_rows = run("whole")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    without_time = [[{**row, "seconds": 0} for row in rows] for rows in (resumed_rows, whole_rows)]
    assert without_time[0] == without_time[1]
    written = [json.loads(line)["step"] for line in (tmp_path / "stopped" / "metrics.jsonl").read_text().splitlines()]
    assert written == sorted(set(written)) == [row["step"] for row in whole_rows]


def test_resuming_another_run_is_refused(table, tmp_path):
    fit(tiny_model("llama"), tokens(table), TRAIN, replace(SETTINGS, epochs=1), run_dir=tmp_path, identity="one")
    before = (tmp_path / "metrics.jsonl").read_text()
    with pytest.raises(CheckpointError, match="other data, base or settings"):
        fit(tiny_model("llama"), tokens(table), TRAIN, SETTINGS, run_dir=tmp_path, identity="two", resume=True)
    assert (tmp_path / "metrics.jsonl").read_text() == before


@pytest.mark.slow
def test_resuming_without_a_checkpoint_starts_from_the_beginning(table, tmp_path):
    rows = fit(tiny_model("llama"), tokens(table), TRAIN, SETTINGS, run_dir=tmp_path, resume=True)
    assert [row["step"] for row in rows] == list(range(1, 17))


@pytest.mark.slow
def test_a_fresh_run_never_falls_back_to_the_checkpoints_of_an_earlier_one(table, tmp_path):
    """An earlier run's checkpoint of a higher step would push the new ones out, and be taken up by the next --resume."""
    fit(tiny_model("llama"), tokens(table), TRAIN, SETTINGS, run_dir=tmp_path, identity="long")
    short = replace(SETTINGS, epochs=1, checkpoint_every=3)
    fit(tiny_model("llama"), tokens(table), TRAIN, short, run_dir=tmp_path, identity="short")
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-00000006", "step-00000008"]
    resumed = latest_checkpoint(tmp_path / "checkpoints")
    assert resumed is not None
    assert resumed.state["identity"] == "short"


@pytest.mark.slow
def test_resuming_a_finished_run_changes_nothing(table, tmp_path):
    model = tiny_model("llama")
    rows = fit(model, tokens(table), TRAIN, SETTINGS, run_dir=tmp_path, identity="me")
    again = tiny_model("llama", seed=5)
    assert fit(again, tokens(table), TRAIN, SETTINGS, run_dir=tmp_path, identity="me", resume=True) == rows
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
