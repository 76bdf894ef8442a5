"""A journal of scored rows, so that a job that was killed can resume: no row is lost, none is written twice.

The directory `.NAME.scoring`, in the folder of the output, holds `state.json` (the input and the model of the rows), `rows.jsonl`
(the rows so far, in order) and `lock`. Rows are added a chunk at a time and flushed to the disk. After a kill the rows are cut back
to whole chunks, so that a resumed job forms the same chunks as one that never stopped. The output appears in one step, when it is
complete.
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

from assay import files

FORMAT = 1
SUFFIXES = (".jsonl", ".parquet")
STATE_FILE, ROWS_FILE, LOCK_FILE = "state.json", "rows.jsonl", "lock"
# Columns of a parquet output, in order; those that are not in _ALWAYS are written only if a row has them.
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
        """Resume from the rows of an earlier run, or begin. `output` must be locked (`locked`).

        Raises ValueError when the earlier rows have another `state`, unless `restart` drops them.
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
            files.write_text(self.directory / STATE_FILE, json.dumps(state, indent=1))
        self._file: IO[bytes] = self.path.open("ab")
        self._file.truncate(size)

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add the rows of one chunk and flush them to the disk."""
        assert rows[0]["row"] > self.last_row, "the chunks must come in order"
        self._file.write("".join(json.dumps(row) + "\n" for row in rows).encode())
        self._file.flush()
        os.fsync(self._file.fileno())
        for row in rows:
            self._count(row)

    def finish(self) -> None:
        """Write the output from the rows, and delete the journal."""
        self._file.close()
        ready = self.path if self.output.suffix == ".jsonl" else self._as_parquet()
        files.put_in_place(ready, self.output)
        shutil.rmtree(self.directory)

    def close(self) -> None:
        """Close the file. The rows stay for the next run."""
        self._file.close()

    def _count(self, row: Mapping[str, Any]) -> None:
        self.num_rows += 1
        self.num_failed += row["value"] is None
        self.last_row = row["row"]
        self._columns.update(row)

    def _read_back(self, chunk: int) -> int:
        """Count the rows of whole chunks; returns the size of the file up to the end of the last whole chunk."""
        size = kept = 0
        waiting: list[Mapping[str, Any]] = []
        with self.path.open("rb") as file:
            for line in file:
                row = _parsed(line)
                if row is None:  # cut off by a kill: the rest is not trusted
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
        return path


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """Lock `output` for this process; afterwards the journal's directory is deleted unless it holds rows.

    Raises ValueError when another process holds it.
    """
    directory = work_directory(output)
    rows = directory / ROWS_FILE
    busy = f"another process is writing {output}: wait for it to end, or give another --output"
    with files.locked(directory / LOCK_FILE, busy=busy):
        try:
            yield
        finally:
            if directory.is_dir() and not (rows.is_file() and rows.stat().st_size):
                shutil.rmtree(directory)


def work_directory(output: Path) -> Path:
    """The journal's directory of an output."""
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


def _parsed(line: bytes) -> Mapping[str, Any] | None:
    """The row of a whole line; None for a line that was cut off or is not a row."""
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
