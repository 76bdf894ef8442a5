"""The queue of an engine: completions by prompt, oldest prompt first, and the callers that wait for each. Not thread-safe."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Hashable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from assay.records import Completion

Row: TypeAlias = dict[str, Any]
"""One reward in the wire form: value (null with an error), std, steps, text where there are any. With it go `tokens` and `is_cut`
(see `TokenCount`) where a caller asked for them; `logits`, of each token, in place of a reward where those were asked for."""

COUNTS = ("tokens", "is_cut")

_CHARACTERS_A_TOKEN = 4


@dataclass(eq=False, slots=True, kw_only=True)
class Ticket:
    """One caller's completions: their rows as they come in. The future is cancelled when the caller disconnects.

    deadline: on the clock of time.monotonic. with_tokens: whether the rows need the number of tokens.
    """

    deadline: float
    with_tokens: bool = False
    rows: list[Row | None]
    num_left: int
    future: Future[list[Row]] = field(default_factory=Future)

    def is_wanted(self, now: float) -> bool:
        return not self.future.done() and now <= self.deadline

    def finish(self, error: Exception | None = None) -> None:
        """Give the caller all rows, or the error. It does nothing when the future is already done or cancelled."""
        try:
            if error is not None:
                self.future.set_exception(error)
            else:
                self.future.set_result([row for row in self.rows if row is not None])
        except InvalidStateError:
            pass


@dataclass(eq=False, slots=True, kw_only=True)
class Job:
    """One completion to score, and the callers that wait for it. Four characters count as a token, unless ids are given.
    of_tokens: what is asked for are the logits of its tokens, not a reward.

    queued_at: on the clock of time.monotonic.
    """

    completion: Completion
    key: str
    group: Hashable
    prompt_tokens: int
    answer_tokens: int
    of_tokens: bool = False
    queued_at: float = field(default_factory=time.monotonic)
    waiters: list[tuple[Ticket, int]] = field(default_factory=list)

    @property
    def num_tokens(self) -> int:
        return self.prompt_tokens + self.answer_tokens

    def is_wanted(self, now: float) -> bool:
        return any(ticket.is_wanted(now) for ticket, _ in self.waiters)

    @property
    def is_counted(self) -> bool:
        """Whether a caller needs the number of its tokens."""
        return any(ticket.with_tokens for ticket, _ in self.waiters)

    def fail(self, error: Exception) -> None:
        for ticket, _ in self.waiters:
            ticket.finish(error)


class Pulled(NamedTuple):
    """A batch to score, and the jobs that were dropped because no caller waits for them any more."""

    batch: list[Job]
    dropped: list[Job]


class Waiting:
    """The queue of one engine: num_items completions of about num_tokens tokens (each with its prompt)."""

    def __init__(self) -> None:
        self.num_items = self.num_tokens = 0
        self._groups: OrderedDict[Hashable, deque[Job]] = OrderedDict()

    def add(self, job: Job) -> None:
        self._groups.setdefault(job.group, deque()).append(job)
        self.num_items += 1
        self.num_tokens += job.num_tokens

    def pull(self, max_tokens: int) -> Pulled:
        """Take jobs up to the budget, oldest prompt first, those of one prompt together; one is taken whatever its size.

        A prompt counts once for all of its answers. Jobs that do not fit keep their place in the queue.
        """
        batch: list[Job] = []
        dropped: list[Job] = []
        tokens, now = 0, time.monotonic()
        while self._groups:
            group, jobs = next(iter(self._groups.items()))
            is_first = True
            while jobs:
                job = jobs[0]
                is_wanted = job.is_wanted(now)
                cost = job.answer_tokens + job.prompt_tokens * is_first
                if is_wanted and batch and tokens + cost > max_tokens:
                    return Pulled(batch, dropped)
                self._remove(jobs.popleft())
                if is_wanted:
                    batch.append(job)
                    tokens, is_first = tokens + cost, False
                else:
                    dropped.append(job)
            del self._groups[group]
        return Pulled(batch, dropped)

    def sweep(self) -> list[Job]:
        """Take out all jobs that no caller waits for any more."""
        now, dropped = time.monotonic(), []
        for group, jobs in list(self._groups.items()):
            unwanted = [job for job in jobs if not job.is_wanted(now)]
            if not unwanted:
                continue
            for job in unwanted:
                jobs.remove(job)
                self._remove(job)
            if not jobs:
                del self._groups[group]
            dropped += unwanted
        return dropped

    def clear(self) -> list[Job]:
        """Take out everything."""
        jobs = [job for group in self._groups.values() for job in group]
        self._groups.clear()
        self.num_items = self.num_tokens = 0
        return jobs

    def _remove(self, job: Job) -> None:
        self.num_items -= 1
        self.num_tokens -= job.num_tokens


def make_job(completion: Completion, key: str, group: Hashable = None, *, of_tokens: bool = False) -> Job:
    """A job for a completion. key: equal for completions with equal rewards. group: equal for completions of one prompt; needed
    when the messages do not show it."""
    key = f"{key}/tokens" if of_tokens else key
    prompt, answer = completion.sizes
    answer += _CHARACTERS_A_TOKEN * len(completion.token_ids or ())
    if group is None:
        group = completion.messages if completion.response is not None else key
    return Job(
        completion=completion,
        key=key,
        group=group,
        prompt_tokens=prompt // _CHARACTERS_A_TOKEN,
        answer_tokens=1 + answer // _CHARACTERS_A_TOKEN,
        of_tokens=of_tokens,
    )


def shared_tokens(batch: Sequence[Job]) -> int:
    """Approximate tokens of a batch; each prompt counts once."""
    return sum(job.answer_tokens for job in batch) + sum({job.group: job.prompt_tokens for job in batch}.values())
