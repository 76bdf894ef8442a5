"""Chunks of a file scored on a Ray cluster through Ray Data: one reader, a pool of actors, the rows in the order of the file.

The reader is Assay's own: it gives the same rows, numbers and reasons as in one process. It runs as one streaming task on the node
of this process and waits while the actors are busy, so memory stays bounded. A row of the data set is a chunk. The reader's process
imports this module, so it does not import torch.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from assay.bulk.chunks import Chunk, ScoredChunk, chunk_from_json, chunk_to_json, chunks_after, score_chunk
from assay.errors import AssayError
from assay.scorers.base import Scorer
from assay.scorers.ray import (
    ATTEMPTS,
    RayScorer,
    ScorerFactory,
    WorkerDied,
    import_ray,
    loaded_with_threads,
    slots_of,
    threads_each,
)

_REPORTED = (AssayError, ValueError, OSError)  # errors of a worker that are raised again in this process


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """The actors: what each one loads, the fingerprint that it must have, their number and their device."""

    factory: ScorerFactory
    fingerprint: str
    num_actors: int
    device: str


def score_on_ray(
    cluster: Cluster, source: str, num_done: int = 0, last_row: int = 0, *, note: Callable[[str], None]
) -> Iterator[ScoredChunk]:
    """The scored chunks of a file, in its order, without the first `num_done` rows. This process must be connected to Ray.

    note: called with a message when workers die again and again.

    An actor that dies is started again and gets its chunk again. When actors die `ATTEMPTS` times on the same chunk, the next chunk
    goes to a `RayScorer`. It finds the prompts that kill actors (their rows have no reward, but this reason), and the pool goes on.
    """
    while True:
        try:
            for chunk in _through_pool(cluster, source, num_done, last_row):
                yield chunk
                num_done, last_row = num_done + len(chunk.rows), chunk.rows[-1]["row"]
            return
        except WorkerDied as death:
            note(f"workers died again and again after row {last_row:,}: going on prompt by prompt ({death})")
        waiting = next(chunks_after(source, num_done, last_row), None)
        if waiting is None:
            return
        with RayScorer(cluster.factory, num_actors=1, device=cluster.device) as scorer:
            chunk = score_chunk(scorer, waiting)
        yield chunk
        num_done, last_row = num_done + len(chunk.rows), chunk.rows[-1]["row"]


def _through_pool(cluster: Cluster, source: str, num_done: int, last_row: int) -> Iterator[ScoredChunk]:
    """One pass of Ray Data over the rest of the file. Raises the exceptions of reader and scorer, and WorkerDied."""
    ray = import_ray()
    try:
        for number, row in enumerate(_data_set(cluster, source, num_done, last_row).iter_rows()):
            if row["problem"]:
                raise _from_name(row["problem"], row["content"])
            if row["chunk"] != number:
                raise AssayError(f"Ray Data gave chunk {row['chunk']} where chunk {number} was due: run again to go on")
            yield ScoredChunk(*json.loads(row["content"]))
    except (ray.exceptions.RayTaskError, ray.exceptions.UserCodeException) as error:
        raise AssayError(f"scoring failed on a worker; the rows so far are kept: {error}") from error
    except ray.exceptions.RayError as error:
        raise WorkerDied(" ".join(str(error).split())[:300]) from error


def _data_set(cluster: Cluster, source: str, num_done: int, last_row: int) -> Any:
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # errors are raised, or reported by `note`
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.execution_options.preserve_order = True
    context.target_max_block_size, context.target_min_block_size = 1, 0  # each chunk is a block: it is scored as soon as it is read
    this_node = {f"node:{ray.util.get_node_ip_address()}": 0.001}
    with ray.data.DataContext.current(context), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of options to be renamed in Ray 2.64
        chunks = ray.data.from_items([{"source": source, "num_done": num_done, "last_row": last_row}], override_num_blocks=1)
        chunks = chunks.map_batches(_read, batch_size=None, resources=this_node)
        return chunks.map_batches(
            _ChunkScorer,
            fn_constructor_args=(cluster.factory, cluster.fingerprint, threads_each(cluster.num_actors)),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=cluster.num_actors),
            **slots_of(cluster.num_actors, cluster.device),
            max_task_retries=ATTEMPTS - 1,
        )


def _read(task: dict[str, Any]) -> Iterator[dict[str, list[Any]]]:
    """The chunks of the file as rows of a data set. An error while reading is the last row."""
    number = -1
    try:
        chunks = chunks_after(str(task["source"][0]), int(task["num_done"][0]), int(task["last_row"][0]))
        for number, chunk in enumerate(chunks):
            yield _row(number, chunk_to_json(chunk))
    except _REPORTED as error:
        yield _row(number + 1, str(error), error)


class _ChunkScorer:
    """One actor of the pool."""

    def __init__(self, factory: ScorerFactory, fingerprint: str, num_threads: int) -> None:
        self.factory, self.fingerprint, self.num_threads = factory, fingerprint, num_threads
        self.scorer: Scorer | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        number, content = int(batch["chunk"][0]), str(batch["content"][0])
        if batch["problem"][0]:
            return {name: [values[0]] for name, values in batch.items()}
        try:
            return _row(number, json.dumps(self._scored(chunk_from_json(content))))
        except _REPORTED as error:  # raised here, it would come back as an error of Ray
            return _row(number, str(error), error)

    def _scored(self, chunk: Chunk) -> ScoredChunk:
        self.scorer = self.scorer or loaded_with_threads(self.factory, self.num_threads)
        if self.scorer.fingerprint != self.fingerprint:
            raise AssayError("an actor loaded another scorer than the first: the model must be the same on every node")
        return score_chunk(self.scorer, chunk)


def _row(number: int, content: str, problem: Exception | None = None) -> dict[str, list[Any]]:
    """A row of the data set: a chunk or its scored rows as JSON; or an error's message and its class name."""
    kind = next((kind.__name__ for kind in _REPORTED if isinstance(problem, kind)), "")
    return {"chunk": [number], "content": [content], "problem": [kind]}


def _from_name(kind: str, words: str) -> Exception:
    return {known.__name__: known for known in _REPORTED}[kind](words)
