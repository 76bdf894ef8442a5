"""Large groups run a few answers at a time: each token is computed once, and the states are those of one forward."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModel, Gemma2Config, MistralConfig

from assay.data.tokens.packing import PackedBatch, make_group, pack, rounds_of
from assay.models import backbone as backbones
from assay.models.attention import ATTENTION
from assay.models.backbone import Backbone, attention_for
from assay.models.kept_prompt import kept_bytes
from assay.models.reward_model import RewardModel, new_head
from tiny import tiny_backbone, tiny_config

KINDS = ["llama", "qwen", "gemma", "mistral"]  # Gemma has layers with a window and without, Mistral has a window in all
SIZES = (4, 11, 9, 1, 1, 30, 2, 7)


def built(kind: str, *, layers: int = 2) -> Backbone:
    if kind != "mistral":
        return tiny_backbone(kind)
    torch.manual_seed(0)
    names = ("vocab_size", "hidden_size", "initializer_range", "num_attention_heads", "num_key_value_heads")
    shared = {name: getattr(tiny_config("llama"), name) for name in names}
    config = MistralConfig(**shared, intermediate_size=64, num_hidden_layers=layers, sliding_window=8)
    return Backbone(AutoModel.from_config(config, attn_implementation=ATTENTION).eval())


def group_of(num_prompt: int, round_tokens: int) -> PackedBatch:
    """One group, whose answers are longer and shorter than the windows; the second is rewarded at two of its tokens."""
    generator = np.random.default_rng(0)
    prompt = generator.integers(3, 400, num_prompt)
    rows = [np.concatenate([prompt, [3 + k], generator.integers(3, 400, size)]).astype(np.int32) for k, size in enumerate(SIZES)]
    reads = [np.array([len(row) - 1], np.int32) for row in rows]
    reads[1] = np.array([num_prompt + 4, len(rows[1]) - 1], np.int32)
    return replace(pack([make_group(rows, reads)], 10_000, layout="one row")[0], round_tokens=round_tokens)


def counted(backbone: Backbone) -> list[int]:
    """The tokens of each forward from now on."""
    seen: list[int] = []
    embed = backbone.model.embed_tokens
    embed.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].numel()))
    return seen


@torch.no_grad()
@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("round_tokens", [1, 25, 40, 70])
@pytest.mark.parametrize("kind", KINDS)
def test_the_states_are_those_of_one_forward_and_every_token_is_computed_once(kind, round_tokens, early):
    backbone = built(kind)
    assert backbone.keeps_prompts()
    assert backbone.stops_early() == (kind != "gemma")
    if not early:
        backbone._stops_early = False
    batch = group_of(13, round_tokens)
    expected = backbone(batch, dense=True).flatten(0, 1)[torch.from_numpy(batch.reward_positions)]
    seen = counted(backbone)
    states = backbone.read(batch)
    torch.testing.assert_close(states, expected, atol=2e-5, rtol=1e-4)
    assert len(seen) == len(rounds_of(batch)) >= 2
    assert sum(seen) == batch.tokens.size
    assert max(seen) <= max(round_tokens, 13) + 1 + max(SIZES)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_answers_without_a_common_prompt_run_in_rounds_too(kind):
    backbone, batch = built(kind), group_of(0, 25)
    expected = backbone.read(replace(batch, round_tokens=0))
    seen = counted(backbone)
    torch.testing.assert_close(backbone.read(batch), expected, atol=2e-5, rtol=1e-4)
    assert len(seen) > 2


@torch.no_grad()
def test_one_layer_alone_runs_in_rounds():
    backbone, batch = built("mistral", layers=1), group_of(13, 25)
    assert backbone.keeps_prompts()
    torch.testing.assert_close(backbone.read(batch), backbone.read(replace(batch, round_tokens=0)), atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_half_precision_keeps_its_format_behind_the_prompt():
    model = RewardModel(tiny_backbone(), new_head(32, seed=0), compute_dtype=torch.bfloat16)
    batch = group_of(13, 25)
    seen = counted(model.backbone)
    rewards = model(batch)
    assert len(seen) > 2
    torch.testing.assert_close(rewards, model(replace(batch, round_tokens=0)), atol=0.1, rtol=0)


def test_with_gradients_a_group_runs_at_once():
    backbone, batch = tiny_backbone(), group_of(13, 25)
    seen = counted(backbone)
    backbone.read(batch).sum().backward()
    assert max(seen) == batch.tokens.size


@torch.no_grad()
def test_a_model_that_loses_its_keys_is_found_and_run_at_once(monkeypatch):
    backbone, batch = tiny_backbone(), group_of(13, 25)
    expected = backbone.read(replace(batch, round_tokens=0))

    class Forgetful(backbones.KeptPrompt):
        def end_round(self, num_columns: int) -> None:
            super().end_round(num_columns)
            for layer in self.cache.layers:
                layer.keys, layer.values = torch.zeros_like(layer.keys), torch.zeros_like(layer.values)

    monkeypatch.setattr("assay.models.kept_prompt.KeptPrompt", Forgetful)
    fresh = Backbone(backbone.model)
    assert not fresh.keeps_prompts()
    torch.testing.assert_close(fresh.read(batch), expected)


def test_dense_masks_know_no_rounds():
    shared = {"vocab_size": 400, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = Gemma2Config(**shared, num_key_value_heads=2, head_dim=8, sliding_window=6, query_pre_attn_scalar=8, pad_token_id=0)
    backbone = Backbone(AutoModel.from_config(config, attn_implementation=attention_for(config)).eval())
    assert not backbone.keeps_prompts()


def test_bytes_of_keys_and_values_are_those_of_the_cache():
    backbone, batch = tiny_backbone(), group_of(13, 25)
    kept = backbones.KeptPrompt(num_prompt=13)
    with torch.no_grad():
        backbone(batch, behind=kept)
    size = sum(layer.keys.nbytes + layer.values.nbytes for layer in kept.cache.layers)
    assert size == batch.tokens.size * kept_bytes(backbone.config, torch.float32)
