"""Rubrics from TOML: what is read, and what is refused by name."""

from __future__ import annotations

import pytest

from assay.rubrics.rubric import NOT_APPLICABLE, Choice
from assay.rubrics.rubric_file import read_rubric

WHOLE = """
[judge]
backend = "endpoint"
url = "http://127.0.0.1:8080/v1"
model = "a-model"
mode = "pairwise"
calls = "each"
reading = "text"
k = 3
temperature = 0.7
budget = 2
price_in = 0.15
instructions = "You grade answers of a support desk."
formula = "clipped"

[[criterion]]
name = "complete"
text = "Does the answer do everything that was asked?"
weight = 2
gate = 0.5

[[criterion]]
name = "polite"
kind = "scale"
text = "How polite is it?"
points = 3
min = 1
max = 5
anchors = { 1 = "rude", 5 = "warm" }
not_applicable = true

[[criterion]]
name = "invented"
kind = "choices"
text = "How much of it is invented?"
choices = ["nothing", "some", "all"]
weight = -1.5
needs = "complete"
not_applicable = "no claims"
tags = ["facts"]

[[criterion]]
name = "tone"
kind = "choices"
text = "What is the tone?"
choices = [{ label = "cold", value = 0, text = "no feeling" }, { label = "warm", value = 0.9 }]

[[criterion]]
name = "short"
kind = "rule"
rule = "length"
settings = { max_words = 120 }
"""

ONE = '[[criterion]]\nname = "one"\ntext = "Is it right?"\n'
SCALE = '[[criterion]]\nname = "s"\nkind = "scale"\ntext = "?"\n'


@pytest.fixture
def read(tmp_path):
    def reader(text: str, name: str = "helpful.toml"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return read_rubric(tmp_path / name)

    return reader


def test_every_field_is_read(read):
    rubric = read(WHOLE)
    judge = rubric.judge
    assert (judge.backend, judge.url, judge.model) == ("endpoint", "http://127.0.0.1:8080/v1", "a-model")
    assert (judge.mode, judge.calls, judge.reading, judge.k, judge.temperature) == ("pairwise", "each", "text", 3, 0.7)
    assert (judge.budget, judge.price_in, judge.price_out) == (2.0, 0.15, None)
    assert (rubric.name, rubric.instructions, rubric.formula) == ("helpful", "You grade answers of a support desk.", "clipped")
    complete, polite, invented, tone, short = rubric.criteria
    assert (complete.kind, complete.weight, complete.gate, complete.not_applicable) == ("binary", 2.0, 0.5, "")
    assert (polite.weight, polite.low, polite.high, polite.anchors) == (3.0, 1.0, 5.0, {1.0: "rude", 5.0: "warm"})
    assert polite.not_applicable == NOT_APPLICABLE
    assert invented.choices == (Choice("nothing", 0.0), Choice("some", 0.5), Choice("all", 1.0))
    assert (invented.weight, invented.needs, invented.not_applicable, invented.tags) == (-1.5, "complete", "no claims", ("facts",))
    assert tone.choices == (Choice("cold", 0.0, "no feeling"), Choice("warm", 0.9))
    assert (short.rule, short.settings, rubric.asked) == ("length", {"max_words": 120}, rubric.criteria[:4])


def test_a_rubric_whose_criteria_come_with_the_rows_has_none(read):
    assert read("[judge]\nper_row = true\n").per_row


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[project]\nname = 'x'\n[tool.ruff]\n", r"it holds \[project\], \[tool\], and neither \[judge\] nor"),
        ("", "it holds nothing"),
        ("[judge]\nmodel = 'm'\n", "has no criteria"),
        ("[judge\n", "is no valid TOML"),
        (f"{ONE}\n[scorers]\nx = 1\n", "unknown table or field 'scorers'"),
        (f"[judge]\nbudgets = 1\n{ONE}", r"\[judge\]: unknown field 'budgets'; known are"),
        (f"{ONE}colour = 'red'\n", "criterion 'one': unknown field 'colour'"),
        (f"{ONE}{ONE}", "two criteria are called 'one'"),
        (f"{ONE}weight = 0\n", "no criterion has positive points"),
        (f"{ONE}weight = 1\npoints = 2\n", "'points' says what another field already says"),
        (f"{ONE}weight = 'heavy'\n", "weight is 'heavy': give a number"),
        (f"{ONE}weight = true\n", "weight is True: give a number"),
        (f"{ONE}negated = 1\n", "give true or false"),
        (f"[judge]\nk = 2.5\n{ONE}", "k is 2.5: give a whole number"),
        (f"{ONE}needs = 'two'\n", "needs 'two', and there is none of that name"),
        (f"{ONE}gate = 5\n", "at most 1"),
        (f"{ONE}max = 5\n", "high is for the kind 'scale'"),
        (f"{ONE}choices = ['a']\n", "at least two choices"),
        (f"{ONE}kind = 'choices'\nchoices = [{{ label = 'a', value = 0 }}, {{ label = 'b' }}]\n", "all choices a value, or none"),
        (f"{SCALE}", "a scale needs min and max"),
        (f"{SCALE}min = 1\nmax = 5\n", "a scale needs anchors at both ends: say what 1 and 5 mean"),
        (f"{SCALE}min = 1\nmax = 5\nanchors = {{ 1 = 'bad' }}\n", "a scale needs anchors at both ends"),
        (f"{SCALE}min = 1\nmax = 5\nanchors = {{ low = 'bad' }}\n", "must be numbers of the scale"),
        ("[[criterion]]\nname = 'r'\nkind = 'rule'\nrule = 'my_rules:grade'\n", "a rubric cannot name code of its own"),
        ("[criterion]\nname = 'one'\n", r"give each criterion a table of its own, \[\[criterion\]\]"),
        ("judge = 'gpt'\n" + ONE, "give a table"),
    ],
)
def test_mistakes_name_the_file_the_value_and_the_fix(read, text, said):
    with pytest.raises(ValueError, match=said) as caught:
        read(text)
    assert "helpful.toml" in str(caught.value)


def test_what_is_no_rubric_file_is_refused(tmp_path, read):
    with pytest.raises(ValueError, match="is no rubric: a rubric is a"):
        read_rubric(tmp_path)
    with pytest.raises(ValueError, match="does not exist"):
        read_rubric(tmp_path / "missing.toml")
    with pytest.raises(ValueError, match="is no rubric: a rubric is a"):
        read("criteria: []", "rubric.yaml")
    with pytest.raises(ValueError, match="is no valid JSON"):
        read("{", "rubric.json")
    with pytest.raises(ValueError, match="it holds a list of 2, and neither"):
        read("[1, 2]", "rubric.json")
    (tmp_path / "latin.toml").write_bytes("[judge]\nname = 'é'".encode("latin-1"))
    with pytest.raises(ValueError, match="cannot be read as UTF-8"):
        read_rubric(tmp_path / "latin.toml")
