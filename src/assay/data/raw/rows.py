"""From a path to numbered rows: text files, parquet, arrow, saved data sets, folders and globs of shards, hub data sets.

One row is in memory at a time. A row that cannot be read is the reason in its place, so a bad line neither stops a stream nor
disappears from it.
"""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import pyarrow
import pyarrow.parquet

from assay.data.raw.text_rows import PACKED, Note, csv_rows, json_lines, json_rows
from assay.data.raw.text_rows import Row as Row
from assay.data.raw.text_rows import Rows as Rows
from assay.errors import DataError

HUB = "hub:"
_LINES = tuple(kind + packed for kind in (".jsonl", ".ndjson") for packed in PACKED)
_JSON = tuple(".json" + packed for packed in PACKED)
_TABLES = tuple(kind + packed for kind in (".csv", ".tsv") for packed in PACKED)
FILE_SUFFIXES = (*_LINES, *_JSON, *_TABLES, ".parquet", ".arrow")
"""What files that are read are called; find_beside prefers the first."""

_KINDS = ".jsonl (or .ndjson), .json, .csv, .tsv (each also .gz, .zst, .bz2, .xz), .parquet, .arrow"
_WHERE = f"use {_KINDS}; a folder or glob of such files, a folder of save_to_disk, or {HUB}org/name"
_BATCH_ROWS = 256
_COMMON_NAMES = ("data", "pairs", "test", "train", "training", "validation")
_SPLITS = {
    "train": ("train", "training"), "test": ("test", "testing"), "validation": ("validation", "valid", "val", "dev", "eval"),
}  # fmt: skip


def read_rows(path: str | Path, split: str = "train", note: Note = lambda text: None) -> Rows:
    """(number, row) for every row of a file, folder, glob or hub data set; in place of a row that cannot be parsed, the reason.

    Numbers count from 1: lines in JSON lines, rows elsewhere, through all files of a folder. A folder or hub data set may be named
    with its split, as "folder#test". A JSON array is read whole, everything else streams. note: told how a file was read where that
    is not plain. Raises DataError for a missing, damaged or unknown kind of file.
    """
    if is_hub(path):
        return _hub_rows(str(path).removeprefix(HUB), split)
    plain, _, own_split = str(path).partition("#")
    if own_split and not Path(path).exists():
        path, split = plain, own_split
    path = Path(path)
    if path.is_dir():
        return _folder_rows(path, split, note)
    if _is_glob(path):
        return _shards(_globbed(path), note)
    if not path.is_file():
        raise DataError(f"{path} does not exist, or is not a file: {_WHERE}")
    return _file_rows(path, note)


def _file_rows(path: Path, note: Note) -> Rows:
    """The rows of one file, by its suffix."""
    name = path.name.lower()
    if name.endswith(".parquet"):
        return _parquet_rows(path)
    if name.endswith(".arrow"):
        return _arrow_rows(path)
    if name.endswith(_JSON):
        return json_rows(path, note)
    if name.endswith(_LINES):
        return json_lines(path, note)
    if name.endswith(_TABLES):
        return csv_rows(path, note)
    if name.endswith((".pkl", ".pickle", ".pt", ".npy", ".npz")):
        raise DataError(f"{path}: pickles and arrays of objects are never loaded; write it as .jsonl or .parquet")
    if name.endswith((".xlsx", ".xls", ".ods")):
        raise DataError(f"{path} is a spreadsheet: save the sheet as .csv")
    raise DataError(f"{path} is of an unknown kind: {_WHERE}")


def is_hub(path: str | Path) -> bool:
    return str(path).startswith(HUB)


def stem(path: str | Path) -> str:
    """The name of a file without its suffixes, or the id of a hub data set: what a source is called."""
    if is_hub(path):
        return str(path).removeprefix(HUB)
    name = Path(path).name
    if _is_glob(path):
        name = next((part for part in reversed(Path(path).parent.parts) if not glob.has_magic(part)), "data")
    known = sorted(FILE_SUFFIXES, key=len, reverse=True)
    return next((name[: -len(suffix)] for suffix in known if name.lower().endswith(suffix)), name)


def slug(name: str) -> str:
    """A file name for a data set's name; a name that many sets share ("pairs", "test") gets its folder's name in front."""
    base = stem(name)
    if base in _COMMON_NAMES:
        base = f"{Path(name).parent.name or 'data'}-{base}"
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in base) or "data"


def unit_of(path: str | Path) -> str:
    """What the numbers of `read_rows` count: "line" or "row"."""
    is_one_file = not _is_glob(path)
    return "line" if str(path).lower().endswith(_LINES) and is_one_file else "row"


def _is_glob(path: str | Path) -> bool:
    return glob.has_magic(str(path)) and not Path(path).is_file()


def find_beside(folder: Path, name: str) -> Path | None:
    """The file of that stem in `folder`, whatever its kind."""
    return next((folder / (name + suffix) for suffix in FILE_SUFFIXES if (folder / (name + suffix)).is_file()), None)


def file_of(path: str | Path, names: tuple[str, ...], *, takes_folders: bool = True) -> str | Path:
    """The path itself, or in a directory the first file of these names, which the others are joined to.

    takes_folders: a directory without such a file stands for its rows. Raises DataError for a directory that has neither.
    """
    if is_hub(path) or not Path(path).is_dir():
        return path
    found = [file for name in names if (file := find_beside(Path(path), name))]
    if found:
        return found[0]
    if not (takes_folders and (_is_saved(Path(path)) or _data_files(Path(path)))):
        raise DataError(
            f"{path} is a directory without {' or '.join(names)}: name one of its files, or {HUB}{path} to load it with `datasets`"
        )
    return path


def _is_saved(folder: Path) -> bool:
    """Whether it was written by `save_to_disk` of datasets."""
    return (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file()


def _data_files(folder: Path) -> list[Path]:
    """Files of rows in a folder, or else in its folder data/, as hub data sets have them."""
    for place in (folder, folder / "data"):
        files = sorted(
            file
            for file in (place.iterdir() if place.is_dir() else ())
            if file.is_file()
            and file.name.lower().endswith(FILE_SUFFIXES)
            and file.name not in _NO_ROWS
            and file.name[0] not in "._"
        )
        if files:
            return files
    return []


_NO_ROWS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "metadata.json", "config.json")


def _folder_rows(folder: Path, split: str, note: Note) -> Rows:
    """A folder of `save_to_disk`, or of shards. Of shards that are named by their split, those of `split` alone."""
    if (folder / "dataset_dict.json").is_file():
        return _folder_rows(_split_folder(folder, split), split, note)
    if (folder / "state.json").is_file():
        shards = json.loads((folder / "state.json").read_text())["_data_files"]
        return _numbered(_arrow_rows(folder / shard["filename"]) for shard in shards)
    files = _data_files(folder)
    if not files:
        raise DataError(f"{folder} is a directory without files of rows: {_WHERE}")
    by_split: dict[str, list[Path]] = {}
    for file in files:
        by_split.setdefault(_split_in(file.name), []).append(file)
    if set(by_split) != {""}:
        names = next((names for names in _SPLITS.values() if split in names), (split,))
        wanted = [name for name in by_split if name in names or name == split]
        if len(wanted) != 1:
            found = ", ".join(f"{folder}#{name}" for name in sorted(by_split) if name)
            raise DataError(f"{folder} has no files of the split {split!r} alone: name one of its splits, as {found}")
        files = by_split[wanted[0]]
    kinds = {"".join(file.suffixes[-2:]) if file.suffix in PACKED else file.suffix for file in files}
    if len(kinds) > 1:
        raise DataError(f"{folder} has files of several kinds ({', '.join(sorted(kinds))}): name a glob, as {folder}/*{min(kinds)}")
    if len(files) > 1 or set(by_split) != {""}:
        note(f"{len(files)} files of {folder.name}: {files[0].name}{' ... ' + files[-1].name if len(files) > 1 else ''}")
    return _shards(files, note)


def _split_folder(folder: Path, split: str) -> Path:
    splits = json.loads((folder / "dataset_dict.json").read_text()).get("splits", [])
    if split not in splits:
        found = ", ".join(f"{folder}#{name}" for name in splits)
        raise DataError(f"{folder} has no split {split!r}: name one of its splits, as {found}")
    return folder / split


def _split_in(name: str) -> str:
    """The split that a file is named after (train, train_prefs, test ...), "" when it names none."""
    base = re.sub(r"[-_.]?\d*$", "", re.split(r"-\d+-of-|\.", name.lower(), maxsplit=1)[0])
    word = re.split(r"[^a-z]", base, maxsplit=1)[0]
    return base if any(word in names for names in _SPLITS.values()) else ""


def _globbed(path: Path) -> list[Path]:
    files = sorted(Path(file) for file in glob.glob(str(path), recursive=True) if Path(file).is_file())
    if not files:
        raise DataError(f"no file is called {path}: {_WHERE}")
    return files


def _shards(files: Iterable[Path], note: Note) -> Rows:
    return _numbered([_file_rows(file, note) for file in files])


def _numbered(parts: Iterable[Rows]) -> Rows:
    """The rows of several files, numbered through."""
    yield from enumerate((row for _, row in chain.from_iterable(parts)), start=1)


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


def _parquet_rows(path: Path) -> Rows:
    try:
        file = pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{path} is not a parquet file: {error}") from error
    with file:
        batches = file.iter_batches(batch_size=_BATCH_ROWS)
        yield from enumerate((row for batch in batches for row in batch.to_pylist()), start=1)


def _arrow_rows(path: Path) -> Rows:
    """Arrow's stream format, as datasets writes it, or its file format."""
    try:
        with pyarrow.memory_map(str(path)) as source:
            try:
                batches: Iterable[pyarrow.RecordBatch] = pyarrow.ipc.open_stream(source)
            except pyarrow.ArrowInvalid:
                reader = pyarrow.ipc.open_file(source)
                batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
            parts = (batch.slice(start, _BATCH_ROWS) for batch in batches for start in range(0, batch.num_rows, _BATCH_ROWS))
            yield from enumerate((row for part in parts for row in part.to_pylist()), start=1)
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{path} is not an arrow file, or is damaged: {error}") from error


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
