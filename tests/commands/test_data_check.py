"""`assay data check`: the figures, the page, and exit status 2 for a file that gives nothing."""

from __future__ import annotations

import json
import subprocess
import sys

from assay.cli import main
from assay.data.pairs import write_pairs
from assay.data.run_data import run_data
from assay.run_files import read_report
from tiny import save_tiny_base, toy_pairs


def test_the_figures_are_shown_and_with_out_they_are_kept_with_a_page(tmp_path, capsys):
    write_pairs(tmp_path / "toy.jsonl", toy_pairs(30))
    assert main(["data", "check", str(tmp_path / "toy.jsonl"), "--out", str(tmp_path / "seen")]) == 0
    shown = capsys.readouterr()
    assert "toy.jsonl: 30 rows -> 30 pairs; form: assay" in shown.err
    assert "longer answer preferred" in shown.out
    report = read_report(tmp_path / "seen", "data-check")
    assert report is not None
    assert report.metric("pairs").value == 30
    assert "Lengths in characters" in (tmp_path / "seen" / "data-check.html").read_text()


def test_nothing_is_written_without_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_pairs(tmp_path / "toy.jsonl", toy_pairs(5))
    assert main(["data", "check", "toy.jsonl"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["toy.jsonl"]


def test_a_file_that_gives_no_pair_exits_with_2_after_the_others_were_looked_at(tmp_path, capsys):
    write_pairs(tmp_path / "toy.jsonl", toy_pairs(5))
    (tmp_path / "bad.jsonl").write_text("{broken\n")
    assert main(["data", "check", str(tmp_path / "toy.jsonl"), str(tmp_path / "bad.jsonl")]) == 2
    shown = capsys.readouterr()
    assert "no pair could be read from bad.jsonl" in shown.err
    assert "not JSON" in shown.err
    assert "longer answer preferred" in shown.out
    (tmp_path / "odd.jsonl").write_text(json.dumps({"question": "a"}) + "\n")
    assert main(["data", "check", str(tmp_path / "odd.jsonl")]) == 2
    assert capsys.readouterr().out == ""


def test_columns_are_told_and_left_out_and_a_run_reads_its_data_so_again(tmp_path, capsys):
    file = tmp_path / "mine.csv"
    file.write_text(
        "frage;gut;schlecht;notiz;nr\r\nWarum ist das so?;Es ist eben so.;Das war es nie.;Von Hand gemacht;1\r\n",
        encoding="utf-8-sig",
    )
    assert main(["data", "check", str(file)]) == 2
    assert "--columns prompt=" in capsys.readouterr().err
    told = ["prompt=frage", "chosen=gut", "rejected=schlecht"]
    assert main(["data", "check", str(file), "--columns", *told]) == 2
    assert "--ignore notiz" in capsys.readouterr().err
    assert main(["data", "check", str(file), "--columns", *told, "--ignore", "notiz"]) == 0
    assert "1 rows -> 1 pairs; columns not read: nr (1); form: explicit" in capsys.readouterr().err
    config = {"data": [str(file)], "columns": told, "ignore": ["notiz"], "calibration": 0, "test": 0}
    (tmp_path / "config.json").write_text(json.dumps({"config": config}))
    (pair,) = run_data(tmp_path).pairs("train")
    assert (pair.prompt[0].content, pair.chosen, pair.rejected) == ("Warum ist das so?", "Es ist eben so.", "Das war es nie.")


def test_a_file_without_a_pair_is_told_with_its_reasons_a_row_and_what_to_do(tmp_path, capsys):
    rows = [{"prompt": "q", "chosen": "same", "rejected": "same"}] * 2
    (tmp_path / "same.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["data", "check", str(tmp_path / "same.jsonl")]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "2 set aside: identical pair (lines 1, 2): chosen and rejected say the same" in told
    assert 'line 1: {"prompt": "q", "chosen": "same", "rejected": "same"}' in told


def test_with_a_base_its_template_is_tried(tmp_path, capsys):
    write_pairs(tmp_path / "toy.jsonl", toy_pairs(5))
    base = save_tiny_base(tmp_path / "base")
    arguments = ["data", "check", str(tmp_path / "toy.jsonl"), "--base", str(base), "--max-length", "16", "--verbose"]
    assert main(arguments) == 0
    shown = capsys.readouterr()
    assert "with the template of base, at most 16 tokens: 5 pairs" in " ".join(shown.err.split())
    assert "pairs cut at the front" in shown.out


def test_no_torch_is_loaded(tmp_path):
    write_pairs(tmp_path / "toy.jsonl", toy_pairs(5))
    script = f"import sys\nfrom assay.cli import main\nmain(['data', 'check', {str(tmp_path / 'toy.jsonl')!r}])\n"
    script += "print(sorted({'torch', 'transformers'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=300)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
