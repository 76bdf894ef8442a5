"""The mean over the text as a second read: what the head learns on kept states is what the checkpoint computes from tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModel

from assay.data.tokens.packing import make_group, pack
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
    """Last tokens of 1, 2, 3 throughout: a root mean square of 2 on average. Means of a prompt that differ by 0.5 in every
    feature."""
    model = model_on(tiny_backbone())
    prompts, states = np.repeat([7, 3, 5], 2), np.zeros((3, 2, 64), np.float32)
    states[..., :32], states[:, 0, 32:], states[:, 1, 32:] = np.array([1.0, 2.0, 3.0])[:, None, None], 9.0, 8.5
    states[:, 1, :32] *= -1  # norm(last) is the gain, then minus the gain
    model.measure(states.reshape(6, 64), prompts)
    assert float(model.size) == pytest.approx(2.0)
    assert float(model.scale) == pytest.approx(float((2 * model.gain_D).square().mean().sqrt()) / 0.5, rel=1e-4)
    alone = np.array([[1.0, 0.5], [1.0, -0.5]], np.float32).repeat(32, axis=1)  # a read a prompt: beside the mean of all of them
    model.measure(alone, np.arange(2))
    assert float(model.scale) == 0.0
    model.measure(alone[:, ::-1] + 0.0, np.arange(2))  # means that tell nothing: the scale stays as it was
    assert float(model.scale) == 0.0


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


def steps_model(kind: str = "llama") -> MeanReadModel:
    """A head of steps with a bias, weights of both reads at random."""
    backbone = tiny_backbone(kind)
    nn.init.normal_(backbone.model.norm.weight, 1.0, 0.1)
    model = MeanReadModel(RewardModel(backbone, new_head(backbone.hidden_size, 2, seed=0, bias=True), outputs="steps"))
    nn.init.normal_(model.head.weight, 0.0, 1 / 6)
    nn.init.normal_(model.head.bias)
    model.size.fill_(0.5)
    model.scale.fill_(1.5)
    return model.eval()


@pytest.mark.parametrize("kind", ["llama", "qwen"])
@torch.no_grad()
def test_all_steps_of_all_answers_read_the_mean_of_what_stands_before_them_in_one_forward(kind):
    """Two solutions of a prompt, of four and two steps: outputs from kept states, of the folded model in one packed forward, and of
    the folded model on each prefix by itself."""
    model = steps_model(kind)
    texts = [np.array([*PROMPT, *rest], np.int32) for rest in ([5, 6, 7, 30, 31, 2], [5, 8, 12, 2, 13])]
    reads = [np.array([4, 6, 7, 9]), np.array([5, 8])]
    batch = pack([make_group(texts, reads), make_group([texts[1]], [reads[1]])], 64)[0]
    expected = []
    folded = model.folded()
    assert (folded.outputs, tuple(folded.head.weight.shape)) == ("steps", (2, 32))
    for number in (0, 1) if batch.order[0] == 0 else (1, 0):
        for text, read in ((texts[0], reads[0]), (texts[1], reads[1])) if number == 0 else ((texts[1], reads[1]),):
            for end in read:
                states_TD = folded.backbone.model(input_ids=torch.from_numpy(text[: end + 1].astype(np.int64))[None])
                expected.append(folded.head(states_TD.last_hidden_state[0, -1]))
    torch.testing.assert_close(model.read(last_and_mean(model.backbone, batch)), torch.stack(expected), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(folded(batch), torch.stack(expected), atol=1e-4, rtol=1e-4)
    without = folded.read(model.backbone.read(batch))
    assert ((without - torch.stack(expected)).diff(dim=1).abs() > 0.01).any(), "the mean says something here"


@torch.no_grad()
def test_the_mean_moves_the_log_odds_of_a_step_alone():
    """What both outputs share is no reward: the same number added to the weights of both changes no log-odds."""
    model = steps_model()
    states_R2D = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    before = model.read(states_R2D).diff(dim=1)
    model.head.weight += torch.randn(64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(model.read(states_R2D).diff(dim=1), before, atol=1e-4, rtol=1e-4)


def test_a_head_of_several_rewards_has_no_mean():
    for outputs, num, why in (("members", 3, "this head gives 3"), ("attributes", 2, "gives attributes, not rewards")):
        with pytest.raises(ValueError, match=why):
            MeanReadModel(RewardModel(tiny_backbone(), new_head(32, num, seed=0), outputs=outputs))


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
