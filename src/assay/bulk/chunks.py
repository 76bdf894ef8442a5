"""A file of completions in chunks, and the rows that scoring a chunk gives: the same in one process and on a cluster."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple, TypeAlias

from assay.data.pairs import NoCompletion, read_completions
from assay.errors import DataError
from assay.records import Completion
from assay.scorers.base import Scorer, capability
from assay.scorers.wrappers.cached import Cached
from assay.wire import completion_from_row, completion_to_row, rewards_to_rows

CHUNK = 512
"""Completions that are scored together."""

Chunk: TypeAlias = list[tuple[int, Completion | str]]
"""Row numbers, each with its completion or the reason why there is none."""


class ScoredChunk(NamedTuple):
    """A row for every item of a chunk, in order. num_known: rewards that were in the cache, of num_requested."""

    rows: list[dict[str, Any]]
    num_known: int = 0
    num_requested: int = 0
    cache_problem: str | None = None


def chunks_after(source: str, num_done: int = 0, last_row: int = 0, *, size: int = CHUNK) -> Iterator[Chunk]:
    """The completions of a file in chunks of `size`, without the first `num_done`; `last_row` is the row number of the last of
    those.

    Raises DataError when that row has another number: the file was changed.
    """
    items = read_completions(source)
    found = 0
    for number, _ in islice(items, num_done):
        found = number
    if found != last_row:
        raise DataError(f"{source} no longer holds the {num_done:,} rows that were scored: give --restart to drop them")
    while chunk := list(islice(items, size)):
        yield chunk


def score_chunk(scorer: Scorer, chunk: Chunk) -> ScoredChunk:
    """Number, id, reward, and the reason where there is none, for every item of a chunk."""
    cache = capability(scorer, Cached)
    hits, misses = (cache.num_hits, cache.num_misses) if cache else (0, 0)
    usable = [completion for _, completion in chunk if isinstance(completion, Completion)]
    rewards = iter(rewards_to_rows(scorer.score(usable)))
    rows = []
    for number, completion in chunk:
        if isinstance(completion, Completion):
            rows.append({"row": number, "id": completion.id, **next(rewards)})
        else:
            rows.append({"row": number, "id": getattr(completion, "id", ""), "value": None, "error": completion})
    if cache is None:
        return ScoredChunk(rows)
    return ScoredChunk(rows, cache.num_hits - hits, cache.num_hits + cache.num_misses - hits - misses, cache.problem)


def chunk_to_json(chunk: Chunk) -> str:
    """A chunk as text, for another process; `chunk_from_json` is the inverse."""
    return json.dumps(
        [
            [number, {"why": item, "id": getattr(item, "id", "")} if isinstance(item, str) else _as_row(item)]
            for number, item in chunk
        ]
    )


def chunk_from_json(text: str) -> Chunk:
    return [
        (number, NoCompletion(item["why"], item["id"]) if "why" in item else completion_from_row(item))
        for number, item in json.loads(text)
    ]


def _as_row(item: Completion) -> dict[str, Any]:
    return completion_to_row(item) | {"id": item.id}
