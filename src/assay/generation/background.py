"""One event loop in a background thread: for synchronous callers, also inside of notebooks and trainers that run a loop of their
own."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


class Background:
    """The loop starts with the first call. A forked process starts its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = -1

    def loop(self) -> asyncio.AbstractEventLoop:
        """The running loop."""
        with self._lock:
            if self._loop is None or self._process != os.getpid():
                loop = asyncio.new_event_loop()
                threading.Thread(target=loop.run_forever, name="assay-generation", daemon=True).start()
                self._loop, self._process = loop, os.getpid()
            return self._loop

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Wait for a coroutine; one that is interrupted (Ctrl-C) is cancelled."""
        future = asyncio.run_coroutine_threadsafe(work, self.loop())
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise
