"""A file scored: the same rows as one scoring, whatever happens on the way, in memory that does not grow."""

from __future__ import annotations

import fcntl
import gzip
import json
import math
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import assay
from assay.bulk import score
from assay.bulk.chunks import CHUNK, chunk_from_json, chunk_to_json
from assay.bulk.journal import LOCK_FILE, ROWS_FILE, Journal, work_directory
from assay.bulk.score import ScoreConfig, score_file
from assay.data.pairs import NoCompletion
from assay.errors import DataError
from assay.messages import Message
from assay.records import Completion, Rewards

FLOAT32: dict[str, Any] = {"dtype": "float32", "device": "cpu"}


@pytest.fixture
def run(trained_run) -> Path:
    return trained_run.path


class Lengths:
    """The length of an answer, with std, steps and text when asked for. An empty answer has no reward; `stop` ends it there."""

    scope, tolerance = "global", 0.0

    def __init__(self, fingerprint: str = "lengths", *, stop: int | None = None, is_rich: bool = False) -> None:
        self.fingerprint, self.stop, self.is_rich = fingerprint, stop, is_rich
        self.num_scored = 0

    def score(self, completions):
        if self.stop is not None and self.num_scored >= self.stop:
            raise KeyboardInterrupt
        self.num_scored += len(completions)
        sizes = [len(completion.response) for completion in completions]
        rewards = Rewards(value=[size or math.nan for size in sizes], error=[None if size else "empty" for size in sizes])
        if not self.is_rich:
            return rewards
        return Rewards(
            value=rewards.value,
            error=rewards.error,
            std=[size / 7 for size in sizes],
            steps=tuple(np.array([0.5] * (size % 3)) for size in sizes),
            text=tuple(f"größe {size}" for size in sizes),
        )


@pytest.fixture
def use(monkeypatch):
    """Have `score_file` load a scorer of the test's."""

    def use_scorer(scorer):
        monkeypatch.setattr(score, "open_scorer", lambda *args, **settings: SimpleNamespace(scorer=scorer, say_bill=lambda: None))
        return scorer

    return use_scorer


def config_of(source: Path, output: Path, **settings: Any) -> ScoreConfig:
    return ScoreConfig(model="unused", input=str(source), output=output, **settings)


def write_rows(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def many_rows(num_rows: int) -> list[Any]:
    """Answers of different lengths; every 100th line is no JSON, every 77th answer is empty."""
    rows: list[Any] = [{"prompt": f"egg {i // 3}", "response": "w" * (i % 77), "id": f"id-{i}"} for i in range(num_rows)]
    return ["broken" if i % 100 == 99 else row for i, row in enumerate(rows)]


def read_json_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# what a row is


ROWS: list[Any] = [
    {"id": "good", "prompt": "Tell me about egg 1", "response": "It is water over the dog."},
    "this is not json",
    {"prompt": "Tell me about egg 2", "response": "It is lazy over the dog."},
    {"prompt": "Tell me about egg 2", "response": ""},
    {"messages": [{"role": "user", "content": "egg"}, {"role": "assistant", "content": "water"}]},
    {"prompt": 5, "response": "It is water."},
    {"text": "User: egg Assistant: water<|im_end|>"},
    {"token_ids": [1, 60, 70, 2]},
    {"token_ids": [1, 60, 999_999]},
]
BAD_ROWS = {2: "line 2: not JSON", 4: "the response is empty", 6: "line 6: ", 9: "the vocabulary is"}


def test_score_jsonl_keeps_the_order_and_says_why_a_row_has_no_reward(run, tmp_path):
    source, output = write_rows(tmp_path / "in.jsonl", ROWS), tmp_path / "deep" / "out.jsonl"
    assert score_file(ScoreConfig(model=str(run), input=str(source), output=output, **FLOAT32)) == (9, 4)
    rows = read_json_rows(output)
    assert [row["row"] for row in rows] == list(range(1, 10))
    assert rows[0]["id"] == "good"
    for row in rows:
        if row["row"] in BAD_ROWS:
            assert row["value"] is None
            assert BAD_ROWS[row["row"]] in row["error"]
        else:
            assert math.isfinite(row["value"])
            assert "error" not in row
    completion = assay.Completion(messages="Tell me about egg 1", response="It is water over the dog.")
    assert rows[0]["value"] == pytest.approx(float(assay.load(run, **FLOAT32).score([completion]).value[0]), abs=1e-4)
    assert rows[0]["value"] > rows[2]["value"]
    assert [file.name for file in output.parent.iterdir()] == ["out.jsonl"]


def test_score_parquet_in_and_out(run, tmp_path):
    table = pa.table({"prompt": ["egg 1", "egg 2", None], "response": ["water", None, "lazy"], "id": ["a", "b", "c"]})
    pq.write_table(table, tmp_path / "in.parquet")
    output = tmp_path / "out.parquet"
    assert score_file(ScoreConfig(model=str(run), input=str(tmp_path / "in.parquet"), output=output, **FLOAT32)) == (3, 2)
    scored = pq.read_table(output)
    assert scored.schema.names == ["row", "id", "value", "error"]
    assert scored.schema.field("value").type == pa.float32()
    rows = scored.to_pylist()
    assert [row["row"] for row in rows] == [1, 2, 3]
    assert math.isfinite(rows[0]["value"])
    assert rows[0]["error"] is None
    assert all(row["value"] is None and row["error"] for row in rows[1:])


def test_score_streams_in_chunks_that_change_nothing(run, tmp_path):
    rows = [{"prompt": f"egg {i % 7}", "response": "water " * (1 + i % 5), "id": f"{i}"} for i in range(CHUNK + 30)]
    rows[CHUNK - 1] = {"prompt": "egg", "response": " "}
    output = tmp_path / "out.jsonl"
    config = ScoreConfig(model=str(run), input=str(write_rows(tmp_path / "in.jsonl", rows)), output=output, **FLOAT32)
    assert score_file(config) == (CHUNK + 30, 1)
    scored = read_json_rows(output)
    assert [row["row"] for row in scored] == list(range(1, CHUNK + 31))
    by_text: dict[tuple[str, str], list[float]] = {}
    for row, found in zip(rows, scored, strict=True):
        if found["value"] is not None:
            by_text.setdefault((row["prompt"], row["response"]), []).append(found["value"])
    assert len(by_text) == 35
    for values in by_text.values():
        assert max(values) - min(values) < 1e-4


def test_score_refuses_what_it_cannot_write_or_read_and_leaves_nothing(run, tmp_path):
    source = str(write_rows(tmp_path / "in.jsonl", ROWS))
    with pytest.raises(ValueError, match=r"--output .*out\.csv: rewards are written as \.jsonl or \.parquet"):
        score_file(ScoreConfig(model=str(run), input=source, output=tmp_path / "out.csv", **FLOAT32))
    with pytest.raises(DataError, match="does not exist"):
        score_file(ScoreConfig(model=str(run), input="missing.jsonl", output=tmp_path / "out.jsonl", **FLOAT32))
    unknown = str(write_rows(tmp_path / "unknown.jsonl", [{"question": "a", "reply": "b"}]))
    with pytest.raises(DataError, match=r"no completion in the columns question, reply\. Accepted: prompt"):
        score_file(ScoreConfig(model=str(run), input=unknown, output=tmp_path / "out.jsonl", **FLOAT32))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["in.jsonl", "unknown.jsonl"]


def test_an_earlier_output_survives_a_failed_scoring(run, tmp_path):
    (tmp_path / "out.jsonl").write_text("kept")
    unknown = str(write_rows(tmp_path / "unknown.jsonl", [{"question": "a", "reply": "b"}]))
    with pytest.raises(DataError):
        score_file(ScoreConfig(model=str(run), input=unknown, output=tmp_path / "out.jsonl", **FLOAT32))
    assert (tmp_path / "out.jsonl").read_text() == "kept"


def test_all_columns_that_the_scorer_gives_are_carried_into_both_kinds_of_file(tmp_path, use):
    use(Lengths(is_rich=True))
    bad_first = ["broken"] * CHUNK + many_rows(40)  # the first chunk has no std, steps and text
    bad_first[CHUNK + 5]["id"] = "lone \ud800 surrogate"
    source = write_rows(tmp_path / "in.jsonl", bad_first)
    assert score_file(config_of(source, tmp_path / "out.jsonl")) == (CHUNK + 40, CHUNK + 1)
    assert score_file(config_of(source, tmp_path / "out.parquet")) == (CHUNK + 40, CHUNK + 1)
    lines, table = read_json_rows(tmp_path / "out.jsonl"), pq.read_table(tmp_path / "out.parquet")
    assert table.schema.names == ["row", "id", "value", "std", "steps", "text", "error"]
    assert (table.schema.field("std").type, table.schema.field("steps").type) == (pa.float32(), pa.list_(pa.float32()))
    lines[CHUNK + 5]["id"] = "lone ? surrogate"
    expected = [{name: line.get(name) for name in table.schema.names} for line in lines]
    assert table.to_pylist() == expected
    assert lines[CHUNK + 3] == {
        "row": CHUNK + 4,
        "id": "id-3",
        "value": 3.0,
        "std": float(np.float32(3 / 7)),
        "steps": [],
        "text": "größe 3",
    }


@pytest.mark.parametrize("kind", ["jsonl.gz", "json", "parquet"])
def test_every_kind_of_input_gives_the_same_rows(tmp_path, use, kind):
    use(Lengths())
    rows = [row for row in many_rows(CHUNK + 50) if isinstance(row, dict)]
    plain, source = write_rows(tmp_path / "in.jsonl", rows), tmp_path / f"other.{kind}"
    if kind == "jsonl.gz":
        source.write_bytes(gzip.compress(plain.read_bytes()))
    elif kind == "json":
        source.write_text(json.dumps(rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), source)
    expected = score_file(config_of(plain, tmp_path / "plain.jsonl"))
    assert score_file(config_of(source, tmp_path / "other.jsonl")) == expected
    assert (tmp_path / "other.jsonl").read_bytes() == (tmp_path / "plain.jsonl").read_bytes()


def test_an_empty_file_gives_an_empty_file(tmp_path, use):
    use(Lengths())
    source = write_rows(tmp_path / "in.jsonl", [])
    assert score_file(config_of(source, tmp_path / "out.jsonl")) == (0, 0)
    assert score_file(config_of(source, tmp_path / "out.parquet")) == (0, 0)
    assert (tmp_path / "out.jsonl").read_text() == ""
    assert pq.read_table(tmp_path / "out.parquet").num_rows == 0


# going on


KILLED = """
import sys, time
import test_score
from assay.bulk import score
class Slow(test_score.Lengths):
    def score(self, completions):
        time.sleep(0.3)
        return super().score(completions)
from types import SimpleNamespace
score.open_scorer = lambda *args, **settings: SimpleNamespace(scorer=Slow(is_rich=True), say_bill=lambda: None)
from pathlib import Path
score.score_file(test_score.config_of(Path(sys.argv[1]), Path(sys.argv[2])))
"""


def environment() -> dict[str, str]:
    tests = Path(__file__).parents[1]
    paths = [str(tests), str(tests / "bulk"), str(Path(assay.__file__).parents[1])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_and_no_row_is_lost_or_doubled(tmp_path, use):
    source, output = write_rows(tmp_path / "in.jsonl", many_rows(6 * CHUNK + 10)), tmp_path / "out.jsonl"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(source), str(output)], env=environment(), stderr=subprocess.PIPE)
    rows_file, deadline = work_directory(output) / ROWS_FILE, time.monotonic() + 120
    while not rows_file.is_file() or rows_file.read_bytes().count(b"\n") <= CHUNK:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert not output.exists()
    kept = rows_file.read_bytes().count(b"\n")
    assert 2 * CHUNK <= kept < 6 * CHUNK + 10
    scorer = use(Lengths(is_rich=True))
    found = score_file(config_of(source, output))
    assert scorer.num_scored <= 6 * CHUNK + 10 - kept  # what was done is not done again
    assert found == score_file(config_of(source, tmp_path / "whole.jsonl"))
    assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert [row["row"] for row in read_json_rows(output)] == list(range(1, 6 * CHUNK + 11))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl", "whole.jsonl"]


def stopped(tmp_path: Path, use: Any, kind: str = "jsonl") -> tuple[Path, Path]:
    """Input and output of a run that was stopped after three chunks."""
    source, output = write_rows(tmp_path / "in.jsonl", many_rows(5 * CHUNK)), tmp_path / f"out.{kind}"
    use(Lengths(stop=3 * CHUNK - 60))
    with pytest.raises(KeyboardInterrupt):
        score_file(config_of(source, output))
    return source, output


CUT, OF_A_PART, GARBLED = b'{"row": 1537, "id": "x", "va', b'{"row": 1537, "id": "", "value": 1.0}\n', b"\0\0\0\n{}\n"


@pytest.mark.parametrize(("damage", "kind"), [(CUT, "jsonl"), (OF_A_PART, "jsonl"), (GARBLED, "jsonl"), (CUT, "parquet")])
def test_what_a_kill_left_half_written_is_cut_off(tmp_path, use, damage, kind, capsys):
    source, output = stopped(tmp_path, use, kind)
    with (work_directory(output) / ROWS_FILE).open("ab") as file:
        file.write(damage)
    use(Lengths())
    score_file(config_of(source, output))
    assert f"{3 * CHUNK:,} rows were scored by an earlier run" in " ".join(capsys.readouterr().err.split())
    score_file(config_of(source, tmp_path / f"whole.{kind}"))
    assert output.read_bytes() == (tmp_path / f"whole.{kind}").read_bytes()


def test_going_on_with_another_model_or_input_is_refused_and_restart_drops_the_rows(tmp_path, use):
    source, output = stopped(tmp_path, use)
    before = (work_directory(output) / ROWS_FILE).read_bytes()
    use(Lengths("other"))
    with pytest.raises(ValueError, match=r"1,536 rows of .*another model fingerprint \(then lengths, now other\).*--restart"):
        score_file(config_of(source, output))
    os.utime(source, ns=(1, 1))
    use(Lengths())
    with pytest.raises(ValueError, match=r"another input modification time"):
        score_file(config_of(source, output))
    with pytest.raises(ValueError, match=r"another input \(then .*in\.jsonl, now .*second\.jsonl\), another input size"):
        score_file(config_of(write_rows(tmp_path / "second.jsonl", many_rows(5)), output))
    (work_directory(output) / "state.json").write_text("{")
    with pytest.raises(ValueError, match=r"then None, now"):
        score_file(config_of(source, output))
    assert (work_directory(output) / ROWS_FILE).read_bytes() == before
    scorer = use(Lengths("other"))
    assert score_file(config_of(source, output, restart=True))[0] == 5 * CHUNK
    assert scorer.num_scored == 5 * CHUNK - 25  # 25 lines are no JSON


def test_two_processes_do_not_write_the_same_output(tmp_path, use):
    source, output = stopped(tmp_path, use)
    scorer = use(Lengths())
    with (work_directory(output) / LOCK_FILE).open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match=r"another process is writing .*out\.jsonl: wait for it to end, or give another"):
            score_file(config_of(source, output))
        assert scorer.num_scored == 0
    assert score_file(config_of(source, output))[0] == 5 * CHUNK


def test_rows_go_to_the_disk_in_order_only(tmp_path):
    (tmp_path / ".out.jsonl.scoring").mkdir()
    journal = Journal(tmp_path / "out.jsonl", {}, chunk=1)
    journal.append([{"row": 2, "value": None}])
    with pytest.raises(AssertionError, match="in order"):
        journal.append([{"row": 2, "value": 1.0}])


# size


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(tmp_path, use):
    use(Lengths(is_rich=True))

    def peak(num_rows: int) -> int:
        source, output = write_rows(tmp_path / "in.jsonl", many_rows(num_rows)), tmp_path / "out.parquet"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("assay.bulk.journal._PARQUET_ROWS", 1000)
            tracemalloc.start()
            assert score_file(config_of(source, output))[0] == num_rows
            size = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        return size

    peak(600)  # what is loaded once
    assert peak(20_000) < peak(2_000) + 500_000


# the cache


def test_with_a_cache_nothing_is_scored_twice(tmp_path, run, capsys):
    rows = [{"prompt": f"egg {i}", "response": "water"} for i in range(5)]
    source = write_rows(tmp_path / "in.jsonl", [*rows, rows[0], "broken", {"prompt": "egg", "response": ""}])
    config = {"model": run, "input": str(source), "cache": tmp_path / "cache.db", **FLOAT32}
    assert score_file(ScoreConfig(output=tmp_path / "one.jsonl", **config)) == (8, 2)
    assert "1 of 7 rewards were known" in " ".join(capsys.readouterr().err.split())
    assert score_file(ScoreConfig(output=tmp_path / "two.jsonl", **config)) == (8, 2)
    assert "6 of 7 rewards were known" in " ".join(capsys.readouterr().err.split())
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()


def test_load_takes_a_cache_too(tmp_path, run):
    answers = [Completion(messages="egg", response="water"), Completion(messages="egg", response="lazy")]
    plain, cached = assay.load(run, **FLOAT32), assay.load(run, cache=tmp_path / "cache.db", **FLOAT32)
    assert cached.fingerprint == plain.fingerprint
    for _ in range(2):
        np.testing.assert_allclose(cached.score(answers).value, plain.score(answers).value, atol=plain.tolerance)
    assert (cached.scorer.num_hits, cached.scorer.num_misses) == (2, 2)
    pair = assay.PreferencePair(prompt="egg", chosen="water", rejected="lazy")
    np.testing.assert_allclose(assay.prefer(cached, [pair]), assay.prefer(plain, [pair]), atol=1e-3)


def test_a_scorer_that_compares_within_prompts_gets_the_file_as_one_chunk(tmp_path, use, monkeypatch):
    monkeypatch.setattr("assay.bulk.score.CHUNK", 2)
    scorer = use(Lengths(stop=1))  # it is called once
    scorer.scope = "prompt"
    out = tmp_path / "out.jsonl"
    assert score_file(config_of(write_rows(tmp_path / "in.jsonl", many_rows(5)), out)) == (5, 1)
    assert [row["value"] for row in read_json_rows(out)] == [None, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="say with --ray N"):
        score_file(config_of(tmp_path / "in.jsonl", tmp_path / "other.jsonl", ray_address="auto"))


def test_a_chunk_comes_back_from_another_process_as_it_was():
    chunk = [
        (1, Completion(messages=(Message("system", "Be brief."), Message("user", "egg ✓")), response="ten minutes", id="a")),
        (2, NoCompletion("line 2: not JSON", "mine")),
        (4, Completion(messages="egg", steps=("one. ", "two."), id="b")),
        (5, Completion(text="egg: ten", id="c")),
        (6, Completion(token_ids=(1, 2, 3))),
    ]
    back = chunk_from_json(chunk_to_json(chunk))
    assert back == chunk
    assert [item.id for _, item in back] == ["a", "mine", "b", "c", ""]
