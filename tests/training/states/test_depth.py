"""The depth probe: what it fits, when it stops, and the depth it chooses."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from assay.data.tokens.table import PairTable, build_table
from assay.models.device import Compute
from assay.stats.metrics import cluster_folds
from assay.training.states import depth
from assay.training.states.depth import LOOKS, TOLERABLE, decide, fit_linear, held_out_margins, probe_depth, probe_layers
from tiny import tiny_model, tiny_renderer, toy_pairs


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> PairTable:
    path = tmp_path_factory.mktemp("depth") / "tokens.arrow"
    return build_table(toy_pairs(60), tiny_renderer(), path)[0]


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

    decision = chosen(losses(0.7, 0.6, 0.5, 0.4, 0.4, 0.4, 0.4, 0.4, 0.5, 0.6))
    assert decision.depth == 7  # 5, 6 and 7 have neighbours as good as themselves
    assert "after layer 7 of 10" in decision.reason
    assert decision.is_decided
    assert decision.top == 8  # layer 8 lies behind without doubt, and is kept for the average with its neighbours
    assert chosen(losses(0.9, 0.8, 0.7, 0.6, 0.4, 0.4, 0.4, 0.4, 0.4)).depth == 6  # 6 to 8 are as good, 6 of 9 is two thirds
    assert chosen(losses(0.7, 0.3, 0.7, 0.45, 0.44, 0.45, 0.7)).depth == 5  # a lone dip is noise
    assert chosen(losses(0.9, 0.8, 0.7, 0.6, 0.5)).depth == 5
    assert chosen(np.full((9, 50), 0.69)).depth == 6  # nothing to choose
    noise = np.random.default_rng(1).normal(0, 0.2, (9, 400))
    assert chosen(losses(0.7, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.7) + noise).depth in (5, 6, 7)
    assert decide(losses(0.4, 0.4, 0.6, 0.7, 0.8), np.arange(400), num_layers=5, least=4).depth == 4


def test_losses_of_one_prompt_count_as_one():
    """Four hundred pairs in ten prompts that move together are worth ten: what was decided no longer is."""
    rng = np.random.default_rng(0)
    by_prompt = rng.normal(0, 0.3, (6, 10)) + np.array([0.7, 0.7, 0.6, 0.5, 0.5, 0.5])[:, None]
    losses_LP = np.repeat(by_prompt, 40, axis=1)
    assert decide(losses_LP, np.arange(400)).is_decided
    assert not decide(losses_LP, np.repeat(np.arange(10), 40)).is_decided


RISING = np.concatenate([np.linspace(0.69, 0.6, 20), np.linspace(0.6, 0.62, 10)])  # best at two thirds
FALLING = RISING[::-1].copy()  # best at one third
SHALLOW = 0.6 + 0.004 * np.abs(np.arange(30) - 9)  # best at a third, two thirds just beyond what is tolerated


@pytest.mark.parametrize("means_L", [RISING, FALLING, SHALLOW], ids=["rising", "falling", "shallow"])
def test_a_stop_at_any_look_leaves_a_layer_that_is_much_worse_in_at_most_one_sample_of_twenty(means_L):
    """The claim of `decide`, on 300 samples of losses whose differences between layers grow with their distance."""
    rng, missed = np.random.default_rng(0), 0
    smooth_L = np.array([means_L[max(0, i - 1) : i + 2].mean() for i in range(30)])
    for _ in range(300):
        losses_LP = means_L[:, None] + rng.normal(0, 0.08, (30, LOOKS[-1])).cumsum(0)
        top = 30
        for size in LOOKS:
            decision = decide(losses_LP[:top, :size], np.arange(size), num_layers=30)
            top = decision.top
            if decision.is_decided:
                break
        missed += smooth_L[decision.depth - 1] - smooth_L.min() > TOLERABLE
    assert missed / 300 <= 0.05 + 1.64 * np.sqrt(0.05 * 0.95 / 300)


def spied(differences_LRPD: np.ndarray):
    asked: list[tuple[int, int, int]] = []

    def differences_of(start: int, stop: int, top: int) -> np.ndarray:
        asked.append((start, stop, top))
        return differences_LRPD[:top, :, start:stop]

    return asked, differences_of


def test_the_probe_stops_when_it_knows_and_does_not_ask_again_for_layers_that_cannot_win(monkeypatch):
    """Layers 3 to 5 of 8 tell the label, layer 4 best; the others tell nothing."""
    rng = np.random.default_rng(0)
    labels_P = rng.integers(0, 2, 1000).astype(float)
    told = np.array([0, 0, 2, 3, 2, 0, 0, 0])
    differences = rng.normal(0, 1, (8, 2, 1000, 6)).astype(np.float32)
    differences[:, 0, :, 0] += told[:, None] * (2 * labels_P - 1)
    asked, differences_of = spied(differences)
    probe = probe_depth(differences_of, labels_P, np.arange(1000), num_layers=8)
    assert probe.depth == 4
    assert asked == [(0, 125, 8)]
    assert "125 pairs decided it" in probe.reason
    differences[:, 0, :, 0] += (np.array([0, 0, 0.8, 0.9, 0.8, 0, 0, 0]) - told)[:, None] * (2 * labels_P - 1)  # now hardly
    asked, differences_of = spied(differences)
    monkeypatch.setattr(depth, "TOLERABLE", -1.0)  # never decided before all pairs
    probe = probe_depth(differences_of, labels_P, np.arange(1000), num_layers=8)
    assert len(asked) > 1
    assert asked[-1][2] < 8
    assert probe.num_pairs_L[-1] < probe.num_pairs_L[3] == asked[-1][1]
    assert np.isfinite(probe.accuracies_LR).all()
    assert "could not win" in probe.table().note


def test_a_probe_of_a_real_forward_comes_with_its_table_and_the_states_of_the_chosen_layer(table):
    rows = np.random.default_rng(0).permutation(60)
    backbone = tiny_model("llama").backbone.eval()
    compute = Compute(torch.device("cpu"), torch.float32, "")
    probe, known = probe_layers(backbone, table, rows, table.preference[rows], table.prompt[rows], compute)
    assert 1 <= probe.depth <= 4
    assert probe.losses_LR.shape == probe.accuracies_LR.shape == (4, 2)
    shown = probe.table()
    assert [row[0] for row in shown.rows] == [1, 2, 3, 4]
    assert shown.rows[2][1] == pytest.approx(probe.accuracies_LR[2, 0])
    assert "60 pairs" in shown.note
    assert known.rows.tolist() == rows.tolist()
    assert known.last_AD.shape == known.mean_AD.shape == (120, 32)


def test_too_few_prompts_tell_nothing_and_two_thirds_of_the_depth_is_taken():
    _, differences_of = spied(np.random.default_rng(0).normal(size=(9, 2, 40, 3)).astype(np.float32))
    found = probe_depth(differences_of, np.ones(40), np.arange(40) % 4, num_layers=9)
    assert found.depth == 6
    assert np.isnan(found.losses_LR).all()
    assert np.isnan(found.accuracies_LR).all()
    assert "4 prompts are too few" in found.reason


def chosen(losses_LP: np.ndarray):
    return decide(losses_LP, np.arange(losses_LP.shape[1]))
