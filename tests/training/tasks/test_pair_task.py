"""The loss and the figures of pairs, by hand, and what of a configuration reaches the task."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from assay.data.tokens.table import PairTable, build_table
from assay.training.batches import TokenSource
from assay.training.objective import Objective, batch_loss
from assay.training.prepare import prepare
from assay.training.tasks.pairs import PairTask, pair_figures
from tiny import labelled_pairs, tiny_model, tiny_renderer, toy_pairs
from toy_runs import config_of


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> PairTable:
    return build_table(labelled_pairs(80), tiny_renderer(max_length=128), tmp_path_factory.mktemp("table") / "tokens.arrow")[0]


def test_a_step_s_loss_is_the_sum_over_its_pairs_by_their_number(table):
    """By hand, from the rewards alone: weights, margins, soft labels and the centring penalty as the objective says."""
    model = tiny_model("llama")
    rows = np.arange(20, 33)
    source = TokenSource(table=table, max_tokens=300, layout="rows")
    task = PairTask(table=table, source=source, objective=Objective(use_margin=True, centring=0.1))
    chosen, rejected = task.rewards(model, rows).astype(np.float64).T
    pairs = labelled_pairs(80)[20:33]
    expected = 0.0
    for pair, r_chosen, r_rejected in zip(pairs, chosen, rejected, strict=True):
        difference = r_chosen - r_rejected - (pair.margin or 0.0)
        won, lost = math.log1p(math.exp(-difference)), math.log1p(math.exp(difference))
        nll = pair.preference * won + (1 - pair.preference) * lost
        expected += pair.weight * (nll + 0.1 * (r_chosen + r_rejected) ** 2)
    loss = sum(task.loss(model, batch).total.item() for batch in task.batches(rows)) / len(rows)
    assert loss == pytest.approx(expected / 13, abs=1e-5)


def test_margins_enter_the_loss_only_when_they_are_asked_for(table):
    rewards = torch.tensor([[1.0, 0.0]])
    row = np.array([1])  # margin 0.5, weight 0.25, a plain label
    with_margin, _ = batch_loss(rewards, table, row, Objective(use_margin=True, centring=0.0))
    without, _ = batch_loss(rewards, table, row, Objective(centring=0.0))
    assert with_margin.item() == pytest.approx(0.25 * math.log1p(math.exp(-0.5)))
    assert without.item() == pytest.approx(0.25 * math.log1p(math.exp(-1.0)))


def test_a_tie_pulls_the_two_rewards_together(table):
    rewards = torch.tensor([[2.0, -1.0]], requires_grad=True)
    row = np.array([6])  # preference 0.5, no margin
    assert table.preference[6] == 0.5
    assert np.isnan(table.margin[6])
    loss, sums = batch_loss(rewards, table, row, Objective(centring=0.0))
    loss.backward()
    assert rewards.grad is not None
    assert rewards.grad[0, 0] > 0 > rewards.grad[0, 1]
    assert sums[1] == 0  # right pairs: a tie has no right side


def test_pair_figures_by_hand():
    rewards = np.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0], [3.0, 0.0], [0.0, 1.0]], np.float32)
    preference = np.array([1.0, 1.0, 1.0, 0.5, 0.2], np.float32)
    figures = pair_figures(rewards, preference)
    expected = [
        math.log1p(math.exp(-1)),
        math.log1p(math.exp(2)),
        math.log(2),
        0.5 * math.log1p(math.exp(-3)) + 0.5 * math.log1p(math.exp(3)),
        0.2 * math.log1p(math.exp(1)) + 0.8 * math.log1p(math.exp(-1)),
    ]
    assert figures.loss == pytest.approx(sum(expected) / 5, abs=1e-6)
    assert figures.accuracy == 2 / 4  # right, wrong, a tie in score (wrong), a label tie (left out), right with rejected preferred
    assert figures.num_pairs == 5
    assert math.isnan(pair_figures(rewards[3:4], preference[3:4]).accuracy)


def test_the_objective_that_is_asked_for_reaches_the_task(tmp_path):
    objective = Objective(loss="flips", flip_rate=0.2, centring=0.5, use_margin=True)
    prepared = prepare(config_of(tmp_path, labelled_pairs(40), depth="2", objective=objective))
    assert prepared.task.objective == objective
    assert prepared.settings["flip_rate"] == 0.2
    assert prepared.identity != prepare(config_of(tmp_path, labelled_pairs(40), depth="2")).identity
    with pytest.raises(ValueError, match="--use-margin: none of the"):
        prepare(config_of(tmp_path, toy_pairs(40), depth="2", objective=objective))
