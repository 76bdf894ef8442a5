"""The loop trains what is no pair: a label for each of several tokens of an answer, one to three a row, by a task of 40 lines.

The task is made here and nowhere else; loop, checkpoints, micro-batches and caches take it as it is.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from assay.data.tokens.packing import Group, make_group
from assay.models.backbone import split_backbone
from assay.models.reward_model import RewardModel, new_head
from assay.training.batches import Source, StateSource, TokenSource, outputs_at, row_batches
from assay.training.loop import LoopSettings, best_loss, evals_since_best, fit
from assay.training.states.cache import build_cache, final_states
from assay.training.tasks.task import BatchLoss, Task
from tiny import tiny_backbone

GOOD, BAD = 40, 50  # tokens
SETTINGS = LoopSettings(epochs=4, batch_size=8, learning_rate=3e-3, head_learning_rate=3e-2, batch_tokens=120)
TRAIN, HELDOUT = np.arange(90), np.arange(90, 120)
MODES = ("full", "blocks", "head")


class StepTable:
    """Rows of one prompt and one or two answers; an answer has one to three steps, each ended by GOOD or BAD: its label."""

    fingerprint = "steps"

    def __init__(self, num_rows: int, *, wrong: float = 0.0, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.rows: list[list[tuple[np.ndarray, np.ndarray]]] = []
        labels: list[list[int]] = []
        for _ in range(num_rows):
            prompt, answers, of_row = rng.integers(3, 6, int(rng.integers(2, 9))), [], []
            for _ in range(int(rng.integers(1, 3))):
                marks = rng.integers(0, 2, int(rng.integers(1, 4)))
                steps = [[*rng.integers(60, 62, int(rng.integers(1, 6))), GOOD if mark else BAD] for mark in marks]
                ends = len(prompt) - 1 + np.cumsum([len(step) for step in steps])
                answers.append((np.concatenate([prompt, *steps]).astype(np.int32), ends.astype(np.int32)))
                of_row += [int(mark) ^ int(rng.random() < wrong) for mark in marks]
            self.rows.append(answers)
            labels.append(of_row)
        self.labels = np.concatenate(labels)
        self.num_reward_positions = np.array([len(of_row) for of_row in labels])
        self.first_reward_position = np.cumsum(self.num_reward_positions) - self.num_reward_positions

    def __len__(self) -> int:
        return len(self.rows)

    def groups(self, row: int, *, share: bool) -> list[Group]:
        tokens, reward_positions = zip(*self.rows[row], strict=True)
        if share:
            return [make_group(tokens, reward_positions)]
        return [make_group([one], [read]) for one, read in self.rows[row]]

    def labels_of(self, rows: np.ndarray) -> np.ndarray:
        return np.concatenate(
            [
                self.labels[self.first_reward_position[row] : self.first_reward_position[row] + self.num_reward_positions[row]]
                for row in rows
            ]
        )


@dataclass(frozen=True, kw_only=True)
class StepTask:
    """Cross-entropy of two labels at the end of each step, averaged over the steps of a row."""

    table: StepTable
    source: Source
    columns = ("loss", "accuracy")

    def batches(self, rows: np.ndarray) -> list[Any]:
        return list(self.source.batches(rows))

    def loss(self, model: RewardModel, batch: Any) -> BatchLoss:
        logits_R2 = self.source.outputs(model, batch)
        labels_R = torch.from_numpy(self.table.labels_of(batch.rows))
        share_R = torch.from_numpy(
            np.repeat(1 / self.table.num_reward_positions[batch.rows], self.table.num_reward_positions[batch.rows])
        )
        total = (cross_entropy(logits_R2, labels_R, reduction="none") * share_R).sum()
        right = ((logits_R2.detach().argmax(1) == labels_R) * share_R).sum()
        return BatchLoss(total, torch.stack([total.detach(), right]).float())

    def evaluate(self, model: RewardModel, rows: np.ndarray) -> dict[str, float]:
        logits_R2 = torch.from_numpy(outputs_at(model, self.source, rows))
        labels_R = torch.from_numpy(self.table.labels_of(rows))
        is_right_R = (logits_R2.argmax(1) == labels_R).float()
        return {"loss": float(cross_entropy(logits_R2, labels_R)), "accuracy": float(is_right_R.mean())}


def prepared(table: StepTable, mode: str, folder: Path, *, can_branch: bool = True) -> tuple[RewardModel, Task]:
    backbone = tiny_backbone()
    backbone.can_branch = can_branch
    whole = RewardModel(backbone, new_head(32, 2, seed=0), outputs="labels")
    tokens = TokenSource(table=table, max_tokens=SETTINGS.batch_tokens, layout=backbone.layout)
    settings: dict[str, Any] = {"path": folder / f"{mode}.bin", "identity": mode, "max_tokens": 150, "limit_bytes": 10**9}
    if mode == "full":
        return whole, StepTask(table=table, source=tokens)
    backbone.requires_grad_(False)
    if mode == "head":
        return whole, StepTask(table=table, source=StateSource(table=table, states_RD=final_states(backbone, table, **settings)))
    trunk, top = split_backbone(backbone, 2)
    trunk.can_branch = top.can_branch = can_branch
    top.model.layers.requires_grad_(True)
    cache = build_cache(trunk, table, dtype=torch.float32, **settings)
    return RewardModel(top, whole.head, outputs="labels"), StepTask(table=table, source=replace(tokens, cache=cache))


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_it_learns(mode, tmp_path):
    model, task = prepared(StepTable(120), mode, tmp_path)
    rows = fit(model, task, TRAIN, SETTINGS, heldout_rows=HELDOUT)
    assert rows[-1]["heldout_accuracy"] > 0.9
    assert rows[-1]["heldout_loss"] < 0.6 * rows[0]["heldout_loss"]
    assert rows[-1]["accuracy"] > rows[1]["accuracy"]


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_a_backbone_that_cannot_branch_learns_the_same(mode, tmp_path):
    runs = [
        fit(*prepared(StepTable(120), mode, tmp_path / str(can_branch), can_branch=can_branch), TRAIN, SETTINGS)
        for can_branch in (True, False)
    ]
    np.testing.assert_allclose(*([row["loss"] for row in run] for run in runs), atol=1e-4)


def test_outputs_come_back_row_after_row(tmp_path):
    """As from each sequence alone, by transformers, however the rows were packed and asked for."""
    table, rows = StepTable(30), np.random.default_rng(1).permutation(30)[:17]
    for can_branch in (True, False):
        model, task = prepared(table, "full", tmp_path, can_branch=can_branch)
        expected = []
        with torch.no_grad():
            for tokens, reward_positions in (answer for row in rows for answer in table.rows[row]):
                states = model.backbone.model(input_ids=torch.from_numpy(tokens).long()[None]).last_hidden_state[0]
                expected.append(model.head(states[torch.from_numpy(reward_positions).long()]))
        np.testing.assert_allclose(outputs_at(model, task.source, rows), torch.cat(expected).numpy(), atol=2e-5)
        batches = row_batches(table, rows, 60, layout=task.source.layout)
        assert len(batches) > 2
        assert sorted(np.concatenate([batch.rows for batch in batches])) == sorted(rows)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_a_resumed_run_ends_in_the_same_weights_bit_by_bit(mode, tmp_path):
    """With early stopping on labels of which many are wrong: the best parameters are kept, by the resumed run too."""
    settings = replace(SETTINGS, epochs=12, learning_rate=5e-3, head_learning_rate=5e-2, evals_per_epoch=2, patience=3)
    settings = replace(settings, checkpoint_every=5)
    table = StepTable(120, wrong=0.4)

    def run(name: str, **options: Any) -> tuple[RewardModel, list[dict[str, Any]]]:
        model, task = prepared(table, mode, tmp_path / name)
        rows = fit(model, task, TRAIN, settings, heldout_rows=HELDOUT, run_dir=tmp_path / name, identity="me", **options)
        return model, rows

    def stop(row: dict[str, Any]) -> None:
        if row["step"] == 17:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("stopped", on_row=stop)
    (resumed, resumed_rows), (whole, rows) = run("stopped", resume=True), run("whole")
    assert [{**row, "seconds": 0} for row in resumed_rows] == [{**row, "seconds": 0} for row in rows]
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert rows[-1]["epoch"] < 12
    assert evals_since_best(rows) == 3
    _, task = prepared(table, mode, tmp_path / "whole")
    assert task.evaluate(whole, HELDOUT)["loss"] == best_loss(rows)


def test_a_step_s_loss_is_divided_by_its_rows(tmp_path):
    """By hand: the first step's logged loss is the mean over the rows of the mean over their steps."""
    table = StepTable(120)
    model, task = prepared(table, "full", tmp_path)
    start = copy.deepcopy(model)
    rows = fit(model, task, TRAIN[:8], replace(SETTINGS, epochs=1))
    by_row = [task.evaluate(start, np.array([row]))["loss"] for row in TRAIN[:8]]
    assert rows[0]["loss"] == pytest.approx(np.mean(by_row), rel=1e-5)
