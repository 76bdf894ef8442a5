"""`assay data rubric`: what it fits and writes, and what it refuses. No model is loaded."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest

from assay.cli import main
from assay.records import PreferencePair
from assay.rubrics.learned import _is_drawn
from assay.rubrics.rubric_file import read_rubric
from assay.rubrics.shipped import find_rubric
from fake_chat import Request, fake_chat, said
from tiny import save_tiny_base

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


PROPOSED = "Criterion: cites | Does it name a source?\nCriterion: even | Is the number of words even?"


@pytest.fixture
def sources(tmp_path):
    """Pairs whose preferred answer is long in four of five and names a source in nine of ten; the number of words says nothing."""
    rng = np.random.default_rng(1)
    rows = []
    for i in range(80):
        long, cites = rng.random() < 0.8, rng.random() < 0.9
        sides = [
            f"Answer {i}{side}{' at length' * is_long}{' (source: a book)' * has}{' so' * int(rng.integers(2))}"
            for side, is_long, has in (("a", long, cites), ("b", not long, not cites))
        ]
        rows.append({"prompt": f"question {i}", "chosen": sides[0], "rejected": sides[1]})
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "rubric.toml").write_text('[judge]\nreading = "text"\n[[criterion]]\nname = "long"\ntext = "Is it long?"\n')
    return tmp_path


def proposes_and_judges(request: Request):
    if "Preferred for request" in request.text:
        return said(PROPOSED)
    answer = request.text.split("The answer to grade:")[1]
    is_met = (
        "at length" in answer
        if "Is it long?" in request.text
        else "source:" in answer
        if "name a source?" in request.text
        else len(answer.split()) % 2 == 0
    )
    return said(f"Verdict: {'yes' if is_met else 'no'}")


def test_a_judge_proposes_criteria_and_those_that_help_held_out_are_kept(sources, capsys):
    with fake_chat(proposes_and_judges) as chat:
        flags = ["--judge-url", chat.url, "--judge-model", "m", "--propose", "2"]
        assert fit(sources, *flags) == 0
        printed = capsys.readouterr()
        first, num_calls = (sources / "fitted.toml").read_bytes(), len(chat.requests)
        assert fit(sources, *flags) == 0
        assert len(chat.requests) == num_calls, "what was paid for is not paid for again"
        assert (sources / "fitted.toml").read_bytes() == first
    names = [criterion.name for criterion in read_rubric(sources / "fitted.toml").criteria]
    assert names == ["long", "cites"]
    for said_ in (
        "4 calls to make",
        "proposing      4 replies in",
        "2 criteria of 8 named in 4 calls on 12 pairs",
        "cites: Does it name a source?",
        "3 criteria: 480 calls to make",
        "cites: proposed and kept, weight +",
        "even: proposed and refused; the held-out log loss falls by",
        "484 calls and 1 to find out what the endpoint knows",
    ):
        assert said_ in printed.err, said_
    page = (sources / "fitted.html").read_text()
    for part in ("Is the number of words even?", "proposed and refused", "2 criteria of 8 named"):
        assert part in page, "the report has each criterion, its gain, and what became of it"
    asked = [request for request in chat.requests if "Preferred for request" in request.text]
    shown = {int(number) for request in asked for number in re.findall(r"user: question (\d+)", request.text)}
    pairs = [PreferencePair(**json.loads(line)) for line in (sources / "pairs.jsonl").read_text().splitlines()]
    tested = {i for i, is_test in enumerate(_is_drawn(pairs, 0.3, 0)) if is_test}
    assert len(shown) == 12
    assert len(tested) == 24
    assert not shown & tested, "no prompt that the figures are of was shown"


def test_proposals_that_cannot_be_read_leave_the_rubric_s_own_criteria(sources, capsys):
    def judges(request: Request):
        return said("I would rather not.") if "Preferred for request" in request.text else proposes_and_judges(request)

    with fake_chat(judges) as chat:
        assert fit(sources, "--judge-url", chat.url, "--judge-model", "m", "--propose", "2") == 0
        assert sum("Preferred for request" in request.text for request in chat.requests) == 8, "each is asked for twice"
    assert [criterion.name for criterion in read_rubric(sources / "fitted.toml").criteria] == ["long"]
    shown = " ".join(capsys.readouterr().err.split())
    assert "4 calls without a criterion: 4 x the reply names no criterion in the form asked for" in shown
    assert "nothing: only the weights of the rubric's own criteria are fitted" in shown


@pytest.mark.slow
def test_a_model_that_writes_nonsense_proposes_nothing_and_the_rubric_is_fitted(tmp_path, capsys):
    """A real language model in this process, tiny and random."""
    pairs = [{"prompt": f"q{i}", "chosen": f"in short {i}", "rejected": f"at great and needless length {i}"} for i in range(80)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    asked = '[[criterion]]\nname = "fit"\ntext = "Fit?"\n'
    (tmp_path / "rubric.toml").write_text(RULES.replace("[judge]", "[judge]\nmax_tokens = 12") + asked)
    save_tiny_base(tmp_path / "model", max_positions=4096)
    assert fit(tmp_path, "--judge-model", str(tmp_path / "model"), "--propose", "1") == 0
    assert "short" in [criterion.name for criterion in read_rubric(tmp_path / "fitted.toml").criteria]
    shown = " ".join(capsys.readouterr().err.split())
    assert "0 criteria of 0 named in 2 calls on 6 pairs; 2 calls without a criterion" in shown
    assert "nothing: only the weights of the rubric's own criteria are fitted" in shown


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--propose", "0"], "--propose 0 must be at least 1"),
        (["--propose", "2", "--scores", "scores.jsonl"], "a table has no values of new criteria"),
    ],
)
def test_what_cannot_propose_is_refused(world, capsys, words, why):
    with pytest.raises(SystemExit):
        fit(world, *words)
    assert why in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("num_prompts", "words", "why"),
    [
        (22, ["--propose", "2"], r"of 22, 7 are held out and \d shown to the proposer first, which leaves (1\d|9);.*of 65 prompts"),
        (
            22,
            [],
            "of 22, 7 are held out first, which leaves 15; 20 are needed held out, and 20 to fit on: give pairs of 65 prompts",
        ),
        (300, ["--test-share", "0.99"], "held out first, which leaves 3"),
    ],
)
def test_too_few_prompts_are_refused_before_a_model_is_loaded(world, capsys, num_prompts, words, why):
    lines = (world / "pairs.jsonl").read_text().splitlines(keepends=True)
    (world / "pairs.jsonl").write_text("".join(lines[:num_prompts]))
    assert fit(world, *words) == 2
    assert re.search(why, shown := " ".join(capsys.readouterr().err.split())), shown


def test_prompts_without_verdicts_are_missed_with_what_would_do(world, capsys):
    lines = (world / "pairs.jsonl").read_text().splitlines(keepends=True)
    (world / "pairs.jsonl").write_text("".join(lines[:66]))
    scores = (world / "scores.jsonl").read_text().splitlines(keepends=True)
    (world / "scores.jsonl").write_text("".join(scores[:60]))
    assert fit(world, "--scores", str(world / "scores.jsonl")) == 2
    shown = " ".join(capsys.readouterr().err.split())
    assert "9 prompts held out have all verdicts, and 20 are needed: of 66, 20 are held out first, which leaves 46" in shown
    assert "give pairs of 65 prompts or more with all verdicts" in shown


def test_rules_alone_have_nobody_who_proposes(world, capsys):
    (world / "rules.toml").write_text(RULES)
    assert fit(world, "--propose", "1", rubric="rules.toml") == 2
    assert "the rubric has rules alone" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(SystemExit):
        main(["data", "rubric", "helpfulness", "--propose", "1", "--out", str(world / "own.toml")])
    assert "give --data, pairs to" in " ".join(capsys.readouterr().err.split())
