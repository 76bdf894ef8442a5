"""How code that a model wrote is held: bubblewrap where it is there, else namespaces, limits and a deadline. This is no sandbox.

Only somebody who says `--run-code` lets such code run at all, and without bubblewrap only with `--unsandboxed`.
"""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

RunCode = Literal["never", "sandboxed", "unsandboxed"]
"""Whether code of answers may run: not at all, in bubblewrap alone, or in whatever this machine offers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeFlags:
    """Whether code of answers may run."""

    run_code: bool = False
    """Let rule:tests run the code of answers, in bubblewrap (docs/rules.md)."""
    unsandboxed: bool = False
    """With --run-code: run it without bubblewrap too, where it may read and write what you may."""

    def __post_init__(self) -> None:
        if self.unsandboxed and not self.run_code:
            raise ValueError("--unsandboxed says how code is run, and nothing runs it: add --run-code, or leave it out")

    @property
    def allowed(self) -> RunCode:
        return "unsandboxed" if self.unsandboxed else "sandboxed" if self.run_code else "never"


SCRIPT = Path(__file__).with_name("tested_code.py")
_NAMESPACES = (
    ("--user", "--map-root-user", "--net", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc"),
    ("--user", "--map-root-user", "--net", "--ipc", "--pid", "--fork", "--kill-child"),
    ("--user", "--map-root-user", "--net"),
)
_NEVER = "runs code that a model wrote: allow it with --run-code (in Python run_code='sandboxed')"
_NO_BWRAP = (
    "and without it code that a model wrote could read and write your files: see to it, or accept that with --unsandboxed "
    "(in Python run_code='unsandboxed')"
)


class OutOfLimits(Exception):
    """Code that took too long or printed too much, and was ended."""


def check_allowed(run_code: RunCode, what: str) -> None:
    """Raises ValueError where code may not run, with the way to allow it. what: what wants to run it."""
    if run_code == "never":
        raise ValueError(f"{what} {_NEVER}")
    bwrap = shutil.which("bwrap")
    if run_code == "sandboxed" and not (bwrap and _works(bwrap)):
        raise ValueError(f"{what}: bubblewrap (bwrap) {'cannot start here' if bwrap else 'is not installed'}, {_NO_BWRAP}")


def run_confined(role: str, text: bytes, folder: Path, *, seconds: float, most: int, run_code: RunCode) -> tuple[int, bytes]:
    """Exit status and output of tested_code.py in a role, given `text`. Raises OutOfLimits after `seconds` or `most` bytes."""
    command = [*confinement(run_code, folder), sys.executable, "-I", str(SCRIPT), role]
    with tempfile.TemporaryFile() as given:
        given.write(text)
        given.seek(0)
        process = subprocess.Popen(
            command, stdin=given, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=folder, env={}, start_new_session=True
        )
    try:
        output = _read(process, seconds, most)
        return process.wait(timeout=5), output
    except subprocess.TimeoutExpired:
        raise OutOfLimits("the code closed its output and went on, and was ended") from None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _read(process: subprocess.Popen[bytes], seconds: float, most: int) -> bytes:
    assert process.stdout is not None
    descriptor, until, output = process.stdout.fileno(), time.monotonic() + seconds, bytearray()
    while True:
        left = until - time.monotonic()
        if left <= 0 or not select.select([descriptor], [], [], left)[0]:
            raise OutOfLimits(f"the code took longer than {seconds:g} s, and was ended")
        read = os.read(descriptor, 1 << 16)
        if not read:
            return bytes(output)
        output += read
        if len(output) > most:
            raise OutOfLimits(f"the code printed more than {most:,} bytes, and was ended")


def confinement(run_code: RunCode, folder: Path) -> list[str]:
    """The command that another one is put behind: bubblewrap, unshare, or nothing."""
    bwrap = shutil.which("bwrap")
    if bwrap is not None and (run_code == "sandboxed" or _works(bwrap)):
        return _bubblewrap(bwrap, folder)
    return list(_namespaces())


def _bubblewrap(bwrap: str, folder: Path) -> list[str]:
    """No network, no processes of others, no files but Python's own (to read) and an empty folder."""
    python = dict.fromkeys(str(Path(path).resolve()) for path in (sys.prefix, sys.base_prefix, SCRIPT.parent))
    system = ("/usr", "/lib", "/lib64", "/bin")
    read_only = [word for path in system for word in ("--ro-bind-try", path, path)]
    own = [word for path in (*python, *_links(sys.executable)) for word in ("--ro-bind-try", path, path)]
    alone = ["--unshare-all", "--die-with-parent", "--new-session", "--clearenv"]
    places = [
        "--proc",
        "/proc",
        "--dev",
        "/dev",
        "--tmpfs",
        "/tmp",
        *own,
        "--bind",
        str(folder),
        str(folder),
        "--chdir",
        str(folder),
    ]
    return [bwrap, *alone, *read_only, *places, "--"]


def _links(path: str) -> list[str]:
    """The folders through which a link leads to its file: all must be there for the command to be found."""
    found = []
    while os.path.islink(path):
        path = os.path.join(os.path.dirname(path), os.readlink(path))
        found.append(os.path.dirname(path))
    return found


@lru_cache(maxsize=1)
def _namespaces() -> tuple[str, ...]:
    """The first set of namespaces that this machine lets us make; none where it lets us make none."""
    unshare = shutil.which("unshare")
    if unshare is None:
        return ()
    return next((command for flags in _NAMESPACES if _runs([*(command := (unshare, *flags)), "true"])), ())


@lru_cache(maxsize=1)
def _works(bwrap: str) -> bool:
    return _runs([*_bubblewrap(bwrap, Path(tempfile.gettempdir())), "true"])


def _runs(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=10, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
