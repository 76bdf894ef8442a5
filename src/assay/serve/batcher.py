"""One engine thread for one scorer: requests wait in a bounded queue, and the thread takes a batch whenever it is idle.

A batch holds completions up to a token budget, oldest first, whole prompts together. Equal completions that wait or are being
scored are scored once. Completions that were cancelled or are past their deadline are dropped before scoring.
"""

from __future__ import annotations

import logging
import math
import threading
import time
import traceback
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import NamedTuple

import numpy as np

from assay.errors import AssayError
from assay.records import Completion, Rewards
from assay.scorers.base import CountsTokens, HasPlan, Scorer, TokenCount, capability, keys_of
from assay.serve.queue import COUNTS, Job, Row, Ticket, Waiting, make_job, shared_tokens
from assay.serve.token_labels import label_tokens
from assay.wire import rewards_from_rows, rewards_to_rows

LINGER_SECONDS = 0.003
MAX_QUEUED = 2048
BATCH_TOKENS = 8192  # for scorers without a plan of their memory
FORWARDS_A_BATCH = 4  # enough to fill rows of many lengths, few enough that cancelling has an effect
MANY_FAILURES = 8  # in a row: then a known good completion shows whether the scorer is broken, or only the items
_PAUSE = 1.0  # seconds without a batch after which the number of callers counts as unknown

log = logging.getLogger("assay.serve")


class QueueFull(AssayError):
    """The queue has no room for these completions now. retry_after: seconds until it may have."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DeadlinePassed(AssayError):
    """The completions were not scored before the caller's deadline; they will not be scored."""


class EngineDown(AssayError):
    """The engine thread has ended, after an error or because the service is closing."""


class BatchDone(NamedTuple):
    """A scored batch: completions, approximate tokens (shared prompts count once), seconds, the rows, and how many seconds each
    completion waited before."""

    num_items: int
    num_tokens: int
    seconds: float
    rows: Sequence[Row]
    waits: Sequence[float] = ()


class Batcher:
    """Scores in a thread of its own.

    max_queued: completions that may wait. batch_tokens: approximate tokens of one batch (four characters count as a token); None
    takes four times the tokens of a forward in the scorer's plan. linger_seconds: how long an idle engine waits at most for more
    completions; it stops waiting when as many wait as were answered last. on_batch is called after each batch. failure: the
    exception that ended the thread. num_coalesced, num_dropped: completions that were joined to an equal one, and completions that
    were dropped because no caller waited any more.

    Raises ValueError for a prompt-scoped scorer, whose values depend on the answers that happen to arrive together.
    """

    def __init__(
        self,
        scorer: Scorer,
        *,
        max_queued: int = MAX_QUEUED,
        batch_tokens: int | None = None,
        linger_seconds: float = LINGER_SECONDS,
        on_batch: Callable[[BatchDone], None] | None = None,
    ) -> None:
        if scorer.scope != "global":
            raise ValueError("a prompt-scoped scorer cannot be served: its values depend on the prompt's other answers")
        if max_queued < 1 or (batch_tokens is not None and batch_tokens < 1):
            raise ValueError(f"max_queued {max_queued} and batch_tokens {batch_tokens} must be at least 1")
        if not 0 <= linger_seconds < math.inf:
            raise ValueError(f"linger_seconds {linger_seconds} must not be negative")
        self.scorer, self.fingerprint = scorer, scorer.fingerprint
        self.max_queued, self.linger_seconds = max_queued, linger_seconds
        self.batch_tokens = batch_tokens or FORWARDS_A_BATCH * _forward_tokens(scorer)
        self.num_coalesced = self.num_dropped = 0
        self.failure: BaseException | None = None
        self._on_batch = on_batch
        self._lock = threading.RLock()
        self._wake = threading.Condition(self._lock)
        self._waiting = Waiting()
        self._jobs: dict[str, Job] = {}  # waiting or being scored, by content
        self._num_expected: float = math.inf
        self._tokens_a_second = 0.0
        self._batch_began: float | None = None
        self._last_batch = -math.inf
        self._is_closing = False
        self._failures_in_a_row = 0
        self._known_good: Completion | None = None
        self._thread = threading.Thread(target=self._run, name="assay-engine", daemon=True)
        self._thread.start()

    def submit(
        self,
        completions: Sequence[Completion],
        *,
        deadline: float = math.inf,
        groups: Sequence[Hashable] | None = None,
        with_tokens: bool = False,
        of_tokens: bool = False,
    ) -> Future[list[Row]]:
        """Queue N completions; the future gives N rows, in order. Cancel it when the rows are not needed any more.

        deadline: on the clock of time.monotonic; the future raises DeadlinePassed for completions that are still waiting then.
        groups: equal for completions that share a prompt, when the messages do not show it (rendered text). with_tokens: the rows
        then hold `tokens` and `is_cut`. of_tokens: the rows hold the `logits` of each token, of a scorer that `LabelsTokens`; their
        value is the last token's last less its first. Raises QueueFull, or EngineDown.
        """
        ticket = Ticket(deadline=deadline, with_tokens=with_tokens, rows=[None] * len(completions), num_left=len(completions))
        if not completions:
            ticket.finish()
        # outside the lock, as it hashes the content
        keys = keys_of(self.scorer, completions)
        jobs = [
            make_job(completion, keys[i], None if groups is None else groups[i], of_tokens=of_tokens)
            for i, completion in enumerate(completions)
        ]
        with self._lock:
            if not self.is_alive or self._is_closing:
                raise EngineDown("the engine of this model has failed" if self.failure else "the service is closing")
            self._make_place({job.key for job in jobs})
            for i, job in enumerate(jobs):
                known = self._jobs.setdefault(job.key, job)
                known.waiters.append((ticket, i))
                if known is job:
                    self._waiting.add(job)
                else:
                    self.num_coalesced += 1
            self._wake.notify()
        return ticket.future

    def score(self, completions: Sequence[Completion], *, at_once: int = 64) -> Rewards:
        """N completions -> N rewards, through the queue, a few at a time. Raises EngineDown. Not for the engine thread itself."""
        rows: list[Row] = []
        at_once = min(at_once, self.max_queued)
        while len(rows) < len(completions):
            try:
                rows += self.submit(completions[len(rows) : len(rows) + at_once]).result()
            except QueueFull as full:
                time.sleep(min(full.retry_after, 1.0))
        return rewards_from_rows(rows)

    def close(self, *, drain: bool = True, timeout: float | None = None) -> bool:
        """End the thread, after all waiting completions (drain) or after the running batch. Returns whether it ended in time."""
        with self._lock:
            self._is_closing = True
            lost = [] if drain else self._clear()
            self._wake.notify()
        for job in lost:
            job.fail(EngineDown("the service is closing"))
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def abandon(self) -> None:
        """Raise EngineDown in all callers that still wait, when the engine did not end in time."""
        with self._lock:
            self._is_closing = True
            self._waiting.clear()
            lost = list(self._jobs.values())
        for job in lost:
            job.fail(EngineDown("the service is closing"))

    @property
    def is_alive(self) -> bool:
        return self.failure is None and self._thread.is_alive()

    @property
    def num_queued(self) -> int:
        return self._waiting.num_items

    @property
    def queued_tokens(self) -> int:
        return self._waiting.num_tokens

    @property
    def busy_seconds(self) -> float:
        """Seconds since the running batch began; 0 when idle."""
        began = self._batch_began
        return 0.0 if began is None else time.monotonic() - began

    def _make_place(self, keys: set[str]) -> None:
        """Make room in the queue for these contents by dropping unwanted ones. Raises QueueFull when that is not enough."""
        num_fresh = len(keys - self._jobs.keys())
        if self.num_queued + num_fresh > self.max_queued:
            self._drop(self._waiting.sweep())
            num_fresh = len(keys - self._jobs.keys())
        if self.num_queued + num_fresh > self.max_queued:
            seconds = self.queued_tokens / self._tokens_a_second if self._tokens_a_second else 1.0
            raise QueueFull(f"{self.num_queued} completions wait, {self.max_queued} may: try again later", seconds)

    def _run(self) -> None:
        try:
            while (batch := self._next_batch()) is not None:
                if batch:
                    began = time.monotonic()
                    rows = self._rows(batch)
                    self._count(batch, rows)
                    self._deliver(batch, rows, began)
        except BaseException as error:  # any exception must reach the waiting callers
            self._die(error)

    def _next_batch(self) -> list[Job] | None:
        """Wait for completions and take a batch: empty when all were dropped, None when the engine closes."""
        with self._wake:
            while not self._waiting.num_items:
                if self._is_closing:
                    return None
                self._wake.wait()
            self._linger()
            batch, dropped = self._waiting.pull(self.batch_tokens)
            self._drop(dropped)
            self._batch_began = time.monotonic() if batch else None
            return batch

    def _linger(self) -> None:
        """Wait a little for callers that were just answered and may ask again, or for other answers of a group."""
        start = time.monotonic()
        expected = math.inf if start - self._last_batch > _PAUSE else self._num_expected
        while self.num_queued < expected and self.queued_tokens < self.batch_tokens and not self._is_closing:
            left = start + self.linger_seconds - time.monotonic()
            if left <= 0:
                break
            self._wake.wait(left)

    def _rows(self, batch: list[Job]) -> list[Row]:
        """Rewards, or logits of tokens, whichever each job asks for."""
        rewarded = [job.completion for job in batch if not job.of_tokens]
        labelled = [job.completion for job in batch if job.of_tokens]
        rewards = iter(self._score(rewarded) if rewarded else ())
        labels = iter(label_tokens(self.scorer, labelled) if labelled else ())
        return [next(labels if job.of_tokens else rewards) for job in batch]

    def _score(self, completions: list[Completion]) -> list[Row]:
        """Rows of a batch. If the scorer raises, items are scored one by one, so that only those that raise have no reward."""
        try:
            rewards = self.scorer.score(completions)
            if len(rewards) != len(completions):
                raise RuntimeError(f"the scorer gave {len(rewards)} rewards for {len(completions)} completions")
        except Exception as error:
            if len(completions) > 1:
                return [row for completion in completions for row in self._score([completion])]
            log.error("the scorer raised %s on an item, %s", type(error).__name__, place_of(error))
            self._failures_in_a_row += 1
            if self._failures_in_a_row >= MANY_FAILURES and not self._still_scores():
                raise
            return [{"value": None, "error": f"the scorer failed on this item ({type(error).__name__})"}]
        self._failures_in_a_row = 0
        if rewards.ok.any():
            self._known_good = completions[int(np.argmax(rewards.ok))]
        return rewards_to_rows(rewards)

    def _count(self, batch: list[Job], rows: list[Row]) -> None:
        """Add the number of tokens to the rows whose callers need it and that do not have it yet: 0 without a reward, and where the
        scorer does not tokenise."""
        wanted = [(job, row) for job, row in zip(batch, rows, strict=True) if job.is_counted and "tokens" not in row]
        scored = [(job, row) for job, row in wanted if row["value"] is not None]
        counting = capability(self.scorer, CountsTokens) if scored else None
        for _, row in wanted:
            row.update(zip(COUNTS, TokenCount(0, False), strict=True))
        if counting is not None:
            counts = counting.token_counts([job.completion for job, _ in scored])
            for (_, row), count in zip(scored, counts, strict=True):
                row.update(zip(COUNTS, count, strict=True))

    def _still_scores(self) -> bool:
        """Whether the scorer still gives a reward to a completion that had one before."""
        self._failures_in_a_row = 0
        return self._known_good is not None and bool(self.scorer.score([self._known_good]).ok[0])

    def _deliver(self, batch: list[Job], rows: list[Row], began: float) -> None:
        done: list[Ticket] = []
        seconds = time.monotonic() - began
        with self._lock:
            self._count(batch, rows)  # for callers that came while the batch ran
            for job, row in zip(batch, rows, strict=True):
                del self._jobs[job.key]
                for ticket, i in job.waiters:
                    ticket.rows[i] = row
                    ticket.num_left -= 1
                    if not ticket.num_left:
                        done.append(ticket)
            tokens = shared_tokens(batch)
            self._tokens_a_second = tokens / max(seconds, 1e-6)
            self._num_expected = len(batch) + self.num_queued
            self._last_batch, self._batch_began = time.monotonic(), None
        for ticket in done:
            ticket.finish()
        if self._on_batch is not None:
            self._on_batch(BatchDone(len(batch), tokens, seconds, rows, [max(0.0, began - job.queued_at) for job in batch]))

    def _die(self, error: BaseException) -> None:
        frames = "".join(traceback.format_tb(error.__traceback__))  # without the message, which may contain prompt text
        log.critical("the engine thread died of %s\n%s", type(error).__name__, frames)
        with self._lock:
            self.failure, self._batch_began = error, None
            lost = list(self._jobs.values())
            self._waiting.clear()
            self._jobs.clear()
        for job in lost:
            job.fail(EngineDown("the engine of this model has failed"))

    def _drop(self, jobs: list[Job]) -> None:
        for job in jobs:
            del self._jobs[job.key]
            job.fail(DeadlinePassed("not scored before the deadline"))
        self.num_dropped += len(jobs)

    def _clear(self) -> list[Job]:
        jobs = self._waiting.clear()
        for job in jobs:
            del self._jobs[job.key]
        return jobs


def place_of(error: BaseException) -> str:
    """Where an exception was raised, for the log. Its message may contain prompt text and is not logged."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "at an unknown place"


def _forward_tokens(scorer: Scorer) -> int:
    planned = capability(scorer, HasPlan)
    return BATCH_TOKENS // FORWARDS_A_BATCH if planned is None else int(planned.plan.max_tokens)
