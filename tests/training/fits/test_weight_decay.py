"""The weight decay of a head: strong where the states say nothing of the labels, weak where they say all."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from assay.data.tokens.table import PairTable, build_table
from assay.models.reward_model import RewardModel, new_head
from assay.training.batches import StateSource
from assay.training.fits.weight_decay import DECAYS, NUM_FITS, choose_decay
from assay.training.loop import LoopSettings
from assay.training.tasks.pairs import PairTask
from tiny import tiny_backbone, tiny_renderer, toy_pairs

SETTINGS = LoopSettings(epochs=30, batch_size=8, learning_rate=1e-2, head_learning_rate=1e-2, weight_decay=2.0)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> PairTable:
    return build_table(toy_pairs(120, num_prompts=60), tiny_renderer(), tmp_path_factory.mktemp("decay") / "tokens.arrow")[0]


def task_of(table: PairTable, told: float) -> PairTask:
    """Random states; the better answer's first feature is higher by `told`."""
    states = np.random.default_rng(0).normal(size=(len(table), 2, 32)).astype(np.float32)
    states[:, 0, 0] += told
    return PairTask(table=table, source=StateSource(table=table, states_RD=states.reshape(-1, 32)))


def head_on(table: PairTable) -> RewardModel:
    backbone = tiny_backbone()
    backbone.requires_grad_(False)
    return RewardModel(backbone, new_head(32, seed=0))


@pytest.mark.slow
@pytest.mark.parametrize(("told", "chosen"), [(0.0, DECAYS[-1]), (3.0, DECAYS[0])])
def test_it_is_as_strong_as_the_held_out_loss_asks_for(table, told, chosen):
    model, fits = head_on(table), []
    before = model.head.weight.detach().clone()
    decay, why = choose_decay(model, task_of(table, told), np.arange(len(table)), table.prompt, SETTINGS, on_fit=fits.append)
    assert decay == chosen
    assert "in 3 folds of 120 training rows" in why
    assert torch.equal(model.head.weight, before)
    assert len(fits) == NUM_FITS


@pytest.mark.slow
def test_only_the_rows_it_is_given_are_looked_at(table):
    task = task_of(table, 3.0)
    task.source.states_RD[2 * 60 :] = np.nan
    decay, why = choose_decay(head_on(table), task, np.arange(60), table.prompt[:60], SETTINGS)
    assert decay == DECAYS[0]
    assert "of 60 training rows" in why


def test_too_few_prompts_tell_nothing(table):
    rows = np.flatnonzero(np.isin(table.prompt, np.unique(table.prompt)[:5]))
    decay, why = choose_decay(head_on(table), task_of(table, 0.0), rows, table.prompt[rows], SETTINGS)
    assert decay == 2.0
    assert why == "5 prompts are too few to choose it by"
