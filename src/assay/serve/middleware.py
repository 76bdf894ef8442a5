"""ASGI middleware of the service, before any route: browsers, tokens, size limits, request ids, and the log of requests.

Two prefixes are removed from the path: /t/TOKEN for clients that cannot send headers (never logged), then /m/NAME for the model in
APIs without a model field (a / in it is written %2F there). The body is read here, within the limits, before the application runs.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import re
import time
import uuid
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from assay.files import sha256
from assay.serve.batcher import place_of
from assay.serve.browsers import refusal
from assay.serve.metrics.prometheus import SECONDS, Counters

log = logging.getLogger("assay.serve")

OPEN_PATHS = ("/healthz", "/readyz", "/health", "/ping")
REQUEST_ID = b"x-request-id"
ADMIN_PATH = "/v1/admin"
MIN_TOKEN = 16
DRAIN_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of one request and of all requests together.

    max_body_bytes, max_items, max_text (characters of one completion): of one request. max_held_bytes: bodies of all requests that
    are being answered. body_seconds: for a body to arrive. timeout_seconds: for rewards, unless the client asks for less.
    stall_seconds: for one batch; after that the engine counts as dead.
    """

    max_body_bytes: int = 8 << 20
    max_items: int = 1024
    max_text: int = 1_000_000
    max_held_bytes: int = 256 << 20
    body_seconds: float = 30.0
    timeout_seconds: float = 60.0
    stall_seconds: float = 600.0

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} {getattr(self, name)} must be positive")


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """Digests of the tokens for requests (tokens) and for changing models (admin_tokens). Without tokens anybody who reaches the
    port may send requests; without admin tokens nobody may change models."""

    tokens: tuple[str, ...] = ()
    admin_tokens: tuple[str, ...] = ()

    @classmethod
    def of(cls, tokens: Iterable[str] = (), admin_tokens: Iterable[str] = ()) -> Keys:
        """From the tokens themselves. Raises ValueError for a token that is too short, or cannot be part of a URL path."""
        return cls(tokens=tuple(map(_digest_of_token, tokens)), admin_tokens=tuple(map(_digest_of_token, admin_tokens)))

    def allow(self, token: str | None, *, is_admin: bool = False) -> bool:
        """Whether the token is valid; it is compared with every token in constant time."""
        if not is_admin and not self.tokens:
            return True
        given, is_known = sha256(token or ""), False
        for known in self.admin_tokens if is_admin else (*self.tokens, *self.admin_tokens):
            is_known |= hmac.compare_digest(known, given)
        return is_known


class Gate:
    """ASGI middleware: checks token, size and time of a request, passes it on with its body, logs one line and counts it."""

    def __init__(self, app: ASGIApp, *, keys: Keys, limits: Limits, figures: Counters, hosts: tuple[str, ...] = ()) -> None:
        self.app, self.keys, self.limits, self.figures, self.hosts = app, keys, limits, figures, hosts
        self._held_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        began = time.monotonic()
        scope, token = _without_prefixes(scope)
        request_id = _request_id(scope)
        known = {"began": began, "model": scope.pop("assay_model", None), "request_id": request_id, "served": ""}
        scope["state"] = {**scope.get("state", {}), **known}
        answer = _Answer(send, request_id)
        self.figures.change("assay_requests_in_flight", "Requests that are being answered.", 1)
        try:
            await self._admit(scope, token, receive, answer)
        except Exception as error:
            fields = {"request_id": request_id, "error": type(error).__name__}
            log.error("%s: %s %s %s", scope["method"], *fields.values(), place_of(error), extra={"fields": fields})
            if not answer.has_begun:
                await _refuse(answer, 500, "something went wrong in the service; its log says where")
        finally:
            self.figures.change("assay_requests_in_flight", "Requests that are being answered.", -1)
            self._record(scope, answer, time.monotonic() - began)

    async def _admit(self, scope: Scope, token: str | None, receive: Receive, send: _Answer) -> None:
        path = scope["path"]
        headers = dict(scope["headers"])
        if path not in OPEN_PATHS and (reason := refusal(scope["method"], headers, self.hosts)) is not None:
            await _refuse(send, 403, reason)
            return
        is_admin = path.startswith(ADMIN_PATH)
        token = _bearer(headers) if token is None or is_admin else token
        if path not in OPEN_PATHS and not self.keys.allow(token, is_admin=is_admin):
            if is_admin and not self.keys.admin_tokens:
                await _refuse(send, 403, "models cannot be changed here: the service was started without an admin token")
            else:
                await _refuse(send, 401, "give a token: Authorization: Bearer TOKEN, or /t/TOKEN before the path")
            return
        declared = headers.get(b"content-length", b"")
        unknown = self.limits.max_body_bytes if b"transfer-encoding" in headers else 0
        size = int(declared) if declared.isdigit() else unknown
        if size > self.limits.max_body_bytes:
            await _refuse(send, 413, f"the body has {size} bytes, {self.limits.max_body_bytes} are allowed", receive)
            return
        if self._held_bytes + size > self.limits.max_held_bytes:
            await _refuse(send, 429, "too much is being answered already: try again later")
            return
        self._held_bytes += size
        try:
            await self._hand_on(scope, receive, send)
        finally:
            self._held_bytes -= size

    async def _hand_on(self, scope: Scope, receive: Receive, send: _Answer) -> None:
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                body = await _read(receive, self.limits.max_body_bytes)
        except TimeoutError:
            await _refuse(send, 408, f"the body did not arrive in {self.limits.body_seconds:g} s")
            return
        except _TooLarge:
            await _refuse(send, 413, f"the body has more than the {self.limits.max_body_bytes} bytes that are allowed", receive)
            return
        if body is None:
            return  # the client has gone
        parts: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return parts.pop() if parts else await receive()

        await self.app(scope, replay, send)

    def _record(self, scope: Scope, answer: _Answer, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")
        status, model = str(answer.status or 499), scope["state"]["served"]
        labels = {"route": route, "status": status, "model": model}
        self.figures.count("assay_requests_total", "Requests by route, status (499: the client had gone) and model.", **labels)
        help = "Seconds to the end of the answer, or until the client had gone."
        self.figures.observe("assay_request_seconds", help, seconds, SECONDS, **labels)
        if route not in OPEN_PATHS:
            request_id, milliseconds = answer.request_id, round(1000 * seconds, 1)
            fields = {"request_id": request_id, "method": scope["method"], **labels, "milliseconds": milliseconds}
            log.info("%s %s %s %s ms %s", scope["method"], route, status, milliseconds, request_id, extra={"fields": fields})


class _Answer:
    """A `send` that remembers the status of the answer (0 before it began) and adds the request's id to it."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send, self.request_id = send, request_id
        self.status = 0

    @property
    def has_begun(self) -> bool:
        return self.status != 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message = {**message, "headers": [*message.get("headers", ()), (REQUEST_ID, self.request_id.encode())]}
        await self._send(message)


class _TooLarge(Exception):
    pass


async def _read(receive: Receive, max_bytes: int) -> bytes | None:
    """The whole body; None when the client disconnected before its end."""
    chunks, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if size > max_bytes:
            raise _TooLarge
        if not message.get("more_body", False):
            return b"".join(chunks)


def error_body(status: int, message: str) -> dict[str, Any]:
    """The body of an error reply, in the form of OpenAI's and vLLM's errors."""
    kinds = {401: "AuthenticationError", 403: "PermissionDenied", 404: "NotFoundError", 429: "RateLimitError"}
    kind = kinds.get(status, "BadRequestError" if status < 500 else "InternalServerError")
    return {"error": {"message": message, "type": kind, "param": None, "code": status}}


async def _refuse(send: _Answer, status: int, message: str, receive: Receive | None = None) -> None:
    """Send an error reply. receive: of a client that is still sending. Its data are read and dropped for up to a second: a
    connection that is closed at once is reset, and the client loses the answer."""
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]  # the rest of the body is not read
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if status == 429:
        headers.append((b"retry-after", b"1"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    body = json.dumps(error_body(status, message)).encode()
    if receive is not None:
        await send({"type": "http.response.body", "body": body, "more_body": True})
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                while (await receive()).get("more_body", False):
                    pass
        body = b""
    await send({"type": "http.response.body", "body": body})


def _without_prefixes(scope: Scope) -> tuple[Scope, str | None]:
    """The scope with the path without prefixes, and the token from the path."""
    scope, token, model = dict(scope), None, None
    path = (scope.get("raw_path") or quote(scope["path"]).encode()).decode("latin-1")
    if (found := re.match(r"/t/([^/]+)(?=/)", path)) is not None:
        token, path = unquote(found.group(1)), path[found.end() :]
    if (found := re.match(r"/m/([^/]+)(?=/)", path)) is not None:
        model, path = unquote(found.group(1)), path[found.end() :]
    if unquote(path).startswith("/t/"):
        path = "/t/-"  # not a path of ours, and it may contain a token
    scope |= {"path": unquote(path), "raw_path": path.encode("latin-1"), "assay_model": model}
    return scope, token


def _request_id(scope: Scope) -> str:
    """The client's X-Request-Id where it is short and plain, else a new one."""
    given = dict(scope["headers"]).get(REQUEST_ID, b"").decode("latin-1")
    return given if re.fullmatch(r"[A-Za-z0-9._:/+=-]{1,128}", given) else uuid.uuid4().hex


def _bearer(headers: dict[bytes, bytes]) -> str | None:
    kind, _, token = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    return token.strip() if kind.lower() == "bearer" and token else None


def _digest_of_token(token: str) -> str:
    if len(token) < MIN_TOKEN:
        raise ValueError(f"a token has {len(token)} characters: take at least {MIN_TOKEN}, such as those of `openssl rand -hex 24`")
    if not re.fullmatch(r"[A-Za-z0-9._~-]+", token):
        raise ValueError("a token holds characters that cannot stand in a path: use letters, digits and . _ ~ - only")
    return sha256(token)
