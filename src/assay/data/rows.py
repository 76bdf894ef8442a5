"""From a path to numbered rows: jsonl, jsonl.gz, json, parquet and hub data sets, one row in memory at a time.

A row that cannot be read is the reason in its place, so a bad line neither stops a stream nor disappears from it.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, TypeAlias

import pyarrow
import pyarrow.parquet

from assay.errors import DataError

Row: TypeAlias = Mapping[str, Any]
Rows: TypeAlias = Iterator[tuple[int, Row | str]]

HUB = "hub:"
FILE_SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet")
_BATCH_ROWS = 256
_COMMON_NAMES = ("data", "pairs", "test", "train", "training", "validation")


def read_rows(path: str | Path, split: str = "train") -> Rows:
    """(number, row) for every row of a file or hub data set; in place of a row that cannot be parsed, the reason.

    Numbers count from 1: lines in jsonl, rows elsewhere. A json array is read whole, everything else streams.
    Raises DataError for a missing, damaged or unknown kind of file.
    """
    if is_hub(path):
        return _hub_rows(str(path).removeprefix(HUB), split)
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path} does not exist, or is not a file: name one of {', '.join(FILE_SUFFIXES)}, or hub:org/name")
    if path.name.endswith(".parquet"):
        return _parquet_rows(path)
    if path.name.endswith((".json", ".json.gz")):
        return _json_rows(path)
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        return _json_lines(path)
    raise DataError(f"{path} is of an unknown kind: use {', '.join(FILE_SUFFIXES)}, or hub:org/name")


def is_hub(path: str | Path) -> bool:
    return str(path).startswith(HUB)


def stem(path: str | Path) -> str:
    """The name of a file without its suffixes, or the id of a hub data set: what a source is called."""
    if is_hub(path):
        return str(path).removeprefix(HUB)
    name = Path(path).name
    return next((name.removesuffix(suffix) for suffix in FILE_SUFFIXES if name.endswith(suffix)), name)


def slug(name: str) -> str:
    """A file name for a data set's name; a name that many sets share ("pairs", "test") gets its folder's name in front."""
    base = stem(name)
    if base in _COMMON_NAMES:
        base = f"{Path(name).parent.name or 'data'}-{base}"
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in base) or "data"


def unit_of(path: str | Path) -> str:
    """What the numbers of `read_rows` count: "line" or "row"."""
    return "line" if str(path).endswith((".jsonl", ".jsonl.gz")) else "row"


def find_beside(folder: Path, name: str) -> Path | None:
    """The file of that stem in `folder`, whatever its kind."""
    return next((folder / (name + suffix) for suffix in FILE_SUFFIXES if (folder / (name + suffix)).is_file()), None)


def file_of(path: str | Path, names: tuple[str, ...]) -> str | Path:
    """The path itself, or in a directory the first file of these names, which the others are joined to."""
    if is_hub(path) or not Path(path).is_dir():
        return path
    found = [file for name in names if (file := find_beside(Path(path), name))]
    if not found:
        raise DataError(
            f"{path} is a directory without {' or '.join(names)}: name one of its files, or {HUB}{path} to load it with `datasets`"
        )
    return found[0]


def joined_rows(folder: Path, name: str, columns: tuple[str, ...]) -> list[Row]:
    """The rows of a joined file, all of which must have the columns."""
    path = find_beside(folder, name)
    if path is None:
        raise DataError(f"preferences of this form are joined with {name}.jsonl, which is missing in {folder}")
    rows = []
    for number, row in read_rows(path):
        if isinstance(row, str) or not row.keys() >= set(columns):
            reason = row if isinstance(row, str) else f"it must have the columns {', '.join(columns)}"
            raise DataError(f"{path}, row {number}: {reason}")
        rows.append(row)
    return rows


def _json_lines(path: Path) -> Rows:
    number = 0
    with _open(path) as file:
        try:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, _parsed(line)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{path} is damaged after line {number} ({error}): fetch or write it again") from error


def _json_rows(path: Path) -> Rows:
    """A .json file holds an array, or, by a common misnomer, JSON lines: the first character decides."""
    with _open(path) as file:
        is_array = file.read(1024).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")
    if not is_array:
        yield from _json_lines(path)
        return
    with _open(path) as file:
        try:
            rows = json.load(file)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path} is not a JSON array: {error}") from error
    for number, row in enumerate(rows, start=1):
        yield number, row if isinstance(row, dict) else "not an object"


def _parquet_rows(path: Path) -> Rows:
    try:
        file = pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{path} is not a parquet file: {error}") from error
    with file:
        batches = file.iter_batches(batch_size=_BATCH_ROWS)
        yield from enumerate((row for batch in batches for row in batch.to_pylist()), start=1)


def _hub_rows(name: str, split: str) -> Rows:
    import datasets

    name, _, own_split = name.partition("#")
    name, _, config = name.partition("@")
    split = own_split or split
    were_off = datasets.utils.are_progress_bars_disabled()
    datasets.utils.disable_progress_bars()
    try:
        rows: Iterable[Row] = datasets.load_dataset(name, config or None, split=split, streaming=True)
    except (ValueError, OSError) as error:
        raise DataError(f"cannot load the data set {name!r}, split {split!r}: {error}; name a split as hub:{name}#SPLIT") from error
    finally:
        if not were_off:
            datasets.utils.enable_progress_bars()
    yield from enumerate(rows, start=1)


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.name.endswith(".gz") else path.open("rb")  # type: ignore[return-value]


def _parsed(line: bytes) -> Row | str:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return "not JSON"
    return row if isinstance(row, dict) else "not an object"
