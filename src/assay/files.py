"""Files and directories that appear whole or not at all, digests of what is in them, and locks. No torch.

Whatever is written here is on the disk before it takes its name, so that a crash or a full disk leaves the old content.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO


def sha256(content: str | bytes) -> str:
    """sha256 as 64 hex digits; a lone surrogate in text, which JSON can spell, counts as it is."""
    return hashlib.sha256(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content).hexdigest()


def digest(content: str | bytes) -> str:
    """The first 32 hex digits of `sha256`: what fingerprints and keys are."""
    return sha256(content)[:32]


def json_digest(content: object) -> str:
    """`digest` of the JSON text of the content, whatever the order of its keys."""
    return digest(json.dumps(content, sort_keys=True))


def file_sha256(path: Path) -> str:
    """sha256 of a file, 64 hex digits; memory does not grow with the file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write a file of UTF-8 whole or not at all, as `replacing` does."""
    with replacing(path) as work:
        work.write_bytes(text.encode())


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to, in the folder of `path`, whose file takes the place of `path` when the block ends without an error.

    Makes missing folders.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    work = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield work
        put_in_place(work, path)
    finally:
        work.unlink(missing_ok=True)


def put_in_place(work: Path, path: Path) -> None:
    """Give a complete file of the same file system the name `path`, in one step."""
    sync(work)
    work.replace(path)
    sync(path.parent)


@contextmanager
def new_directory(path: Path, *, keep: bool = False) -> Iterator[Path]:
    """An empty directory that takes the place of `path`, with all that was put into it, when the block ends without an error.

    keep: a directory that another process has put there in the meantime stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as outer:
        work = Path(outer) / "new"
        work.mkdir()
        yield work
        if keep and path.exists():
            return
        for file in (*work.rglob("*"), work):
            sync(file)
        if path.exists():
            path.rename(Path(outer) / "old")
        work.rename(path)
        sync(path.parent)


def sync(path: Path) -> None:
    """Make what was written to a file, or renamed in a directory, outlive a power cut."""
    if os.name == "nt" and path.is_dir():  # Windows opens no directories
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(path: Path, *, busy: str) -> Iterator[None]:
    """Hold the lock file `path`, which may be removed, with its folder, before the block ends.

    Raises ValueError(busy) when another process holds it.
    """
    import fcntl  # POSIX only: what needs no lock does without

    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock = path.open("ab")
        except FileNotFoundError:  # its last owner has just removed the folder
            continue
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(busy) from None
            if _is_same_file(lock, path):
                yield
                return


def _is_same_file(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
