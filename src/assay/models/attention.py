"""Attention over packed groups whose cost grows with the visible token pairs only; with a dense mask it grows with a row's length
squared.

On a CUDA device it is FlexAttention. On a CPU it runs part by part: a prompt attends to itself, causally; the answers of a group
attend to the prompt and to themselves, answers of similar length in one batch. Masked pairs are not computed, so whole groups fit
into one row without padding. transformers runs it under the name `ATTENTION`. The model passes the `Layout` to its layers as a
keyword, with a mask of NaN: if the keyword is lost, all outputs are NaN. Without both it is SDPA.

Shapes: B rows, L columns, H heads, E their size, P columns of a prompt, S answers in a batch, A columns of the longest of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from assay.data.tokens.packing import PackedBatch

ATTENTION = "assay_parts"
MOST_FILL = 0.15  # largest share of padding in the cost of answers that run in one batch
MOST_WEIGHTS = 1 << 25  # attention weights of one call in memory at once in the backward pass, 64 MB in bfloat16
FEW = 64  # columns up to which padding costs less than another call


class Answers(NamedTuple):
    """Neighbouring answers of a group that run in one batch.

    columns_SA: their columns, short answers padded with their first column. kept: which of the S * A are real, None when all are.
    seen_AC: (A, P + A) bool, what an answer's token sees of the prompt and of its own answer.
    """

    columns_SA: torch.Tensor
    kept: torch.Tensor | None
    seen_AC: torch.Tensor


class Part(NamedTuple):
    """One group: its row, its prompt's columns, and its answers in the order of their columns. Columns are those of the keys.

    seen_PP: bool, what the prompt's tokens see of the prompt; None when they see all earlier tokens.
    """

    row: int
    prompt: slice
    seen_PP: torch.Tensor | None
    answers: tuple[Answers, ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """The groups of a packed batch in the order of rows and columns, for each window of a layer (None: it sees all positions)."""

    parts: Mapping[int | None, tuple[Part, ...]]

    def of(self, window: int | None) -> tuple[Part, ...] | None:
        """The parts for a layer of that window; the window is ignored when all layers have the same."""
        return self.parts.get(window or None) if len(self.parts) > 1 else next(iter(self.parts.values()))


def nan_mask(batch: PackedBatch, dtype: torch.dtype, known: int = 0) -> torch.Tensor:
    """A (B, 1, L, L) mask of NaN that takes no memory: attention that reads it in place of the `Layout` gives NaN. Columns that are
    known have keys alone."""
    num_rows, width = batch.tokens.shape
    return torch.tensor(torch.nan, dtype=dtype).expand(num_rows, 1, width - known, width)


def dense_mask(batch: PackedBatch, window: int | None, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """(B, 1, L, L), 0 where a token sees another one, and the lowest number of the format where it does not."""
    every_BL = torch.arange(batch.tokens.shape[1], device=device).expand(batch.tokens.shape)
    seen_BLL = seen_from(batch, every_BL, window)
    mask = torch.zeros(seen_BLL.shape, dtype=dtype, device=device)
    return mask.masked_fill_(~seen_BLL, torch.finfo(dtype).min)[:, None]


def seen_from(batch: PackedBatch, columns_BQ: torch.Tensor, window: int | None) -> torch.Tensor:
    """(B, Q, L) bool: what the tokens at `columns_BQ` of each row see."""
    num_rows, width = batch.tokens.shape
    rows_B11 = torch.arange(num_rows, device=columns_BQ.device)[:, None, None]
    every_L = torch.arange(width, device=columns_BQ.device)
    return _visibility(batch, window, columns_BQ.device)(rows_B11, None, columns_BQ[:, :, None], every_L)


def block_mask(batch: PackedBatch, window: int | None, device: torch.device) -> BlockMask:
    """For FlexAttention, which skips blocks that nothing sees (Dong et al. 2024)."""
    num_rows, width = batch.tokens.shape
    return create_block_mask(_visibility(batch, window, device), num_rows, None, width, width, device=str(device))


def _visibility(batch: PackedBatch, window: int | None, device: torch.device) -> Callable[[Any, Any, Any, Any], torch.Tensor]:
    """The only definition of visibility: whether the token in one column of a row sees another. A window counts positions."""
    group_BL, branch_BL, position_BL = (torch.from_numpy(part).to(device) for part in (batch.group, batch.branch, batch.positions))

    def sees(row: Any, head: Any, query: Any, key: Any) -> torch.Tensor:
        seen = (group_BL[row, query] == group_BL[row, key]) & (key <= query)
        seen &= (branch_BL[row, key] == 0) | (branch_BL[row, key] == branch_BL[row, query])
        return seen if window is None else seen & (position_BL[row, query] - position_BL[row, key] < window)

    return sees


@lru_cache(maxsize=1)
def _compiled() -> Any:
    return torch.compile(flex_attention, dynamic=True)


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | BlockMask | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    packed_layout: Layout | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention function: (B, H, L, E) queries, keys and values (of fewer heads) -> (B, L, H, E).

    sliding_window: how many positions back this layer sees; transformers passes it to every attention function. With a prompt
    whose keys and values are kept there are more columns of keys than of queries: the queries are those of the last ones.
    """
    if isinstance(attention_mask, BlockMask):
        run = _compiled() if query.is_cuda else flex_attention  # uncompiled it computes the whole matrix: for tests
        mixed = run(query, key, value, block_mask=attention_mask, scale=scaling, enable_gqa=True)
        return mixed.transpose(1, 2), None
    is_ours = attention_mask is None or attention_mask.shape[1] == 1  # a layer with a mask for each head has rules of its own
    parts = packed_layout.of(sliding_window) if packed_layout is not None and is_ours else None
    if parts is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    device = query.device.type
    if torch.is_autocast_enabled(device):  # once: SDPA would cast each part by itself
        query, key, value = (whole.to(torch.get_autocast_dtype(device)) for whole in (query, key, value))
    rows: list[list[torch.Tensor]] = [[] for _ in range(len(query))]
    width = query.shape[2]
    known = key.shape[2] - width
    for part in parts:
        rows[part.row] += _attend_part(query[part.row], key[part.row], value[part.row], part, known, dropout, scaling)
    return torch.stack([_filled(pieces, width) for pieces in rows]), None


def _attend_part(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, part: Part, known: int, dropout: float, scaling: float | None
) -> list[torch.Tensor]:
    """The attention output of one group, (columns, H, E) for the prompt and then for the answers in order. known: columns of keys
    that have no query, since their prompt was computed before."""
    pieces = []
    prompt = part.prompt
    if max(prompt.start, known) < prompt.stop:
        mixed = _mixed(query[None, :, prompt], key[None, :, prompt], value[None, :, prompt], part.seen_PP, dropout, scaling)
        pieces.append(mixed[0].transpose(0, 1))
    for columns_SA, kept, seen_AC in part.answers:
        keys, values = (_with_prompt(whole, prompt, columns_SA) for whole in (key, value))
        mixed = _mixed(_answer_columns(query, columns_SA - known), keys, values, seen_AC, dropout, scaling)
        flat = mixed.transpose(1, 2).flatten(0, 1)
        pieces.append(flat if kept is None else flat.index_select(0, kept))
    return pieces


def _mixed(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    seen_AC: torch.Tensor | None,
    dropout: float,
    scaling: float | None,
) -> torch.Tensor:
    """The attention output of the last A of C columns, (S, H, A, E); keys and values have fewer heads. seen_AC None: causal."""
    size = query.shape[0] * query.shape[1] * query.shape[2] * key.shape[2]
    if query.dtype == torch.bfloat16 and torch.is_grad_enabled() and not dropout and size <= MOST_WEIGHTS:
        return MatrixBackward.apply(query, key, value, seen_AC, scaling)  # type: ignore[no-any-return,no-untyped-call]
    return scaled_dot_product_attention(
        query, key, value, attn_mask=seen_AC, dropout_p=dropout, is_causal=seen_AC is None, scale=scaling, enable_gqa=True
    )


class MatrixBackward(torch.autograd.Function):
    """SDPA forward; the backward pass by products of whole matrices.

    On a CPU with matrix units a product of two bfloat16 matrices runs at several hundred GFLOP/s a core, the blocked backward pass
    of SDPA at some tens: it took a third of a training step (dev/LOG.md). The attention weights are recomputed, not stored.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        seen_AC: torch.Tensor | None,
        scaling: float | None,
    ) -> torch.Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.seen_AC, ctx.scale = seen_AC, query.shape[-1] ** -0.5 if scaling is None else scaling
        return scaled_dot_product_attention(
            query, key, value, attn_mask=seen_AC, is_causal=seen_AC is None, scale=ctx.scale, enable_gqa=True
        )

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value = ctx.saved_tensors
        groups = key.shape[0] * key.shape[1]  # heads that share keys are rows of one matrix
        query_GQE, key_GCE, value_GCE, gradient_GQE = (
            whole.reshape(groups, -1, whole.shape[-1]) for whole in (query, key, value, gradients[0])
        )
        num_columns = query.shape[2]
        seen_AC = _causal(num_columns, None) if ctx.seen_AC is None else ctx.seen_AC
        hidden_AC = torch.zeros(seen_AC.shape, dtype=query.dtype).masked_fill_(~seen_AC, float("-inf"))
        hidden_QC = hidden_AC.repeat(query_GQE.shape[1] // num_columns, 1)
        weights_GQC = torch.baddbmm(hidden_QC, query_GQE, key_GCE.mT, alpha=ctx.scale).softmax(-1)
        value_gradient = torch.bmm(weights_GQC.mT, gradient_GQE)
        weights_gradient = torch.bmm(gradient_GQE, value_GCE.mT)
        scores_gradient = torch.ops.aten._softmax_backward_data(weights_gradient, weights_GQC, -1, query.dtype)
        query_gradient = torch.bmm(scores_gradient, key_GCE).mul_(ctx.scale)
        key_gradient = torch.bmm(scores_gradient.mT, query_GQE).mul_(ctx.scale)
        return query_gradient.view(query.shape), key_gradient.view(key.shape), value_gradient.view(value.shape), None, None


def _with_prompt(heads_HLE: torch.Tensor, prompt: slice, columns_SA: torch.Tensor) -> torch.Tensor:
    """(S, H, P + A, E): the prompt's columns before those of each answer."""
    shared = heads_HLE[None, :, prompt].expand(len(columns_SA), -1, -1, -1)
    return torch.cat([shared, _answer_columns(heads_HLE, columns_SA)], dim=2)


def _answer_columns(heads_HLE: torch.Tensor, columns_SA: torch.Tensor) -> torch.Tensor:
    """(S, H, A, E): the columns of each answer."""
    num_answers, width = columns_SA.shape
    first = int(columns_SA[0, 0])
    if int(columns_SA[-1, -1]) - first + 1 == num_answers * width:  # all of one length: no copy
        chosen = heads_HLE[:, first : first + num_answers * width]
    else:
        chosen = heads_HLE.index_select(1, columns_SA.flatten())
    return chosen.unflatten(1, (num_answers, width)).transpose(0, 1)


def _filled(pieces: list[torch.Tensor], width: int) -> torch.Tensor:
    """The pieces one after another, then zeros up to the row's width."""
    used = sum(len(piece) for piece in pieces)
    if used < width:
        pieces = [*pieces, pieces[0].new_zeros(width - used, *pieces[0].shape[1:])]
    return torch.cat(pieces)


def parts_of(batch: PackedBatch, window: int | None, known: int = 0) -> tuple[Part, ...]:
    """The groups of a batch for layers that see `window` positions back, None for all. known: columns of the prompt that were
    computed before; the batch is then one group."""
    width = batch.tokens.shape[1]
    branch = batch.branch.reshape(-1)
    parts = []
    for start, size in sorted(zip(batch.starts.tolist(), batch.sizes.tolist(), strict=True)):
        branches = branch[start : start + size]
        num_prompt = int(np.searchsorted(branches, 1))
        sizes = np.bincount(branches)[1:]
        row, column = divmod(start, width)
        if len(sizes) == 1 and not known:  # one sequence: nothing branches off
            num_prompt, sizes = size, sizes[:0]
        firsts = column + num_prompt + np.cumsum(sizes) - sizes
        bounds = runs_of_answers(sizes, num_prompt)
        answers = tuple(_answers(firsts[a:b], sizes[a:b], num_prompt, window) for a, b in itertools.pairwise(bounds))
        seen_PP = _causal(num_prompt, window) if window is not None and window < num_prompt else None
        parts.append(Part(row, slice(column, column + num_prompt), seen_PP, answers))
    return tuple(parts)


def _answers(firsts: np.ndarray, sizes: np.ndarray, num_prompt: int, window: int | None) -> Answers:
    longest = int(sizes.max())
    inside_SA = np.arange(longest) < sizes[:, None]
    columns_SA = np.where(inside_SA, firsts[:, None] + np.arange(longest), firsts[:, None])
    kept = None if inside_SA.all() else torch.from_numpy(np.flatnonzero(inside_SA))
    return Answers(torch.from_numpy(columns_SA.astype(np.int64)), kept, _causal(num_prompt + longest, window)[num_prompt:])


def runs_of_answers(sizes: np.ndarray, num_prompt: int) -> list[int]:
    """The first answer of each run of neighbouring answers that should be computed in one batch; at the end the number of answers.

    A run ends where padding to its longest answer would be more than `MOST_FILL` of its cost, the columns of queries times those of
    keys. Answers of at most `FEW` columns never end a run.
    """
    bounds, longest, cost = [0], 0, 0
    for i, size in enumerate(sizes.tolist()):
        longest, cost = max(longest, size), cost + size * (num_prompt + size)
        padded = (i + 1 - bounds[-1]) * longest * (num_prompt + longest)
        if longest > FEW and cost < (1 - MOST_FILL) * padded:
            bounds.append(i)
            longest, cost = size, size * (num_prompt + size)
    return [*bounds, len(sizes)] if len(sizes) else []


def _causal(size: int, window: int | None) -> torch.Tensor:
    """(size, size) bool: each position sees itself and the earlier ones, within the window."""
    seen = torch.ones(size, size, dtype=torch.bool).tril()
    return seen if window is None else seen.triu(1 - window)


AttentionInterface.register(ATTENTION, attend)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
