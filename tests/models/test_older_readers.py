"""What is written for older readers says what the new spelling says; transformers 5 reads either as the same configuration."""

from __future__ import annotations

import json

import pytest
from transformers import AutoConfig, AutoTokenizer, GPTNeoXConfig, LlamaConfig, Phi3Config

from assay.models.saved.older_readers import old_rope, sliding_pattern, spell_for_older_readers, tokenizer_settings, with_old_names
from tiny import tiny_config, tiny_tokenizer

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LONGROPE = {"short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [2.0, 3.0, 4.0, 5.0]}
ROPES = [
    {"rope_type": "default", "rope_theta": 5e5},
    {"rope_type": "linear", "rope_theta": 2e4, "factor": 4.0},
    {"rope_type": "dynamic", "rope_theta": 2e4, "factor": 2.0},
    {"rope_type": "yarn", "rope_theta": 2e4, "factor": 4.0, "original_max_position_embeddings": 128},
    {**LLAMA3, "rope_theta": 5e5},
    {"rope_type": "longrope", "rope_theta": 1e4, **LONGROPE, "original_max_position_embeddings": 64},
]


def test_base_frequency_and_scaling_stand_apart_as_4_x_reads_them():
    config = {"model_type": "llama", "rope_parameters": {**LLAMA3, "rope_theta": 5e5}}
    assert old_rope(config) == {"rope_theta": 5e5, "rope_scaling": LLAMA3}
    assert old_rope({"model_type": "llama", "rope_parameters": ROPES[0]}) == {"rope_theta": 5e5}
    assert old_rope({"model_type": "gpt2"}) == {}


def test_a_yarn_factor_is_not_taken_from_the_positions():
    yarn = {"rope_type": "yarn", "rope_theta": 2e4, "factor": 4.0, "original_max_position_embeddings": 512}
    found = old_rope({"model_type": "qwen2", "rope_parameters": yarn, "max_position_embeddings": 512})
    assert found["rope_scaling"] == {"rope_type": "yarn", "factor": 4.0}  # 4.51 takes 512 / 512 for the factor if it can


def test_names_of_single_architectures():
    neox = {"rope_type": "default", "rope_theta": 3e5, "partial_rotary_factor": 0.25}
    assert old_rope({"model_type": "gpt_neox", "rope_parameters": neox}) == {"rotary_emb_base": 3e5, "rotary_pct": 0.25}
    found = old_rope({"model_type": "phi3", "rope_parameters": {**ROPES[-1], "partial_rotary_factor": 1.0}})
    assert found["rope_scaling"] == {"type": "longrope", **LONGROPE}
    assert found["original_max_position_embeddings"] == 64


def test_two_base_frequencies():
    config = json.loads(tiny_config("gemma").to_json_string(use_diff=False))
    config["rope_parameters"]["full_attention"] |= {"rope_theta": 7e5, "rope_type": "linear", "factor": 8.0}
    found = with_old_names(config)
    assert (found["rope_theta"], found["rope_local_base_freq"]) == (
        7e5,
        config["rope_parameters"]["sliding_attention"]["rope_theta"],
    )
    assert found["rope_scaling"] == {"rope_type": "linear", "factor": 8.0}
    assert found["sliding_window_pattern"] == 2


@pytest.mark.parametrize("rope", ROPES, ids=[str(rope["rope_type"]) for rope in ROPES])
@pytest.mark.parametrize("kind", ["llama", "phi3", "gpt_neox"])
def test_the_newest_transformers_reads_both_spellings_as_the_new_one_alone(rope, kind, tmp_path):
    if kind == "phi3" and rope["rope_type"] not in ("default", "longrope"):
        pytest.skip("Phi 3 has no other")
    makers = {"llama": LlamaConfig, "phi3": Phi3Config, "gpt_neox": GPTNeoXConfig}
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "max_position_embeddings": 512, "vocab_size": 400, "pad_token_id": 0}
    parameters = dict(rope) | ({"partial_rotary_factor": 0.25} if kind == "gpt_neox" else {})
    if kind == "gpt_neox" and rope["rope_type"] == "longrope":
        parameters |= {"short_factor": [1.0], "long_factor": [2.0]}
    original = {"original_max_position_embeddings": 64} if kind == "phi3" else {}
    config = makers[kind](**sizes, **original, rope_parameters=parameters)
    config.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    spell_for_older_readers(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path)
    strip = lambda values: {name: value for name, value in values.items() if value is not None and name != "type"}  # noqa: E731
    assert strip(again.rope_parameters) == strip(config.rope_parameters)


def test_every_how_many_layers_one_sees_everything():
    window, full = "sliding_attention", "full_attention"
    assert sliding_pattern([window, full, window, full]) == 2
    assert sliding_pattern([window, window, full, window]) == 3
    assert sliding_pattern([full, full]) is None
    assert sliding_pattern([window, full, full]) is None
    assert sliding_pattern([]) is None


def test_the_tokenizer_is_of_a_class_that_both_generations_have(tmp_path):
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"extra_special_tokens": ["<extra>"]})
    tiny_config("llama").save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    spell_for_older_readers(tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert settings["model_input_names"] == ["input_ids", "attention_mask"]
    assert settings["additional_special_tokens"] == ["<extra>"]  # a list under the new name stops 4.51
    assert "extra_special_tokens" not in settings
    again = AutoTokenizer.from_pretrained(tmp_path)
    text = "<|im_start|>It is four.<extra><|im_end|>"
    assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert set(again(text)) == {"input_ids", "attention_mask"}


def test_a_leading_space_of_the_tokenizer_is_said():
    spaced = {"type": "Sequence", "pretokenizers": [{"type": "Digits"}, {"type": "ByteLevel", "add_prefix_space": True}]}
    assert tokenizer_settings({}, spaced, takes_types=False)["add_prefix_space"] is True
    assert "add_prefix_space" not in tokenizer_settings({}, {"type": "ByteLevel", "add_prefix_space": False}, takes_types=False)
    assert tokenizer_settings({}, {}, takes_types=True)["model_input_names"] == ["input_ids", "token_type_ids", "attention_mask"]


def test_cross_encoders_leave_the_reward_as_it_is():
    found = with_old_names({"model_type": "llama", "dtype": "bfloat16"})
    assert found["sentence_transformers"]["activation_fn"] == found["sbert_ce_default_activation_function"]
    assert found["sbert_ce_default_activation_function"] == "torch.nn.modules.linear.Identity"
    assert found["torch_dtype"] == "bfloat16"
