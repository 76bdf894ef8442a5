"""The door of the service: who may come in, how large a request may be, what is written down of it. Plain ASGI, before any route.

Two prefixes are taken off the path: /t/TOKEN for clients that send no headers (never logged), and after it /m/NAME for the model
that is meant where a contract does not name one. The body is read here, within the limits, before the application runs.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import re
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from assay.serve.batcher import place_of
from assay.serve.figures import SECONDS, Figures

log = logging.getLogger("assay.serve")

OPEN_PATHS = ("/healthz", "/readyz")
ADMIN_PATH = "/v1/admin"
MIN_TOKEN = 16
DRAIN_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one request, and all of them together, may take.

    max_body_bytes, max_items, max_text (characters of one completion): of one request. max_held_bytes: bodies of all requests that
    are being answered. body_seconds: for a body to arrive. timeout_seconds: for rewards, where the client does not say less.
    stall_seconds: one batch may take; then the engine counts as dead.
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
    """Who may ask (tokens) and who may change models (admin_tokens), as digests. No tokens: anybody who reaches the port may ask;
    no admin tokens: nobody may change models."""

    tokens: tuple[bytes, ...] = ()
    admin_tokens: tuple[bytes, ...] = ()

    @classmethod
    def of(cls, tokens: Iterable[str] = (), admin_tokens: Iterable[str] = ()) -> Keys:
        """From the tokens themselves. Raises ValueError for one that is short, or cannot stand in a path."""
        return cls(tokens=tuple(map(_digest_of_token, tokens)), admin_tokens=tuple(map(_digest_of_token, admin_tokens)))

    def allow(self, token: str | None, *, is_admin: bool = False) -> bool:
        """Compared with every token in constant time."""
        if not is_admin and not self.tokens:
            return True
        given, is_known = _digest(token or ""), False
        for known in self.admin_tokens if is_admin else (*self.tokens, *self.admin_tokens):
            is_known |= hmac.compare_digest(known, given)
        return is_known


class Gate:
    """ASGI middleware: checks token, size and time of a request, hands it on with its body, logs one line and counts it."""

    def __init__(self, app: ASGIApp, *, keys: Keys, limits: Limits, figures: Figures) -> None:
        self.app, self.keys, self.limits, self.figures = app, keys, limits, figures
        self._held_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        began = time.monotonic()
        scope, token = _without_prefixes(scope)
        scope["state"] = {**scope.get("state", {}), "began": began, "model": scope.pop("assay_model", None)}
        answer = _Answer(send)
        try:
            await self._admit(scope, token, receive, answer)
        except Exception as error:
            log.error("%s: %s %s", scope["method"], type(error).__name__, place_of(error))
            if not answer.has_begun:
                await _refuse(answer, 500, "something went wrong in the service; its log says where")
        finally:
            self._write_down(scope, answer, time.monotonic() - began)

    async def _admit(self, scope: Scope, token: str | None, receive: Receive, send: _Answer) -> None:
        path = scope["path"]
        headers = dict(scope["headers"])
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

    def _write_down(self, scope: Scope, answer: _Answer, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")
        status = str(answer.status or 499)
        self.figures.count("assay_requests_total", "Requests by route and status.", route=route, status=status)
        if answer.status == 200:
            self.figures.observe(
                "assay_request_seconds", "Seconds to answer, of requests that were.", seconds, SECONDS, route=route
            )
        if route not in OPEN_PATHS:
            log.info("%s %s %s %.1f ms", scope["method"], route, status, 1000 * seconds)


class _Answer:
    """`send`, that remembers whether and with which status an answer began."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 0

    @property
    def has_begun(self) -> bool:
        return self.status != 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self._send(message)


class _TooLarge(Exception):
    pass


async def _read(receive: Receive, max_bytes: int) -> bytes | None:
    """The whole body; None when the client went away before its end."""
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
    """What every refusal says, in the form of OpenAI's and vLLM's errors."""
    kinds = {401: "AuthenticationError", 403: "PermissionDenied", 404: "NotFoundError", 429: "RateLimitError"}
    kind = kinds.get(status, "BadRequestError" if status < 500 else "InternalServerError")
    return {"error": {"message": message, "type": kind, "param": None, "code": status}}


async def _refuse(send: _Answer, status: int, message: str, receive: Receive | None = None) -> None:
    """receive: of a client that is still sending. What comes in a second is thrown away before the connection is closed: closed at
    once, it is reset, and the client loses the answer."""
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]  # what is left of the body is not read
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
    """The scope with the path that routes know, and the token that stood in it."""
    scope, path = dict(scope), scope["path"]
    token = model = None
    if (found := re.match(r"/t/([^/]+)(?=/)", path)) is not None:
        token, path = found.group(1), path[found.end() :]
    if (found := re.match(r"/m/([^/]+)(?=/)", path)) is not None:
        model, path = found.group(1), path[found.end() :]
    if path.startswith("/t/"):
        path = "/t/-"  # not a path of ours, and what stands in it may be a token
    scope |= {"path": path, "raw_path": path.encode("utf-8", "replace"), "assay_model": model}
    return scope, token


def _bearer(headers: dict[bytes, bytes]) -> str | None:
    kind, _, token = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    return token.strip() if kind.lower() == "bearer" and token else None


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def _digest_of_token(token: str) -> bytes:
    if len(token) < MIN_TOKEN:
        raise ValueError(f"a token has {len(token)} characters: take at least {MIN_TOKEN}, such as those of `openssl rand -hex 24`")
    if not re.fullmatch(r"[A-Za-z0-9._~-]+", token):
        raise ValueError("a token holds characters that cannot stand in a path: use letters, digits and . _ ~ - only")
    return _digest(token)
