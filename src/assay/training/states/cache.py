"""Hidden states of frozen layers, kept on disk: every epoch, the first one included, trains from there.

Several processes each write their share of one file.

Shapes: T tokens of all groups, G groups of a batch, R reward positions, A answers, D hidden size, B rows, L columns.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from assay.data.tokens.packing import PackedBatch, RowLayout, pack, spans
from assay.data.tokens.table import SequenceTable
from assay.errors import TrainingError
from assay.files import write_text
from assay.models.backbone import Backbone
from assay.models.mean_layer import last_and_mean
from assay.training import distributed
from assay.training.checkpoint import is_disk_full

CHUNK_ROWS = 256  # rows that are laid out at a time


class KnownStates(NamedTuple):
    """What was computed of some rows before: rows (N,), and of their A answers, row after row, the state at
    the rewarded token before the final norm, and the mean of the normed states over the text: (A, D) float32."""

    rows: np.ndarray
    last_AD: np.ndarray
    mean_AD: np.ndarray


class ActivationCache:
    """Hidden states (T, D) of a frozen trunk for every group of a table, on disk, memory-mapped.

    The first token of group g is `offsets[g]`, the first group of a table row `first_group[row]`. float32 or bfloat16, as the trunk
    computed them.
    """

    def __init__(self, tokens: np.ndarray, offsets: np.ndarray, first_group: np.ndarray, dtype: torch.dtype) -> None:
        self._tokens, self.offsets, self.first_group, self.dtype = tokens, offsets, first_group, dtype

    def gather(self, packed: PackedBatch, groups_G2: np.ndarray) -> torch.Tensor:
        """Hidden states (B, L, D) in the layout of `packed`; zeros where a row is not filled. groups_G2: see `batches.Batch`."""
        return self._laid_out(packed, self.first_group[groups_G2[:, 0]] + groups_G2[:, 1])

    def of_rows(self, packed: PackedBatch, rows_N: np.ndarray) -> torch.Tensor:
        """The same for groups that were packed from all those of some rows, one row after another."""
        ends = np.append(self.first_group[1:], len(self.offsets) - 1)
        return self._laid_out(packed, spans(self.first_group[rows_N], ends[rows_N] - self.first_group[rows_N])[packed.order])

    def _laid_out(self, packed: PackedBatch, groups_G: np.ndarray) -> torch.Tensor:
        flat = np.zeros((packed.tokens.size, self._tokens.shape[1]), dtype=self._tokens.dtype)
        for start, size, group in zip(packed.starts, packed.sizes, groups_G, strict=True):
            first = int(self.offsets[group])
            flat[start : start + size] = self._tokens[first : first + size]
        hidden = torch.from_numpy(flat)
        hidden = hidden.view(torch.bfloat16) if self.dtype == torch.bfloat16 else hidden
        return hidden.view(*packed.tokens.shape, -1)


@torch.no_grad()
def build_cache(
    trunk: Backbone,
    table: SequenceTable,
    path: Path,
    *,
    identity: str,
    max_tokens: int,
    dtype: torch.dtype,
    limit_bytes: int,
    on_start: Callable[[int, int], None] = lambda num_bytes, num_tokens: None,
    on_answers: Callable[[int], None] = lambda num_answers: None,
) -> ActivationCache:
    """Run the frozen trunk once over every row and keep all its states on disk; a complete cache of the same identity is reused.

    identity: digest of table, trunk and dtype. on_start: called with the numbers of bytes and tokens, before. Raises TrainingError
    when the cache would exceed `limit_bytes` or the free disk space.
    """
    sizes: list[int] = []
    first_group = []
    for row in range(len(table)):
        first_group.append(len(sizes))
        sizes += [len(group.tokens) for group in table.groups(row, share=trunk.can_branch)]
    offsets, first_group_N = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]), np.array(first_group)
    on_start(int(offsets[-1]) * trunk.hidden_size * dtype.itemsize, int(offsets[-1]))

    def fill(tokens: np.ndarray) -> None:
        for batch, chunk_N, _ in _trunk_batches(table, np.arange(len(table)), max_tokens, trunk.layout):
            hidden = trunk(batch).to(dtype).flatten(0, 1).cpu()
            values = hidden.view(torch.int16).numpy() if dtype == torch.bfloat16 else hidden.numpy()
            for start, size, group in zip(batch.starts, batch.sizes, first_group_N[chunk_N[0]] + batch.order, strict=True):
                tokens[offsets[group] : offsets[group] + size] = values[start : start + size]
            on_answers(len(batch.reward_positions))

    storage = np.dtype(np.int16 if dtype == torch.bfloat16 else np.float32)
    shape = (int(offsets[-1]), trunk.hidden_size)
    tokens = _cached(path, shape, storage, identity, limit_bytes, fill, lambda: on_answers(int(table.num_reward_positions.sum())))
    return ActivationCache(tokens, offsets, first_group_N, dtype)


@torch.no_grad()
def final_states(
    backbone: Backbone,
    table: SequenceTable,
    path: Path,
    *,
    identity: str,
    max_tokens: int,
    limit_bytes: int,
    with_mean: bool = False,
    known: KnownStates | None = None,
    below: ActivationCache | None = None,
    on_start: Callable[[int, int], None] = lambda num_bytes, num_reward_positions: None,
    on_answers: Callable[[int], None] = lambda num_answers: None,
) -> np.ndarray:
    """Hidden states (R, D), float32, at the rewarded tokens of every row, row after row, by a frozen backbone; on disk too.

    with_mean: (R, 2D), what `last_and_mean` gives. known: what this backbone gave of some rows, which are not run again.
    below: states of the layers below it, where the backbone is the top of a model.
    """
    width, read = (
        (2 * backbone.hidden_size, partial(last_and_mean, backbone)) if with_mean else (backbone.hidden_size, backbone.read)
    )
    num_reward_positions = int(table.num_reward_positions.sum())
    on_start(4 * num_reward_positions * width, num_reward_positions)

    def places(rows: np.ndarray) -> np.ndarray:
        return spans(table.first_reward_position[rows], table.num_reward_positions[rows])

    def fill(states_RD: np.ndarray) -> None:
        rows = np.arange(len(table))
        if known is not None:
            rows = np.setdiff1d(rows, known.rows)
            if distributed.rank() == 0:
                last_AD = known.last_AD if with_mean else normed(known.last_AD, backbone)
                states_RD[places(known.rows)] = np.concatenate([last_AD, known.mean_AD], axis=1) if with_mean else last_AD
            on_answers(len(known.last_AD) // distributed.world_size())
        for batch, chunk_N, reward_positions_G in _trunk_batches(table, rows, max_tokens, backbone.layout):
            first_G = np.cumsum(reward_positions_G) - reward_positions_G
            inside = spans(first_G[batch.order], reward_positions_G[batch.order])
            hidden_BLD = None if below is None else below.of_rows(batch, chunk_N).to(backbone.device)
            states_RD[places(chunk_N)[inside]] = read(batch, hidden_BLD).float().cpu().numpy()
            on_answers(len(batch.reward_positions))

    return _cached(
        path,
        (num_reward_positions, width),
        np.dtype(np.float32),
        identity,
        limit_bytes,
        fill,
        lambda: on_answers(num_reward_positions),
    )


def normed(last_AD: np.ndarray, backbone: Backbone) -> np.ndarray:
    """States through the final norm, in the number format of the backbone: what its `read` gives, as float32."""
    with torch.no_grad():
        states_AD = backbone.model.norm(torch.from_numpy(last_AD).to(backbone.device, backbone.dtype))
    return states_AD.float().cpu().numpy()  # type: ignore[no-any-return]


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
            write_text(note, content)
    except OSError as error:
        _explain_full(error, path, note, num_bytes)
        raise
    return np.memmap(path, dtype=storage, mode="r", shape=shape)


def _make_room(path: Path, note: Path, num_bytes: int, limit_bytes: int) -> None:
    """Reserve a file of the whole size, in place of one of another identity."""
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
    """Delete an incomplete cache; raises TrainingError when the disk is full."""
    path.unlink(missing_ok=True)
    note.unlink(missing_ok=True)
    if is_disk_full(error):
        raise TrainingError(f"the disk is full while caching activations at {path}: free {num_bytes / 1e9:.1f} GB") from error


def _reserve(path: Path, num_bytes: int) -> None:
    """Allocate the disk space now: a full disk is an error here, but a crash when a mapped file is written to."""
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


class TrunkBatch(NamedTuple):
    """packed: some groups of a chunk of rows. rows: of the chunk. reward_positions_G: (G,) number in each group."""

    packed: PackedBatch
    rows: np.ndarray
    reward_positions_G: np.ndarray


def _trunk_batches(table: SequenceTable, rows_N: np.ndarray, max_tokens: int, layout: RowLayout) -> Iterator[TrunkBatch]:
    """Every group of the rows once, some hundred rows at a time; of them this process's share."""
    for start in range(CHUNK_ROWS * distributed.rank(), len(rows_N), CHUNK_ROWS * distributed.world_size()):
        rows = rows_N[start : start + CHUNK_ROWS]
        groups = [group for row in rows for group in table.groups(int(row), share=layout != "plain")]
        reward_positions_G = np.array([len(group.reward_positions) for group in groups])
        for packed in pack(groups, max_tokens, layout=layout):
            yield TrunkBatch(packed, rows, reward_positions_G)
