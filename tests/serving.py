"""A service on loopback in a thread, and scorers to put behind it."""

from __future__ import annotations

import json
import math
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
import uvicorn

from assay.records import Completion, Rewards
from assay.scorers.base import Scorer
from assay.serve.app import build_app
from assay.serve.metrics.prometheus import Counters
from assay.serve.served import Served
from assay.serve.service import EngineSettings, Service, start_engine


def answer(text: str, prompt: str = "question") -> Completion:
    return Completion(messages=prompt, response=text)


class Lengths:
    """Length of the answer, or of a text that was rendered; an empty one has no reward, "deadly" ends the thread that scores it.

    Waits at `gate` and writes down what it was given.
    """

    scope, tolerance = "global", 0.0

    def __init__(self, *, is_open: bool = True, factor: float = 1.0) -> None:
        self.factor, self.fingerprint = factor, f"lengths {factor}"
        self.gate, self.has_begun, self.batches = threading.Event(), threading.Event(), []
        if is_open:
            self.gate.set()

    def score(self, completions):
        texts = [str(c.response if c.response is not None else c.text or "x" * len(c.token_ids or ())) for c in completions]
        self.batches.append(texts)
        self.has_begun.set()
        assert self.gate.wait(20)
        if "deadly" in texts:
            raise SystemExit("the device is lost")
        return Rewards(value=[self.factor * len(text) or math.nan for text in texts])


def service_of(*scorers: Scorer, names: tuple[str, ...] = ("rm", "other"), linger_seconds: float = 0.0, **settings) -> Service:
    """A service of these scorers, under these names."""
    figures = Counters()
    max_queued = settings.pop("max_queued", 2048)
    engine = EngineSettings(max_queued=max_queued, linger_seconds=linger_seconds)
    models = {
        name: Served(name, start_engine(name, scorer, f"{name}-files", figures, engine))
        for name, scorer in zip(names, scorers, strict=False)
    }
    return Service(models=models, figures=figures, engine=engine, **settings)


@contextmanager
def serving(service: Service, http="auto", **settings) -> Iterator[httpx2.Client]:
    """Serves until the block ends; gives a client whose base URL is the service's."""
    app = build_app(service, drain_seconds=5.0, **settings)
    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, http=http, log_config=None, access_log=False, lifespan="on", timeout_graceful_shutdown=5
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + 20
    while not server.started:
        assert time.monotonic() < until, "the service did not start"
        time.sleep(0.002)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as client:
            yield client
    finally:
        for served in service.models.values():
            for loaded in served.loaded():
                getattr(loaded.batcher.scorer, "gate", threading.Event()).set()
        server.should_exit = True
        thread.join(20)


@contextmanager
def sent(url: str, body: dict) -> Iterator[socket.socket]:
    """A connection on which a request to /v1/score was sent, closed at the end of the block whether it was answered or not."""
    address, content = httpx2.URL(url), json.dumps(body).encode()
    lines = ["POST /v1/score HTTP/1.1", "Host: x", "Content-Type: application/json", f"Content-Length: {len(content)}"]
    with socket.create_connection((address.host, address.port)) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + content)
        yield connection


def wait_for(condition, seconds: float = 20.0) -> None:
    """Until the condition holds."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come about"
        time.sleep(0.002)
