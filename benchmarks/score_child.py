"""Child processes of the scoring benchmark: one asks, the other answers, a line of JSON each.

Standard library only, so that a child may run in an environment without Assay.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

# Where this process may run. To be read before OpenMP is loaded, which binds it to one core, and a child inherits that.
CPUS = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set[int]()


class Child:
    """A process that stays loaded and answers requests; what it prints goes to a log, shown when it fails."""

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> None:
        self.log = log
        with log.open("w") as stream:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                text=True,
                env=None if environment is None else dict(environment),
                preexec_fn=lambda: os.sched_setaffinity(0, CPUS) if CPUS else None,
            )

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        """The child ends when nobody can ask it any more."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.close()
            self.process.wait(timeout=60)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()

    def ask(self, do: str, **arguments: Any) -> Any:
        """The answer to one request. Raises ChildError with the child's reason."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            print(json.dumps({"do": do, **arguments}), file=self.process.stdin, flush=True)
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self.process.wait()
            last = [row for row in self.log.read_text(errors="replace").splitlines() if row.strip()][-12:]
            raise ChildError(f"the process ended with status {self.process.returncode}: " + " | ".join(last)[-1500:])
        answer = json.loads(line)
        if "error" in answer:
            raise ChildError(answer["error"])
        return answer["answer"]


class ChildError(RuntimeError):
    """A child could not do what it was asked."""


def serve(prepare: Callable[[], Mapping[str, Callable[..., Any]]]) -> int:
    """Answer requests until the input ends. `prepare` loads, and returns what can be asked for by name; failures are answers."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not stand between the answers
    handlers: Mapping[str, Callable[..., Any]] = {}
    problem = ""
    try:
        handlers = prepare()
    except Exception as error:  # the boundary of the process: the reason goes to whoever asks
        problem = f"{type(error).__name__}: {error}"[:1500]
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"error": problem} if problem else {"answer": handlers[request.pop("do")](**request)}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"[:1500]}
        print(json.dumps(answer), file=answers, flush=True)
    return 0


def watched(score: Callable[[], list[float]]) -> dict[str, Any]:
    """Scores, seconds, and the process's resident memory before and at its peak while `score` ran, in bytes (Linux only)."""
    before = _status("VmRSS")
    reset_peak()
    began = time.perf_counter()
    scores = score()
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "scores": scores, "before_bytes": before, "peak_bytes": _status("VmHWM")}


def reset_peak() -> None:
    """Let the kernel count the peak of this process's resident memory from now on."""
    with contextlib.suppress(OSError):  # not Linux, or not allowed: the peak is then that of the whole process
        Path("/proc/self/clear_refs").write_text("5")


def _status(name: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(name + ":")), None)
