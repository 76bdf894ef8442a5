"""Cached rewards: a wrapper that keeps the rewards of its inner scorer in an SQLite file.

The key of a row is the scorer's fingerprint and the content of the completion (with the ground truth, if the scorer reads it). Rows
of other weights, another template, length policy or number format are therefore never used. Failures are never stored.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from assay.errors import CacheError
from assay.records import Completion, Rewards
from assay.scorers.base import Comparer, OfInner, Scope, Scorer, keys_of
from assay.scorers.rules import RuleScorer
from assay.wire import rewards_from_rows, rewards_to_rows

SCHEMA_VERSION = 1
_AT_ONCE = 500  # parameters of one statement; older SQLite takes 999
_PATIENCE = 60.0  # seconds to wait for another process's write


class Cached:
    """The inner scorer's rewards; each content is scored once, also within a batch.

    path: the SQLite file. A new one gets mode 0600, since it holds hashes of what was scored, and critiques as plain text.
    Several processes and threads may share it (WAL). max_rows: when there are more, the rows used longest ago are deleted.
    num_hits, num_misses: completions answered from the file or from the same batch, and completions sent to the inner scorer.
    problem: why rows could not be stored the last time (a full disk, say); their rewards are returned all the same.
    """

    scope: Scope = "global"
    fingerprint = OfInner[str]()
    tolerance = OfInner[float]()

    def __init__(self, scorer: Scorer, path: str | Path, *, max_rows: int = 10_000_000) -> None:
        if scorer.scope != "global":
            raise ValueError("a prompt-scoped scorer cannot be cached: its values depend on the prompt's other answers")
        if isinstance(scorer, Comparer):
            raise ValueError("put the cache inside of what compares: Calibrated(scorer=Cached(scorer, path), calibration=...)")
        if isinstance(scorer, RuleScorer) and not scorer.versioned:
            unseen = "what it calls in other modules could change unseen"
            raise ValueError(f"rewards of {scorer.name} are not cached, since {unseen}: give the function a __version__")
        if max_rows < 1:
            raise ValueError(f"max_rows {max_rows} must be at least 1")
        self.scorer, self.path, self.max_rows = scorer, Path(path), max_rows
        self.num_hits = self.num_misses = 0
        self.problem: str | None = None
        self._lock = threading.Lock()
        self._database: sqlite3.Connection | None = None
        self._process = -1
        self._since_counted = 0
        with self._opened():
            pass

    def score(self, completions: Sequence[Completion]) -> Rewards:
        """N completions -> N rewards, with std, steps and text. Raises CacheError for a file that is damaged."""
        fingerprint, keys = self.scorer.fingerprint, keys_of(self.scorer, completions)
        rows = self._known(fingerprint, set(keys))
        missing = {key: completion for key, completion in zip(keys, completions, strict=True) if key not in rows}
        if missing:
            found = dict(zip(missing, rewards_to_rows(self.scorer.score(list(missing.values()))), strict=True))
            self._keep(fingerprint, {key: row for key, row in found.items() if row["value"] is not None})
            rows |= found
        self.num_misses += len(missing)
        self.num_hits += len(keys) - len(missing)
        return rewards_from_rows(rows[key] for key in keys)

    def close(self) -> None:
        """Close the file; the next scoring opens it again."""
        with self._lock:
            if self._database is not None and self._process == os.getpid():
                self._database.close()
            self._database = None

    def _known(self, fingerprint: str, keys: set[str]) -> dict[str, Mapping[str, Any]]:
        rows: dict[str, Mapping[str, Any]] = {}
        with self._opened() as database:
            for part in _parts(sorted(keys)):
                marks = ",".join("?" * len(part))
                select = f"SELECT key, row FROM rewards WHERE fingerprint = ? AND key IN ({marks})"
                rows |= {key: json.loads(row) for key, row in database.execute(select, (fingerprint, *part))}
            self._write(
                database,
                "UPDATE rewards SET used = ? WHERE fingerprint = ? AND key = ?",
                ((time.time_ns(), fingerprint, key) for key in rows),
            )
        return rows

    def _keep(self, fingerprint: str, rows: Mapping[str, Mapping[str, Any]]) -> None:
        with self._opened() as database:
            values = ((fingerprint, key, json.dumps(row, ensure_ascii=False), time.time_ns()) for key, row in rows.items())
            self._write(database, "INSERT OR REPLACE INTO rewards VALUES (?, ?, ?, ?)", values)
            self._since_counted += len(rows)
            if self._since_counted > self.max_rows // 20:
                self._evict(database)

    def _write(self, database: sqlite3.Connection, statement: str, values: Iterable[tuple[Any, ...]]) -> None:
        """Write in one transaction. A full disk or a read-only file loses the rows in the cache, not the rewards."""
        self.problem = None
        try:
            with database:
                database.executemany(statement, values)
        except sqlite3.OperationalError as error:
            self.problem = f"{self.path}: {error}"

    def _evict(self, database: sqlite3.Connection) -> None:
        """When there are more than max_rows, delete the rows used longest ago, down to nine tenths of max_rows."""
        self._since_counted = 0
        (count,) = database.execute("SELECT count(*) FROM rewards").fetchone()
        if count <= self.max_rows:
            return
        oldest = "SELECT fingerprint, key FROM rewards ORDER BY used LIMIT ?"
        delete = f"DELETE FROM rewards WHERE (fingerprint, key) IN ({oldest})"
        self._write(database, delete, [(count - self.max_rows * 9 // 10,)])

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        """The connection, for one thread at a time; a forked process opens its own."""
        with self._lock:
            try:
                if self._database is None or self._process != os.getpid():
                    self._database, self._process = _open(self.path), os.getpid()
                yield self._database
            except sqlite3.DatabaseError as error:
                raise CacheError(f"{self.path} is not a cache that can be read ({error}): delete it, it is filled again") from error


def _open(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # SQLite itself would create it readable by everybody
    database = sqlite3.connect(path, timeout=_PATIENCE, check_same_thread=False)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = NORMAL")
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if version not in (0, SCHEMA_VERSION):
        raise CacheError(f"{path} is a cache of version {version}, this is version {SCHEMA_VERSION}: give another path")
    with database:
        database.execute(
            "CREATE TABLE IF NOT EXISTS rewards (fingerprint TEXT, key TEXT, row TEXT NOT NULL, used INTEGER NOT NULL,"
            " PRIMARY KEY (fingerprint, key)) WITHOUT ROWID"
        )
        database.execute("CREATE INDEX IF NOT EXISTS by_use ON rewards (used)")
        database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    return database


def _parts(keys: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(keys), _AT_ONCE):
        yield keys[start : start + _AT_ONCE]
