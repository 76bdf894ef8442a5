"""Run the service on uvicorn, in the main thread of a process: listen, answer until a signal comes, drain."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn

from assay.errors import AssayError
from assay.serve.app import build_app
from assay.serve.connections import MAX_CONNECTIONS, allow_connections, drop_the_dead, timed_protocol
from assay.serve.service import Service
from assay.serve.service_log import log_to_stderr

KEEP_ALIVE_SECONDS = 75  # longer than clients keep connections: else one could be closed while a request is on its way


class ServiceFailed(AssayError):
    """The service ended because it could not answer requests any more."""


def run_service(
    service: Service, *, host: str, port: int, drain_seconds: float, log_json: bool = False, say: Callable[[str, str], None]
) -> None:
    """Listen and answer until SIGTERM or SIGINT, then answer all waiting requests and return.

    port: 0 takes a free one. log_json: the log is JSON lines. say: called with a label and a line when the service listens and when
    it has stopped. Raises OSError when the address is taken, ServiceFailed when an engine ended or got stuck.
    """
    failures: list[str] = []

    def stop(reason: str) -> None:
        failures.append(reason)
        server.should_exit = True

    app = build_app(service, on_failure=stop, drain_seconds=drain_seconds)
    log_to_stderr(as_json=log_json)
    allow_connections()
    listener = listen(host, port)
    settings = uvicorn.Config(
        app,
        http=timed_protocol(),  # type: ignore[arg-type]
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
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    say("serving", f"{url} ({', '.join(service.models)}); Ctrl-C ends it")
    first = '{"items": [{"prompt": "What is 2 + 2?", "response": "4."}]}'
    say("try", f"curl -s {url}/v1/score -H 'Content-Type: application/json' -d '{first}'   (all routes: {url}/docs)")
    # uvicorn stops at these signals, and raises them again when it is done: that must not end the process
    with signals_handled(lambda *_: None):
        server.run(sockets=[listener])
    if failures:
        raise ServiceFailed(f"{failures[0]}: the log says why; waiting requests got an error, not a reward")
    say("stopped", "all requests are answered")


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises OSError when the address is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's algorithm off only if TCP is named here; with it a single caller waits 40 ms for the second packet
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    drop_the_dead(listener)
    try:
        listener.bind((host, port))
        listener.listen(MAX_CONNECTIONS)
    except OSError as error:
        listener.close()
        raise OSError(f"{host}:{port} cannot be listened on ({error.strerror}): choose another --port") from error
    listener.set_inheritable(True)
    return listener


@contextmanager
def signals_handled(handler: Callable[..., None]) -> Iterator[None]:
    """SIGTERM and SIGINT call `handler` inside the block; afterwards they do what they did before."""
    before = {kind: signal.signal(kind, handler) for kind in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for kind, earlier in before.items():
            signal.signal(kind, earlier)
