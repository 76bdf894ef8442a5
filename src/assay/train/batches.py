"""From rows of a token table to what one forward eats: micro-batches under a token budget, and the frozen trunk's cache.

Shapes: P pairs, R reads, D hidden size, G groups, T tokens of all groups.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from assay.data.packing import PackedBatch, pack
from assay.data.table import PairTable
from assay.errors import TrainingError
from assay.models.backbone import Backbone
from assay.models.reward_model import RewardModel


class PairBatch(NamedTuple):
    """P pairs in one forward. slots: (R,) where each read goes in the flattened (P, 2) rewards. rows: (P,) table rows."""

    packed: PackedBatch
    slots: np.ndarray
    rows: np.ndarray


def pair_batches(table: PairTable, rows: np.ndarray, max_tokens: int, *, share: bool, pad_id: int = 0) -> list[PairBatch]:
    """Lay the pairs at `rows` into micro-batches of at most `max_tokens` tokens; a pair is never split over two."""
    sizes = table.lengths[rows].sum(axis=1)
    batches = []
    chunks = [rows] if share else _chunks_by_width(table, rows[np.argsort(-sizes, kind="stable")], max_tokens)
    for chunk in chunks:
        groups = [group for row in chunk for group in table.groups(int(row), share=share)]
        num_per_pair = 1 if share else 2
        budget = max_tokens if share else 2**62
        for packed in pack(groups, budget, pad_id=pad_id, one_per_row=not share):
            pairs, inverse = np.unique(packed.order // num_per_pair, return_inverse=True)
            if share:
                slots = (2 * inverse[:, None] + np.arange(2)).reshape(-1)
            else:
                slots = 2 * inverse + packed.order % 2
            batches.append(PairBatch(packed, slots, chunk[pairs]))
    return batches


def _chunks_by_width(table: PairTable, rows: np.ndarray, max_tokens: int) -> Iterator[np.ndarray]:
    start = 0
    while start < len(rows):
        width, end = 0, start
        while end < len(rows):
            width = max(width, int(table.lengths[rows[end]].max()))
            if end > start and 2 * (end + 1 - start) * width > max_tokens:
                break
            end += 1
        yield rows[start:end]
        start = end


def rewards_of_pairs(rewards_RK: torch.Tensor, batch: PairBatch) -> torch.Tensor:
    """(P, 2) rewards of chosen and rejected, from the reads of one forward of a single-member model."""
    slots_R = torch.from_numpy(batch.slots).to(rewards_RK.device)
    return torch.zeros(2 * len(batch.rows), device=rewards_RK.device).index_copy(0, slots_R, rewards_RK[:, 0]).view(-1, 2)


@dataclass(slots=True, kw_only=True)
class TokenSource:
    """Pairs as tokens, or, with a cache, as the frozen trunk's hidden states: what a full or a blocks:K model trains on."""

    table: PairTable
    max_tokens: int
    share: bool
    pad_id: int = 0
    cache: ActivationCache | None = None

    def batches(self, rows: np.ndarray) -> list[PairBatch]:
        return pair_batches(self.table, rows, self.max_tokens, share=self.share, pad_id=self.pad_id)

    def rewards(self, model: RewardModel, batch: PairBatch) -> torch.Tensor:
        hidden_BLD = None
        if self.cache is not None:
            num_per_pair = 1 if self.share else 2
            chunk_groups = _group_ids(batch, num_per_pair)
            hidden_BLD = self.cache.gather(batch.packed, chunk_groups).to(model.head.weight.device)
        return rewards_of_pairs(model(batch.packed, hidden_BLD), batch)


def _group_ids(batch: PairBatch, num_per_pair: int) -> np.ndarray:
    """Table-wide group numbers of the groups in a batch, in the batch's order."""
    if num_per_pair == 1:
        return batch.rows[batch.slots[::2] // 2]
    return 2 * batch.rows[batch.slots // 2] + batch.slots % 2


class StateBatch(NamedTuple):
    """P pairs whose final hidden states are at hand. rows: (P,) table rows."""

    rows: np.ndarray


@dataclass(slots=True, kw_only=True)
class StateSource:
    """Pairs as final hidden states (N, 2, D): what a head alone trains on."""

    table: PairTable
    states_N2D: torch.Tensor

    def batches(self, rows: np.ndarray) -> list[StateBatch]:
        return [StateBatch(rows)]

    def rewards(self, model: RewardModel, batch: StateBatch) -> torch.Tensor:
        states = self.states_N2D[torch.from_numpy(batch.rows)].to(model.head.weight.device)
        return model.read(states.flatten(0, 1))[:, 0].view(-1, 2)


class Source(Protocol):
    """What the loop trains on: rows of a table as micro-batches, and a model's rewards (P, 2) for one of them."""

    @property
    def table(self) -> PairTable: ...
    def batches(self, rows: np.ndarray) -> Sequence[Any]: ...
    def rewards(self, model: RewardModel, batch: Any) -> torch.Tensor: ...


class ActivationCache:
    """Hidden states (T, D) of a frozen trunk for every group of a table, on disk, memory-mapped.

    `offsets[g]` is the first token of group g. float32 or bfloat16, as the trunk computed them.
    """

    def __init__(self, path: Path, offsets: np.ndarray, hidden_size: int, dtype: torch.dtype) -> None:
        self.offsets, self.dtype = offsets, dtype
        storage = np.int16 if dtype == torch.bfloat16 else np.float32
        self._tokens = np.memmap(path, dtype=storage, mode="r", shape=(int(offsets[-1]), hidden_size))

    def gather(self, packed: PackedBatch, groups: np.ndarray) -> torch.Tensor:
        """Hidden states (B, L, D) in the layout of `packed`, whose groups are `groups`; zeros where a row is not filled."""
        flat = np.zeros((packed.tokens.size, self._tokens.shape[1]), dtype=self._tokens.dtype)
        for start, size, group in zip(packed.starts, packed.sizes, groups, strict=True):
            first = int(self.offsets[group])
            flat[start : start + size] = self._tokens[first : first + size]
        hidden = torch.from_numpy(flat)
        hidden = hidden.view(torch.bfloat16) if self.dtype == torch.bfloat16 else hidden
        return hidden.view(*packed.tokens.shape, -1)


def cache_size(table: PairTable, hidden_size: int, dtype: torch.dtype, *, share: bool) -> tuple[int, np.ndarray]:
    """Bytes that the activation cache will take, and the offsets of its groups."""
    sizes = [len(group.tokens) for row in range(len(table)) for group in table.groups(row, share=share)]
    offsets = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
    return int(offsets[-1]) * hidden_size * dtype.itemsize, offsets


@torch.no_grad()
def build_cache(
    trunk: Backbone,
    table: PairTable,
    path: Path,
    *,
    identity: str,
    max_tokens: int,
    dtype: torch.dtype,
    limit_bytes: int,
    on_start: Callable[[int, int], None] = lambda num_bytes, num_tokens: None,
    on_answers: Callable[[int], None] = lambda num_answers: None,
) -> ActivationCache:
    """Run the frozen trunk once over every pair and keep the result on disk; a complete cache of the same identity is reused.

    identity: digest of table, trunk and dtype. Raises TrainingError when the cache would exceed `limit_bytes` or the free disk.
    """
    share = trunk.can_branch
    num_bytes, offsets = cache_size(table, trunk.hidden_size, dtype, share=share)
    on_start(num_bytes, int(offsets[-1]))
    note = path.with_suffix(".json")
    content = json.dumps({"identity": identity, "bytes": num_bytes})
    if note.is_file() and note.read_text() == content and path.is_file() and path.stat().st_size == num_bytes:
        on_answers(2 * len(table))
        return ActivationCache(path, offsets, trunk.hidden_size, dtype)
    path.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(path.parent).free
    if num_bytes > min(limit_bytes, free):
        raise TrainingError(
            f"the trunk's activations would take {num_bytes / 1e9:.1f} GB; the limit is {limit_bytes / 1e9:.1f} GB and "
            f"{free / 1e9:.1f} GB of disk are free: raise --cache-limit-gb, lower --max-length, or train with --params full"
        )
    note.unlink(missing_ok=True)
    storage = np.int16 if dtype == torch.bfloat16 else np.float32
    try:
        with path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, num_bytes)  # a full disk is an error now, not a crash while writing
        tokens = np.memmap(path, dtype=storage, mode="r+", shape=(int(offsets[-1]), trunk.hidden_size))
        for batch, groups in _trunk_batches(table, max_tokens, share):
            hidden = trunk(batch).to(dtype).flatten(0, 1).cpu()
            values = hidden.view(torch.int16).numpy() if dtype == torch.bfloat16 else hidden.numpy()
            for start, size, group in zip(batch.starts, batch.sizes, groups, strict=True):
                tokens[offsets[group] : offsets[group] + size] = values[start : start + size]
            on_answers(len(batch.reads))
        tokens.flush()
        note.write_text(content)
    except OSError as error:
        path.unlink(missing_ok=True)
        note.unlink(missing_ok=True)
        if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
            raise TrainingError(f"the disk is full while caching activations at {path}: free {num_bytes / 1e9:.1f} GB") from error
        raise
    return ActivationCache(path, offsets, trunk.hidden_size, dtype)


@torch.no_grad()
def final_states(
    backbone: Backbone, table: PairTable, *, max_tokens: int, on_answers: Callable[[int], None] = lambda num_answers: None
) -> torch.Tensor:
    """Hidden states (N, 2, D), float32, at the rewarded tokens of every pair, by a frozen backbone."""
    states = torch.zeros(2 * len(table), backbone.hidden_size)
    for batch, groups in _trunk_batches(table, max_tokens, backbone.can_branch):
        hidden_RD = backbone(batch).flatten(0, 1)[torch.from_numpy(batch.reads)].float().cpu()
        reads = (2 * groups[:, None] + np.arange(2)).reshape(-1) if backbone.can_branch else groups
        states[torch.from_numpy(reads)] = hidden_RD
        on_answers(len(batch.reads))
    return states.view(len(table), 2, -1)


def _trunk_batches(table: PairTable, max_tokens: int, share: bool) -> Iterator[tuple[PackedBatch, np.ndarray]]:
    """Every group of the table once, in packed batches with the table-wide group numbers, some hundred pairs at a time."""
    for start in range(0, len(table), 256):
        rows: Sequence[int] = range(start, min(start + 256, len(table)))
        groups = [group for row in rows for group in table.groups(row, share=share)]
        first = start if share else 2 * start
        for batch in pack(groups, max_tokens, one_per_row=not share):
            yield batch, batch.order + first
