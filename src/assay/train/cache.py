"""What a frozen trunk computes, kept on disk so that every epoch, the first included, trains from there.

Several processes each fill their share of the one file.

Shapes: N pairs, T tokens of all groups, D hidden size, B rows, L columns, R reads.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from assay.data.packing import PackedBatch, RowLayout, pack
from assay.data.table import PairTable
from assay.errors import TrainingError
from assay.models.backbone import Backbone
from assay.models.mean_layer import last_and_mean
from assay.train import distributed
from assay.train.checkpoint import is_disk_full


class ActivationCache:
    """Hidden states (T, D) of a frozen trunk for every group of a table, on disk, memory-mapped.

    `offsets[g]` is the first token of group g. float32 or bfloat16, as the trunk computed them.
    """

    def __init__(self, tokens: np.ndarray, offsets: np.ndarray, dtype: torch.dtype) -> None:
        self._tokens, self.offsets, self.dtype = tokens, offsets, dtype

    def gather(self, packed: PackedBatch, groups: np.ndarray) -> torch.Tensor:
        """Hidden states (B, L, D) in the layout of `packed`, whose groups are `groups`; zeros where a row is not filled."""
        flat = np.zeros((packed.tokens.size, self._tokens.shape[1]), dtype=self._tokens.dtype)
        for start, size, group in zip(packed.starts, packed.sizes, groups, strict=True):
            first = int(self.offsets[group])
            flat[start : start + size] = self._tokens[first : first + size]
        hidden = torch.from_numpy(flat)
        hidden = hidden.view(torch.bfloat16) if self.dtype == torch.bfloat16 else hidden
        return hidden.view(*packed.tokens.shape, -1)


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
    """Run the frozen trunk once over every pair and keep all its states on disk; a complete cache of the same identity is reused.

    identity: digest of table, trunk and dtype. on_start: told the bytes and tokens before. Raises TrainingError when the cache
    would exceed `limit_bytes` or the free disk.
    """
    share = trunk.can_branch
    sizes = [len(group.tokens) for row in range(len(table)) for group in table.groups(row, share=share)]
    offsets = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
    on_start(int(offsets[-1]) * trunk.hidden_size * dtype.itemsize, int(offsets[-1]))

    def fill(tokens: np.ndarray) -> None:
        for batch, groups in _trunk_batches(table, max_tokens, trunk.layout):
            hidden = trunk(batch).to(dtype).flatten(0, 1).cpu()
            values = hidden.view(torch.int16).numpy() if dtype == torch.bfloat16 else hidden.numpy()
            for start, size, group in zip(batch.starts, batch.sizes, groups, strict=True):
                tokens[offsets[group] : offsets[group] + size] = values[start : start + size]
            on_answers(len(batch.reads))

    storage = np.dtype(np.int16 if dtype == torch.bfloat16 else np.float32)
    shape = (int(offsets[-1]), trunk.hidden_size)
    tokens = _cached(path, shape, storage, identity, limit_bytes, fill, lambda: on_answers(2 * len(table)))
    return ActivationCache(tokens, offsets, dtype)


@torch.no_grad()
def final_states(
    backbone: Backbone,
    table: PairTable,
    path: Path,
    *,
    identity: str,
    max_tokens: int,
    limit_bytes: int,
    with_mean: bool = False,
    on_start: Callable[[int, int], None] = lambda num_bytes, num_reads: None,
    on_answers: Callable[[int], None] = lambda num_answers: None,
) -> np.ndarray:
    """Hidden states (N, 2, D), float32, at the rewarded tokens of every pair, by a frozen backbone; on disk too.

    with_mean: (N, 2, 2D), what `last_and_mean` gives.
    """
    width, read = (
        (2 * backbone.hidden_size, partial(last_and_mean, backbone)) if with_mean else (backbone.hidden_size, backbone.read)
    )
    on_start(8 * len(table) * width, 2 * len(table))

    def fill(states: np.ndarray) -> None:
        flat = states.reshape(2 * len(table), -1)
        for batch, groups in _trunk_batches(table, max_tokens, backbone.layout):
            reads = (2 * groups[:, None] + np.arange(2)).reshape(-1) if backbone.can_branch else groups
            flat[reads] = read(batch).float().cpu().numpy()
            on_answers(len(batch.reads))

    shape = (len(table), 2, width)
    return _cached(path, shape, np.dtype(np.float32), identity, limit_bytes, fill, lambda: on_answers(2 * len(table)))


def _cached(
    path: Path,
    shape: tuple[int, ...],
    storage: np.dtype,
    identity: str,
    limit_bytes: int,
    fill: Callable[[np.ndarray], None],
    on_reuse: Callable[[], None],
) -> np.ndarray:
    """A read-only memory-mapped array that `fill` has written, now or in an earlier run of the same identity."""
    num_bytes = int(np.prod(shape, dtype=np.int64)) * storage.itemsize
    note = path.with_suffix(".json")
    content = json.dumps({"identity": identity, "bytes": num_bytes})
    is_there = note.is_file() and note.read_text() == content and path.is_file() and path.stat().st_size == num_bytes
    distributed.barrier()  # all have looked before one writes
    if is_there:
        on_reuse()
        return np.memmap(path, dtype=storage, mode="r", shape=shape)
    if distributed.rank() == 0:
        _make_room(path, note, num_bytes, limit_bytes)
    distributed.barrier()
    try:
        values = np.memmap(path, dtype=storage, mode="r+", shape=shape)
        fill(values)
        values.flush()
        distributed.barrier()
        if distributed.rank() == 0:
            note.write_text(content)
    except OSError as error:
        _explain_full(error, path, note, num_bytes)
        raise
    return np.memmap(path, dtype=storage, mode="r", shape=shape)


def _make_room(path: Path, note: Path, num_bytes: int, limit_bytes: int) -> None:
    """An empty file of the whole size, in place of one of another identity."""
    path.parent.mkdir(parents=True, exist_ok=True)
    note.unlink(missing_ok=True)
    path.unlink(missing_ok=True)
    free = shutil.disk_usage(path.parent).free
    if num_bytes > min(limit_bytes, free):
        raise TrainingError(
            f"the trunk's activations would take {num_bytes / 1e9:.1f} GB; the limit is {limit_bytes / 1e9:.1f} GB and "
            f"{free / 1e9:.1f} GB of disk are free: raise --cache-limit-gb, lower --max-length, or train with --params full"
        )
    try:
        _reserve(path, num_bytes)
    except OSError as error:
        _explain_full(error, path, note, num_bytes)
        raise


def _explain_full(error: OSError, path: Path, note: Path, num_bytes: int) -> None:
    """Drop what cannot be completed; raises TrainingError when the disk is full."""
    path.unlink(missing_ok=True)
    note.unlink(missing_ok=True)
    if is_disk_full(error):
        raise TrainingError(f"the disk is full while caching activations at {path}: free {num_bytes / 1e9:.1f} GB") from error


def _reserve(path: Path, num_bytes: int) -> None:
    """Take the disk space now: a full disk is an error here, where writing into a mapped file would crash the process."""
    with path.open("wb") as file:
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(file.fileno(), 0, num_bytes)
                return
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                    raise
        for start in range(0, num_bytes, 1 << 24):
            file.write(bytes(min(1 << 24, num_bytes - start)))


def _trunk_batches(table: PairTable, max_tokens: int, layout: RowLayout) -> Iterator[tuple[PackedBatch, np.ndarray]]:
    """Every group of the table once, in packed batches with the table-wide group numbers, some hundred pairs at a time; of them
    this process's share."""
    share = layout != "plain"
    for start in range(256 * distributed.rank(), len(table), 256 * distributed.world_size()):
        rows = range(start, min(start + 256, len(table)))
        groups = [group for row in rows for group in table.groups(row, share=share)]
        first = start if share else 2 * start
        for batch in pack(groups, max_tokens, layout=layout):
            yield batch, batch.order + first
