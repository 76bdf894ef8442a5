"""Saved files that older readers read rightly: transformers 4.51 and its kin, sentence-transformers, RewardBench.

transformers 5 writes rotary positions as `rope_parameters`, names its own tokenizer class, and lists special tokens under a new
name; 4.x knows none of these, takes its defaults, and gives other rewards without a word. Both spellings are written here; 5 reads
either.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

IDENTITY = "torch.nn.modules.linear.Identity"
TOKENIZER_CLASS = "PreTrainedTokenizerFast"  # reads tokenizer.json as it stands, in either generation
_MOVED = ("rope_theta", "partial_rotary_factor")  # they stand beside `rope_scaling` in 4.x, not in it
_BY_LAYER_TYPE = {  # model types with two kinds of layers: the names of their two base frequencies
    "gemma3_text": ("rope_theta", "rope_local_base_freq"),
    "modernbert": ("global_rope_theta", "local_rope_theta"),
    "modernbert-decoder": ("global_rope_theta", "local_rope_theta"),
}
_NAMES = {"gpt_neox": {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"}}
_ONLY_FACTORS = ("phi3", "phi4_multimodal")  # take exactly type, short_factor and long_factor


def spell_for_older_readers(path: Path, *, takes_types: bool = False) -> None:
    """Rewrite config.json and tokenizer_config.json of a saved model so that older readers read them as transformers 5 does.

    takes_types: whether the model reads token types (an encoder that tells question and answer apart by them).
    """
    file = path / "config.json"
    _rewrite(file, with_old_names(json.loads(file.read_text(encoding="utf-8"))))
    file = path / "tokenizer_config.json"
    state = json.loads((path / "tokenizer.json").read_text(encoding="utf-8"))
    settings = json.loads(file.read_text(encoding="utf-8"))
    _rewrite(file, tokenizer_settings(settings, state.get("pre_tokenizer") or {}, takes_types=takes_types))


def with_old_names(config: Mapping[str, Any]) -> dict[str, Any]:
    """The content of config.json with the names that 4.x and sentence-transformers look for, beside the new ones."""
    mended = {**config, **old_rope(config)}
    for part, value in config.items():
        if isinstance(value, Mapping) and "rope_parameters" in value:  # text_config of a model with several parts
            mended[part] = {**value, **old_rope(value)}
    if "dtype" in config:
        mended["torch_dtype"] = config["dtype"]
    if pattern := sliding_pattern(config.get("layer_types") or ()):
        mended["sliding_window_pattern"] = pattern
    # CrossEncoder puts a sigmoid over a single label unless the configuration names another activation
    mended["sentence_transformers"] = {**(config.get("sentence_transformers") or {}), "activation_fn": IDENTITY}
    mended["sbert_ce_default_activation_function"] = IDENTITY
    return mended


def old_rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """Rotary positions as 4.x reads them: base frequency and share beside the kind of scaling. Empty for a model without."""
    parameters, kind = config.get("rope_parameters"), str(config.get("model_type"))
    if not parameters:
        return {}
    if any(isinstance(value, Mapping) for value in parameters.values()):
        return _by_layer_type(parameters, kind)
    names = _NAMES.get(kind, {})
    found = {names.get(name, name): parameters[name] for name in _MOVED if parameters.get(name) is not None}
    if parameters.get("original_max_position_embeddings") and parameters.get("rope_type") == "longrope":
        found["original_max_position_embeddings"] = parameters["original_max_position_embeddings"]
    scaling = _scaling(parameters, kind, config.get("max_position_embeddings"))
    return {**found, "rope_scaling": scaling} if scaling else found


def _by_layer_type(parameters: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """For a model whose windowed layers rotate at another base frequency than the others."""
    if kind not in _BY_LAYER_TYPE or not {"full_attention", "sliding_attention"} <= parameters.keys():
        return {}  # a model that 4.51 does not have
    of_all, of_window = _BY_LAYER_TYPE[kind]
    full, window = parameters["full_attention"], parameters["sliding_attention"]
    found = {of_all: full["rope_theta"], of_window: window["rope_theta"]}
    scaling = _scaling(full, kind, None)
    return {**found, "rope_scaling": scaling} if scaling and kind == "gemma3_text" else found


def _scaling(parameters: Mapping[str, Any], kind: str, max_positions: int | None) -> dict[str, Any] | None:
    """`rope_scaling` of 4.x; None where positions are not scaled."""
    rope_type = parameters.get("rope_type", "default")
    if rope_type == "default":
        return None
    if kind in _ONLY_FACTORS:
        return {"type": rope_type, "short_factor": parameters["short_factor"], "long_factor": parameters["long_factor"]}
    left_out = {*_MOVED, "type"}
    if rope_type == "yarn" and parameters.get("original_max_position_embeddings") == max_positions:
        left_out.add("original_max_position_embeddings")  # 4.x would take the ratio of the two, which is 1, for the factor
    return {"rope_type": rope_type, **{name: value for name, value in parameters.items() if name not in left_out}}


def sliding_pattern(layer_types: Any) -> int | None:
    """Every how many layers one sees all of the text, as 4.x counts them; None where there is no such rule."""
    full = [number for number, kind in enumerate(layer_types, start=1) if kind == "full_attention"]
    if not full or len(full) == len(layer_types):
        return None
    every = full[0]
    return every if full == list(range(every, len(layer_types) + 1, every)) else None


def tokenizer_settings(settings: Mapping[str, Any], pre_tokenizer: Mapping[str, Any], *, takes_types: bool) -> dict[str, Any]:
    """The content of tokenizer_config.json, for a class that both generations have.

    pre_tokenizer: that of tokenizer.json; 4.x sets its leading space anew, by default to none.
    """
    mended = {name: value for name, value in settings.items() if name not in ("backend", "is_local", "extra_special_tokens")}
    extra = settings.get("extra_special_tokens")
    if isinstance(extra, list):
        mended["additional_special_tokens"] = extra
    elif extra:
        mended["extra_special_tokens"] = extra
    mended["tokenizer_class"] = TOKENIZER_CLASS
    mended["model_input_names"] = ["input_ids", *(["token_type_ids"] if takes_types else []), "attention_mask"]
    parts = [pre_tokenizer, *pre_tokenizer.get("pretokenizers", ())]
    if any(part.get("add_prefix_space") for part in parts):
        mended["add_prefix_space"] = True
    return mended


def _rewrite(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
