"""The last layer, computed at the reward positions only: of all other tokens only keys and values are needed.

It saves 94% of that layer (SmolLM2), which is half of the cost of training `blocks:2` from its cache. Only layers of the Llama form
are run this way (Llama, Qwen, Mistral and similar), and only when the result equals that of the whole layer on a few tokens.
Shapes: B rows, L columns, D hidden size, Q largest number of reward positions in a row, H heads, E their size.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention

from assay.data.tokens.packing import PackedBatch

_LAYER = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
_ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}


def has_known_form(model: Any) -> bool:
    """Whether `last_layer_at` can run the last layer of a decoder: it has the parts of a Llama layer, and no hooks on modules that
    would be skipped (sharding, dropout, probes)."""
    layer = model.layers[-1] if len(getattr(model, "layers", ())) else None
    if layer is None or not (hasattr(model, "norm") and hasattr(model, "rotary_emb")):
        return False
    attention = getattr(layer, "self_attn", None)
    if attention is None or dict(attention.named_parameters(recurse=False)) or not hasattr(attention, "head_dim"):
        return False
    if _rotation(attention) is None:
        return False
    config = model.config.get_text_config()
    others = ("attn_logit_softcapping", "attention_dropout", "clip_qkv")  # what `last_layer_at` does not do
    is_plain = not any(getattr(config, name, None) for name in others)
    parts = set(dict(attention.named_children()))
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, attention._forward_hooks, attention._forward_pre_hooks)
    return (
        is_plain and set(dict(layer.named_children())) == _LAYER and parts - {"q_norm", "k_norm"} == _ATTENTION and not any(hooks)
    )


def last_layer_at(
    layer: Any,
    hidden_BLD: torch.Tensor,
    cosines: tuple[torch.Tensor, torch.Tensor],
    columns_BQ: torch.Tensor,
    seen_BQL: torch.Tensor,
) -> torch.Tensor:
    """The layer's output at `columns_BQ` of each row: (B, Q, D).

    cosines: cos and sin of the rotary embedding at every column, (B, L, E) each (Su et al. 2021). seen_BQL: bool, the columns that
    each reward position sees.
    """
    attention = layer.self_attn
    normed_BLD = layer.input_layernorm(hidden_BLD)
    queries = _heads(attention, "q", _take(normed_BLD, columns_BQ))
    keys, values = _heads(attention, "k", normed_BLD), _heads(attention, "v", normed_BLD)
    cos, sin = cosines
    queries = _rotate(attention, queries, _take(cos, columns_BQ), _take(sin, columns_BQ))
    keys = _rotate(attention, keys, cos, sin)
    mixed_BHQE = scaled_dot_product_attention(
        queries, keys, values, attn_mask=seen_BQL[:, None], scale=attention.scaling, enable_gqa=True
    )
    out_BQD = _take(hidden_BLD, columns_BQ) + attention.o_proj(mixed_BHQE.transpose(1, 2).flatten(2))
    return out_BQD + layer.mlp(layer.post_attention_layernorm(out_BQD))


def columns_read(batch: PackedBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """The columns of each row's reward positions (B, Q), padded with column 0, and the flat index of each of them there (R,)."""
    num_rows, width = batch.tokens.shape
    row_R, column_R = np.divmod(batch.reward_positions, width)
    order_R = np.argsort(row_R, kind="stable")
    counts_B = np.bincount(row_R, minlength=num_rows)
    place_R = np.empty_like(row_R)
    place_R[order_R] = np.arange(len(row_R)) - np.repeat(np.cumsum(counts_B) - counts_B, counts_B)
    columns_BQ = np.zeros((num_rows, counts_B.max()), np.int64)
    columns_BQ[row_R, place_R] = column_R
    return torch.from_numpy(columns_BQ), torch.from_numpy(row_R * columns_BQ.shape[1] + place_R)


def _heads(attention: Any, name: str, hidden_BLD: torch.Tensor) -> torch.Tensor:
    """(B, H, L, E) queries, keys or values, with their own norm where the architecture has one (Qwen 3)."""
    projected = getattr(attention, f"{name}_proj")(hidden_BLD)
    norm: Any = getattr(attention, f"{name}_norm", None)
    if norm is None:
        return projected.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
    if norm.weight.numel() == projected.shape[-1] != attention.head_dim:  # over all heads at once (OLMo 2 and OLMoE)
        return norm(projected).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
    return norm(projected.unflatten(-1, (-1, attention.head_dim))).transpose(1, 2)


def _rotate(attention: Any, heads_BHLE: torch.Tensor, cos_BLE: torch.Tensor, sin_BLE: torch.Tensor) -> torch.Tensor:
    """Turned as the architecture turns them: by halves or in turns (GLM), whole or in part (Nemotron)."""
    return _rotation(attention)(heads_BHLE[:, :1], heads_BHLE, cos_BLE, sin_BLE)[1]  # queries and keys; one of them suffices


def _rotation(attention: Any) -> Any:
    """The function that an architecture's module has for it; None where it has none of the usual name."""
    return getattr(sys.modules.get(type(attention).__module__), "apply_rotary_pos_emb", None)


def _take(values_BLD: torch.Tensor, columns_BQ: torch.Tensor) -> torch.Tensor:
    return values_BLD.gather(1, columns_BQ[:, :, None].expand(-1, -1, values_BLD.shape[-1]))
