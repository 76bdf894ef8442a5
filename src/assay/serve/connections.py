"""Connections that would otherwise stay for ever: those that never send a request, and those whose peer is gone or does not
read."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

HEAD_SECONDS = 30.0
_LATE = 0.5  # seconds: a timer that is later than this says that the event loop was held up, not the client
UNREAD_SECONDS = 120
MAX_CONNECTIONS = 4096

_END_OF_HEAD = b"\r\n\r\n"


class HeadTimer(asyncio.Protocol):
    """A connection that is closed when its first request has no whole head after `seconds`. `inner` does the rest."""

    def __init__(self, inner: Any, seconds: float) -> None:
        self.inner, self.seconds = inner, seconds
        self._tail = b""
        self._transport: Any = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._start()
        self.inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self._timer is not None:
            if _END_OF_HEAD in self._tail + data:
                self._stop()
            self._tail = (self._tail + data)[-len(_END_OF_HEAD) :]
        self.inner.data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        self.inner.connection_lost(exc)

    def eof_received(self) -> bool | None:
        answer: bool | None = self.inner.eof_received()
        return answer

    def pause_writing(self) -> None:
        self.inner.pause_writing()

    def resume_writing(self) -> None:
        self.inner.resume_writing()

    def _start(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self.seconds, self._expire, loop.time() + self.seconds)

    def _expire(self, due: float) -> None:
        if asyncio.get_running_loop().time() - due > _LATE:
            self._start()  # what was sent in time may lie unread
        else:
            self._transport.abort()

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def timed_protocol(seconds: float = HEAD_SECONDS) -> Callable[..., asyncio.Protocol]:
    """What uvicorn makes its connections of (`http=`)."""

    def make(**given: Any) -> asyncio.Protocol:
        return HeadTimer(AutoHTTPProtocol(**given), seconds)

    return make


def drop_the_dead(listener: socket.socket, unread_seconds: int = UNREAD_SECONDS) -> None:
    """The connections of this listener end when their peer is gone, or has taken nothing of what was sent to it for so long."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_USER_TIMEOUT", 1000 * unread_seconds),
        ("TCP_KEEPIDLE", 60),
        ("TCP_KEEPINTVL", 15),
        ("TCP_KEEPCNT", 4),
    ):
        if hasattr(socket, name):  # Linux has all of them
            listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def allow_connections(count: int = MAX_CONNECTIONS) -> None:
    """Raise the limit of open files of this process, often 1,024, towards what so many connections need."""
    try:
        import resource  # not on Windows
    except ImportError:
        return
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * count if most == resource.RLIM_INFINITY else min(2 * count, most)
    if now != resource.RLIM_INFINITY and now < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
