"""`assay evaluate` on a file of labelled steps: found by its columns, summarised, refused where it would flatter."""

from __future__ import annotations

import json

import numpy as np
import pytest

from assay.cli import main
from assay.commands.shared import Where
from assay.records import Rewards
from assay.scorers.opened import Opened


class Scorer:
    """Steps that say so are wrong."""

    fingerprint, scope, tolerance = "says-so", "global", 0.0

    def score(self, completions):
        steps = [np.array([0.3 if "wrong" in step else 0.4 for step in one.steps]) for one in completions]
        return Rewards(value=[one.min() for one in steps], steps=tuple(steps))


@pytest.fixture
def opened(monkeypatch):
    found = Opened(spec="says-so", name="says-so", artifact=None, home=None)
    found.__dict__["scorer"] = Scorer()
    monkeypatch.setattr(Where, "open", lambda *args, **more: found)


@pytest.fixture
def files(tmp_path):
    """ProcessBench's form; half of the solutions are wrong, in the second of three steps. And the same of other problems."""
    rows = [
        {
            "id": f"{i}",
            "generator": "g",
            "problem": f"Problem {i}?",
            "steps": [f"First {i}.", "This is wrong." if i % 2 else "Second.", "Third."],
            "final_answer_correct": not i % 2,
            "label": 1 if i % 2 else -1,
        }
        for i in range(20)
    ]
    others = [{**row, "problem": f"Other {row['problem']}"} for row in rows]
    paths = []
    for name, content in (("bench", rows), ("other", others)):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
        paths.append(str(path))
    return paths


def evaluated(tmp_path, capsys, *words):
    status = main(["evaluate", "says-so", "--out", str(tmp_path / "out"), *words])
    printed = capsys.readouterr()
    return status, printed.out.splitlines(), printed.err


def test_labelled_steps_are_found_and_said_in_a_few_lines(opened, files, tmp_path, capsys):
    status, lines, _ = evaluated(tmp_path, capsys, "--data", files[0])
    assert status == 0
    assert len(lines) <= 12
    assert lines[0] == "Steps of bench.jsonl"
    assert any(line.startswith("ProcessBench F1") and " 0 " in line for line in lines), "at a half it calls every step wrong"
    report = json.loads((tmp_path / "out" / "eval" / "steps-bench.json").read_text(encoding="utf-8"))
    facts = report["facts"]
    assert facts["threshold"].startswith("0.5: rewards taken for probabilities")
    assert facts["solutions"].startswith("20: 10 right, 10 with a first error")
    assert (tmp_path / "out" / "steps-bench.html").exists()


def test_a_threshold_is_given_or_chosen_on_other_problems(opened, files, tmp_path, capsys):
    for words in (["--threshold", "0.35"], ["--threshold-data", files[1]]):
        status, lines, _ = evaluated(tmp_path, capsys, "--data", files[0], *words)
        assert status == 0
        assert any(line.startswith("ProcessBench F1") and "1.00" in line for line in lines), lines
    facts = json.loads((tmp_path / "out" / "eval" / "steps-bench.json").read_text(encoding="utf-8"))["facts"]
    assert facts["threshold"].startswith("0.35:")
    assert "other.jsonl: 20 solutions, where it gives 1.000" in facts["threshold from"]


def test_a_threshold_is_not_chosen_where_it_is_tried(opened, files, tmp_path, capsys):
    status, _, error = evaluated(tmp_path, capsys, "--data", files[0], "--threshold-data", files[0])
    assert status == 2
    assert "20 problems of bench.jsonl are also in bench.jsonl" in " ".join(error.split())


def test_several_sets_are_parts_of_the_f1(opened, files, tmp_path, capsys):
    assert evaluated(tmp_path, capsys, "--data", *files, "--threshold", "0.35")[0] == 0
    report = json.loads((tmp_path / "out" / "eval" / "steps-bench-other.json").read_text(encoding="utf-8"))
    f1 = next(metric for metric in report["metrics"] if metric["name"] == "ProcessBench F1")
    assert f1["note"].startswith("mean of 2 sets")


def test_pairs_and_steps_are_evaluated_apart(opened, files, tmp_path, capsys):
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text(json.dumps({"prompt": "a", "chosen": "b", "rejected": "c"}) + "\n", encoding="utf-8")
    status, _, error = evaluated(tmp_path, capsys, "--data", files[0], str(pairs))
    assert status == 2
    assert "apart" in error
    status, _, error = evaluated(tmp_path, capsys, "--data", str(pairs), "--threshold", "0.5")
    assert status == 2
    assert "labelled steps" in error
    with pytest.raises(SystemExit):
        evaluated(tmp_path, capsys, "--data", files[0], "--threshold", "1", "--threshold-data", files[1])
