"""Bases that cannot be trained or saved are refused before any data are read, each with a remedy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers as T
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from assay.data.tokens.packing import make_group, pack
from assay.models.attention import ATTENTION
from assay.models.backbone import Backbone, load_backbone
from assay.models.base_checks import check_base, form_of, position_limit
from tiny import save_tiny_base, save_tiny_encoder, save_tiny_published, tiny_config

SIZES = {
    "vocab_size": 400,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def saved_config(config, path):
    config.save_pretrained(path)
    save_file({"model.embed_tokens.weight": torch.zeros(2, 2)}, path / "model.safetensors")
    return str(path)


@pytest.mark.parametrize("kind", ["Granite", "Cohere", "Cohere2", "Olmoe", "Lfm2", "Bamba", "FalconH1", "Mamba2", "NemotronH"])
def test_a_base_without_a_class_to_save_it_as_is_refused(kind, tmp_path):
    config = getattr(T, f"{kind}Config")()
    with pytest.raises(ValueError, match=r"no sequence-classification class for .*Config: choose another base"):
        check_base(saved_config(config, tmp_path), "theirs", 64)


@pytest.mark.parametrize("kind", ["Gemma4TextConfig", "Gemma3nTextConfig", "Llama4TextConfig"])
def test_text_parts_of_models_of_several_kinds_are_refused(kind, tmp_path):
    with pytest.raises(ValueError, match="choose another base"):
        check_base(saved_config(getattr(T, kind)(), tmp_path), "theirs", 64)


@pytest.mark.parametrize("kind", ["deberta-v2", "modernbert", "roberta", "bert"])
def test_an_encoder_is_refused_as_a_base(kind, tmp_path):
    path = save_tiny_encoder(tmp_path / "encoder", kind)
    encoder = AutoModel.from_pretrained(path)
    encoder.save_pretrained(tmp_path / "base")
    with pytest.raises(ValueError, match="is an encoder, and Assay trains decoders"):
        check_base(str(tmp_path / "base"), "theirs", 64)


def test_an_encoder_with_a_decoder_is_refused(tmp_path):
    config = T.T5Config(vocab_size=400, d_model=32, d_ff=64, num_layers=1, num_heads=2, d_kv=8)
    with pytest.raises(ValueError, match="encoder with a decoder"):
        check_base(saved_config(config, tmp_path), "theirs", 64)


@pytest.mark.parametrize("num_labels", [1, 2])
def test_a_reward_model_is_refused_as_a_base_and_sent_to_init_from(num_labels, tmp_path):
    path = save_tiny_published(tmp_path / "theirs", num_labels=num_labels)
    with pytest.raises(ValueError, match=r"is a reward model already .*give it as --init-from .*theirs"):
        check_base(str(path), "theirs", 64)


def test_a_value_head_is_seen_whatever_the_configuration_says(tmp_path):
    path = save_tiny_base(tmp_path / "theirs")
    tensors = load_file(path / "model.safetensors")
    save_file({**tensors, "v_head.summary.weight": torch.zeros(1, 32)}, path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"'v_head\.summary'.*--init-from"):
        check_base(str(path), "theirs", 64)


def test_learned_positions_that_are_too_few_are_refused(tmp_path):
    config = T.GPT2Config(vocab_size=400, n_embd=32, n_layer=2, n_head=4, n_positions=128)
    path = saved_config(config, tmp_path)
    with pytest.raises(
        ValueError, match="--max-length 129 is more than the 128 learned positions of theirs: give --max-length 128"
    ):
        check_base(path, "theirs", 129)
    assert check_base(path, "theirs", 128) == 128


def test_rotary_positions_that_are_too_few_limit_the_length(tmp_path):
    path = str(save_tiny_base(tmp_path / "base"))
    assert check_base(path, "base", 1024) == 512
    assert check_base(path, "base", 300) == 300


def test_positions_of_single_architectures():
    assert position_limit(T.RobertaConfig(max_position_embeddings=514, pad_token_id=1)) == 512
    assert position_limit(T.OPTConfig(max_position_embeddings=2048)) == 2048
    assert position_limit(T.FalconConfig(alibi=True)) is None
    assert position_limit(T.BloomConfig()) is None
    factors = {"short_factor": [1.0], "long_factor": [2.0], "original_max_position_embeddings": 64}
    longrope = {"rope_type": "longrope", "rope_theta": 1e4, **factors}
    llama = T.LlamaConfig(hidden_size=4, num_attention_heads=2, max_position_embeddings=512, rope_parameters=longrope)
    assert position_limit(llama) == 64  # beyond it the rewards would depend on the batch
    assert form_of(T.OPTConfig(**{**SIZES, "ffn_dim": 64, "word_embed_proj_dim": 32})).has_learned_positions
    assert not form_of(tiny_config("llama")).has_learned_positions


def test_a_broken_file_and_pickled_weights_are_refused(tmp_path):
    path = save_tiny_base(tmp_path / "base")
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="cut short"):
        check_base(str(path), "base", 64)
    file.unlink()
    torch.save({}, path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="pickled weights"):
        check_base(str(path), "base", 64)


@pytest.mark.parametrize("kind", ["llama", "qwen", "gemma"])
def test_ordinary_bases_pass(kind, tmp_path):
    assert check_base(str(save_tiny_base(tmp_path / "base", kind)), "base", 64) == 64


@pytest.mark.parametrize("kind", ["Glm", "Nemotron", "Olmoe"])
def test_a_last_layer_of_another_form_gives_the_states_of_the_whole_layer(kind, tmp_path):
    """Partial rotation and norms over all heads: their parts are named as Llama's, their shapes differ."""
    more = {"num_experts": 4, "num_experts_per_tok": 2} if kind == "Olmoe" else {"head_dim": 8}
    torch.manual_seed(0)
    model = AutoModel.from_config(getattr(T, f"{kind}Config")(**SIZES, **more), attn_implementation=ATTENTION)
    backbone = Backbone(model.eval())
    rows = [np.array(tokens, np.int32) for tokens in ((5, 6, 7, 8, 9, 10), (5, 6, 7, 11, 12, 13, 14))]
    batch = pack([make_group(rows, [np.array([5]), np.array([6])])], 64, layout=backbone.layout)[0]
    with torch.no_grad():
        whole = backbone(batch).flatten(0, 1)[torch.from_numpy(batch.reward_positions)]
        torch.testing.assert_close(backbone.read(batch), whole, atol=1e-4, rtol=1e-4)


def test_pickled_weights_are_not_loaded_even_where_transformers_would(tmp_path):
    path = save_tiny_base(tmp_path / "base")
    tensors = load_file(path / "model.safetensors")
    (path / "model.safetensors").unlink()
    torch.save(tensors, path / "pytorch_model.bin")
    with pytest.raises((OSError, ValueError)):
        load_backbone(path)
