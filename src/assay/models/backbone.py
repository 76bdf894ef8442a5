"""Load a transformers decoder, run it on a packed batch, and cut it into a frozen trunk and a trained top.

Only this module and `attention` know about attention masks. Shapes: B rows, L columns, D hidden size, R reward positions,
Q of them in a row at most.
"""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from transformers import MODEL_MAPPING, AutoConfig, AutoModel

from assay.data.tokens.packing import PackedBatch, RowLayout, make_group, pack, rounds_of
from assay.models.attention import ATTENTION, Layout, block_mask, dense_mask, nan_mask, parts_of, seen_from
from assay.models.bases import no_progress_bars
from assay.models.kept_prompt import KeptPrompt, read_in_rounds
from assay.models.last_layer import columns_read, has_known_form, last_layer_at

Attention = Literal["parts", "blocks", "mask"]
_WAYS: dict[str, Attention] = {"cpu": "parts", "cuda": "blocks"}
_BRANCHING_LAYERS = {"full_attention", "sliding_attention"}
_TRIED_WINDOW = 3  # in a test on a few tokens a longer window would mask none of them


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
        self._stem: tuple[Any, ...] = ()  # the model without its last layer, from `_without_last`; in a tuple: not a submodule
        self._stops_early: bool | None = None  # None: not tested yet
        self._keeps_prompts: bool | None = None
        self._attention: dict[str, Attention] = {}  # by device type, once it was tested

    @property
    def config(self) -> Any:
        return self.model.config

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the layers: that of the last parameter, since the embeddings of a trained top may have another."""
        return list(self.model.parameters())[-1].dtype

    def autocast(self, dtype: torch.dtype) -> torch.autocast:
        """Compute in `dtype` where the parameters have another number format."""
        return torch.autocast(self.device.type, dtype, enabled=dtype != self.dtype)

    @property
    def hidden_size(self) -> int:
        return int(self.config.get_text_config().hidden_size)

    @property
    def num_layers(self) -> int:
        return int(self.config.get_text_config().num_hidden_layers)

    @property
    def windows(self) -> list[int | None]:
        """How many positions back each layer sees, None for all; a single entry when all layers are of one type."""
        config = self.config.get_text_config()
        window = getattr(config, "sliding_window", None) or None
        types = getattr(config, "layer_types", None) or ["sliding_attention"]  # without types a window is every layer's
        return [window if each == "sliding_attention" else None for each in types]

    @property
    def layout(self) -> RowLayout:
        """How `pack` should place groups: in one row, unless attention costs the row's length squared (a dense mask)."""
        if not self.can_branch:
            return "plain"
        return "rows" if self.attention() == "mask" else "one row"

    def forward(
        self,
        batch: PackedBatch,
        hidden_BLD: torch.Tensor | None = None,
        *,
        dense: bool = False,
        behind: KeptPrompt | None = None,
    ) -> torch.Tensor:
        """hidden_BLD: input states in place of the token embeddings (for a top over a cached trunk). dense: use a dense mask, for
        groups whose branches do not follow their prompt (`packing.pack_prefixes`). behind: what is kept of the prompt of the
        batch, whose columns are then neither computed nor returned."""
        if not (batch.is_plain or self.can_branch):
            raise ValueError(f"{type(self.model).__name__} cannot branch: pack its sequences one to a row, without sharing")
        return self._run(batch, hidden_BLD, way="mask" if dense or batch.is_plain else self.attention(), behind=behind)

    def read(self, batch: PackedBatch, hidden_BLD: torch.Tensor | None = None) -> torch.Tensor:
        """Last hidden states at the reward positions, (R, D): rows of `forward`, at less cost when the last layer can be run at
        the reward positions only. A group of more than `round_tokens` runs some answers at a time behind its prompt's keys and
        values (not where gradients are kept)."""
        is_whole = hidden_BLD is not None or torch.is_grad_enabled() or not batch.round_tokens
        rounds = [] if is_whole or not self.keeps_prompts() else rounds_of(batch)
        read = self._read_early if self.stops_early() else self._read_whole
        return read_in_rounds(read, rounds) if rounds else read(batch, hidden_BLD)

    def keeps_prompts(self) -> bool:
        """Whether a group can run in rounds, its prompt computed once: where attention runs part by part. It is compared once with
        a dense mask, on a few tokens."""
        if self.layout != "one row":
            return False
        if self._keeps_prompts is None:
            tried, expected = (
                partial(self._read_whole, run=partial(self._run, way=way, longest_window=_TRIED_WINDOW))
                for way in ("parts", "mask")
            )
            try:
                self._keeps_prompts = _agree(
                    self, lambda batch: read_in_rounds(tried, rounds_of(replace(batch, round_tokens=2))), expected
                )
            except Exception:  # its layers may have caches of their own kind; one forward works
                self._keeps_prompts = False
        return self._keeps_prompts

    def activation_bytes(self, dtype: torch.dtype) -> tuple[int, int]:
        """Peak memory without gradients: bytes for each token (in the feed-forward part: its three widths, the residual stream, the
        normed states and one float32 copy), and bytes for each pair of columns of a row (of a dense mask, if there is one)."""
        config = self.config.get_text_config()
        inner = getattr(config, "intermediate_size", None) or 4 * self.hidden_size
        per_token = (3 * int(inner) + 3 * self.hidden_size) * dtype.itemsize + 4 * self.hidden_size
        return per_token, 0 if self.layout != "rows" else 3 + dtype.itemsize

    def attention(self) -> Attention:
        """How attention runs over branches. "parts": part by part, on a CPU. "blocks": FlexAttention, on a CUDA device. "mask":
        over whole rows with a dense mask, which is always right; the others are compared with it once, on a few tokens."""
        kind = self.device.type
        if self.config._attn_implementation != ATTENTION or kind not in _WAYS:
            return "mask"
        if kind not in self._attention:
            self._attention[kind] = _WAYS[kind] if self._is_right(_WAYS[kind]) else "mask"
        return self._attention[kind]

    def _is_right(self, way: Attention) -> bool:
        tried, expected = (partial(self._run, way=each, longest_window=_TRIED_WINDOW) for each in (way, "mask"))
        try:
            return _agree(self, tried, expected)
        except Exception:  # a compiler or a kernel may fail on this model or machine; the mask works
            return False

    def stops_early(self) -> bool:
        """Whether the last layer is run at the reward positions only. It is compared once with the whole layer, on a few tokens."""
        if not (self.can_branch and has_known_form(self.model)):
            return False
        if self._stops_early is None:
            try:
                exact = self.dtype == torch.float32 and not torch.is_autocast_enabled(self.device.type)
                self._stops_early = _agree(self, self._read_early, self._read_whole, tolerance=1e-3 if exact else 0.02)
            except (AttributeError, RuntimeError):  # its parts have the names of Llama's, but other shapes
                self._stops_early = False
        return self._stops_early

    def _run(
        self,
        batch: PackedBatch,
        hidden_BLD: torch.Tensor | None = None,
        *,
        way: Attention,
        longest_window: int | None = None,
        behind: KeptPrompt | None = None,
    ) -> torch.Tensor:
        """`forward` with attention of one kind. longest_window: limits the windows of layers that have one, for a test."""
        known = behind.num_columns if behind else 0
        inputs: dict[str, Any] = {"use_cache": behind is not None}
        if hidden_BLD is None:
            inputs["input_ids"] = torch.from_numpy(batch.tokens[:, known:]).to(self.device, torch.long)
        else:
            inputs["inputs_embeds"] = hidden_BLD
        if self.can_branch:
            inputs["position_ids"] = torch.from_numpy(batch.positions[:, known:]).to(self.device, torch.long)
        if behind is not None:
            inputs["past_key_values"] = behind.cache
        if not batch.is_plain:
            inputs |= self._masks(batch, way, longest_window, known)
        return self.model(**inputs).last_hidden_state

    def _read_whole(
        self,
        batch: PackedBatch,
        hidden_BLD: torch.Tensor | None = None,
        *,
        behind: KeptPrompt | None = None,
        run: Callable[..., torch.Tensor] | None = None,
    ) -> torch.Tensor:
        places_R = torch.from_numpy(batch.reward_positions - (behind.num_columns if behind else 0))
        states_BLD = (run or self)(batch, hidden_BLD, behind=behind)
        return states_BLD.flatten(0, 1).index_select(0, places_R.to(states_BLD.device))

    def _read_early(
        self, batch: PackedBatch, hidden_BLD: torch.Tensor | None = None, *, behind: KeptPrompt | None = None
    ) -> torch.Tensor:
        stem = self._without_last()
        hidden_BLD = stem(batch, hidden_BLD, behind=behind)
        hidden_BLD = behind.whole(hidden_BLD) if behind else hidden_BLD
        device = hidden_BLD.device
        columns_BQ, places_R = (part.to(device) for part in columns_read(batch))
        seen_BQL = seen_from(batch, columns_BQ, self.windows[-1])
        cosines = self.model.rotary_emb(hidden_BLD, torch.from_numpy(batch.positions).to(device, torch.long))
        states_BQD = last_layer_at(self.model.layers[-1], hidden_BLD, cosines, columns_BQ, seen_BQL)
        return self.model.norm(states_BQD.flatten(0, 1).index_select(0, places_R))

    def _without_last(self) -> Backbone:
        """All layers but the last, without the final norm; rebuilt when a part of the model was replaced."""
        parts = tuple(self.model._modules.values())
        if not self._stem or any(old is not new for old, new in zip(self._stem[1], parts, strict=True)):
            stem = Backbone(_with_layers(self.model, range(self.num_layers - 1)))
            stem.model._modules["norm"] = nn.Identity()
            self._stem = (stem, parts)
        return self._stem[0]

    def _masks(self, batch: PackedBatch, way: Attention, longest_window: int | None, known: int) -> dict[str, Any]:
        """The model's inputs for visibility: a mask, or one for each layer type; for "parts" also a `Layout`."""
        device = self.device
        dtype = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else self.dtype
        lengths = {window: min(window, longest_window or window) if window else None for window in self.windows}
        if way == "parts":
            layout = Layout({window: parts_of(batch, length, known) for window, length in lengths.items()})
            return {"attention_mask": nan_mask(batch, dtype, known), "packed_layout": layout}
        masks: dict[int | None, Any] = {
            window: block_mask(batch, length, device) if way == "blocks" else dense_mask(batch, length, dtype, device)
            for window, length in lengths.items()
        }
        if len(masks) == 1:
            return {"attention_mask": masks.popitem()[1]}
        return {"attention_mask": {"sliding_attention" if window else "full_attention": mask for window, mask in masks.items()}}


@torch.no_grad()
def _agree(
    backbone: Backbone,
    run: Callable[[PackedBatch], torch.Tensor],
    expected: Callable[[PackedBatch], torch.Tensor],
    num_answers: int = 2,
    tolerance: float = 0.02,
) -> bool:
    """Whether two ways to run a backbone give the same states, without NaN, on one or two answers of a few tokens.

    tolerance: largest difference, as a share of the states' norm.
    """
    rows = [np.array(tokens, np.int32) for tokens in ((1, 2, 3, 4, 5), (1, 2, 3, 2, 1, 4))]
    reward_positions = [np.array([3, 4]), np.array([5])]
    batch = pack([make_group(rows[:num_answers], reward_positions[:num_answers])], 64)[0]
    was_training = backbone.model.training
    backbone.model.eval()
    try:
        states, right = run(batch).float(), expected(batch).float()
    finally:
        backbone.model.train(was_training)
    return bool((states - right).norm() <= tolerance * right.norm())


def _can_branch(model: Any) -> bool:
    """Whether all layers use attention over explicit positions: no recurrent state, no layer type or bias (ALiBi) that uses packed
    indices."""
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
    """transformers' name of the attention to run: ours; "sdpa" for an architecture that takes no other attention function (Falcon),
    "eager" for one that does not support SDPA either (Gemma 2, gpt-oss, Mamba)."""
    model = MODEL_MAPPING.get(type(config), None)
    if not getattr(model, "_supports_sdpa", True):
        return "eager"
    return ATTENTION if getattr(model, "_supports_attention_backend", False) else "sdpa"


@no_progress_bars()
def load_backbone(
    base: str | Path,
    *,
    dtype: torch.dtype | None = None,
    depth: int | None = None,
    revision: str | None = None,
    drop_prefix: str | None = None,
) -> Backbone:
    """The decoder of a hub id or a directory, without its LM head; `depth` keeps only the first layers.

    dtype: that of the parameters; None keeps the checkpoint's own. drop_prefix: what stands before the usual names of its tensors.
    Raises ValueError when weights are missing: no weight of a backbone is ever initialised at random.
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
        use_safetensors=True,  # pickled weights are never loaded
        key_mapping={f"^{re.escape(drop_prefix)}": ""} if drop_prefix else None,
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


def with_layer(backbone: Backbone, layer: nn.Module) -> Backbone:
    """The same backbone with one more layer, of the same class as the others, after the last one."""
    part = _with_layers(backbone.model, range(backbone.num_layers))
    part.layers.append(layer)
    config = part.config.get_text_config()
    config.num_hidden_layers += 1
    if getattr(config, "layer_types", None):
        config.layer_types = [*config.layer_types, config.layer_types[-1]]
    return Backbone(part)


def split_backbone(backbone: Backbone, num_top: int) -> tuple[Backbone, Backbone]:
    """(trunk, top): the first layers without the final norm, and the last `num_top` layers with it. They share the parameters.

    `top(batch, trunk(batch))` equals `backbone(batch)`; this is checked on a few tokens. Raises ValueError for an architecture that
    cannot be cut between layers; it can be trained with --params full or head.
    """
    total = backbone.num_layers
    if not 1 <= num_top < total:
        raise ValueError(f"blocks:{num_top} is not in 1..{total - 1}: this base has {total} blocks (use --params full for all)")
    _refuse_uncuttable(backbone, "use --params full or head")
    trunk = Backbone(_with_layers(backbone.model, range(total - num_top)))
    trunk.model._modules["norm"] = nn.Identity()
    top = Backbone(_with_layers(backbone.model, range(total - num_top, total)))
    if not _agree(backbone, lambda batch: top(batch, trunk(batch)), backbone, num_answers=1):
        raise ValueError(f"{type(backbone.model).__name__} cannot be cut between layers: use --params full or head")
    return trunk, top


def add_dropout(model: Any, rate: float) -> None:
    """In training, apply dropout to the outputs of the attention and the feed-forward part of each layer (if it has them)."""

    def drop(module: nn.Module, inputs: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (nn.functional.dropout(output[0], rate, module.training), *output[1:])
        return nn.functional.dropout(output, rate, module.training)

    parts = [getattr(layer, name, None) for layer in getattr(model, "layers", ()) for name in ("self_attn", "mlp")]
    for part in parts:
        if rate and part is not None:
            part.register_forward_hook(drop)


def can_cut(backbone: Backbone) -> bool:
    """Whether its layers are a plain list followed by one norm, so that it can be cut between any two layers."""
    return hasattr(backbone.model, "layers") and hasattr(backbone.model, "norm")


def _refuse_uncuttable(backbone: Backbone, fix: str) -> None:
    if not can_cut(backbone):
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
