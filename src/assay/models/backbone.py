"""How a transformers decoder is loaded, run on a packed batch, and cut into a frozen trunk and a trained top.

Nothing else in Assay knows about attention masks. Shapes: B rows, L columns, D hidden size, R reads, Q reads a row at most.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from transformers import MODEL_MAPPING, AutoConfig, AutoModel

from assay.data.packing import PackedBatch, RowLayout, make_group, pack
from assay.models.attention import ATTENTION, block_mask, mask_with_layout
from assay.models.last_layer import has_known_form, last_layer_at

Attention = Literal["parts", "blocks", "mask"]
_WAYS: dict[str, Attention] = {"cpu": "parts", "cuda": "blocks"}
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
        self._stem: tuple[Any, ...] = ()  # the model without its last layer, kept by `_without_last`; in a tuple: no submodule
        self._stops_early: bool | None = None  # not looked at yet
        self._attention: dict[str, Attention] = {}  # by kind of device, once it was looked at

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

    @property
    def layout(self) -> RowLayout:
        """How `pack` should lay groups for it: in one row where attention costs what is seen, and not the row's length squared."""
        if not self.can_branch:
            return "plain"
        return "rows" if self.attention() == "mask" else "one row"

    def forward(self, batch: PackedBatch, hidden_BLD: torch.Tensor | None = None, *, dense: bool = False) -> torch.Tensor:
        """hidden_BLD: states to go on from, in place of the token embeddings (a top over a cached trunk). dense: with a dense
        mask, for groups whose branches do not stand behind their prompt (`packing.stops`)."""
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
            inputs["attention_mask"] = self._masks(batch, device, dense)
        return self.model(**inputs).last_hidden_state

    def read(self, batch: PackedBatch, hidden_BLD: torch.Tensor | None = None) -> torch.Tensor:
        """Last hidden states at the reads alone, (R, D): `forward` and a choice of rows, at less cost where the last layer can be
        run at the reads only."""
        if not self.stops_early():
            states_BLD = self(batch, hidden_BLD)
            return states_BLD.flatten(0, 1).index_select(0, torch.from_numpy(batch.reads).to(states_BLD.device))
        return self._read_early(batch, hidden_BLD)

    def activation_bytes(self, dtype: torch.dtype) -> tuple[int, int]:
        """Without gradients, at the peak: bytes a token (of the feed-forward part: its three widths, the stream, what is normed and
        one copy in float32), and bytes a pair of columns of a row (of a dense mask, where attention needs one)."""
        config = self.config.get_text_config()
        inner = getattr(config, "intermediate_size", None) or 4 * self.hidden_size
        per_token = (3 * int(inner) + 3 * self.hidden_size) * dtype.itemsize + 4 * self.hidden_size
        return per_token, 0 if self.layout != "rows" else 3 + dtype.itemsize

    def attention(self) -> Attention:
        """How attention runs over branches. "parts": part by part, on a CPU. "blocks": FlexAttention, on a CUDA device. "mask":
        over whole rows with a dense mask, which is right everywhere; the others are tried once on a few tokens against it."""
        kind = next(self.model.parameters()).device.type
        if self.config._attn_implementation != ATTENTION or kind not in _WAYS:
            return "mask"
        if kind not in self._attention:
            self._attention[kind] = "mask"
            whole = _states_of_a_few(self)
            self._attention[kind] = _WAYS[kind]
            if not self._gives(whole):
                self._attention[kind] = "mask"
        return self._attention[kind]

    def _gives(self, whole: torch.Tensor) -> bool:
        try:
            return _is_close(_states_of_a_few(self), whole)
        except Exception:  # whatever a compiler or a kernel has against this model or machine, the mask runs
            return False

    def stops_early(self) -> bool:
        """Whether the last layer is run at the reads only; tried once on a few tokens, against the whole layer."""
        if not (self.can_branch and has_known_form(self.model)):
            return False
        if self._stops_early is None:
            early = _states_of_a_few(self, self._read_early)
            self._stops_early = _is_close(early, _states_of_a_few(self))
        return self._stops_early

    def _read_early(self, batch: PackedBatch, hidden_BLD: torch.Tensor | None) -> torch.Tensor:
        stem = self._without_last()
        hidden_BLD = stem(batch, hidden_BLD)
        device = hidden_BLD.device
        columns_BQ, places_R = (part.to(device) for part in _columns(batch))
        seen_BQL = self._seen(batch, columns_BQ, self._window(-1))
        cosines = self.model.rotary_emb(hidden_BLD, torch.from_numpy(batch.positions).to(device, torch.long))
        states_BQD = last_layer_at(self.model.layers[-1], hidden_BLD, cosines, columns_BQ, seen_BQL)
        return self.model.norm(states_BQD.flatten(0, 1).index_select(0, places_R))

    def _without_last(self) -> Backbone:
        """The layers but the last, without the final norm; made anew when a part of the model was replaced."""
        parts = tuple(self.model._modules.values())
        if not self._stem or any(old is not new for old, new in zip(self._stem[1], parts, strict=True)):
            stem = Backbone(_with_layers(self.model, range(self.num_layers - 1)))
            stem.model._modules["norm"] = nn.Identity()
            self._stem = (stem, parts)
        return self._stem[0]

    def _masks(self, batch: PackedBatch, device: torch.device, dense: bool) -> Any:
        """(B, 1, L, L) masks of the one visibility rule; a dictionary by layer type where the model has several."""
        config = self.config.get_text_config()
        layer_types = set(getattr(config, "layer_types", None) or ())
        window = getattr(config, "sliding_window", None)
        if not window or (layer_types and "sliding_attention" not in layer_types):
            return self._mask(batch, device, None, dense)
        sliding = self._mask(batch, device, window, dense)
        if not layer_types:
            return sliding
        return {"full_attention": self._mask(batch, device, None, dense), "sliding_attention": sliding}

    def _mask(self, batch: PackedBatch, device: torch.device, window: int | None, dense: bool) -> Any:
        match "mask" if dense else self.attention():
            case "parts":
                return mask_with_layout(batch, window)
            case "blocks":
                return block_mask(batch, window, device)
        dtype = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else self.dtype
        every_BL = torch.arange(batch.tokens.shape[1], device=device).expand(batch.tokens.shape)
        return _additive(self._seen(batch, every_BL, window), dtype)

    def _seen(self, batch: PackedBatch, columns_BQ: torch.Tensor, window: int | None = None) -> torch.Tensor:
        """(B, Q, L) bool: the one visibility rule, for the tokens at `columns_BQ`. A window counts positions."""
        group_BL, branch_BL, positions_BL = (
            torch.from_numpy(part).to(columns_BQ.device) for part in (batch.group, batch.branch, batch.positions)
        )
        index_L = torch.arange(group_BL.shape[1], device=columns_BQ.device)
        seen_BQL = (group_BL.gather(1, columns_BQ)[:, :, None] == group_BL[:, None]) & (index_L <= columns_BQ[:, :, None])
        seen_BQL &= (branch_BL[:, None] == 0) | (branch_BL[:, None] == branch_BL.gather(1, columns_BQ)[:, :, None])
        if window is not None:
            seen_BQL &= positions_BL.gather(1, columns_BQ)[:, :, None] - positions_BL[:, None] < window
        return seen_BQL

    def _window(self, layer: int) -> int | None:
        """How many positions back a layer sees; None for all."""
        config = self.config.get_text_config()
        layer_types = getattr(config, "layer_types", None)
        if layer_types and layer_types[layer] != "sliding_attention":
            return None
        return getattr(config, "sliding_window", None)


def _columns(batch: PackedBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, Q) columns that each row is read at, filled up with column 0, and (R,) where each read stands in them, flat."""
    num_rows, width = batch.tokens.shape
    row_R, column_R = np.divmod(batch.reads, width)
    order_R = np.argsort(row_R, kind="stable")
    counts_B = np.bincount(row_R, minlength=num_rows)
    place_R = np.empty_like(row_R)
    place_R[order_R] = np.arange(len(row_R)) - np.repeat(np.cumsum(counts_B) - counts_B, counts_B)
    columns_BQ = np.zeros((num_rows, counts_B.max()), np.int64)
    columns_BQ[row_R, place_R] = column_R
    return torch.from_numpy(columns_BQ), torch.from_numpy(row_R * columns_BQ.shape[1] + place_R)


@torch.no_grad()
def _states_of_a_few(backbone: Backbone, read: Callable[[PackedBatch, None], torch.Tensor] | None = None) -> torch.Tensor:
    """States (3, D) at the reads of two answers of a few tokens, by `read` or else by the whole forward."""
    rows = [np.array(tokens, np.int32) for tokens in ((1, 2, 3, 4, 5), (1, 2, 3, 2, 1, 4))]
    batch = pack([make_group(rows, [np.array([3, 4]), np.array([5])])], 64)[0]
    was_training = backbone.model.training
    backbone.model.eval()
    try:
        return (read(batch, None) if read else backbone(batch).flatten(0, 1)[torch.from_numpy(batch.reads)]).float()
    finally:
        backbone.model.train(was_training)


def _is_close(states: torch.Tensor, expected: torch.Tensor) -> bool:
    return bool((states - expected).norm() <= 0.02 * expected.norm())


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
    """transformers' name of the attention to run: ours, over SDPA; SDPA alone where an architecture takes no other's functions
    (Falcon), the eager one where it does not run SDPA either (Gemma 2, gpt-oss, Mamba)."""
    model = MODEL_MAPPING.get(type(config), None)
    if not getattr(model, "_supports_sdpa", True):
        return "eager"
    return ATTENTION if getattr(model, "_supports_attention_backend", False) else "sdpa"


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


def with_layer(backbone: Backbone, layer: nn.Module) -> Backbone:
    """The same backbone with one more layer, of the form of its others, behind its last one."""
    part = _with_layers(backbone.model, range(backbone.num_layers))
    part.layers.append(layer)
    config = part.config.get_text_config()
    config.num_hidden_layers += 1
    if getattr(config, "layer_types", None):
        config.layer_types = [*config.layer_types, config.layer_types[-1]]
    return Backbone(part)


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


def can_cut(backbone: Backbone) -> bool:
    """Whether its layers stand in a plain list with one norm behind them, so that it can be cut between any two."""
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


@torch.no_grad()
def _check_split(backbone: Backbone, trunk: Backbone, top: Backbone) -> None:
    tokens = torch.arange(1, 7, dtype=torch.int32).numpy()
    batch = pack([make_group([tokens], [tokens[-1:] - 1])], 16)[0]
    whole, parts = backbone(batch), top(batch, trunk(batch))
    if not torch.allclose(whole.float(), parts.float(), atol=1e-3, rtol=1e-2):
        raise ValueError(f"{type(backbone.model).__name__} cannot be cut between layers: use --params full or head")
