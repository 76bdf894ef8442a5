"""The layer that reads the mean: what it computes, that the checkpoint stays plain, and where it is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from assay.data.packing import make_group, pack
from assay.models.backbone import load_backbone, split_backbone
from assay.models.mean_layer import add_mean_layer
from tiny import tiny_backbone

PROMPT, ANSWERS = [3, 9, 27, 11], ([5, 6, 7, 2], [8, 2])


def shared_batch():
    texts = [np.array([*PROMPT, *answer], np.int32) for answer in ANSWERS]
    return pack([make_group(texts, [np.array([len(text) - 1]) for text in texts])], 64)[0]


def weights(seed: int) -> torch.Tensor:
    return torch.randn(32, generator=torch.Generator().manual_seed(seed)) / 6


@torch.no_grad()
def by_hand(backbone, last_D, mean_D, size) -> list[float]:
    """Rewards of the two answers from the states of each text by itself, by the formula."""
    rewards = []
    for answer in ANSWERS:
        raw: list[torch.Tensor] = []
        hook = backbone.model.norm.register_forward_pre_hook(lambda module, inputs, raw=raw: raw.append(inputs[0][0]))
        normed_TD = backbone.model(input_ids=torch.tensor([[*PROMPT, *answer]])).last_hidden_state[0]
        hook.remove()
        read_D = last_D * backbone.model.norm.weight
        added_D = size * (normed_TD.mean(0) @ mean_D) * read_D / (read_D @ read_D)
        rewards.append(float(backbone.model.norm(raw[0][-1] + added_D) @ last_D))
    return rewards


@pytest.mark.parametrize("kind", ["llama", "qwen"])
def test_a_head_behind_it_reads_last_and_mean(kind, tmp_path):
    backbone, last_D, mean_D = tiny_backbone(kind), weights(0), weights(1)
    torch.nn.init.normal_(backbone.model.norm.weight, 1.0, 0.1)
    expected = by_hand(backbone, last_D, mean_D, 0.5)
    deeper = add_mean_layer(backbone, last_D, mean_D, 0.5)
    assert (backbone.num_layers, deeper.num_layers) == (4, 5)
    batch = shared_batch()
    deeper.model.save_pretrained(tmp_path)
    with torch.no_grad():
        assert (deeper.read(batch) @ last_D).tolist() == pytest.approx(expected, abs=1e-4)
        reloaded = load_backbone(tmp_path)
        assert (reloaded.read(batch) @ last_D).tolist() == pytest.approx(expected, abs=1e-4)
        without = (backbone.read(batch) @ last_D).tolist()
    assert abs(expected[0] - without[0]) > 0.01, "the mean says something here"


def test_with_states_of_one_size_the_reward_is_the_sum_of_both_reads():
    backbone, last_D, mean_D = tiny_backbone(), weights(0), weights(1) / 100
    text = torch.tensor([[*PROMPT, *ANSWERS[0]]])
    raw: list[torch.Tensor] = []
    backbone.model.norm.register_forward_pre_hook(lambda module, inputs: raw.append(inputs[0]))
    with torch.no_grad():
        states_TD = backbone.model(input_ids=text).last_hidden_state[0]
        size = float(raw[0][0, -1].square().mean().sqrt())
        expected = float(states_TD[-1] @ last_D + states_TD.mean(0) @ mean_D)
        found = float(add_mean_layer(backbone, last_D, mean_D, size).model(input_ids=text).last_hidden_state[0, -1] @ last_D)
        share = float(states_TD.mean(0) @ mean_D)
    # to first order the norm shrinks what is read along the added direction by 1 - last^2 / (D |read|^2)
    assert found - expected + share == pytest.approx(
        share * (1 - (expected - share) ** 2 / (32 * float(last_D @ last_D))), rel=0.05
    )


def test_it_goes_into_the_trained_top():
    deeper = add_mean_layer(tiny_backbone(), weights(0), weights(1), 1.0)
    trunk, top = split_backbone(deeper, 1)
    assert (trunk.num_layers, top.num_layers) == (4, 1)
    assert float(top.model.layers[0].self_attn.q_proj.weight.abs().max()) == 0.0


def test_another_form_of_layers_is_refused():
    with pytest.raises(ValueError, match="--mean-read cannot be given for Gemma3TextModel"):
        add_mean_layer(tiny_backbone("gemma"), weights(0), weights(1), 1.0)
