"""The service behind the routes: models by name, and requests for rewards, which all routes make in the same way."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict, model_validator
from starlette.responses import JSONResponse

from assay.errors import AssayError
from assay.records import Completion
from assay.scorers.base import Scorer
from assay.serve.batcher import LINGER_SECONDS, MAX_QUEUED, BatchDone, Batcher, DeadlinePassed
from assay.serve.metrics.prometheus import ITEMS, SECONDS, TOKENS, Counters, RewardWindow
from assay.serve.metrics.watching import Watching
from assay.serve.middleware import Keys, Limits
from assay.serve.queue import Row
from assay.serve.served import Loaded, Served, TextRules, text_rules_of
from assay.wire import FINGERPRINT_HEADER

T = TypeVar("T")

log = logging.getLogger("assay.serve")


class BadRequest(AssayError):
    """A request that is refused with this status: unknown model, too large, or a completion without a reward."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class ClientGone(AssayError):
    """The client has closed its connection: no answer is needed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """Settings of every engine: see `Batcher`. watching: how signs are watched; None where they are not."""

    max_queued: int = MAX_QUEUED
    batch_tokens: int | None = None
    linger_seconds: float = LINGER_SECONDS
    watching: Watching | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Swapping:
    """How models are loaded while the service runs.

    directory: only artifacts in it may be loaded; load: gives the scorer of an artifact. measure_scale(old engine, new scorer)
    gives the "factor" for the new rewards, with its interval; None without a reference set.
    """

    directory: Path
    load: Callable[[Path], Scorer]
    measure_scale: Callable[[Batcher, Scorer], dict[str, Any]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Service:
    """Everything that the routes share. models: by name, the first is the default. aliases: other names of models. hosts: names
    that the Host header may have (see `browsers`); empty for any."""

    models: Mapping[str, Served]
    aliases: Mapping[str, str] = field(default_factory=dict)
    keys: Keys = field(default_factory=Keys)
    limits: Limits = field(default_factory=Limits)
    figures: Counters = field(default_factory=Counters)
    engine: EngineSettings = field(default_factory=EngineSettings)
    swapping: Swapping | None = None
    hosts: tuple[str, ...] = ()
    log_text: bool = False

    def find(self, name: str | None, *, is_lenient: bool = False) -> Served:
        """The model of that name; the default when name is None. Raises BadRequest (404) for an unknown name.

        is_lenient: accept any name when there is only one model, for APIs whose engines ignore the name.
        """
        if name is None or (is_lenient and len(self.models) == 1):
            return next(iter(self.models.values()))
        served = self.models.get(self.aliases.get(name, name))
        if served is None:
            raise BadRequest(404, f"there is no model {name[:100]!r} here: use one of {', '.join(self.models)}")
        return served

    def trouble(self) -> str | None:
        """Why the service cannot answer: an engine has ended, or is stuck in a batch. None when all engines work."""
        for name, served in self.models.items():
            batcher = served.current.batcher
            if not batcher.is_alive:
                return f"the engine of {name} has ended"
            if batcher.busy_seconds > self.limits.stall_seconds:
                return f"the engine of {name} is in one batch for {batcher.busy_seconds:.0f} s"
        return None

    def start_engine(self, name: str, scorer: Scorer, source: str, scale: dict[str, Any] | None = None) -> Loaded:
        return start_engine(name, scorer, source, self.figures, self.engine, scale)

    def close(self, timeout: float) -> None:
        """End all engines after their waiting requests. Requests that are not answered in `timeout` seconds get EngineDown."""
        until = time.monotonic() + timeout
        for loaded in [loaded for served in self.models.values() for loaded in served.loaded()]:
            if not loaded.batcher.close(timeout=max(0.0, until - time.monotonic())):
                loaded.batcher.abandon()  # loading a model waits for this engine, and would keep the process from ending


class Counted(NamedTuple):
    """Rewards of one request, the tokens of all its completions, and how many of these were cut to the model's length."""

    values: list[float]
    num_tokens: int
    num_cut: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRequest:
    """One request to one model. loaded: the model that was current when the request began. timeout: seconds for the rewards."""

    served: Served
    loaded: Loaded
    request: Request
    timeout: float

    @property
    def text_rules(self) -> TextRules:
        return self.loaded.text_rules

    @property
    def headers(self) -> dict[str, str]:
        return {FINGERPRINT_HEADER: self.loaded.fingerprint}

    async def rows(
        self,
        completions: Sequence[Completion],
        groups: Sequence[Hashable] | None = None,
        *,
        with_tokens: bool = False,
        of_tokens: bool = False,
    ) -> list[Row]:
        """The rewards of N completions, N rows. Raises BadRequest for too many or too long, QueueFull, DeadlinePassed, EngineDown,
        ClientGone."""
        service = service_of(self.request)
        check_size(completions, service.limits)
        if service.log_text:
            for completion in completions:
                log.info("request to %s: %r", self.served.name, completion)
        left = self.timeout - (time.monotonic() - self.request.state.began)
        deadline = time.monotonic() + left
        future = self.served.submit(self.loaded, completions, deadline, groups, with_tokens=with_tokens, of_tokens=of_tokens)
        return await _rows_in_time(future, self.request, left)

    async def values(self, completions: Sequence[Completion], groups: Sequence[Hashable] | None = None) -> list[float]:
        """Rewards for APIs without a field for reasons. Raises BadRequest (422) when a completion could not be scored."""
        return all_values(await self.rows(completions, groups))

    async def counted(self, completions: Sequence[Completion]) -> Counted:
        """The same with the number of tokens, for APIs whose replies hold it."""
        rows = await self.rows(completions, with_tokens=True)
        return Counted(all_values(rows), sum(row["tokens"] for row in rows), sum(row["is_cut"] for row in rows))


def open_request(
    request: Request, model: str | None = None, *, timeout: float | None = None, is_lenient: bool = False
) -> ScoreRequest:
    """A request to the model named in the path, else in the body, else to the default model."""
    service = service_of(request)
    in_path = request.state.model
    served = service.find(in_path) if in_path is not None else service.find(model, is_lenient=is_lenient)
    request.state.served = served.name
    allowed = service.limits.timeout_seconds
    if timeout is None and (header := request.headers.get("x-request-timeout")) is not None:
        try:
            timeout = float(header)
        except ValueError:
            timeout = math.nan
    if timeout is not None and not timeout > 0:
        raise BadRequest(422, "the timeout must be a positive number of seconds")
    return ScoreRequest(served=served, loaded=served.current, request=request, timeout=min(timeout or allowed, allowed))


def service_of(request: Request) -> Service:
    service = request.app.state.service
    assert isinstance(service, Service)
    return service


def check_size(completions: Sequence[Completion], limits: Limits) -> None:
    """Raises BadRequest (413) for too many completions or one that is too long."""
    if len(completions) > limits.max_items:
        raise BadRequest(413, f"{len(completions)} completions in one request, {limits.max_items} are allowed: send several")
    for i, completion in enumerate(completions):
        size = sum(completion.sizes) + len(completion.token_ids or ())
        if size > limits.max_text:
            raise BadRequest(413, f"completion {i} has {size} characters, {limits.max_text} are allowed")


def all_values(rows: Iterable[Row]) -> list[float]:
    """The values of rows. Raises BadRequest (422) that names the first row without a value, and its reason."""
    values = []
    for i, row in enumerate(rows):
        if row["value"] is None:
            raise BadRequest(422, f"completion {i} has no reward: {row.get('error')}")
        values.append(float(row["value"]))
    return values


def start_engine(
    name: str, scorer: Scorer, source: str, figures: Counters, settings: EngineSettings, scale: dict[str, Any] | None = None
) -> Loaded:
    """A scorer behind an engine thread of its own; its batches are counted in `figures` under the model's name."""
    window = RewardWindow()
    labels = {
        "model": name,
        "fingerprint": scorer.fingerprint,
    }  # the fingerprint keeps the counts of a shadowing candidate separate

    def note(batch: BatchDone) -> None:
        values = [row["value"] for row in batch.rows]
        window.add(values)
        figures.observe("assay_batch_items", "Completions of a batch.", batch.num_items, ITEMS, **labels)
        figures.observe("assay_batch_tokens", "Approximate tokens of a batch.", batch.num_tokens, TOKENS, **labels)
        figures.observe("assay_batch_seconds", "Seconds to score a batch.", batch.seconds, SECONDS, **labels)
        for wait in batch.waits:
            figures.observe(
                "assay_queue_wait_seconds", "Seconds that a completion waited for its batch.", wait, SECONDS, model=name
            )
        figures.count("assay_rewards_total", "Completions that were scored.", len(values), **labels)
        figures.count("assay_rewards_failed_total", "Completions without a reward.", values.count(None), **labels)

    text_rules = text_rules_of(scorer)  # before the thread starts: a tokenizer is not thread-safe
    batcher = Batcher(
        scorer if settings.watching is None else settings.watching.around(scorer),
        max_queued=settings.max_queued,
        batch_tokens=settings.batch_tokens,
        linger_seconds=settings.linger_seconds,
        on_batch=note,
    )
    return Loaded(source=source, batcher=batcher, text_rules=text_rules, rewards=window, scale=scale)


def run_in_thread(function: Callable[..., T], *arguments: Any) -> Future[T]:
    """Run a function in a new thread that ends after it, to load a model.

    OpenMP keeps a team of threads for every living thread that has computed. When the teams have more threads than there are cores,
    they sleep at every step instead of spinning, and an engine loses a quarter of its speed (dev/LOG.md).
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(function(*arguments))
        except BaseException as error:  # any exception goes to the caller
            future.set_exception(error)

    threading.Thread(target=run, name="assay-load", daemon=True).start()
    return future


class Body(BaseModel):
    """A request's body with strict types: false is not a token id, "4" is not a number. A field that nobody reads is refused,
    unless it is null or empty and so says nothing."""

    model_config = ConfigDict(strict=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _without_empty(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return {name: value for name, value in given.items() if name in cls.model_fields or value not in (None, "", [], {})}


class StrictJSON(JSONResponse):
    """JSON that any client can read: without NaN, and with lone surrogates escaped."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


async def _rows_in_time(future: Future[list[Row]], request: Request, seconds: float) -> list[Row]:
    """The rows, unless the client disconnects or the time is over first: then the completions are cancelled."""
    answer, gone = asyncio.wrap_future(future), asyncio.ensure_future(_disconnected(request))
    either: set[asyncio.Future[Any]] = {answer, gone}
    try:
        await asyncio.wait(either, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return answer.result()
        if gone.done():
            raise ClientGone("the client has gone")
        raise DeadlinePassed("not scored before the deadline")
    finally:
        gone.cancel()
        answer.cancel()  # cancels the engine's future too


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
