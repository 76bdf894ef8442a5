"""The mean over the text as a second read: what the head learns on kept states is what the checkpoint computes from tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModel

from assay.data.packing import make_group, pack
from assay.models.backbone import Backbone, load_backbone
from assay.models.mean_layer import MeanReadModel, last_and_mean
from assay.models.reward_model import RewardModel, new_head
from tiny import tiny_backbone, tiny_config

PROMPT, ANSWERS = [3, 9, 27, 11], ([5, 6, 7, 2], [8, 2])


def batch_of(*, share: bool):
    texts = [np.array([*PROMPT, *answer], np.int32) for answer in ANSWERS]
    reward_positions = [np.array([len(text) - 1]) for text in texts]
    if share:
        return pack([make_group(texts, reward_positions)], 64)[0]
    return pack([make_group([text], [read]) for text, read in zip(texts, reward_positions, strict=True)], 64, layout="plain")[0]


def model_on(backbone: Backbone, *, size: float = 0.5) -> MeanReadModel:
    """Weights of both reads at random, a final norm with a gain."""
    nn.init.normal_(backbone.model.norm.weight, 1.0, 0.1)
    model = MeanReadModel(RewardModel(backbone, new_head(backbone.hidden_size, seed=0)))
    nn.init.normal_(model.head.weight, 0.0, 1 / 6)
    model.size.fill_(size)
    model.scale.fill_(1.5)
    return model.eval()


@torch.no_grad()
def by_hand(model: MeanReadModel) -> list[float]:
    """Rewards of the two answers from the states of each text by itself: w . norm(last + (v . 1.5 mean) size a / (a . a))."""
    rewards, decoder = [], model.backbone.model
    last_D, mean_D = model.head.weight[0].chunk(2)
    for answer in ANSWERS:
        raw: list[torch.Tensor] = []
        hook = decoder.norm.register_forward_pre_hook(lambda module, inputs, raw=raw: raw.append(inputs[0][0]))
        normed_TD = decoder(input_ids=torch.tensor([[*PROMPT, *answer]])).last_hidden_state[0]
        hook.remove()
        read_D = last_D * decoder.norm.weight
        added_D = float(model.size) * (1.5 * normed_TD.mean(0) @ mean_D) * read_D / (read_D @ read_D)
        rewards.append(float(decoder.norm(raw[0][-1] + added_D) @ last_D))
    return rewards


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("kind", ["llama", "qwen"])
@torch.no_grad()
def test_kept_states_the_folded_model_and_its_checkpoint_give_one_reward(kind, share, tmp_path):
    model, batch = model_on(tiny_backbone(kind)), batch_of(share=share)
    answers = by_hand(model)
    expected = answers if share else [answers[i] for i in batch.order]
    assert model.read(last_and_mean(model.backbone, batch))[:, 0].tolist() == pytest.approx(expected, abs=1e-4)
    folded = model.folded()
    assert (model.backbone.num_layers, folded.backbone.num_layers) == (4, 5)
    assert folded(batch)[:, 0].tolist() == pytest.approx(expected, abs=1e-4)
    folded.backbone.model.save_pretrained(tmp_path)
    reloaded, plain = load_backbone(tmp_path), AutoModel.from_pretrained(tmp_path)
    assert folded.read(reloaded.read(batch))[:, 0].tolist() == pytest.approx(expected, abs=1e-4)
    tokens = torch.tensor([[*PROMPT, *ANSWERS[0]]])
    assert float(folded.head(plain(input_ids=tokens).last_hidden_state[0, -1])) == pytest.approx(answers[0], abs=1e-4)
    without = folded.read(model.backbone.read(batch))[:, 0].tolist()
    assert abs(without[0] - expected[0]) > 0.01, "the mean says something here"


@torch.no_grad()
def test_with_states_of_one_size_the_reward_is_the_sum_of_both_reads():
    model = model_on(tiny_backbone())
    model.head.weight[:, 32:] /= 100
    states_R2D = last_and_mean(model.backbone, batch_of(share=True))
    last_RD, mean_RD = states_R2D.chunk(2, -1)
    last_RD /= last_RD.square().mean(-1, keepdim=True).sqrt()  # a root mean square of 1 each
    model.size.fill_(1.0)
    last_D, mean_D = model.head.weight[0].chunk(2)
    of_last, of_mean = model.norm(last_RD) @ last_D, 1.5 * mean_RD @ mean_D
    found = model.read(torch.cat([last_RD, mean_RD], -1))[:, 0]
    # the norm takes back what lies along the state: a share (w . norm(last))^2 / (D |a|^2)
    share = of_last**2 / (32 * (last_D * model.gain_D).square().sum())
    torch.testing.assert_close(found - of_last, of_mean * (1 - share), rtol=0.05, atol=1e-4)


def test_size_and_scale_are_measured_on_kept_states():
    """Last tokens of 1, 2, 3 throughout: a root mean square of 2 on average. Means that differ by 0.5 in every feature."""
    model = model_on(tiny_backbone())
    states = np.zeros((3, 2, 64), np.float32)
    states[..., :32], states[:, 0, 32:], states[:, 1, 32:] = np.array([1.0, 2.0, 3.0])[:, None, None], 9.0, 8.5
    states[:, 1, :32] *= -1  # norm(last) is the gain, then minus the gain
    model.measure(states)
    assert float(model.size) == pytest.approx(2.0)
    assert float(model.scale) == pytest.approx(float((2 * model.gain_D).square().mean().sqrt()) / 0.5, rel=1e-4)
    states[:, :, 32:] = 1.0
    model.measure(states)  # means that tell nothing keep a finite scale
    assert np.isfinite(float(model.scale))


def test_only_the_head_learns_and_what_it_learns_is_folded():
    model, batch = model_on(tiny_backbone()), batch_of(share=True)
    states = last_and_mean(model.backbone, batch)
    model.backbone.requires_grad_(False)
    before = float(model.read(states).detach().diff(dim=0))
    optimizer = torch.optim.SGD([parameter for parameter in model.parameters() if parameter.requires_grad], lr=0.05)
    for _ in range(20):
        nn.functional.softplus(-model.read(states).diff(dim=0)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        after = model.folded()(batch).diff(dim=0)
        torch.testing.assert_close(after, model.read(states).diff(dim=0), atol=1e-4, rtol=1e-4)
    assert float(after) > before + 0.5


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"kind": "gemma"}, "another form than Llama's"),
        ({"norm": nn.LayerNorm(32)}, "another form than Llama's"),
        ({"window": 8}, "a window of the text only"),
    ],
)
def test_other_forms_of_layers_are_refused(change, why):
    backbone = tiny_backbone(change.get("kind", "llama"))
    if "norm" in change:
        backbone.model.norm = change["norm"]
    if "window" in change:
        backbone.config.sliding_window = change["window"]
    with pytest.raises(ValueError, match=rf"--params head:mean cannot be given for \w+: .*{why}.*use --params head"):
        MeanReadModel(RewardModel(backbone, new_head(32, seed=0)))


def test_a_last_layer_that_slides_is_refused_and_one_that_does_not_is_taken():
    config = tiny_config("qwen")
    config.sliding_window, config.layer_types = 8, ["full_attention", "full_attention", "full_attention", "sliding_attention"]
    whole = RewardModel(Backbone(AutoModel.from_config(config)), new_head(32, seed=0))
    with pytest.raises(ValueError, match="a window of the text only"):
        MeanReadModel(whole)
    config.layer_types = config.layer_types[::-1]
    folded = MeanReadModel(RewardModel(Backbone(AutoModel.from_config(config)), new_head(32, seed=0))).folded()
    assert folded.backbone.config.layer_types[-2:] == ["full_attention", "full_attention"]
