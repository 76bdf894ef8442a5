"""Preference pairs as tokens, once, in an Arrow file that is memory-mapped: a million rows train in constant host memory."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from assay.data.tokens.packing import Group, make_group
from assay.data.tokens.render import Renderer
from assay.data.tokens.rendered_pairs import NothingLeft, RenderCount, RenderedPair, render_pairs
from assay.errors import DataError
from assay.files import replacing, write_text
from assay.records import PreferencePair, log_length

CHUNK_ROWS = 512
_SIDES = ("chosen", "rejected")
_SCHEMA = pa.schema(
    [
        *((name, kind) for side in _SIDES for name, kind in ((side, pa.list_(pa.int32())), (f"{side}_read", pa.int32()))),
        *((f"{side}_start", pa.int32()) for side in _SIDES),
        ("preference", pa.float32()),
        ("margin", pa.float32()),
        ("weight", pa.float32()),
        ("length_gap", pa.float32()),
        ("prompt", pa.uint64()),
        ("split", pa.int8()),
    ]
)


class TokenPair(NamedTuple):
    """Tokens of chosen and rejected, int32, and the index of the rewarded token of each."""

    chosen: np.ndarray
    rejected: np.ndarray
    reward_positions: np.ndarray


class SequenceTable(Protocol):
    """N rows of token sequences. A row is what is trained on together: a pair, a ranked list, some solutions to one problem.

    num_reward_positions: (N,) rewarded tokens of each row. first_reward_position: (N,) how many the rows before it have.
    fingerprint: of the content.
    """

    @property
    def fingerprint(self) -> str: ...
    @property
    def num_reward_positions(self) -> np.ndarray: ...
    @property
    def first_reward_position(self) -> np.ndarray: ...
    def __len__(self) -> int: ...
    def groups(self, row: int, *, share: bool) -> list[Group]:
        """The row as one group with a shared prompt, or as a group for each of its sequences."""
        ...


class SplitTable(SequenceTable, Protocol):
    """A table whose rows know their split and their prompt. prompt: (N,) uint64 hashes."""

    @property
    def prompt(self) -> np.ndarray: ...
    def rows(self, split: str) -> np.ndarray:
        """The rows of one split, ascending; none for a split that is not there."""
        ...


class PairTable:
    """N tokenised pairs in a memory-mapped Arrow file.

    preference, margin (NaN: none), weight: (N,) float32; length_gap: (N,) float32, log length of chosen less that of rejected
    (`log_length`); prompt: (N,) uint64 prompt hashes; lengths: (N, 2) int32 tokens of chosen
    and rejected; answer_starts: (N, 2) int32, where the answers begin among them, -1 in a table that was made without.
    `table[i]` is a TokenPair read from disk. fingerprint: digest of the content.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._batches = _record_batches(path)
            note = json.loads(path.with_suffix(".json").read_text())
            self.fingerprint, self._splits = note["fingerprint"], note["splits"]
        except (OSError, pa.ArrowInvalid, json.JSONDecodeError, KeyError) as error:
            raise DataError(f"{path} is not a token table ({error}): delete it, it is made again") from error
        columns = {name: self._column(name) for name in ("preference", "margin", "weight", "length_gap", "prompt", "split")}
        self.preference, self.margin, self.weight, self.length_gap, self.prompt, self._split = columns.values()
        self.lengths = np.stack([self._lengths(side) for side in _SIDES], axis=1)
        self.answer_starts = np.stack([self._column(f"{side}_start") for side in _SIDES], axis=1)
        self.num_reward_positions = np.full(len(self), len(_SIDES))
        self.first_reward_position = len(_SIDES) * np.arange(len(self))

    def __len__(self) -> int:
        return len(self.preference)

    def __getitem__(self, row: int) -> TokenPair:
        batch, offset = self._batches[row // CHUNK_ROWS], row % CHUNK_ROWS
        chosen, rejected = (_list_at(batch.column(side), offset) for side in _SIDES)
        reward_positions = np.array([batch.column(f"{side}_read")[offset].as_py() for side in _SIDES], np.int32)
        return TokenPair(chosen, rejected, reward_positions)

    def rows(self, split: str) -> np.ndarray:
        """The rows of one split and of its parts ("split:part"), ascending."""
        numbers = [i for i, name in enumerate(self._splits) if name.partition(":")[0] == split]
        return np.flatnonzero(np.isin(self._split, numbers))

    def parts(self, split: str) -> dict[str, np.ndarray]:
        """The rows of each named part of a split, ascending; those of no part are in none."""
        named = {name: i for i, name in enumerate(self._splits) if name.startswith(f"{split}:")}
        return {name.partition(":")[2]: np.flatnonzero(self._split == i) for name, i in named.items()}

    def groups(self, row: int, *, share: bool) -> list[Group]:
        """The pair as one group with a shared prompt, or as two lone sequences."""
        chosen, rejected, reward_positions = self[row]
        if share:
            return [make_group([chosen, rejected], [reward_positions[:1], reward_positions[1:]])]
        return [make_group([chosen], [reward_positions[:1]]), make_group([rejected], [reward_positions[1:]])]

    def _column(self, name: str) -> np.ndarray:
        return np.concatenate([batch.column(name).to_numpy(zero_copy_only=False) for batch in self._batches])

    def _lengths(self, side: str) -> np.ndarray:
        return np.concatenate([np.diff(batch.column(side).offsets.to_numpy()) for batch in self._batches]).astype(np.int32)


def build_table(
    pairs: Iterable[PreferencePair],
    renderer: Renderer,
    path: Path,
    *,
    split: Callable[[PreferencePair], str] = lambda pair: "train",
    with_starts: bool = False,
) -> tuple[PairTable, RenderCount]:
    """Render and tokenise pairs once into `path` (.arrow, with a .json beside it), streaming: memory does not grow with the pairs.

    split: the name of the split that a pair is in; "split:part" for one of up to 120 parts of it. with_starts: also where the
    answers begin.
    A pair that `render_pairs` sets aside is counted. Raises NothingLeft, a DataError, when no pair is left.
    """
    count, digest = RenderCount(), hashlib.sha256()
    splits: list[str] = []
    with replacing(path) as work, pa.OSFile(str(work), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as writer:
        for rows in _chunks(_rows(render_pairs(pairs, renderer, count, with_starts=with_starts), split)):
            for row in rows:
                digest.update(np.asarray(row["chosen"]).tobytes() + b"|" + np.asarray(row["rejected"]).tobytes())
                digest.update(repr((row["preference"], row["margin"], row["weight"], row["split"])).encode())
                if row["split"] not in splits:
                    splits.append(row["split"])
                row["split"] = splits.index(row["split"])
            writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=_SCHEMA))
        if not count.num_pairs:
            raise NothingLeft(count)
    note = {"fingerprint": digest.hexdigest()[:32], "num_pairs": count.num_pairs, "splits": splits}
    write_text(path.with_suffix(".json"), json.dumps(note))
    return PairTable(path), count


def _rows(rendered: Iterable[RenderedPair], split: Callable[[PreferencePair], str]) -> Iterator[dict[str, Any]]:
    for pair, chosen, rejected in rendered:
        yield {
            "chosen": chosen.tokens,
            "chosen_read": int(chosen.reward_positions[-1]),
            "rejected": rejected.tokens,
            "rejected_read": int(rejected.reward_positions[-1]),
            "chosen_start": chosen.answer_start,
            "rejected_start": rejected.answer_start,
            "preference": pair.preference,
            "margin": float("nan") if pair.margin is None else pair.margin,
            "weight": pair.weight,
            "length_gap": log_length(pair.chosen) - log_length(pair.rejected),
            "prompt": int(pair.prompt_key[:16], 16),
            "split": split(pair),
        }


def _chunks(rows: Iterator[Any]) -> Iterator[list[Any]]:
    while chunk := list(itertools.islice(rows, CHUNK_ROWS)):
        yield chunk


def _record_batches(path: Path) -> list[pa.RecordBatch]:
    reader = pa.ipc.open_file(pa.memory_map(str(path)))
    return [reader.get_batch(i) for i in range(reader.num_record_batches)]


def _list_at(column: pa.ListArray, row: int) -> np.ndarray:
    start, end = column.offsets[row].as_py(), column.offsets[row + 1].as_py()
    return column.values.to_numpy()[start:end]
