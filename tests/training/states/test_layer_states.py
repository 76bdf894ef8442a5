"""What is read of every layer in one forward, and that the chosen layer's states stand in for a second one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from assay.data.tokens.table import PairTable, build_table
from assay.models.backbone import cut_depth
from assay.training.states.cache import final_states
from assay.training.states.layer_states import at_depth, differences, layer_states
from tiny import tiny_model, tiny_renderer, toy_pairs


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> PairTable:
    path = tmp_path_factory.mktemp("layers") / "tokens.arrow"
    return build_table(toy_pairs(60), tiny_renderer(), path)[0]


@pytest.mark.parametrize("kind", ["llama", "gemma"])
def test_each_layer_is_read_as_a_model_cut_there_would_read_it(table, kind):
    """Last token: the states of a cut model, one answer at a time. Mean: over all tokens of prompt and answer."""
    backbone = tiny_model(kind).backbone.eval()
    rows = np.array([3, 11, 40])
    found = every_layer(backbone, table, rows, max_tokens=120)
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
    shared = every_layer(backbone, table, np.arange(20), max_tokens=300)
    backbone.can_branch = False
    np.testing.assert_allclose(every_layer(backbone, table, np.arange(20), max_tokens=300), shared, atol=2e-5)


@pytest.mark.parametrize("with_mean", [False, True])
@pytest.mark.parametrize("kind", ["llama", "qwen"])
def test_states_of_the_chosen_layer_are_those_of_a_forward_of_the_cut_model(table, tmp_path, kind, with_mean):
    """Rows of two looks stand in for their part of the forward; the others are run."""
    backbone = tiny_model(kind).backbone.eval()
    rows = np.random.default_rng(0).permutation(60)[:40]
    parts = [layer_states(backbone, table, part, max_tokens=300) for part in (rows[:25], rows[25:])]
    cut, seen = cut_depth(backbone, 3), list[int]()
    settings = {"max_tokens": 300, "limit_bytes": 10**9, "with_mean": with_mean}
    whole = final_states(cut, table, tmp_path / "a.bin", identity="a", **settings)
    known = at_depth(parts, 3)
    calls = count_forwards(cut)
    found = final_states(cut, table, tmp_path / "b.bin", identity="b", known=known, on_answers=seen.append, **settings)
    np.testing.assert_allclose(found, whole, atol=2e-5)
    assert sum(seen) == 120
    assert sum(calls) == sum(
        len(group.tokens) for row in np.setdiff1d(np.arange(60), rows) for group in table.groups(row, share=True)
    )
    marked = known._replace(last_AD=np.full_like(known.last_AD, np.nan))
    found = final_states(cut, table, tmp_path / "c.bin", identity="c", known=marked, **settings)
    is_known_R = np.isin(np.repeat(np.arange(60), 2), rows)
    assert np.isnan(found[is_known_R]).any(1).all()
    assert np.isfinite(found[~is_known_R]).all()


def every_layer(backbone, table, rows, max_tokens):
    states = layer_states(backbone, table, rows, max_tokens=max_tokens)
    return np.stack([differences([states], layer, backbone) for layer in range(backbone.num_layers)])


def count_forwards(backbone) -> list[int]:
    """Numbers of real tokens that go through the first layer from now on."""
    calls: list[int] = []
    backbone.model.layers[0].register_forward_pre_hook(lambda module, inputs: calls.append(inputs[0].shape[:2].numel()))
    return calls
