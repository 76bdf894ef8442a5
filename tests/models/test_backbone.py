"""Backbones: who can branch, cutting depth, and the frozen trunk under a trained top."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import (
    AutoModel,
    FalconConfig,
    Gemma2Config,
    GPT2Config,
    GPTNeoConfig,
    MambaConfig,
    MistralConfig,
    Qwen3_5TextConfig,
)

from assay.data.tokens.packing import make_group, pack
from assay.models.attention import ATTENTION
from assay.models.backbone import Backbone, add_dropout, attention_for, cut_depth, load_backbone, split_backbone
from assay.models.reward_model import RewardModel, new_head
from tiny import save_tiny_base, tiny_backbone, tiny_model

KINDS = ["llama", "qwen", "gemma"]
SHARED = {"vocab_size": 400, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


def sequences(seed: int = 0) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    prompt = generator.integers(3, 400, 13)
    return [np.concatenate([prompt, generator.integers(3, 400, size)]).astype(np.int32) for size in (4, 11, 1)]


def batch_of(rows: list[np.ndarray], *, share: bool):
    ends = [np.array([len(row) - 1], np.int32) for row in rows]
    if share:
        return pack([make_group(rows, ends)], 10_000)[0]
    (batch,) = pack([make_group([row], [end]) for row, end in zip(rows, ends, strict=True)], 10_000, layout="plain")
    return batch


def states(backbone: Backbone, batch) -> torch.Tensor:
    """Hidden states at the reward positions, (R, D), in the order of the groups."""
    with torch.no_grad():
        read = backbone(batch).flatten(0, 1)[torch.from_numpy(batch.reward_positions)]
    return read[torch.from_numpy(np.argsort(batch.order))] if batch.is_plain else read


def built(config) -> Backbone:
    torch.manual_seed(0)
    return Backbone(AutoModel.from_config(config, attn_implementation=attention_for(config)).eval())


CANNOT = {
    "mamba": MambaConfig(vocab_size=400, hidden_size=32, state_size=4, num_hidden_layers=2),
    "linear and full attention": Qwen3_5TextConfig(
        **SHARED,
        num_key_value_heads=2,
        head_dim=8,
        layer_types=["linear_attention", "full_attention"],
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
    ),
    "ALiBi over indices": FalconConfig(vocab_size=400, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, alibi=True),
    "a window over indices": GPTNeoConfig(
        vocab_size=400, hidden_size=32, num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]], window_size=6
    ),
}


@pytest.mark.parametrize("name", CANNOT)
def test_what_cannot_branch_says_so_and_works_one_sequence_to_a_row(name):
    backbone = built(CANNOT[name])
    assert not backbone.can_branch
    with pytest.raises(ValueError, match="cannot branch: pack its sequences one to a row"):
        backbone(batch_of(sequences(), share=True))
    with torch.no_grad():
        alone = [backbone.model(input_ids=torch.from_numpy(row)[None].long()).last_hidden_state[0, -1] for row in sequences()]
    torch.testing.assert_close(states(backbone, batch_of(sequences(), share=False)), torch.stack(alone), atol=1e-5, rtol=1e-4)


def test_an_architecture_without_sdpa_runs_and_branches():
    config = Gemma2Config(**SHARED, num_key_value_heads=2, head_dim=8, sliding_window=6, query_pre_attn_scalar=8, pad_token_id=0)
    assert attention_for(config) == "eager"
    assert attention_for(tiny_backbone().config) == ATTENTION
    backbone = built(config)
    assert backbone.can_branch
    packed, rows = (states(backbone, batch_of(sequences(), share=share)) for share in (True, False))
    torch.testing.assert_close(packed, rows, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_top", [1, 2, 3])
def test_top_over_trunk_is_the_whole(kind, num_top):
    backbone = tiny_backbone(kind)
    trunk, top = split_backbone(backbone, num_top)
    assert (trunk.num_layers, top.num_layers) == (4 - num_top, num_top)
    for batch in (batch_of(sequences(), share=True), batch_of(sequences(), share=False)):
        with torch.no_grad():
            torch.testing.assert_close(top(batch, trunk(batch)), backbone(batch), atol=1e-5, rtol=1e-5)


def test_trunk_and_top_share_the_parameters():
    backbone = tiny_backbone()
    trunk, top = split_backbone(backbone, 1)
    assert top.model.layers[0].mlp.up_proj.weight is backbone.model.layers[3].mlp.up_proj.weight
    assert trunk.model.layers[0].mlp.up_proj.weight is backbone.model.layers[0].mlp.up_proj.weight
    assert (backbone.num_layers, len(backbone.model.layers)) == (4, 4), "the whole is left as it was"
    assert not isinstance(backbone.model.norm, torch.nn.Identity)


@pytest.mark.parametrize("num_top", [0, 4, -1])
def test_a_split_outside_of_the_model_is_refused(num_top):
    with pytest.raises(ValueError, match=rf"blocks:{num_top} is not in 1\.\.3"):
        split_backbone(tiny_backbone(), num_top)


def test_an_architecture_that_cannot_be_cut_is_named():
    gpt2 = built(GPT2Config(vocab_size=400, n_embd=32, n_layer=4, n_head=4))
    with pytest.raises(ValueError, match=r"GPT2Model has no plain \.layers and \.norm.*--params full or head"):
        split_backbone(gpt2, 1)


def test_layers_whose_input_is_scaled_inside_the_model_are_never_cut_wrongly(monkeypatch):
    backbone = tiny_backbone()
    run = type(backbone.model).forward

    def scaled(self, inputs_embeds=None, **inputs):
        return run(self, inputs_embeds=None if inputs_embeds is None else inputs_embeds * 2, **inputs)

    monkeypatch.setattr(type(backbone.model), "forward", scaled)
    with pytest.raises(ValueError, match="cannot be cut between layers"):
        split_backbone(backbone, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_depth_is_a_plain_shallower_checkpoint(kind, tmp_path):
    whole = tiny_backbone(kind)
    shallow = cut_depth(whole, 3)
    shallow.model.save_pretrained(tmp_path)
    reloaded = load_backbone(tmp_path)
    assert (whole.num_layers, shallow.num_layers, reloaded.num_layers) == (4, 3, 3)
    batch = batch_of(sequences(), share=True)
    head = new_head(32, seed=0)
    with torch.no_grad():
        scores = [RewardModel(backbone, head)(batch) for backbone in (shallow, reloaded, whole)]
    torch.testing.assert_close(scores[0], scores[1], atol=1e-6, rtol=0)
    assert not torch.allclose(scores[0], scores[2], atol=1e-3)


@pytest.mark.parametrize("depth", [0, 5])
def test_a_depth_outside_of_the_model_is_refused(depth):
    with pytest.raises(ValueError, match=rf"depth {depth} is not in 1\.\.4"):
        cut_depth(tiny_backbone(), depth)


def test_a_base_loads_without_its_language_model_head(tmp_path):
    save_tiny_base(tmp_path / "base")
    backbone = load_backbone(tmp_path / "base", depth=2)
    assert (backbone.num_layers, backbone.hidden_size, backbone.can_branch) == (2, 32, True)
    assert not any("lm_head" in name for name, _ in backbone.named_parameters())
    assert next(load_backbone(tmp_path / "base", dtype=torch.bfloat16).parameters()).dtype == torch.bfloat16


def test_weights_that_are_missing_are_never_made_up(tmp_path):
    whole = tiny_backbone().model
    state = {name: value for name, value in whole.state_dict().items() if "layers.1.mlp" not in name}
    whole.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(ValueError, match=r"lacks weights.*layers\.1\.mlp"):
        load_backbone(tmp_path)


def test_rewards_are_float32_for_every_member_and_read():
    model = tiny_model(num_members=3)
    batch = batch_of(sequences(), share=True)
    half = RewardModel(model.backbone, model.head, compute_dtype=torch.bfloat16)
    with torch.no_grad():
        rewards, rounded = model(batch), half(batch)
    assert rewards.shape == rounded.shape == (3, 3)
    assert rewards.dtype == rounded.dtype == torch.float32
    assert not torch.equal(rounded, rounded.bfloat16().float()), "the head's output is not rounded to bfloat16"
    torch.testing.assert_close(rounded, rewards, atol=0.1, rtol=0.1)


def test_a_fresh_head_is_seeded_and_of_the_stated_size():
    heads = [new_head(1024, 4, seed=seed).weight for seed in (0, 0, 1)]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    assert abs(float(heads[0].detach().std()) * 1025**0.5 - 1) < 0.06  # 5 standard errors of 4,096 draws


# The last layer at the reward positions alone


def test_the_last_layer_is_run_at_the_reads_alone_where_its_form_is_known():
    """Same states and same gradients as the whole layer, rows of several groups, several reads a branch, a window."""
    mistral = MistralConfig(**SHARED, num_key_value_heads=2, sliding_window=5)
    for backbone in (tiny_backbone("llama"), tiny_backbone("qwen"), built(mistral)):
        assert backbone.stops_early()
        groups = []
        for seed in range(5):
            rows = sequences(seed)
            groups.append(make_group(rows, [np.array([len(row) - 2, len(row) - 1], np.int32) for row in rows]))
        for batch in (*pack(groups, 120), batch_of(sequences(), share=False)):
            found = []
            for states in (backbone.read(batch), backbone(batch).flatten(0, 1)[torch.from_numpy(batch.reward_positions)]):
                backbone.zero_grad()
                states.square().sum().backward()
                found.append((states.detach(), {n: p.grad.clone() for n, p in backbone.named_parameters() if p.grad is not None}))
            torch.testing.assert_close(found[0][0], found[1][0], atol=2e-5, rtol=1e-4)
            assert found[0][1].keys() == found[1][1].keys()
            for name, gradient in found[1][1].items():
                torch.testing.assert_close(found[0][1][name], gradient, atol=2e-3, rtol=1e-3, msg=name)


def test_other_forms_run_the_whole_layer():
    """Gemma has more norms, Gemma 2 caps its logits, Falcon fuses its maps; a hook on what would be passed over, too."""
    assert not tiny_backbone("gemma").stops_early()
    for config in CANNOT.values():
        assert not built(config).stops_early()
    backbone = tiny_backbone("llama")
    add_dropout(backbone.model, 0.1)
    assert not backbone.stops_early()


def test_a_layer_that_only_looks_like_a_llama_layer_is_found_out():
    backbone = tiny_backbone("llama")
    plain = type(backbone.model.layers[-1]).forward
    odd = backbone.model.layers[-1]
    odd.forward = lambda hidden, **named: plain(odd, hidden, **named) + hidden.sin()
    assert not backbone.stops_early()


def test_reading_early_follows_a_replaced_part_and_adds_no_parameter():
    backbone = tiny_backbone("llama")
    batch = batch_of(sequences(), share=True)
    names = set(backbone.state_dict())
    before = backbone.read(batch).detach()
    assert set(backbone.state_dict()) == names
    backbone.model.resize_token_embeddings(410)
    with torch.no_grad():
        backbone.model.get_input_embeddings().weight.mul_(2)
    after = backbone.read(batch).detach()
    torch.testing.assert_close(after, states(backbone, batch), atol=2e-5, rtol=1e-4)
    assert (after - before).abs().max() > 0.01
