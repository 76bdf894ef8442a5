"""The same rows in every kind of file give the same pairs; how a file was read is said where it is not plain."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from assay.data.pairs import read_pairs
from assay.errors import DataError

ROWS = [{"prompt": f"Où est le pain {i}?", "chosen": 'Là-bas,\n"chaud"; frais.', "rejected": f"Nulle part {i}."} for i in range(3)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
EXPECTED = [(row["prompt"], row["chosen"], row["rejected"]) for row in ROWS]


def said(path: object) -> list[tuple[str, str, str]]:
    return [(pair.prompt[0].content, pair.chosen, pair.rejected) for pair in read_pairs(path, strict=True)]  # type: ignore[arg-type]


def table(delimiter: str = ",", newline: str = "\r\n", head: str = "") -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, list(ROWS[0]), delimiter=delimiter, lineterminator=newline)
    writer.writeheader()
    writer.writerows(ROWS)
    return head + file.getvalue()


def zstd(content: bytes) -> bytes:
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


COLUMNS = {name: {str(i): row[name] for i, row in enumerate(ROWS)} for name in ROWS[0]}
FILES: dict[str, bytes] = {
    "plain.jsonl": LINES.encode(),
    "windows.jsonl": LINES.replace("\n", "\r\n").encode(),
    "mark.jsonl": b"\xef\xbb\xbf" + LINES.encode(),
    "utf16.jsonl": LINES.encode("utf-16"),
    "utf16_without_mark.jsonl": LINES.encode("utf-16-le"),
    "latin.jsonl": LINES.encode("cp1252"),
    "lines.ndjson": LINES.encode(),
    "packed.jsonl.gz": gzip.compress(LINES.encode()),
    "packed.jsonl.zst": zstd(LINES.encode()),
    "packed.ndjson.bz2": bz2.compress(LINES.encode()),
    "packed.jsonl.xz": lzma.compress(LINES.encode()),
    "array.json": json.dumps(ROWS).encode(),
    "mark.json": b"\xef\xbb\xbf" + json.dumps(ROWS, ensure_ascii=False, indent=1).encode(),
    "utf16.json": json.dumps(ROWS, ensure_ascii=False).encode("utf-16"),
    "utf16_other_order.json": json.dumps(ROWS, ensure_ascii=False).encode("utf-16-be"),
    "latin.json": json.dumps(ROWS, ensure_ascii=False).encode("cp1252"),
    "lines.json": LINES.encode(),
    "under_a_key.json": json.dumps({"version": 1, "data": ROWS}).encode(),
    "under_another_key.json": json.dumps({"my_rows": ROWS}).encode(),
    "columns.json": json.dumps(COLUMNS).encode(),
    "column_lists.json": json.dumps({name: [row[name] for row in ROWS] for name in ROWS[0]}).encode(),
    "split.json": json.dumps({"columns": list(ROWS[0]), "index": [0, 1, 2], "data": [list(row.values()) for row in ROWS]}).encode(),
    "index.json": json.dumps({str(i): row for i, row in enumerate(ROWS)}).encode(),
    "packed.json.gz": gzip.compress(json.dumps(ROWS).encode()),
    "comma.csv": table().encode(),
    "unix.csv": table(newline="\n").encode(),
    "excel.csv": table(";").encode("utf-8-sig"),
    "told.csv": table(";", head="sep=;\r\n").encode("utf-8-sig"),
    "latin.csv": table(";").encode("cp1252"),
    "utf16.csv": table("\t").encode("utf-16"),
    "tabs.tsv": table("\t").encode(),
    "packed.csv.gz": gzip.compress(table().encode()),
}


@pytest.mark.parametrize("name", FILES)
def test_every_text_file_gives_the_same_pairs(tmp_path, name):
    (tmp_path / name).write_bytes(FILES[name])
    assert said(tmp_path / name) == EXPECTED
    reader = read_pairs(tmp_path / name)
    list(reader)
    assert ("Latin-1" in reader.summary()) == name.startswith("latin")
    assert ("key" in reader.summary()) == name.startswith("under")
    assert reader.source == name.partition(".")[0]


def test_arrow_files_and_saved_data_sets(tmp_path):
    arrow = pyarrow.Table.from_pylist(ROWS)
    with pyarrow.ipc.new_file(tmp_path / "file.arrow", arrow.schema) as file:
        file.write_table(arrow)
    with pyarrow.ipc.new_stream(tmp_path / "stream.arrow", arrow.schema) as stream:
        stream.write_table(arrow)
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved", num_shards=2)
    datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)}).save_to_disk(tmp_path / "splits")
    for path in ("file.arrow", "stream.arrow", "saved", "splits", "splits#train"):
        assert said(tmp_path / path) == EXPECTED, path
    with pytest.raises(DataError, match=r"no split 'test': name one of its splits, as .*splits#train"):
        list(read_pairs(tmp_path / "splits", split="test"))


def test_folders_and_globs_of_shards_are_one_set(tmp_path):
    for folder in ("shards", "hub/data"):
        (tmp_path / folder).mkdir(parents=True)
        for i, row in enumerate(ROWS):
            name = f"train-{i:05d}-of-00003.parquet" if "hub" in folder else f"part_{i}.parquet"
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / folder / name)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS[:1]), tmp_path / "hub" / "data" / "test-00000-of-00001.parquet")
    for path in ("shards", "shards/*.parquet", "hub", "hub/data/train-*"):
        assert said(tmp_path / path) == EXPECTED, path
    assert said(str(tmp_path / "hub") + "#test") == EXPECTED[:1]
    assert [pair.id for pair in read_pairs(tmp_path / "shards")] == ["1", "2", "3"]


def test_a_folder_of_which_it_is_unclear_what_is_meant_is_refused(tmp_path):
    for name in ("train_prefs-00000-of-00001.jsonl", "train_sft-00000-of-00001.jsonl"):
        (tmp_path / name).write_text(LINES)
    with pytest.raises(DataError, match=r"#train_prefs, .*#train_sft"):
        read_pairs(tmp_path)
    assert said(f"{tmp_path}#train_prefs") == EXPECTED
    for name in ("a.jsonl", "b.csv"):
        (tmp_path / "mixed").mkdir(exist_ok=True)
        (tmp_path / "mixed" / name).write_text(LINES)
    with pytest.raises(DataError, match="files of several kinds"):
        read_pairs(tmp_path / "mixed")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.pkl", b"", "pickles and arrays of objects are never loaded"),
        ("rows.xlsx", b"", "save the sheet as .csv"),
        ("rows.txt", b"", "unknown kind"),
        ("twice.csv", b"prompt,chosen,chosen\np,a,b\n", "two columns named chosen"),
        ("rows.arrow", b"no arrow", "not an arrow file"),
        ("rows.jsonl.zst", b"no zstd", "damaged"),
        ("two.json", b'{"train_a": [{"prompt": "p"}], "rows": [{"x": 1}], "data": [{"x": 1}]}', "rows under train_a, rows, data"),
        ("*.parquet", None, "no file is called"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        list(read_pairs(tmp_path / name))


def test_cells_that_do_not_fit_the_head_are_a_reason(tmp_path):
    (tmp_path / "rows.csv").write_text("prompt,chosen,rejected\np,a,b\np,a\np,a,b,c\n\n")
    reader = read_pairs(tmp_path / "rows.csv")
    assert len(list(reader)) == 1
    assert reader.problems.reasons == {"fewer cells than columns": (1, (2,)), "more cells than columns": (1, (3,))}


def test_a_damaged_line_of_utf8_is_no_latin_1(tmp_path):
    good = [line.encode() for line in LINES.splitlines(keepends=True)]
    (tmp_path / "rows.jsonl").write_bytes(good[0] + good[1].replace("ù".encode(), b"\xc3") + good[2])
    reader = read_pairs(tmp_path / "rows.jsonl")
    assert len(list(reader)) == 2
    assert reader.problems.reasons == {"neither UTF-8 nor Latin-1": (1, (2,))}
    assert "read as Latin-1" not in reader.summary()


def test_a_single_pretty_printed_row_is_a_row(tmp_path):
    turns = [{"role": "user", "content": "Where is it?"}]
    for row in (ROWS[0], {"messages": [*turns, {"role": "assistant", "content": "a"}], "rejected_response": "b"}):
        (tmp_path / "one.json").write_text(json.dumps(row, indent=1))
        assert len(said(tmp_path / "one.json")) == 1
