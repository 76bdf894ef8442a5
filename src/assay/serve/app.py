"""The application: Assay's own routes, the routes of trainers and engines, and error replies. Only scorers import torch.

    POST /v1/score      rewards with std, steps and a reason for each that has none; or vLLM's older form of /score
    GET  /v1/info       the models, their fingerprints, the limits
    GET  /healthz       the process answers          GET /readyz /health /ping   the engines do
    GET  /metrics       Prometheus text              GET /docs /openapi.json     the routes

The APIs of engines and trainers are in `contracts`, changing models in `admin`.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Discriminator, Field, Tag
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, PlainTextResponse, Response

from assay.records import Completion
from assay.serve import admin
from assay.serve.batcher import DeadlinePassed, EngineDown, QueueFull
from assay.serve.contracts import engines, gym, rerank, tei, trainers
from assay.serve.contracts.engines import ScorePairsRequest, score_pairs
from assay.serve.contracts.request_fields import ChatTurn
from assay.serve.docs_page import POLICY, docs_page
from assay.serve.metrics.gauges import read_gauges
from assay.serve.middleware import Gate, error_body
from assay.serve.queue import COUNTS, Row
from assay.serve.service import BadRequest, Body, ClientGone, Service, StrictJSON, open_request, service_of
from assay.wire import completion_from_row

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
    """The body of every error reply."""

    error: ErrorDetail


class ScoreItem(Body):
    """One completion: prompt + response, or messages that end in the answer, or rendered text, or token ids.

    response: text, or the assistant's message with tool calls or reasoning. tools: the functions that it could call.
    """

    prompt: str | list[ChatTurn] | None = None
    response: str | ChatTurn | None = None
    steps: list[str] | None = None
    messages: list[ChatTurn] | None = None
    text: str | None = None
    token_ids: list[int] | None = None
    tools: list[dict[str, Any]] | None = None
    ground_truth: Any = Field(
        default=None, description="What is right, as in files: a mapping, or a plain value; for scorers that read it."
    )
    id: str = ""

    def as_row(self) -> dict[str, Any]:
        """The item as `completion_from_row` reads it."""
        prompt = [turn.as_row() for turn in self.prompt] if isinstance(self.prompt, list) else self.prompt
        response = self.response.as_row() if isinstance(self.response, ChatTurn) else self.response
        messages = None if self.messages is None else [turn.as_row() for turn in self.messages]
        rest = self.model_dump(exclude={"prompt", "response", "messages"})
        return {**rest, "prompt": prompt, "response": response, "messages": messages}


class ScoreRequest(Body):
    items: list[ScoreItem]
    model: str | None = None
    timeout: float | None = Field(default=None, gt=0, description="Seconds; the service's own limit holds too.")


def _form_of_score(given: Any) -> str:
    """vLLM's older path is this one too: its requests name questions."""
    names = ("queries", "text_1", "data_1")
    is_pairs = isinstance(given, ScorePairsRequest) or (isinstance(given, dict) and any(name in given for name in names))
    return "vllm" if is_pairs else "assay"


EitherScoreRequest = Annotated[
    Annotated[ScoreRequest, Tag("assay")] | Annotated[ScorePairsRequest, Tag("vllm")], Discriminator(_form_of_score)
]


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


class PairScoresReply(BaseModel):
    """vLLM's, to its own form of the request."""

    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[dict[str, Any]]
    usage: dict[str, Any]


_STATUSES = {
    401: "no token, or an unknown one",
    403: "asked by the page of another site, or by a name that this machine does not have",
    404: "no such model",
    408: "the body did not arrive in time",
    413: "too large",
    422: "not of this form, or without a reward in an API that has no field for the reason",
    429: "the queue is full: try again after Retry-After seconds",
    500: "an error in the service",
    503: "the engine has ended",
    504: "not scored before the deadline",
}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorReply, "description": text} for status, text in {400: "not JSON", **_STATUSES}.items()
}


def build_app(service: Service, *, on_failure: Callable[[str], None] | None = None, drain_seconds: float = DRAIN_SECONDS) -> Gate:
    """The ASGI application of a service. on_failure is called with the reason when an engine has ended or is stuck.

    The FastAPI application, with its OpenAPI schema, is `.app` of the result.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        watching = asyncio.create_task(_watch(service, on_failure))
        yield
        watching.cancel()
        await asyncio.to_thread(service.close, drain_seconds)

    app = FastAPI(
        title="Assay reward service",
        version=VERSION,
        lifespan=lifespan,
        default_response_class=StrictJSON,
        docs_url=None,
        redoc_url=None,
    )
    app.state.service = service
    for path, ready in {"/healthz": False, "/readyz": True, "/health": True, "/ping": True}.items():
        check = readyz if ready else healthz
        app.get(
            path, tags=["service"], responses={503: ERRORS[503]} if ready else None, operation_id=f"get{path.replace('/', '_')}"
        )(check)
        app.head(path, include_in_schema=False)(check)
    app.get("/docs", include_in_schema=False)(docs)
    app.get("/metrics", tags=["service"], response_class=PlainTextResponse, responses={401: ERRORS[401]})(metrics)
    app.get("/v1/info", tags=["assay"], responses={401: ERRORS[401]})(info)
    app.post("/v1/score", tags=["assay", "vLLM"], response_model=ScoreReply | PairScoresReply, responses=ERRORS)(score)
    for contract in (engines, rerank, tei, trainers, gym):
        app.include_router(contract.router, responses=ERRORS)
    app.include_router(admin.router, responses=ERRORS | {409: {"model": ErrorReply}})
    for kind, handler in _HANDLERS.items():
        app.add_exception_handler(kind, handler)
    return Gate(app, keys=service.keys, limits=service.limits, figures=service.figures, hosts=service.hosts)


async def healthz() -> Response:
    """The process answers."""
    return StrictJSON({"status": "ok"})


async def readyz(request: Request) -> Response:
    """The engines of all models are alive."""
    trouble = service_of(request).trouble()
    return StrictJSON({"status": "ok"}) if trouble is None else _refusal(503, trouble)


async def docs(request: Request) -> Response:
    """Every route with its fields, as a page."""
    return HTMLResponse(docs_page(request.app.openapi()), headers={"Content-Security-Policy": POLICY})


async def metrics(request: Request) -> Response:
    """Counters, gauges and histograms for Prometheus."""
    service = service_of(request)
    return PlainTextResponse(service.figures.text(read_gauges(service)), media_type="text/plain; version=0.0.4; charset=utf-8")


async def info(request: Request) -> Response:
    """The models that are served (the first is the default), and the limits of a request."""
    service, app = service_of(request), request.app
    limits = {name: getattr(service.limits, name) for name in ("max_body_bytes", "max_items", "max_text", "timeout_seconds")}
    named = request.state.model
    listed = service.models if named is None else {(served := service.find(named)).name: served}
    models = [{"name": name, **served.current.describe()} for name, served in listed.items()]
    routes = sorted(path for path, methods in app.openapi()["paths"].items() if "post" in methods)
    return StrictJSON({"service": "assay", "version": VERSION, "models": models, "limits": limits, "contracts": routes})


async def score(body: EitherScoreRequest, request: Request) -> Response:
    """Rewards of completions in any form, in order. One that cannot be scored has value null and the reason in `error`. With vLLM's
    fields (queries, text_1 or data_1) it is /score."""
    if isinstance(body, ScorePairsRequest):
        return await score_pairs(body, request)
    scoring = open_request(request, body.model, timeout=body.timeout)
    completions: list[Completion] = []
    rows: list[Row] = []
    places: list[int] = []
    for i, item in enumerate(body.items):
        rows.append({"value": None, "error": "not scored"})
        try:
            completions.append(completion_from_row(item.as_row()))
            places.append(i)
        except ValueError as error:
            rows[i]["error"] = str(error)
    for i, row in zip(places, await scoring.rows(completions), strict=True):
        rows[i] = {name: value for name, value in row.items() if name not in COUNTS}
    rewards = [{"id": item.id, **row} for item, row in zip(body.items, rows, strict=True)]
    reply = {"model": scoring.served.name, "fingerprint": scoring.loaded.fingerprint, "rewards": rewards}
    return StrictJSON(reply, headers=scoring.headers)


async def _watch(service: Service, on_failure: Callable[[str], None] | None) -> None:
    """Watch the engines. When one has ended, report it once, so that the process can end too."""
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
    """The errors in the body, without its content."""
    assert isinstance(error, RequestValidationError)
    problems = [f"{'.'.join(str(part)[:60] for part in entry['loc'])}: {_said(entry)}"[:200] for entry in error.errors()[:5]]
    return _refusal(422, "; ".join(problems))


def _said(entry: dict[str, Any]) -> str:
    return "no such field is read here: leave it out" if entry["type"] == "extra_forbidden" else str(entry["msg"])


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == 405:  # starlette names the methods of one route, although another may have the same path
        operations = request.app.openapi()["paths"].get(getattr(request.scope.get("route"), "path", request.url.path), {})
        headers |= {"Allow": ", ".join(sorted(method.upper() for method in operations))} if operations else {}
    return _refusal(error.status_code, str(error.detail)[:300], headers)


def _refusing(status: int, headers: dict[str, str] | None = None) -> Callable[[Request, Exception], Any]:
    """A handler that replies with this status and the error's message."""

    async def handler(request: Request, error: Exception) -> Response:
        return _refusal(status, str(error), headers)

    return handler


async def _on_fault(request: Request, error: Exception) -> Response:
    return _refusal(500, "something went wrong in the service; its log says where")


_HANDLERS: dict[type[Exception], Callable[[Request, Exception], Any]] = {
    QueueFull: _on_queue_full,
    BadRequest: _on_bad_request,
    RequestValidationError: _on_invalid,
    HTTPException: _on_http,
    DeadlinePassed: _refusing(504),
    EngineDown: _refusing(503, {"Retry-After": "1"}),
    ClientGone: _refusing(499),  # nobody reads it
    Exception: _on_fault,
}
