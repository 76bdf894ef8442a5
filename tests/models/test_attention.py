"""The layout of packed parts cannot be lost: it arrives whatever is done to the mask, or nothing finite comes out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModel, DogeConfig, MistralConfig

from assay.data.tokens.packing import PackedBatch, make_group, pack
from assay.models.attention import ATTENTION, attend, nan_mask
from assay.models.backbone import Backbone, cut_depth, split_backbone
from assay.models.lora import add_lora
from assay.models.reward_model import RewardModel, new_head
from tiny import tiny_backbone, tiny_config

KINDS = ["llama", "qwen", "gemma", "mistral"]  # Gemma has layers with a window and without, Mistral has a window in all


def built(kind: str, attention: str = ATTENTION) -> Backbone:
    if kind != "mistral":
        return tiny_backbone(kind, attention=attention)
    torch.manual_seed(0)
    names = ("vocab_size", "hidden_size", "initializer_range", "num_attention_heads", "num_key_value_heads")
    shared = {name: getattr(tiny_config("llama"), name) for name in names}
    config = MistralConfig(**shared, intermediate_size=64, num_hidden_layers=2, sliding_window=8)
    return Backbone(AutoModel.from_config(config, attn_implementation=attention).eval())


def batch() -> PackedBatch:
    """Two groups in one row, prompts and answers longer than the windows."""
    generator, groups = np.random.default_rng(0), []
    for _ in range(2):
        prompt = generator.integers(3, 400, 13)
        rows = [np.concatenate([prompt, generator.integers(3, 400, size)]).astype(np.int32) for size in (4, 11, 9)]
        groups.append(make_group(rows, [np.array([len(row) - 1], np.int32) for row in rows]))
    return pack(groups, 10_000, layout="one row")[0]


def on_the_way(backbone: Backbone, change) -> None:
    """Let `change` rewrite the keywords that each layer is called with."""
    for layer in backbone.model.layers:
        layer.register_forward_pre_hook(lambda module, inputs, named: (inputs, change(named)), with_kwargs=True)


def cloned(named):
    return named | {"attention_mask": named["attention_mask"].clone()}


def dropped(named):
    return {name: value for name, value in named.items() if name != "packed_layout"}


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_that_is_cloned_on_the_way_changes_nothing(kind):
    backbone = built(kind)
    assert backbone.attention() == "parts"
    expected = backbone(batch())
    assert torch.isfinite(expected).all()
    torch.testing.assert_close(expected, backbone(batch(), dense=True), atol=1e-5, rtol=1e-4)
    on_the_way(backbone, cloned)
    assert torch.equal(backbone(batch()), expected)


@torch.no_grad()
@pytest.mark.parametrize("lost", ["before the first look", "after it"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_layout_that_is_dropped_on_the_way_is_found_or_gives_nan(kind, lost):
    backbone, head = built(kind), new_head(32, seed=0)
    if lost == "after it":
        assert backbone.attention() == "parts"
    on_the_way(backbone, dropped)
    rewards = RewardModel(backbone, head)(batch())
    if lost == "after it":
        assert torch.isnan(rewards).all()
    else:
        assert (backbone.attention(), backbone.layout) == ("mask", "rows")
        torch.testing.assert_close(rewards, RewardModel(built(kind, "sdpa"), head)(batch()), atol=1e-5, rtol=0)


@torch.no_grad()
def test_layers_of_two_kinds_that_do_not_tell_their_window_are_found_with_fewer_tokens_than_it_has():
    backbone = built("gemma")
    for layer in backbone.model.layers:
        layer.self_attn.sliding_window = None
    assert backbone.attention() == "mask"
    torch.testing.assert_close(backbone(batch()), built("gemma", "sdpa")(batch()), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_layers_that_make_a_mask_of_their_own_run_with_the_dense_one():
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    config = DogeConfig(**{name: getattr(tiny_config("llama"), name) for name in names}, pad_token_id=0)
    torch.manual_seed(0)
    ours, plain = (AutoModel.from_config(config, attn_implementation=attention).eval() for attention in (ATTENTION, "sdpa"))
    plain.load_state_dict(ours.state_dict())
    assert Backbone(ours).attention() == "mask"
    torch.testing.assert_close(Backbone(ours)(batch()), Backbone(plain)(batch()), atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("length", [3, 70, 700])
def test_attention_without_the_layout_gives_nan(dtype, length):
    tokens = np.arange(3, 3 + length, dtype=np.int32)
    (one,) = pack([make_group([tokens], [np.array([length - 1])])], 1024)
    query, key = (torch.randn(1, heads, length, 8, dtype=dtype) for heads in (4, 2))
    module = torch.nn.Module()
    module.num_key_value_groups = 2
    mixed, _ = attend(module, query, key, key, nan_mask(one, dtype))
    assert mixed.shape == (1, length, 4, 8)
    assert torch.isnan(mixed).all()


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_attention_that_does_not_know_the_layout_gives_nan(kind, attention):
    backbone = built(kind, attention)
    assert backbone.attention() == "mask"
    assert torch.isfinite(backbone(batch())).all()
    assert torch.isnan(backbone._run(batch(), way="parts")).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_layout_reaches_layers_that_are_computed_again_on_the_way_back(kind):
    gradients = []
    for checkpointing in (False, True):
        backbone = built(kind)
        assert backbone.attention() == "parts"
        if checkpointing:
            backbone.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        backbone.train()(batch()).square().sum().backward()
        gradients.append({name: parameter.grad for name, parameter in backbone.named_parameters()})
    assert all(torch.equal(gradient, gradients[1][name]) for name, gradient in gradients[0].items())


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_the_layout_reaches_cut_and_adapted_layers(kind):
    backbone = built(kind)
    expected = backbone(batch())
    trunk, top = split_backbone(backbone, 1)
    parts = (trunk, top, cut_depth(backbone, 1))
    assert [part.attention() for part in parts] == ["parts"] * 3
    torch.testing.assert_close(top(batch(), trunk(batch())), expected, atol=1e-5, rtol=1e-4)
    pytest.importorskip("peft")
    add_lora(backbone, 4)
    backbone._attention.clear()
    assert backbone.attention() == "parts"
    assert torch.equal(backbone(batch()), expected)
