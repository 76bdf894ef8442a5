"""Lists of answers as tokens, with numbers for each answer or each of its steps, in a memory-mapped Arrow file: for ranked lists,
attributes and solutions in steps.

Shapes: N rows (a prompt and its answers), R rewarded tokens of all rows (one an answer, or one a step), V numbers of each.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from assay.data.tokens.packing import Group, make_group
from assay.data.tokens.render import LOST, Rendered, Renderer, read_at_end
from assay.errors import DataError
from assay.files import replacing, write_text
from assay.records import Completion

CHUNK_ROWS = 256
REPEATED = "repeats another answer of its prompt, in tokens"
_SCHEMA = pa.schema([
    ("tokens", pa.list_(pa.int32())), ("sizes", pa.list_(pa.int32())), ("reads", pa.list_(pa.int32())),
    ("num_reads", pa.list_(pa.int32())), ("values", pa.list_(pa.float32())), ("prompt", pa.uint64()), ("split", pa.int8()),
])  # fmt: skip


class AnswerRow(NamedTuple):
    """A prompt with its answers. values: (answers, V), or of each answer (its steps, V). prompt: its hash. split: the name of the
    split that it is in."""

    completions: Sequence[Completion]
    values: np.ndarray | Sequence[np.ndarray]
    prompt: int
    split: str


class AnswerTokens(NamedTuple):
    """One answer with its prompt: tokens (T,) int32, and the indices of its rewarded tokens, int32."""

    tokens: np.ndarray
    reward_positions: np.ndarray


@dataclass(kw_only=True)
class AnswerCount:
    """What rendering did to the answers: how many are left, in how many lists; cut to fit; set aside, by reason.

    too_few: lists with fewer answers left than can be used. left_out: parts that the chat template does not render -> in how many.
    num_lost: steps behind the length limit, which are not trained on.
    """

    num_rows: int = 0
    num_answers: int = 0
    num_cut: int = 0
    num_tokens: int = 0
    num_lost: int = 0
    too_few: int = 0
    set_aside: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)

    def summary(self) -> str:
        parts = [f"{self.num_answers:,} answers in {self.num_rows:,} rows", f"{self.num_tokens:,} tokens"]
        if self.num_lost:
            parts.append(f"{self.num_cut:,} answers cut at the end to fit, which leaves {self.num_lost:,} steps out")
        elif self.num_cut:
            parts.append(f"{self.num_cut:,} answers cut at the front to fit")
        parts += [
            f"{count:,} answers in which the chat template leaves out {part}" for part, count in sorted(self.left_out.items())
        ]
        parts += [f"{count:,} answers set aside: {reason}" for reason, count in sorted(self.set_aside.items())]
        parts += [f"{self.too_few:,} lists set aside: too few answers are left"] if self.too_few else []
        return "; ".join(parts)


class AnswerTable:
    """N rows of answers in a memory-mapped Arrow file.

    values: (R, V) float32, NaN for what is not known, row after row; names: of the V numbers. prompt: (N,) uint64 hashes.
    num_reward_positions: (N,) rewarded tokens of each row. fingerprint: digest of the content.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            reader = pa.ipc.open_file(pa.memory_map(str(path)))
            self._batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
            note = json.loads(path.with_suffix(".json").read_text())
            self.fingerprint, self._splits, names = note["fingerprint"], note["splits"], note["names"]
        except (OSError, pa.ArrowInvalid, json.JSONDecodeError, KeyError) as error:
            raise DataError(f"{path} is not a table of answers ({error}): delete it, it is made again") from error
        self.names: tuple[str, ...] = tuple(names)
        self.prompt, self._split = (
            np.concatenate([batch.column(name).to_numpy(zero_copy_only=False) for batch in self._batches])
            for name in ("prompt", "split")
        )
        self.num_reward_positions = np.concatenate([np.diff(batch.column("reads").offsets.to_numpy()) for batch in self._batches])
        self.num_reward_positions = self.num_reward_positions.astype(np.int64)
        self.first_reward_position = np.cumsum(self.num_reward_positions) - self.num_reward_positions
        values = [np.asarray(batch.column("values").values, dtype=np.float32) for batch in self._batches]
        self.values = np.concatenate(values).reshape(-1, len(self.names))

    def __len__(self) -> int:
        return len(self.prompt)

    def rows(self, split: str) -> np.ndarray:
        """The rows of one split, ascending; none for a split that is not there."""
        return np.flatnonzero(self._split == self._splits.index(split)) if split in self._splits else np.empty(0, np.int64)

    def places(self, rows: np.ndarray) -> np.ndarray:
        """Places in `values` of the rewarded tokens of the rows, row after row."""
        starts, sizes = self.first_reward_position[rows], self.num_reward_positions[rows]
        before = np.cumsum(sizes) - sizes
        return np.repeat(starts - before, sizes) + np.arange(int(sizes.sum()))

    def __getitem__(self, row: int) -> list[AnswerTokens]:
        """The answers of a row, read from disk."""
        batch, offset = self._batches[row // CHUNK_ROWS], row % CHUNK_ROWS
        columns = ("tokens", "sizes", "reads", "num_reads")
        tokens, sizes, reads, num_reads = (_list_at(batch.column(name), offset) for name in columns)
        parts = (np.split(content, np.cumsum(counts)[:-1]) for content, counts in ((tokens, sizes), (reads, num_reads)))
        return [AnswerTokens(*answer) for answer in zip(*parts, strict=True)]

    def groups(self, row: int, *, share: bool) -> list[Group]:
        """The answers as one group with a shared prompt, or each as a lone sequence."""
        return laid_out(self[row], share)


class TwoOfEach:
    """Two answers of some rows of a table, each with one rewarded token, as a table of pairs: what `layer_differences` probes.

    rows, first, second: (P,) row of the table, and the numbers of the two answers in it; the first is the better one.
    """

    def __init__(self, table: AnswerTable, rows: np.ndarray, first: np.ndarray, second: np.ndarray) -> None:
        self._table, self._rows, self._first, self._second = table, rows, first, second
        self.num_reward_positions = np.full(len(rows), 2)
        self.first_reward_position = 2 * np.arange(len(rows))
        self.fingerprint, self.prompt = table.fingerprint, table.prompt[rows]

    def __len__(self) -> int:
        return len(self._rows)

    def groups(self, row: int, *, share: bool) -> list[Group]:
        """Both answers as one group, or each as a lone sequence."""
        answers = self._table[int(self._rows[row])]
        return laid_out([answers[int(self._first[row])], answers[int(self._second[row])]], share)


def laid_out(answers: Sequence[AnswerTokens], share: bool) -> list[Group]:
    """Answers as one group with what they begin with in common, or each as a lone sequence."""
    if share:
        return [make_group([answer.tokens for answer in answers], [answer.reward_positions for answer in answers])]
    return [make_group([answer.tokens], [answer.reward_positions]) for answer in answers]


def build_answer_table(
    rows: Iterable[AnswerRow], renderer: Renderer, path: Path, *, names: Sequence[str], fewest: int, reads_steps: bool = False
) -> tuple[AnswerTable, AnswerCount]:
    """Render and tokenise lists of answers once into `path` (.arrow, with a .json beside it), streaming.

    names: of the V numbers of an answer. fewest: answers that a list must keep; lists with fewer are set aside and counted, and so
    are answers that cannot be rendered, and all but the first of those that give the same tokens. reads_steps: every step of an
    answer has a rewarded token and numbers of its own; else the answer has. Raises DataError when nothing is left.
    """
    count, digest = AnswerCount(), hashlib.sha256()
    splits: list[str] = []
    with replacing(path) as work, pa.OSFile(str(work), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as writer:
        rendered = _rendered(rows, renderer, count, fewest, reads_steps)
        while chunk := list(itertools.islice(rendered, CHUNK_ROWS)):
            for row in chunk:
                numbers = (row[name].tobytes() for name in ("tokens", "sizes", "reads", "values"))
                digest.update(b"".join(numbers) + row["split"].encode())
                if row["split"] not in splits:
                    splits.append(row["split"])
                row["split"] = splits.index(row["split"])
            writer.write_batch(pa.RecordBatch.from_pylist(chunk, schema=_SCHEMA))
        if not count.num_rows:
            raise DataError(f"no list of answers is left to train on: {count.summary()}")
    note = {"fingerprint": digest.hexdigest()[:32], "num_rows": count.num_rows, "splits": splits, "names": list(names)}
    write_text(path.with_suffix(".json"), json.dumps(note))
    return AnswerTable(path), count


def _rendered(
    rows: Iterable[AnswerRow], renderer: Renderer, count: AnswerCount, fewest: int, reads_steps: bool
) -> Iterator[dict[str, Any]]:
    stream = iter(rows)
    while chunk := list(itertools.islice(stream, CHUNK_ROWS)):
        items = iter(renderer.render([completion for row in chunk for completion in row.completions]))
        for row in chunk:
            answers = [next(items) for _ in row.completions]
            if not reads_steps:
                answers = [read_at_end(item) for item in answers]
            kept = _usable(answers, count)
            if len(kept) < fewest:
                count.too_few += 1
                continue
            yield _as_row(row, kept, count)


def _as_row(row: AnswerRow, kept: Sequence[tuple[int, Rendered]], count: AnswerCount) -> dict[str, Any]:
    """The answers that are kept, with their places in the row, as a row of the table."""
    answers = [item for _, item in kept]
    present = [item.reward_positions != LOST for item in answers]
    reads = [item.reward_positions[is_there] for item, is_there in zip(answers, present, strict=True)]
    values = [np.atleast_2d(row.values[place])[is_there] for (place, _), is_there in zip(kept, present, strict=True)]
    count.num_rows += 1
    count.num_answers += len(kept)
    count.num_cut += sum(item.is_cut for item in answers)
    count.num_tokens += sum(len(item.tokens) for item in answers)
    count.num_lost += sum(int((~is_there).sum()) for is_there in present)
    for part in (part for item in answers for part in item.left_out):
        count.left_out[part] = count.left_out.get(part, 0) + 1
    return {
        "tokens": np.concatenate([item.tokens for item in answers]),
        "sizes": np.array([len(item.tokens) for item in answers], np.int32),
        "reads": np.concatenate(reads).astype(np.int32),
        "num_reads": np.array([len(places) for places in reads], np.int32),
        "values": np.concatenate(values).astype(np.float32).reshape(-1),
        "prompt": row.prompt,
        "split": row.split,
    }


def _usable(items: Sequence[Rendered], count: AnswerCount) -> list[tuple[int, Rendered]]:
    """The answers of a list that can be used, with their places in it."""
    kept: list[tuple[int, Rendered]] = []
    seen: set[bytes] = set()
    for place, item in enumerate(items):
        reason = ("longer than max_length" if "max_length" in item.error else item.error) if item.error else ""
        content = item.tokens.tobytes() + item.reward_positions.tobytes()
        if not reason and content in seen:
            reason = REPEATED
        if reason:
            count.set_aside[reason] = count.set_aside.get(reason, 0) + 1
            continue
        seen.add(content)
        kept.append((place, item))
    return kept


def _list_at(column: pa.ListArray, row: int) -> np.ndarray:
    start, end = column.offsets[row].as_py(), column.offsets[row + 1].as_py()
    return column.values.to_numpy()[start:end]
