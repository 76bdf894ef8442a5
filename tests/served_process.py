"""A service in a process of its own."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2

from serving import wait_for

TESTS = Path(__file__).parent


class Process:
    """A process that serves; `url` is what it printed; patience: seconds until it has."""

    def __init__(self, arguments: list[str], patience: float = 60, **environment: str) -> None:
        path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
        self.errors: list[str] = []
        self.popen = subprocess.Popen(
            arguments,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path, "NO_COLOR": "1", "COLUMNS": "200", **environment},
        )
        threading.Thread(target=self._read, daemon=True).start()
        wait_for(lambda: self.url is not None or self.popen.poll() is not None, patience)
        assert self.url, "".join(self.errors)

    def _read(self) -> None:
        assert self.popen.stderr is not None
        for line in self.popen.stderr:
            self.errors.append(line)

    @property
    def url(self) -> str | None:
        return next((word for line in self.errors if line.startswith("serving") for word in line.split() if "://" in word), None)

    def post(self, path: str, body: dict, **more) -> httpx2.Response:
        return httpx2.post(f"{self.url}{path}", json=body, timeout=30, trust_env=False, **more)

    def end(self, seconds: float = 30) -> int:
        return self.popen.wait(seconds)


@contextmanager
def process(arguments: list[str], patience: float = 60, **environment: str) -> Iterator[Process]:
    running = Process(arguments, patience, **environment)
    try:
        yield running
    finally:
        running.popen.kill()
        running.popen.wait()
