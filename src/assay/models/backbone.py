"""How a transformers decoder is loaded, run on a packed batch, and cut into a frozen trunk and a trained top.

Nothing else in Assay knows about attention masks. Shapes: B rows, L columns, D hidden size.
"""

from __future__ import annotations

import copy
import inspect
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import MODEL_MAPPING, AutoConfig, AutoModel

from assay.data.packing import PackedBatch, make_group, pack

_BRANCHING_LAYERS = {"full_attention", "sliding_attention"}


class Backbone(nn.Module):
    """A decoder without its LM head. `forward` gives the last hidden states (B, L, D) of a packed batch.

    model: the transformers base model (LlamaModel, Qwen3Model, ...). Where `can_branch` is False (recurrent and hybrid layers,
    absolute position tricks) only batches with `is_plain` are accepted: each row one sequence, right-padded.
    """

    model: Any

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.can_branch = _can_branch(model)

    @property
    def config(self) -> Any:
        return self.model.config

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the layers: of the last parameter, since a trained top shares embeddings in the checkpoint's own."""
        return list(self.model.parameters())[-1].dtype

    @property
    def hidden_size(self) -> int:
        return int(self.config.get_text_config().hidden_size)

    @property
    def num_layers(self) -> int:
        return int(self.config.get_text_config().num_hidden_layers)

    def forward(self, batch: PackedBatch, hidden_BLD: torch.Tensor | None = None) -> torch.Tensor:
        """hidden_BLD: states to go on from, in place of the token embeddings (a top over a cached trunk)."""
        if not (batch.is_plain or self.can_branch):
            raise ValueError(f"{type(self.model).__name__} cannot branch: pack its sequences one to a row, without sharing")
        device = next(self.model.parameters()).device
        inputs: dict[str, Any] = {"use_cache": False}
        if hidden_BLD is None:
            inputs["input_ids"] = torch.from_numpy(batch.tokens).to(device, torch.long)
        else:
            inputs["inputs_embeds"] = hidden_BLD
        if self.can_branch:
            inputs["position_ids"] = torch.from_numpy(batch.positions).to(device, torch.long)
        if not batch.is_plain:
            inputs["attention_mask"] = self._masks(batch, device)
        return self.model(**inputs).last_hidden_state

    def _masks(self, batch: PackedBatch, device: torch.device) -> Any:
        """Additive (B, 1, L, L) masks of the one visibility rule; a dictionary by layer type where the model has several."""
        config = self.config.get_text_config()
        dtype = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else self.dtype
        group = torch.from_numpy(batch.group).to(device)
        branch = torch.from_numpy(batch.branch).to(device)
        positions = torch.from_numpy(batch.positions).to(device)
        width = group.shape[1]
        seen_BLL = (group[:, :, None] == group[:, None, :]) & torch.ones(width, width, dtype=torch.bool, device=device).tril()
        seen_BLL &= (branch[:, None, :] == 0) | (branch[:, None, :] == branch[:, :, None])
        full = _additive(seen_BLL, dtype)
        layer_types = set(getattr(config, "layer_types", None) or ())
        window = getattr(config, "sliding_window", None)
        if not window or (layer_types and "sliding_attention" not in layer_types):
            return full
        near_BLL = seen_BLL & (positions[:, :, None] - positions[:, None, :] < window)
        sliding = _additive(near_BLL, dtype)
        return {"full_attention": full, "sliding_attention": sliding} if layer_types else sliding


def _additive(seen_BLL: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    mask = torch.zeros(seen_BLL.shape, dtype=dtype, device=seen_BLL.device)
    return mask.masked_fill_(~seen_BLL, torch.finfo(dtype).min)[:, None]


def _can_branch(model: Any) -> bool:
    """Attention over explicit positions only: no recurrent state, no layer type or bias (ALiBi) that counts packed indices."""
    config = model.config.get_text_config()
    layer_types = set(getattr(config, "layer_types", None) or ("full_attention",))
    stateful = bool(getattr(model, "_is_stateful", False))
    counts_indices = getattr(config, "alibi", False) or "local" in getattr(config, "attention_layers", ())  # Falcon, GPT-Neo
    return (
        not stateful
        and not counts_indices
        and layer_types <= _BRANCHING_LAYERS
        and "position_ids" in inspect.signature(model.forward).parameters
    )


def attention_for(config: Any) -> str:
    """transformers' name of the attention to run: SDPA, or the eager one of architectures without it (Gemma 2, gpt-oss, Mamba)."""
    return "sdpa" if getattr(MODEL_MAPPING.get(type(config), None), "_supports_sdpa", True) else "eager"


def load_backbone(
    base: str | Path, *, dtype: torch.dtype | None = None, depth: int | None = None, revision: str | None = None
) -> Backbone:
    """The decoder of a hub id or a directory, without its LM head; `depth` keeps only the first layers.

    dtype: that of the parameters; None keeps the checkpoint's own. Raises ValueError when weights are missing: nothing of a
    backbone is ever initialised at random.
    """
    config = AutoConfig.from_pretrained(str(base), revision=revision, trust_remote_code=False)
    model, loading = AutoModel.from_pretrained(
        str(base),
        config=config,
        dtype=dtype or "auto",
        revision=revision,
        trust_remote_code=False,
        attn_implementation=attention_for(config),
        output_loading_info=True,
    )
    if loading["missing_keys"]:
        raise ValueError(
            f"{base} lacks weights of its architecture, such as {sorted(loading['missing_keys'])[:3]}: give a whole checkpoint"
        )
    backbone = Backbone(model)
    return cut_depth(backbone, depth) if depth is not None else backbone


def cut_depth(backbone: Backbone, depth: int) -> Backbone:
    """The same backbone with only its first `depth` layers (final norm kept): a plain shallower checkpoint."""
    if not 1 <= depth <= backbone.num_layers:
        raise ValueError(f"depth {depth} is not in 1..{backbone.num_layers}, the layers of this base")
    _refuse_uncuttable(backbone, "--depth cannot be given for it")
    return Backbone(_with_layers(backbone.model, range(depth)))


def split_backbone(backbone: Backbone, num_top: int) -> tuple[Backbone, Backbone]:
    """(trunk, top): the first layers without the final norm, and the last `num_top` layers with it. They share the parameters.

    `top(batch, trunk(batch))` equals `backbone(batch)`; this is checked on a few tokens, and an architecture whose layers
    cannot be taken apart so (ValueError) trains with --params full or head.
    """
    total = backbone.num_layers
    if not 1 <= num_top < total:
        raise ValueError(f"blocks:{num_top} is not in 1..{total - 1}: this base has {total} blocks (use --params full for all)")
    _refuse_uncuttable(backbone, "use --params full or head")
    trunk = Backbone(_with_layers(backbone.model, range(total - num_top)))
    trunk.model._modules["norm"] = nn.Identity()
    top = Backbone(_with_layers(backbone.model, range(total - num_top, total)))
    _check_split(backbone, trunk, top)
    return trunk, top


def add_dropout(model: Any, rate: float) -> None:
    """Drop, in training, a share of what the attention and the feed-forward part of each layer add (where it has such parts)."""

    def drop(module: nn.Module, inputs: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (nn.functional.dropout(output[0], rate, module.training), *output[1:])
        return nn.functional.dropout(output, rate, module.training)

    parts = [getattr(layer, name, None) for layer in getattr(model, "layers", ()) for name in ("self_attn", "mlp")]
    for part in parts:
        if rate and part is not None:
            part.register_forward_hook(drop)


def _refuse_uncuttable(backbone: Backbone, fix: str) -> None:
    if not (hasattr(backbone.model, "layers") and hasattr(backbone.model, "norm")):
        raise ValueError(f"{type(backbone.model).__name__} has no plain .layers and .norm to cut at: {fix}")


def _with_layers(model: Any, keep: range) -> Any:
    """A shallow copy of a decoder that runs only some of its layers, parameters shared."""
    part = copy.copy(model)
    part._modules = dict(model._modules)
    part._modules["layers"] = nn.ModuleList([model.layers[i] for i in keep])
    part.config = copy.deepcopy(model.config)
    config = part.config.get_text_config()
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[i] for i in keep]
    config.num_hidden_layers = len(keep)
    return part


@torch.no_grad()
def _check_split(backbone: Backbone, trunk: Backbone, top: Backbone) -> None:
    tokens = torch.arange(1, 7, dtype=torch.int32).numpy()
    batch = pack([make_group([tokens], [tokens[-1:] - 1])], 16)[0]
    whole, parts = backbone(batch), top(batch, trunk(batch))
    if not torch.allclose(whole.float(), parts.float(), atol=1e-3, rtol=1e-2):
        raise ValueError(f"{type(backbone.model).__name__} cannot be cut between layers: use --params full or head")
