"""What was trained becomes one whole model by `finish`: from tokens it gives the rewards of the trained part."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from assay.scorers.local import LocalScorer
from assay.training.loop import fit
from assay.training.prepare import prepare
from tiny import toy_pairs
from toy_runs import config_of


@pytest.mark.slow
@pytest.mark.parametrize("params", ["full", "head", "head:mean", "blocks:1", "lora:2", "lora:2:1"])
def test_a_finished_model_gives_the_rewards_of_what_was_trained(tmp_path, params):
    pairs = toy_pairs(40)
    prepared = prepare(config_of(tmp_path, pairs, params=params, depth="3", learning_rate=3e-3))
    rows = np.arange(20)
    before_P2 = prepared.task.rewards(prepared.model, rows)
    fit(prepared.model, prepared.task, prepared.train_rows, prepared.derived.loop)
    trained_P2 = prepared.task.rewards(prepared.model, rows)
    assert np.abs(trained_P2 - before_P2).max() > 0.01
    answers = [answer for pair in pairs[:20] for answer in pair.completions()]
    for _ in range(2):  # nothing is merged twice
        finished = prepared.trained.finish()
        scored_P2 = LocalScorer(finished, prepared.renderer, identity="x").score(answers).value.reshape(-1, 2)
        np.testing.assert_allclose(scored_P2, trained_P2, atol=1e-4)
    assert not [name for name, _ in finished.named_parameters() if "lora" in name]
    assert finished.backbone.num_layers == (4 if params == "head:mean" else 3)
    assert torch.equal(finished.head.weight[0], prepared.model.head.weight[0, :32])
