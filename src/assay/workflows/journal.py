"""Rows that are kept as they come, so that a job that was killed goes on where it stopped: no row is lost, none is written twice.

Beside the output lies a directory `.NAME.scoring` with `state.json` (what the rows are made of), `rows.jsonl` (the rows so far, in
order) and `lock`. Rows are added a chunk at a time and flushed to the disk. What is found after a kill is cut back to whole chunks,
so a job that goes on forms the same chunks as one that was never stopped. The output appears in one step, when it is complete.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from assay.train.checkpoint import sync

FORMAT = 1
SUFFIXES = (".jsonl", ".parquet")
STATE_FILE, ROWS_FILE, LOCK_FILE = "state.json", "rows.jsonl", "lock"
# Columns of a parquet output, in order; those in the middle are there when any row has one.
_COLUMNS = {
    "row": pa.int64(),
    "id": pa.string(),
    "value": pa.float32(),
    "std": pa.float32(),
    "steps": pa.list_(pa.float32()),
    "text": pa.string(),
    "error": pa.string(),
}
_ALWAYS = ("row", "id", "value", "error")
_PARQUET_ROWS = 16_384  # rows of one row group


class Journal:
    """The rows so far of one output. num_rows, num_failed: how many there are, and how many of them have no value.

    last_row: the number of the last row, 0 when there is none yet.
    """

    def __init__(self, output: Path, state: Mapping[str, Any], *, chunk: int, restart: bool = False) -> None:
        """Go on with the rows of an earlier run, or begin. `output` must be locked (`locked`).

        Raises ValueError when the earlier rows were made of something else (`state`), unless `restart` drops them.
        """
        self.output, self.directory = output, work_directory(output)
        self.path = self.directory / ROWS_FILE
        self.num_rows = self.num_failed = self.last_row = 0
        self._columns = set(_ALWAYS)
        if restart:
            self.path.unlink(missing_ok=True)
        size = self._read_back(chunk) if self.path.is_file() else 0
        if self.num_rows:
            _refuse_other(self.directory / STATE_FILE, state, output, self.num_rows)
        else:
            _write_state(self.directory / STATE_FILE, state)
        self._file: IO[bytes] = self.path.open("ab")
        self._file.truncate(size)

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add the rows of one chunk; on return they are on the disk."""
        assert rows[0]["row"] > self.last_row, "the chunks must come in order"
        self._file.write("".join(json.dumps(row) + "\n" for row in rows).encode())
        self._file.flush()
        os.fsync(self._file.fileno())
        for row in rows:
            self._count(row)

    def finish(self) -> None:
        """Put the rows in the place of the output, and leave nothing else."""
        self._file.close()
        ready = self.path if self.output.suffix == ".jsonl" else self._as_parquet()
        os.replace(ready, self.output)
        sync(self.output.parent)
        shutil.rmtree(self.directory)

    def close(self) -> None:
        """Close the file; the rows stay for the next run, and where there are none, nothing stays."""
        self._file.close()

    def _count(self, row: Mapping[str, Any]) -> None:
        self.num_rows += 1
        self.num_failed += row["value"] is None
        self.last_row = row["row"]
        self._columns.update(row)

    def _read_back(self, chunk: int) -> int:
        """Count the whole chunks that are there; the size of the file up to the end of the last one."""
        size = kept = 0
        waiting: list[Mapping[str, Any]] = []
        with self.path.open("rb") as file:
            for line in file:
                row = _parsed(line)
                if row is None:  # cut off by a kill: what follows is not trusted
                    break
                size += len(line)
                waiting.append(row)
                if len(waiting) == chunk:
                    for known in waiting:
                        self._count(known)
                    kept, waiting = size, []
        return kept

    def _as_parquet(self) -> Path:
        """The rows as a parquet file, some at a time."""
        schema = pa.schema([(name, kind) for name, kind in _COLUMNS.items() if name in self._columns])
        path = self.directory / "rows.parquet"
        with self.path.open("rb") as lines, pq.ParquetWriter(path, schema) as writer:
            rows = []
            for line in lines:
                rows.append({name: _plain(cell) for name, cell in json.loads(line).items()})
                if len(rows) == _PARQUET_ROWS:
                    writer.write_table(pa.Table.from_pylist(rows, schema=schema))
                    rows = []
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
        sync(path)
        return path


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """Only one process at a time writes `output`; afterwards its work directory is there only if it holds rows.

    Raises ValueError when another process holds it.
    """
    import fcntl  # POSIX only: the other commands do without

    output.parent.mkdir(parents=True, exist_ok=True)
    directory = work_directory(output)
    while True:
        directory.mkdir(exist_ok=True)
        try:
            lock = (directory / LOCK_FILE).open("ab")
        except FileNotFoundError:  # its last owner has just finished and removed it
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise ValueError(f"another process is writing {output}: wait for it to end, or give another --output") from None
        if _is_same_file(lock, directory / LOCK_FILE):
            break
        lock.close()
    try:
        yield
    finally:
        rows = directory / ROWS_FILE
        if directory.is_dir() and not (rows.is_file() and rows.stat().st_size):
            shutil.rmtree(directory)
        lock.close()


def work_directory(output: Path) -> Path:
    """Where the rows of `output` lie until they are complete."""
    return output.with_name(f".{output.name}.scoring")


def _refuse_other(path: Path, state: Mapping[str, Any], output: Path, num_rows: int) -> None:
    try:
        earlier = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        earlier = {}
    odd = [f"{name} (then {earlier.get(name)}, now {value})" for name, value in state.items() if earlier.get(name) != value]
    if odd:
        raise ValueError(
            f"{num_rows:,} rows of {output} were scored by an earlier run with another {', another '.join(odd)}: run with what "
            "it had to go on from there, or give --restart to drop these rows"
        )


def _write_state(path: Path, state: Mapping[str, Any]) -> None:
    work = path.with_suffix(".tmp")
    with work.open("w", encoding="utf-8") as file:
        json.dump(state, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(work, path)
    sync(path.parent)


def _parsed(line: bytes) -> Mapping[str, Any] | None:
    """The row of a whole line, None for one that was cut off or is no row."""
    if not line.endswith(b"\n"):
        return None
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and {"row", "value"} <= row.keys() else None


def _plain(cell: Any) -> Any:
    """Text that UTF-8 can hold: a lone surrogate, which JSON can spell, becomes a question mark."""
    return cell.encode("utf-8", "replace").decode() if isinstance(cell, str) else cell


def _is_same_file(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
