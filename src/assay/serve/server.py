"""Listen, answer until told to stop, drain: the service in the main thread of a process, on uvicorn."""

from __future__ import annotations

import logging
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn

from assay.errors import AssayError
from assay.serve.app import build_app
from assay.serve.service import Service

MAX_CONNECTIONS = 1024
KEEP_ALIVE_SECONDS = 75  # longer than clients keep theirs: else one is closed while the next request is on its way


class ServiceFailed(AssayError):
    """The service ended by itself, since it could not answer any more."""


def run_service(service: Service, *, host: str, port: int, drain_seconds: float, say: Callable[[str, str], None]) -> None:
    """Listen and answer until SIGTERM or SIGINT, then answer what was asked and return.

    port: 0 takes a free one. say: is called with a label and a line when it listens and when it has stopped. Raises OSError when
    the address is taken, ServiceFailed when an engine ended or got stuck.
    """
    failures: list[str] = []

    def stop(reason: str) -> None:
        failures.append(reason)
        server.should_exit = True

    app = build_app(service, on_failure=stop, drain_seconds=drain_seconds)
    log_to_stderr()
    listener = _listen(host, port)
    settings = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        lifespan="on",
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=max(1, round(drain_seconds)),
    )
    server = uvicorn.Server(settings)
    host, port = listener.getsockname()[:2]
    say("serving", f"http://{f'[{host}]' if ':' in host else host}:{port} ({', '.join(service.models)})")
    with _signals_taken():
        server.run(sockets=[listener])
    if failures:
        raise ServiceFailed(f"{failures[0]}: the log says why; what was asked got an error, not a reward")
    say("stopped", "what was asked is answered")


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # named as TCP, asyncio turns Nagle's algorithm off: with it a lone caller waits 40 ms for the second packet of every answer
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(MAX_CONNECTIONS)
    except OSError as error:
        listener.close()
        raise OSError(f"{host}:{port} cannot be listened on ({error.strerror}): choose another --port") from error
    listener.set_inheritable(True)
    return listener


@contextmanager
def _signals_taken() -> Iterator[None]:
    """uvicorn stops at SIGTERM and SIGINT, and raises them again when it is done: that is not to end the process."""
    before = {kind: signal.signal(kind, lambda *_: None) for kind in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


def log_to_stderr() -> None:
    """The service's log and uvicorn's warnings, with their time."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    for name, level in (("assay.serve", logging.INFO), ("uvicorn.error", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
