"""Can a base be trained, and what is trained on it saved? Asked before any data are read, of its files and its class alone."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import AutoConfig

from assay.models.heads import SCALAR, Head
from assay.models.published.foreign_heads import head_names
from assay.models.published.weight_files import stored_tensors

_OTHERS = "choose another base (Llama, Qwen, Mistral, Gemma 2 and 3, Phi, OLMo 2, GLM, GPT-2, ... have one)"
_COUNT_FROM_PADDING = {  # their first position is the one behind the padding's id
    *("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "roberta-prelayernorm"),
    *("data2vec-text", "mpnet", "longformer", "xmod", "ibert"),
}


class Form(NamedTuple):
    """What transformers' class for a configuration is. name: of the class. reads_last_token: a decoder with
    a head `score`; else an encoder with a head of its own. has_learned_positions: a table of them, which ends."""

    name: str
    reads_last_token: bool
    has_learned_positions: bool


def form_of(config: Any, head: Head = SCALAR) -> Form | None:
    """The form of a configuration's class for a kind of head, looked at without weights; None where transformers has no class."""
    if type(config) not in head.classes:
        return None
    with torch.device("meta"):
        small = head.classes[type(config)](_one_layer(config))
    limit = getattr(config.get_text_config(), "max_position_embeddings", None) or -1
    tables = (part for name, part in small.named_modules() if isinstance(part, nn.Embedding) and ("pos" in name or "wpe" in name))
    has_table = any(limit <= table.num_embeddings <= limit + 2 for table in tables)
    return Form(type(small).__name__, isinstance(getattr(small, "score", None), nn.Linear), has_table)


def position_limit(config: Any) -> int | None:
    """The most tokens that a model's positions hold; None where there is no limit (ALiBi, relative positions, recurrence).

    With longrope the angles of every text depend on the longest one in its batch, beyond the length of pretraining: the limit.
    """
    text = config.get_text_config()
    limit = int(getattr(text, "max_position_embeddings", None) or 0)
    rope = getattr(text, "rope_parameters", None) or {}
    if rope.get("rope_type") == "longrope":
        limit = int(rope.get("original_max_position_embeddings") or limit)
    if limit <= 0 or getattr(text, "alibi", False):
        return None
    return limit - int(text.pad_token_id or 0) - 1 if text.model_type in _COUNT_FROM_PADDING else limit


def check_base(path: str, name: str, max_length: int, *, head: Head = SCALAR) -> int:
    """The length to train at: `max_length`, or less where a base with rotary positions holds fewer.

    path: directory or hub id; name: for messages. head: the kind that is trained. Raises ValueError, with a remedy, for a base that
    has a reward head, that no class of transformers can hold, that is an encoder, whose files are damaged or pickled, or whose
    learned positions are too few.
    """
    tensors = stored_tensors(Path(path)) if Path(path).is_dir() else {}
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    except (KeyError, ValueError) as error:
        raise ValueError(f"base {name}: transformers does not know its type without the publisher's own code ({error})") from error
    architecture = next(iter(getattr(config, "architectures", None) or ()), "")
    heads = head_names(tensors)
    if heads or architecture.endswith("ForSequenceClassification"):
        found = f"a head {heads[0]!r}" if heads else architecture
        raise ValueError(f"base {name} is a reward model already ({found}), which --base would lose: give it as --init-from {path}")
    if config.is_encoder_decoder:
        raise ValueError(
            f"base {name}: {type(config).__name__} is an encoder with a decoder, which Assay does not train: {_OTHERS}"
        )
    form = form_of(config, head)
    if form is None:
        raise ValueError(f"base {name}: transformers has no {head.task} class for {type(config).__name__}: {_OTHERS}")
    if not form.reads_last_token:
        why = f"{form.name} is an encoder, and Assay trains decoders, which share a prompt among its answers"
        raise ValueError(f"base {name}: {why}: {_OTHERS}. An encoder that is a reward model already can be evaluated and adopted")
    limit = position_limit(config)
    if limit is None or max_length <= limit:
        return max_length
    if form.has_learned_positions:
        raise ValueError(
            f"--max-length {max_length} is more than the {limit} learned positions of {name}: give --max-length {limit}"
        )
    return limit


def _one_layer(config: Any) -> Any:
    """The configuration with one layer, to look at its class at no cost."""
    small = copy.deepcopy(config)
    text = small.get_text_config()
    if getattr(text, "layer_types", None):
        text.layer_types = list(text.layer_types)[:1]
    if hasattr(text, "num_hidden_layers"):
        text.num_hidden_layers = 1
    return small
