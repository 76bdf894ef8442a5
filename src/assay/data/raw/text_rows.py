"""Rows of text files: JSON lines, JSON, CSV and TSV, packed or not, in UTF-8, UTF-16 or, said, Latin-1.

A line that cannot be read is the reason in its place. `note` is told what a person should know about how the file was read.
"""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, TypeAlias

import pyarrow

from assay.errors import DataError
from assay.files import replacing
from assay.messages import role_in

Row: TypeAlias = Mapping[str, Any]
Rows: TypeAlias = Iterator[tuple[int, Row | str]]
Note: TypeAlias = Callable[[str], None]

PACKED = ("", ".gz", ".zst", ".bz2", ".xz")
"""Suffixes of compression that are opened."""

LATIN_1 = "not UTF-8: read as Latin-1 (Windows-1252)"
_DELIMITERS = ",;\t|"
_START_BYTES = 1 << 16
_ROW_KEYS = ("data", "rows", "train", "pairs", "examples", "samples", "records", "items", "instances", "preferences", "dataset")


def unpacked(path: Path) -> IO[bytes]:
    """The file's bytes; what is packed is unpacked as it is read."""
    match path.suffix:
        case ".gz":
            return gzip.open(path, "rb")  # type: ignore[return-value]
        case ".bz2":
            return bz2.open(path, "rb")  # type: ignore[return-value]
        case ".xz":
            return lzma.open(path, "rb")  # type: ignore[return-value]
        case ".zst":
            return io.BufferedReader(pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), "zstd"))  # type: ignore[arg-type]
    return path.open("rb")


DAMAGED = (OSError, EOFError, zlib.error, lzma.LZMAError, pyarrow.ArrowException)
"""What a packed file that was cut off or is none raises while it is read."""


def json_lines(path: Path, note: Note) -> Rows:
    """One object a line; numbers are those of the lines."""
    number = 0
    with unpacked(path) as file:
        try:
            for number, line in enumerate(_lines(file, note), start=1):
                if not isinstance(line, str):
                    yield number, "neither UTF-8 nor Latin-1"
                elif line.strip():
                    yield number, _parsed(line)
        except DAMAGED as error:
            raise DataError(f"{path} is damaged after line {number} ({error}): fetch or write it again") from error


def _lines(file: IO[bytes], note: Note) -> Iterator[str | None]:
    """Lines as text, None for one that is of no encoding. UTF-16 is known by its mark; Latin-1 by what cannot be UTF-8."""
    start = file.read(2)
    if (utf16 := _utf16(start)) is not None:
        yield from io.TextIOWrapper(io.BufferedReader(_Joined(start, file)), encoding=utf16)
        return
    is_utf8 = is_latin = False
    for number, line in enumerate(_after(start, file)):
        line = line.removeprefix(codecs.BOM_UTF8) if number == 0 else line
        try:
            text = line.decode()
            is_utf8 = is_utf8 or len(text) < len(line)
            yield text
        except UnicodeDecodeError:
            if is_utf8:  # a line of UTF-8 that is damaged: as Latin-1 its other letters would be wrong
                yield None
                continue
            if not is_latin:
                note(LATIN_1)
            is_latin = True
            yield _latin(line)


def _utf16(start: bytes) -> str | None:
    """The kind of UTF-16 that text beginning so is in, by its mark or by a zero byte, None for another encoding."""
    if start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return "utf-16"
    if start[:1] == b"\0":
        return "utf-16-be"
    return "utf-16-le" if start[1:2] == b"\0" else None


def _after(start: bytes, file: IO[bytes]) -> Iterator[bytes]:
    """The lines of a file of which `start` has been read already."""
    if start.endswith(b"\n"):
        yield from start.splitlines(keepends=True)
    elif b"\n" in start:
        first, _, rest = start.partition(b"\n")
        yield first + b"\n"
        yield rest + file.readline()
    elif start:
        yield start + file.readline()
    yield from file


def _latin(text: bytes) -> str:
    try:
        return text.decode("cp1252")
    except UnicodeDecodeError:  # five bytes have no meaning in it
        return text.decode("latin-1")


class _Joined(io.RawIOBase):
    """Bytes that were read ahead, then the rest of their file."""

    def __init__(self, start: bytes, rest: IO[bytes]) -> None:
        super().__init__()
        self._start, self._rest = start, rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self._start[: len(buffer)] or self._rest.read(len(buffer))
        self._start = self._start[len(content) :] if self._start else b""
        buffer[: len(content)] = content
        return len(content)


def json_rows(path: Path, note: Note) -> Rows:
    """A .json file: an array; an object with the rows under a key, by columns or alone; or, by a common misnomer, JSON lines."""
    text_start = _start_of(path)
    if text_start.startswith("{") and _is_lines(path):
        yield from json_lines(path, note)
        return
    try:
        with unpacked(path) as file:
            content = json.loads(_whole_text(file.read(), note))
    except DAMAGED as error:
        raise DataError(f"{path} is damaged ({error}): fetch or write it again") from error
    except (ValueError, RecursionError) as error:
        kind = "a JSON array" if text_start.startswith("[") else "JSON: neither an array, nor an object, nor one object a line"
        raise DataError(f"{path} is not {kind}: {error}") from error
    for number, row in enumerate(_rows_in(content, path, note), start=1):
        yield number, row if isinstance(row, dict) else "not an object"


def _start_of(path: Path) -> str:
    with unpacked(path) as file:
        try:
            start = file.read(_START_BYTES)
        except DAMAGED as error:
            raise DataError(f"{path} is damaged ({error}): fetch or write it again") from error
    if (utf16 := _utf16(start)) is not None:
        return start[: len(start) // 2 * 2].decode(utf16, "replace").lstrip()
    return start.removeprefix(codecs.BOM_UTF8).decode(errors="replace").lstrip()


def _is_lines(path: Path) -> bool:
    """Whether the first line that is not blank is JSON by itself, and others follow."""
    with unpacked(path) as file:
        first = ""
        for line in _lines(file, lambda text: None):
            if first and (line or "").strip():
                return True
            if not first and (line or "").strip():
                first = line or ""
                try:
                    json.loads(first)
                except (ValueError, RecursionError):
                    return False
    return False


def _whole_text(content: bytes, note: Note) -> str:
    if (utf16 := _utf16(content)) is not None:
        return content.decode(utf16)
    try:
        return content.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError:
        note(LATIN_1)
        return _latin(content)


def _rows_in(content: Any, path: Path, note: Note) -> Iterable[Any]:
    """The rows of a JSON document: an array; under a key of an object; by columns, as pandas writes them; else the object alone."""
    if isinstance(content, list):
        return content
    if not isinstance(content, dict):
        raise DataError(f"{path} holds {type(content).__name__}, not an array of objects: write one object a row")
    if isinstance(content.get("columns"), list) and isinstance(content.get("data"), list):  # pandas, orient="split"
        return [dict(zip(content["columns"], cells, strict=False)) for cells in content["data"]]
    if content and all(isinstance(column, dict) for column in content.values()):
        keys = [set(column) for column in content.values()]
        if all(key.isdigit() for key in keys[0]) and all(these == keys[0] for these in keys):  # pandas, orient="columns"
            order = sorted(keys[0], key=int)
            return [{name: column[key] for name, column in content.items()} for key in order]
        if all(key.isdigit() for key in content):  # pandas, orient="index"
            return [content[key] for key in sorted(content, key=int)]
    lists = {
        key: rows
        for key, rows in content.items()
        if isinstance(rows, list) and rows and isinstance(rows[0], dict) and role_in(rows[0]) is None
    }
    if len(content) > 1 and not lists and (sizes := _column_sizes(content)):
        return [{name: column[i] for name, column in content.items()} for i in range(sizes)]
    if (key := _key_of_rows(content, lists, path)) is not None:
        note(f"rows read from the key {key!r}")
        return lists[key]
    return [content]


def _column_sizes(content: dict[str, Any]) -> int:
    """The number of rows of an object of equally long columns, 0 for another object."""
    sizes = {len(column) if isinstance(column, list) else -1 for column in content.values()}
    return sizes.pop() if len(sizes) == 1 and -1 not in sizes else 0


def _key_of_rows(content: dict[str, Any], lists: Mapping[str, Any], path: Path) -> str | None:
    """The key of an object's rows. Raises DataError where several keys could be it."""
    usual = [key for key in _ROW_KEYS if key in lists]
    has_texts = any(isinstance(value, str) and len(value.split()) > 1 for value in content.values())
    if not lists or (not usual and (len(lists) > 1 or has_texts)):
        return None
    if len(usual) == 1:
        return usual[0]
    if len(lists) == 1:
        return next(iter(lists))
    if {"train", "test"} & set(usual):
        return "train"
    raise DataError(f"{path} has rows under {', '.join(lists)}: write those that you mean to a file of their own")


def _parsed(line: str) -> Row | str:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return "not JSON"
    return row if isinstance(row, dict) else "not an object"


def csv_rows(path: Path, note: Note) -> Rows:
    """A table of cells that are text; an empty cell is a missing one. The delimiter is a tab in .tsv, else found in the head.

    "sep=;" before the head, as Excel has it, is obeyed.
    """
    encoding = _encoding(path)
    if encoding == "cp1252":
        note(LATIN_1)
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    number = 0
    with unpacked(path) as binary, io.TextIOWrapper(binary, encoding=encoding, errors="replace", newline="") as file:
        first = file.readline()
        is_told = first.lower().startswith("sep=")
        head = file.readline() if is_told else first
        delimiter = first.strip()[4:5] if is_told else "\t" if ".tsv" in path.suffixes else _delimiter(head)
        try:
            cells = csv.reader(_chained(head, file), delimiter=delimiter or ",")
            names = [name.strip() for name in next(cells, [])]
            _check_head(names, path)
            for number, values in enumerate((row for row in cells if row), start=1):
                if len(values) != len(names):
                    yield number, f"{'more' if len(values) > len(names) else 'fewer'} cells than columns"
                else:
                    yield number, {name: value if value else None for name, value in zip(names, values, strict=True)}
        except (csv.Error, *DAMAGED) as error:
            raise DataError(f"{path} cannot be read after row {number} ({error}): write it again") from error


def _check_head(names: list[str], path: Path) -> None:
    if repeated := {name for name in names if name and names.count(name) > 1}:
        raise DataError(f"{path} has two columns named {sorted(repeated)[0]}: rename one of them")


def _chained(head: str, rest: Iterable[str]) -> Iterator[str]:
    yield head
    yield from rest


def _delimiter(head: str) -> str:
    """The most frequent of the usual delimiters in the head, outside of quotes."""
    bare = "".join(head.split('"')[::2])
    return max(_DELIMITERS, key=bare.count)


def _encoding(path: Path) -> str:
    """Of a whole file: by its mark, else UTF-8 where all of it is, else Windows-1252."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    with unpacked(path) as file:
        try:
            start = file.read(_START_BYTES)
            if (utf16 := _utf16(start)) is not None:
                return utf16
            decoder.decode(start)
            while content := file.read(_START_BYTES):
                decoder.decode(content)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return "cp1252"
        except DAMAGED as error:
            raise DataError(f"{path} is damaged ({error}): fetch or write it again") from error
    return "utf-8-sig"


def write_lines(path: str | Path, lines: Iterable[bytes], *, what: str) -> int:
    """Write lines as .jsonl or .jsonl.gz; how many there were. what: they are called so.

    The file appears only when it is complete; the same lines give the same bytes. Raises DataError for another kind of file.
    """
    path, num_lines = Path(path), 0
    if not path.name.endswith((".jsonl", ".jsonl.gz")):
        raise DataError(f"{path}: {what} are written as .jsonl or .jsonl.gz")
    with replacing(path) as work, ExitStack() as files:
        file: IO[bytes] | gzip.GzipFile = files.enter_context(work.open("wb"))
        if path.name.endswith(".gz"):
            file = files.enter_context(gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0))
        for line in lines:
            file.write(line)
            num_lines += 1
    return num_lines
