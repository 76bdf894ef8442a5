"""The application: Assay's own routes, those of trainers and engines, and how failures are told. Torch stays behind the scorers.

    POST /v1/score      rewards with std, steps and a reason for each that has none
    GET  /v1/info       the models, their fingerprints, the limits
    GET  /healthz       the process answers          GET /readyz   the engines do
    GET  /metrics       Prometheus text

The contracts of others are in `contracts_engines` and `contracts_trainers`, changing models in `admin`.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any, Literal

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, Response

from assay.records import Completion, Message
from assay.serve import admin, contracts_engines, contracts_trainers
from assay.serve.batcher import DeadlinePassed, EngineDown, QueueFull
from assay.serve.gate import Gate, error_body
from assay.serve.service import BadRequest, Body, ClientGone, Service, StrictJSON, begin, read_gauges, service_of
from assay.serve.waiting import Row

log = logging.getLogger("assay.serve")

VERSION = version("assay-rm")
WATCH_SECONDS = 0.5
DRAIN_SECONDS = 30.0


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None = None
    code: int


class ErrorReply(BaseModel):
    """What every refusal says."""

    error: ErrorDetail


class Turn(Body):
    role: Literal["system", "user", "assistant", "tool"]
    content: str


class ScoreItem(Body):
    """One completion: prompt + response, or messages that end in the answer, or rendered text, or token ids."""

    prompt: str | list[Turn] | None = None
    response: str | None = None
    steps: list[str] | None = None
    messages: list[Turn] | None = None
    text: str | None = None
    token_ids: list[int] | None = None
    id: str = ""


class ScoreRequest(Body):
    items: list[ScoreItem]
    model: str | None = None
    timeout: float | None = Field(default=None, gt=0, description="Seconds; the service's own limit holds too.")


class Reward(BaseModel):
    id: str = ""
    value: float | None
    std: float | None = None
    steps: list[float | None] | None = None
    text: str | None = None
    error: str | None = None


class ScoreReply(BaseModel):
    model: str
    fingerprint: str
    rewards: list[Reward]


_STATUSES = {
    401: "no token, or an unknown one",
    404: "no such model",
    408: "the body did not arrive in time",
    413: "too large",
    422: "not of this form, or without a reward where the contract has no place for a reason",
    429: "the queue is full: Retry-After says when to come again",
    500: "a fault of the service",
    503: "the engine has ended",
    504: "not scored before the deadline",
}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorReply, "description": text} for status, text in {400: "not JSON", **_STATUSES}.items()
}


def build_app(service: Service, *, on_failure: Callable[[str], None] | None = None, drain_seconds: float = DRAIN_SECONDS) -> Gate:
    """The ASGI application of a service. on_failure is called with the reason when an engine has ended or is stuck.

    The FastAPI application, with its OpenAPI, is `.app` of what is returned.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        watching = asyncio.create_task(_watch(service, on_failure))
        yield
        watching.cancel()
        await asyncio.to_thread(service.close, drain_seconds)

    app = FastAPI(title="Assay reward service", version=VERSION, lifespan=lifespan, default_response_class=StrictJSON)
    app.state.service = service
    app.get("/healthz", tags=["service"])(healthz)
    app.get("/readyz", tags=["service"], responses={503: ERRORS[503]})(readyz)
    app.get("/metrics", tags=["service"], response_class=PlainTextResponse, responses={401: ERRORS[401]})(metrics)
    app.get("/v1/info", tags=["assay"], responses={401: ERRORS[401]})(info)
    app.post("/v1/score", tags=["assay"], response_model=ScoreReply, responses=ERRORS)(score)
    app.include_router(contracts_engines.router, responses=ERRORS)
    app.include_router(contracts_trainers.router, responses=ERRORS)
    app.include_router(admin.router, responses=ERRORS | {403: {"model": ErrorReply}, 409: {"model": ErrorReply}})
    for kind, handler in _HANDLERS.items():
        app.add_exception_handler(kind, handler)
    return Gate(app, keys=service.keys, limits=service.limits, figures=service.figures)


async def healthz() -> Response:
    """The process answers."""
    return StrictJSON({"status": "ok"})


async def readyz(request: Request) -> Response:
    """The engines of all models are alive."""
    trouble = service_of(request).trouble()
    return StrictJSON({"status": "ok"}) if trouble is None else _refusal(503, trouble)


async def metrics(request: Request) -> Response:
    """Counters, gauges and histograms for Prometheus."""
    service = service_of(request)
    return PlainTextResponse(service.figures.text(read_gauges(service)), media_type="text/plain; version=0.0.4; charset=utf-8")


async def info(request: Request) -> Response:
    """The models that are served, the first is the default; and what a request may take."""
    service, app = service_of(request), request.app
    limits = {name: getattr(service.limits, name) for name in ("max_body_bytes", "max_items", "max_text", "timeout_seconds")}
    named = request.state.model
    told = service.models if named is None else {(served := service.find(named)).name: served}
    models = [{"name": name, **served.current.describe()} for name, served in told.items()]
    routes = sorted(path for path, methods in app.openapi()["paths"].items() if "post" in methods)
    return StrictJSON({"service": "assay", "version": VERSION, "models": models, "limits": limits, "contracts": routes})


async def score(body: ScoreRequest, request: Request) -> Response:
    """Rewards of completions in any form, in order. One that cannot be scored has value null and the reason in `error`."""
    asked = begin(request, body.model, timeout=body.timeout)
    completions: list[Completion] = []
    rows: list[Row] = []
    places: list[int] = []
    for i, item in enumerate(body.items):
        rows.append({"value": None, "error": "not scored"})
        try:
            completions.append(as_completion(item))
            places.append(i)
        except ValueError as error:
            rows[i]["error"] = str(error)
    for i, row in zip(places, await asked.rows(completions), strict=True):
        rows[i] = row
    rewards = [{"id": item.id, **row} for item, row in zip(body.items, rows, strict=True)]
    reply = {"model": asked.served.name, "fingerprint": asked.loaded.fingerprint, "rewards": rewards}
    return StrictJSON(reply, headers=asked.headers)


def as_completion(item: ScoreItem) -> Completion:
    """The completion that an item says. Raises ValueError for one that says none, or two."""
    turns = item.prompt if item.prompt is not None else item.messages or ()
    messages = (Message("user", turns),) if isinstance(turns, str) else tuple(Message(turn.role, turn.content) for turn in turns)
    response = item.response
    if item.messages is not None:
        if item.prompt is not None:
            raise ValueError("prompt and messages say the same: give one of them")
        if response is None and item.steps is None:
            if not messages or messages[-1].role != "assistant":
                raise ValueError("the messages do not end in an answer of the assistant, and there is no response")
            messages, response = messages[:-1], messages[-1].content
    return Completion(
        messages=messages,
        response=response,
        steps=None if item.steps is None else tuple(item.steps),
        text=item.text,
        token_ids=None if item.token_ids is None else tuple(item.token_ids),
    )


async def _watch(service: Service, on_failure: Callable[[str], None] | None) -> None:
    """Look after the engines: one that has ended is told once, so that the process can end too."""
    while True:
        await asyncio.sleep(WATCH_SECONDS)
        if (trouble := service.trouble()) is not None:
            log.critical("%s", trouble)
            if on_failure is not None:
                on_failure(trouble)
            return


def _refusal(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    return StrictJSON(error_body(status, message), status_code=status, headers=headers)


async def _on_queue_full(request: Request, error: Exception) -> Response:
    assert isinstance(error, QueueFull)
    return _refusal(429, str(error), {"Retry-After": str(max(1, math.ceil(error.retry_after)))})


async def _on_bad_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, BadRequest)
    return _refusal(error.status, str(error))


async def _on_invalid(request: Request, error: Exception) -> Response:
    """What is wrong with the body, without the body."""
    assert isinstance(error, RequestValidationError)
    told = [f"{'.'.join(str(part) for part in entry['loc'])}: {entry['msg']}"[:200] for entry in error.errors()[:5]]
    return _refusal(422, "; ".join(told))


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _refusal(error.status_code, str(error.detail)[:300], dict(error.headers or {}))


async def _on_deadline(request: Request, error: Exception) -> Response:
    return _refusal(504, str(error))


async def _on_engine_down(request: Request, error: Exception) -> Response:
    return _refusal(503, str(error), {"Retry-After": "1"})


async def _on_client_gone(request: Request, error: Exception) -> Response:
    return _refusal(499, str(error))  # nobody reads it


async def _on_fault(request: Request, error: Exception) -> Response:
    return _refusal(500, "something went wrong in the service; its log says where")


_HANDLERS: dict[type[Exception], Callable[[Request, Exception], Any]] = {
    QueueFull: _on_queue_full,
    BadRequest: _on_bad_request,
    RequestValidationError: _on_invalid,
    HTTPException: _on_http,
    DeadlinePassed: _on_deadline,
    EngineDown: _on_engine_down,
    ClientGone: _on_client_gone,
    Exception: _on_fault,
}
