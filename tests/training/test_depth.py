"""The depth probe: what it reads from each layer, what it fits, and the depth it chooses."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from assay.data.table import PairTable, build_table
from assay.models.backbone import cut_depth
from assay.stats.metrics import cluster_folds
from assay.training.depth import choose_depth, fit_linear, held_out_margins, layer_differences, probe_differences
from tiny import tiny_model, tiny_renderer, toy_pairs


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> PairTable:
    path = tmp_path_factory.mktemp("depth") / "tokens.arrow"
    return build_table(toy_pairs(60), tiny_renderer(), path)[0]


@pytest.mark.parametrize("kind", ["llama", "gemma"])
def test_each_layer_is_read_as_a_model_cut_there_would_read_it(table, kind):
    """Last token: the states of a cut model, one answer at a time. Mean: over all tokens of prompt and answer."""
    backbone = tiny_model(kind).backbone.eval()
    rows = np.array([3, 11, 40])
    found = layer_differences(backbone, table, rows, max_tokens=120)
    assert found.shape == (4, 2, 3, backbone.hidden_size)
    for depth in (1, 3, 4):
        cut = cut_depth(backbone, depth)
        for place, row in enumerate(rows):
            pair = table[row]
            states = [
                cut.model(input_ids=torch.from_numpy(tokens.copy()).long()[None], use_cache=False).last_hidden_state[0].detach()
                for tokens in (pair.chosen, pair.rejected)
            ]
            last = states[0][pair.reward_positions[0]] - states[1][pair.reward_positions[1]]
            mean = states[0].mean(0) - states[1].mean(0)
            np.testing.assert_allclose(found[depth - 1, 0, place], last.numpy(), atol=2e-5)
            np.testing.assert_allclose(found[depth - 1, 1, place], mean.numpy(), atol=2e-5)


def test_lone_sequences_give_the_same_states_as_shared_prompts(table):
    backbone = tiny_model("llama").backbone.eval()
    shared = layer_differences(backbone, table, np.arange(20), max_tokens=300)
    backbone.can_branch = False
    np.testing.assert_allclose(layer_differences(backbone, table, np.arange(20), max_tokens=300), shared, atol=2e-5)


def test_the_linear_fit_is_at_a_stationary_point():
    """One feature x = 1 for all, 3 of 4 labels for chosen: sigmoid(w) - 3/4 + penalty * w = 0."""
    weight = float(fit_linear(np.ones((4, 1), np.float32), np.array([1.0, 1.0, 1.0, 0.0]), 0.1, start=np.zeros(1))[0])
    assert 1 / (1 + np.exp(-weight)) - 0.75 + 0.1 * weight == pytest.approx(0, abs=1e-4)


def test_held_out_margins_find_a_direction_and_do_not_look_at_their_own_label():
    rng = np.random.default_rng(0)
    difference = rng.normal(size=(200, 10)).astype(np.float32)
    told = (difference[:, 0] > 0).astype(float)
    folds = cluster_folds(np.arange(200), 5, seed=0)
    assert ((held_out_margins(difference, told, folds) > 0) == (told > 0)).mean() > 0.9
    noise = rng.integers(0, 2, 200).astype(float)
    assert abs(((held_out_margins(difference, noise, folds) > 0) == (noise > 0)).mean() - 0.5) < 0.12


def test_of_the_layers_as_good_as_the_best_the_one_nearest_to_two_thirds_of_the_depth_is_chosen():
    shared = np.random.default_rng(0).normal(0, 0.1, 400)  # what is hard is hard after every layer

    def losses(*means: float) -> np.ndarray:
        return np.array(means)[:, None] + shared

    depth, reason = choose_depth(losses(0.7, 0.6, 0.5, 0.4, 0.4, 0.4, 0.4, 0.4, 0.5, 0.6))
    assert depth == 7  # 5, 6 and 7 have neighbours as good as themselves
    assert "after layer 7 of 10" in reason
    assert choose_depth(losses(0.9, 0.8, 0.7, 0.6, 0.4, 0.4, 0.4, 0.4, 0.4))[0] == 6  # 6, 7 and 8 are as good, 6 of 9 is two thirds
    assert choose_depth(losses(0.7, 0.3, 0.7, 0.45, 0.44, 0.45, 0.7))[0] == 5  # a lone dip is noise
    assert choose_depth(losses(0.9, 0.8, 0.7, 0.6, 0.5))[0] == 5
    assert choose_depth(np.full((9, 50), 0.69))[0] == 6  # nothing to choose
    noisy = losses(0.7, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.7) + np.random.default_rng(1).normal(0, 0.2, (9, 400))
    assert choose_depth(noisy)[0] in (5, 6, 7)


def test_a_probe_of_a_real_forward_comes_with_its_table(table):
    rows = np.arange(60)
    differences_LRPD = layer_differences(tiny_model("llama").backbone.eval(), table, rows, max_tokens=300)
    probe = probe_differences(differences_LRPD, table.preference[rows], table.prompt[rows])
    assert 1 <= probe.depth <= 4
    assert probe.losses_LR.shape == probe.accuracies_LR.shape == (4, 2)
    shown = probe.table()
    assert [row[0] for row in shown.rows] == [1, 2, 3, 4]
    assert shown.rows[2][1] == pytest.approx(probe.accuracies_LR[2, 0])
    assert "60 pairs" in shown.note


def test_too_few_prompts_tell_nothing_and_two_thirds_of_the_depth_is_taken():
    difference_LRPD = np.random.default_rng(0).normal(size=(9, 2, 40, 3)).astype(np.float32)
    found = probe_differences(difference_LRPD, np.ones(40), np.arange(40) % 4)
    assert found.depth == 6
    assert np.isnan(found.losses_LR).all()
    assert np.isnan(found.accuracies_LR).all()
    assert "4 prompts are too few" in found.reason
