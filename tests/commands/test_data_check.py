"""`assay data check`: the figures, the page, and exit status 2 for a file that gives nothing."""

from __future__ import annotations

import json
import subprocess
import sys

from assay.cli import main
from assay.data.pairs import write_pairs
from assay.run_files import read_report
from tiny import toy_pairs


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


def test_no_torch_is_loaded(tmp_path):
    write_pairs(tmp_path / "toy.jsonl", toy_pairs(5))
    script = f"import sys\nfrom assay.cli import main\nmain(['data', 'check', {str(tmp_path / 'toy.jsonl')!r}])\n"
    script += "print(sorted({'torch', 'transformers'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=300)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
