"""Processes that are killed when a check takes too long, eats the memory or dies: for math-verify, regexes and schemas of users.

A worker is a fresh Python process that reads one JSON line a check and writes one (scorers/verifiers/worker). It is no fork, so
that threads of this process do no harm, and nothing is pickled. Workers are started when they are needed and are kept;
math-verify's own timeout is a signal that works in a main thread alone, and counts what it cut off as wrong.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from queue import LifoQueue
from threading import Lock
from typing import Any

START_SECONDS = 60.0
"""How long a worker may take to start and to import what a check needs."""

_LARGEST_REPLY = 1 << 20
_WORKERS = max(1, min(8, os.cpu_count() or 1))

Check = Mapping[str, Any]


class CheckFailed(Exception):
    """A check that gave no verdict: it took too long, used too much memory, or its process ended."""


class _Worker:
    """One process, with the kinds of checks that it has imported."""

    def __init__(self) -> None:
        self.warm: set[str] = set()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "assay.scorers.verifiers.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        self._unread = b""

    def ask(self, check: Check, seconds: float) -> Any:
        """The reply to a check. Raises CheckFailed after `seconds`, and when the process ends or says too much."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(check).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise CheckFailed("the process of the check has ended") from None
        return json.loads(self._line(time.monotonic() + seconds, seconds))

    def _line(self, until: float, seconds: float) -> bytes:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        while b"\n" not in self._unread:
            left = until - time.monotonic()
            if left <= 0 or not select.select([descriptor], [], [], left)[0]:
                raise CheckFailed(f"the check took longer than {seconds:g} s, and was ended")
            read = os.read(descriptor, 1 << 16)
            self._unread += read
            if not read:
                raise CheckFailed("the process of the check has ended")
            if len(self._unread) > _LARGEST_REPLY:
                raise CheckFailed(f"the check printed more than {_LARGEST_REPLY:,} bytes, and was ended")
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def kill(self) -> None:
        """End the process and all that it has started in its session."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, 9)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):  # what was still to be written has no reader
                if pipe is not None:
                    pipe.close()


class WorkerPool:
    """Up to `size` workers, shared by all threads of this process."""

    def __init__(self, size: int = _WORKERS) -> None:
        self.size = size
        self._owner = os.getpid()
        self._idle: LifoQueue[_Worker | None] = LifoQueue()
        for _ in range(size):
            self._idle.put(None)

    def run(self, checks: Sequence[Check], seconds: float) -> list[Any]:
        """The reply to each check, in order; a CheckFailed in the place of one that gave none within `seconds`."""
        if len(checks) <= 1:
            return [self._one(check, seconds) for check in checks]
        with ThreadPoolExecutor(min(self.size, len(checks))) as threads:
            return list(threads.map(lambda check: self._one(check, seconds), checks))

    def _one(self, check: Check, seconds: float) -> Any:
        worker, kept = self._idle.get(), None
        try:
            worker = worker or _Worker()
            if check["kind"] not in worker.warm:
                worker.ask({"kind": check["kind"], "warm": True}, START_SECONDS)
                worker.warm.add(check["kind"])
            reply = worker.ask(check, seconds)
            kept = worker
            return reply
        except CheckFailed as failed:
            return failed
        finally:
            if kept is None and worker is not None:
                worker.kill()
            self._idle.put(kept)

    def close(self) -> None:
        """End all workers that are idle."""
        if os.getpid() != self._owner:  # after a fork they are the parent's
            return
        for _ in range(self._idle.qsize()):
            worker = self._idle.get()
            if worker is not None:
                worker.kill()
            self._idle.put(None)


_pools: dict[int, WorkerPool] = {}  # by process id: a fork must not share its parent's pipes
_lock = Lock()


def shared_pool() -> WorkerPool:
    """The pool of this process."""
    with _lock:
        pid = os.getpid()
        if pid not in _pools:
            _pools.clear()
            _pools[pid] = WorkerPool()
            atexit.register(_pools[pid].close)
        return _pools[pid]
