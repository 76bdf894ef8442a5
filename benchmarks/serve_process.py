"""Servers as processes of their own: started, watched (memory, processor time), ended. Standard library only."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from score_child import CPUS

_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """Processor seconds of a process since it began, and those of its main thread, where a server of Python runs its event loop."""

    seconds: float
    main_seconds: float

    def since(self, before: Spent) -> Spent:
        return Spent(seconds=self.seconds - before.seconds, main_seconds=self.main_seconds - before.main_seconds)


def spent(pid: int) -> Spent:
    process, main = (_stat(Path(f"/proc/{pid}") / part) for part in ("stat", f"task/{pid}/stat"))
    return Spent(seconds=process, main_seconds=main)


def resident_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmRSS:")), 0)


class Server:
    """A server on loopback, ready when `health` answers; its address is the first one in its log unless it is given."""

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        *,
        health: str,
        url: str | None = None,
        environment: Mapping[str, str] | None = None,
        start_seconds: float = 180.0,
    ) -> None:
        self.log = log
        with log.open("w") as stream:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                env=None if environment is None else dict(environment),
                preexec_fn=lambda: os.sched_setaffinity(0, CPUS) if CPUS else None,
                start_new_session=True,
            )
        try:
            self.url = self._wait(url, health, time.monotonic() + start_seconds)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    def close(self) -> int:
        """The exit status after SIGTERM; killed with its children when it does not end in 30 seconds."""
        self.resume()
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            return self.process.wait()

    def pause(self) -> None:
        """Stop it and its children until `resume`: processes of vLLM spin while nobody asks, beside those measured."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, kind: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, kind)

    def get(self, path: str, timeout: float = 10.0) -> tuple[int, str]:
        """Status and text of a GET; raises OSError when nobody answers."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(self.url + path, timeout=timeout) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def _wait(self, url: str | None, health: str, until: float) -> str:
        while time.monotonic() < until:
            if not self.is_alive:
                raise ServerError(f"the server ended with status {self.process.returncode}: {self._last_lines()}")
            found = re.search(r"http://127\.0\.0\.1:\d+", self.log.read_text(errors="replace")) if url is None else None
            self.url = url or (found.group() if found else "")
            try:
                if self.url and self.get(health)[0] == 200:
                    return self.url
            except OSError:
                pass
            time.sleep(0.1)
        raise ServerError(f"the server was not ready in time: {self._last_lines()}")

    def _last_lines(self) -> str:
        return " | ".join(self.log.read_text(errors="replace").splitlines()[-12:])[-1500:]


class ServerError(RuntimeError):
    """A server did not start."""


class Watch:
    """Samples the resident memory of a process a few times a second; `samples` are (seconds since the start, bytes)."""

    def __init__(self, pid: int, every: float = 0.25) -> None:
        self.samples: list[tuple[float, int]] = []
        self._pid, self._every, self._stop = pid, every, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        began = time.monotonic()
        while not self._stop.is_set():
            try:
                self.samples.append((time.monotonic() - began, resident_bytes(self._pid)))
            except OSError:
                return
            self._stop.wait(self._every)


def _stat(path: Path) -> float:
    fields = path.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS
