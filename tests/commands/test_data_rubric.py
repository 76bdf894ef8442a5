"""`assay data rubric`: what it fits and writes, and what it refuses. No model is loaded."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from assay.cli import main
from assay.rubrics.rubric_file import read_rubric
from assay.rubrics.shipped import find_rubric

TOML = """
[judge]
model = "none"
[[criterion]]
name = "right"
text = "Is it right?"
[[criterion]]
name = "tone"
kind = "choices"
text = "What is the tone?"
choices = ["cold", "warm"]
not_applicable = true
"""
RULES = """
[judge]
[[criterion]]
name = "short"
kind = "rule"
rule = "length"
settings = { max_words = 3, fade = 3 }
[[criterion]]
name = "no comma"
kind = "rule"
rule = "format"
settings = { pattern = "^[^,]*$" }
"""


@pytest.fixture
def world(tmp_path):
    """Pairs whose preferred answer is right in four of five, and values of both criteria; the tone says nothing."""
    rng = np.random.default_rng(0)
    pairs, scores = [], []
    for i in range(300):
        right, tone = rng.random(2) < 0.8, ["cold", "warm", "not applicable"]
        for side, is_right in (("chosen", right[0]), ("rejected", not right[0])):
            value = bool(is_right) if i else None
            criteria = {"right": value, "tone": tone[int(rng.integers(3))]}
            scores.append({"prompt": f"q{i}", "response": f"{side} {i}", "criteria": criteria})
        pairs.append({"prompt": f"q{i}", "chosen": f"chosen {i}", "rejected": f"rejected {i}"})
    for name, rows in (("pairs", pairs), ("scores", scores)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "rubric.toml").write_text(TOML)
    return tmp_path


def fit(folder, *more: str, rubric: str = "rubric.toml") -> int:
    words = ["data", "rubric", str(folder / rubric), "--data", str(folder / "pairs.jsonl"), "--out", str(folder / "fitted.toml")]
    return main([*words, *more])


def test_weights_are_fitted_to_a_table_of_values(world, capsys):
    assert fit(world, "--scores", str(world / "scores.jsonl")) == 0
    (criterion,) = read_rubric(world / "fitted.toml").criteria
    assert criterion.name == "right"
    assert criterion.weight == pytest.approx(math.log(4), abs=0.3)  # right in four of five
    said = capsys.readouterr().err
    assert "tone: dropped" in said
    assert "right: weight +1." in said


def test_weights_of_rules_are_fitted_without_a_judge(world, capsys):
    pairs = [{"prompt": f"q{i}", "chosen": f"in short {i}", "rejected": f"at great and needless length {i}"} for i in range(100)]
    (world / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    (world / "rules.toml").write_text(RULES)
    assert fit(world, rubric="rules.toml") == 0
    (criterion,) = read_rubric(world / "fitted.toml").criteria
    assert (criterion.name, criterion.rule) == ("short", "length")
    assert criterion.weight > 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"criteria": {"colour": 1}}, "no criterion 'colour'; there are"),
        ({"criteria": {"tone": "hot"}}, "must be one of: cold | warm | not applicable"),
        ({"criteria": [1]}, "there is no mapping criteria"),
        ({"response": None}, "line 1:"),
    ],
)
def test_rows_of_values_that_cannot_be_read_are_refused_with_their_line(world, capsys, change, said):
    row = {"prompt": "q0", "response": "chosen 0", "criteria": {"right": 1}, **change}
    (world / "scores.jsonl").write_text(json.dumps(row) + "\n")
    assert fit(world, "--scores", str(world / "scores.jsonl")) == 2
    shown = " ".join(capsys.readouterr().err.split())
    assert said in shown
    assert "line 1" in shown


def test_values_come_from_a_table_or_from_a_judge(world, capsys):
    with pytest.raises(SystemExit):
        fit(world, "--scores", "s.jsonl", "--judge-model", "m")
    assert "the values come from one of them" in " ".join(capsys.readouterr().err.split())


def test_a_rubric_is_written_in_the_form_of_the_suffix(tmp_path, capsys):
    assert main(["data", "rubric", "helpfulness", "--out", str(tmp_path / "own.toml")]) == 0
    assert read_rubric(tmp_path / "own.toml").digest == find_rubric("helpfulness").digest
    items = [{"criterion": "Says to rest", "points": 4, "tags": ["x"]}, {"criterion": "Is rude", "points": -2.5, "tags": []}]
    (tmp_path / "health.json").write_text(json.dumps(items))
    assert main(["data", "rubric", str(tmp_path / "health.json"), "--out", str(tmp_path / "again.json")]) == 0
    assert json.loads((tmp_path / "again.json").read_text()) == items
    assert main(["data", "rubric", "helpfulness", "--out", str(tmp_path / "own.json")]) == 2
    assert "HealthBench cannot say the criterion 'serves the request'" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(SystemExit):
        main(["data", "rubric", "helpfulness", "--out", str(tmp_path / "own.yaml")])
    assert "the rubric is written as .toml" in " ".join(capsys.readouterr().err.split())
