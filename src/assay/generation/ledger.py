"""The ledger: every call to a language model in one SQLite file. It is cache, journal of a run that was stopped, and bill.

A row is one attempt: the key (model, rubric, sampling, messages, order, number of the sample), the raw reply, how it ended, tokens,
seconds, price, the verdict that was read, or the error. Calls that failed are rows too: they are billed. A changed rubric, model,
order or template has another key, so that it misses.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from assay.errors import CacheError
from assay.generation.prices import dollars
from assay.generation.replies import Ask, Reply, TokenChoices

SCHEMA_VERSION = 1
PROBE = "probe"  # in place of the rubric: a call that finds out what the endpoint knows
_AT_ONCE = 500  # parameters of one statement; older SQLite takes 999
_MOST_IN_MEMORY = 100_000  # attempts of a ledger without a file
_PATIENCE = 60.0  # seconds to wait for another process's write
_COLUMNS = {
    "key": "TEXT NOT NULL",
    "time": "REAL NOT NULL",
    "model": "TEXT NOT NULL",
    "rubric": "TEXT NOT NULL",
    "sampling": "TEXT NOT NULL",
    "messages": "TEXT NOT NULL",
    "shown_first": "TEXT NOT NULL",
    "sample": "INTEGER NOT NULL",
    "reply": "TEXT",
    "finish": "TEXT NOT NULL",
    "input_tokens": "INTEGER",
    "output_tokens": "INTEGER",
    "seconds": "REAL NOT NULL",
    "price": "REAL",
    "tokens": "TEXT NOT NULL",
    "verdict": "TEXT",
    "error": "TEXT",
    "may_pass": "INTEGER NOT NULL",
}
_REPLY = ("key", "reply", "finish", "input_tokens", "output_tokens", "seconds", "price", "error", "tokens", "may_pass", "verdict")


class Attempt(NamedTuple):
    """A row: the reply as it came, the verdict that was read from it, and why none was. error: of the call or of the reading."""

    key: str
    reply: Reply
    verdict: Any
    error: str | None


class Bill(NamedTuple):
    """What calls came to. num_failed: without a verdict, billed all the same. price: US dollars, of the calls whose price is known;
    num_unpriced: of the others. num_probes: of the calls, those that found out what an endpoint knows. num_known: replies that came
    from the ledger, without a call."""

    num_calls: int = 0
    num_failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    seconds: float = 0.0
    price: float = 0.0
    num_unpriced: int = 0
    num_probes: int = 0
    num_known: int = 0

    def with_call(self, reply: Reply, error: str | None, *, is_probe: bool = False) -> Bill:
        """The bill with one more call."""
        return Bill(
            self.num_calls + 1,
            self.num_failed + (error is not None),
            self.input_tokens + (reply.input_tokens or 0),
            self.output_tokens + (reply.output_tokens or 0),
            self.seconds + reply.seconds,
            self.price + (reply.price or 0.0),
            self.num_unpriced + (reply.price is None),
            self.num_probes + is_probe,
            self.num_known,
        )

    def with_known(self, count: int) -> Bill:
        """The bill with more replies that the ledger knew."""
        return self._replace(num_known=self.num_known + count)

    def summary(self) -> str:
        """One line for people."""
        failed = f", {self.num_failed:,} of them failed" if self.num_failed else ""
        priced = "price unknown"
        if self.num_unpriced < self.num_calls or not self.num_calls:
            priced = f"${self.price:,.4f}" if self.price >= 1 else dollars(self.price)
            priced += f" and {self.num_unpriced:,} calls of unknown price" if self.num_unpriced else ""
        tokens = f"{self.input_tokens:,} tokens read, {self.output_tokens:,} written"
        made = self.num_calls - self.num_probes
        probes = f" and {self.num_probes:,} to find out what the endpoint knows" if self.num_probes else ""
        known = f", {self.num_known:,} replies from the ledger" if self.num_known else ""
        return f"{made:,} call{'' if made == 1 else 's'}{probes}{failed}{known}; {tokens}; {priced}"


class Ledger:
    """The calls of one file, or of this process alone (path None).

    A new file gets mode 0600: it holds what was sent and what came back as plain text. Several processes and threads may share it
    (WAL). A row is in the file before `record` returns; it outlives the process, whatever ends it.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = None if path is None else Path(path)
        self._lock = threading.RLock()
        self._database: sqlite3.Connection | None = None
        self._process = -1
        with self._opened():
            pass

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"])  # type: ignore[misc]

    def record(self, ask: Ask, key: str, model: str, reply: Reply, verdict: Any, error: str | None) -> None:
        """Write one attempt. Raises CacheError when the file cannot be written: a call that is not written would be paid twice."""
        row = (
            key,
            time.time(),
            model,
            ask.rubric,
            ask.sampling.as_text(),
            _storable(ask.messages_text()),
            ask.order,
            ask.sample,
            reply.text,
            reply.finish,
            reply.input_tokens,
            reply.output_tokens,
            reply.seconds,
            reply.price,
            json.dumps(reply.tokens) if reply.tokens else "",
            None if verdict is None else json.dumps(verdict),
            None if error is None else _storable(error),
            int(reply.may_pass),
        )
        with self._opened() as database, database:
            if self.path is None:  # a service that runs for months is not to fill the memory
                database.execute("DELETE FROM attempts WHERE id <= (SELECT MAX(id) FROM attempts) - ?", (_MOST_IN_MEMORY,))
            database.execute(f"INSERT INTO attempts ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(row))})", row)

    def attempts(self, keys: Iterable[str]) -> dict[str, list[Attempt]]:
        """What was recorded under each key, oldest first; keys without an attempt are left out."""
        found: dict[str, list[Attempt]] = {}
        wanted = sorted(set(keys))
        with self._opened() as database:
            for start in range(0, len(wanted), _AT_ONCE):
                part = wanted[start : start + _AT_ONCE]
                marks = ",".join("?" * len(part))
                select = f"SELECT {', '.join(_REPLY)} FROM attempts WHERE key IN ({marks}) ORDER BY id"
                for row in database.execute(select, part):
                    found.setdefault(row[0], []).append(_attempt(row))
        return found

    def rows(self) -> Iterator[dict[str, Any]]:
        """Every attempt, oldest first, as columns -> values: for bills, replays and agreement with people."""
        with self._opened() as database:
            rows = database.execute(f"SELECT {', '.join(_COLUMNS)} FROM attempts ORDER BY id").fetchall()
        return (dict(zip(_COLUMNS, row, strict=True)) for row in rows)

    def bill(self) -> Bill:
        """All calls that are in the file."""
        total = (
            "SELECT COUNT(*), COUNT(error), TOTAL(input_tokens), TOTAL(output_tokens), TOTAL(seconds), TOTAL(price),"
            " COUNT(*) - COUNT(price), COUNT(CASE WHEN rubric = ? THEN 1 END) FROM attempts"
        )
        with self._opened() as database:
            calls, failed, read, written, seconds, price, unpriced, probes = database.execute(total, (PROBE,)).fetchone()
        return Bill(calls, failed, int(read), int(written), seconds, price, unpriced, probes)

    def close(self) -> None:
        """Close the file; the next call opens it again. Without a path all is forgotten."""
        with self._lock:
            if self._database is not None and self._process == os.getpid():
                self._database.close()
            self._database = None

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        """The connection, for one thread at a time; a forked process opens its own."""
        with self._lock:
            try:
                if self._database is None or self._process != os.getpid():
                    self._database, self._process = _open(self.path), os.getpid()
                yield self._database
            except sqlite3.OperationalError as error:
                raise CacheError(f"{self.path}: {error}: the ledger has to be writable, or the next run would pay twice") from error
            except sqlite3.DatabaseError as error:
                raise CacheError(f"{self.path} is not a ledger that can be read ({error}): give another path") from error


def _attempt(row: Sequence[Any]) -> Attempt:
    key, text, finish, read, written, seconds, price, error, tokens, may_pass, verdict = row
    choices = tuple(
        TokenChoices(token, tuple((text, logprob) for text, logprob in top)) for token, top in json.loads(tokens or "[]")
    )
    reply = Reply(text, finish, read, written, seconds, price, error if text is None else None, choices, bool(may_pass))
    return Attempt(key, reply, None if verdict is None else json.loads(verdict), error)


def _storable(text: str) -> str:
    """Text with lone surrogates, which no file of UTF-8 can hold, as U+FFFD."""
    return text.encode("utf-8", "replace").decode() if not text.isascii() else text


def _open(path: Path | None) -> sqlite3.Connection:
    if path is None:
        database = sqlite3.connect(":memory:", check_same_thread=False)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # SQLite itself would create it readable by everybody
        database = sqlite3.connect(path, timeout=_PATIENCE, check_same_thread=False)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
    (version,) = database.execute("PRAGMA user_version").fetchone()
    tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if version not in (0, SCHEMA_VERSION) or (tables and "attempts" not in tables):
        raise CacheError(f"{path} is another program's database, or a ledger of another version: give another path")
    with database:
        columns = ", ".join(f"{name} {kind}" for name, kind in _COLUMNS.items())
        database.execute(f"CREATE TABLE IF NOT EXISTS attempts (id INTEGER PRIMARY KEY, {columns})")
        database.execute("CREATE INDEX IF NOT EXISTS by_key ON attempts (key)")
        database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    return database
