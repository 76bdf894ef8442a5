"""A plain function as a scorer: the laws, what cannot be scored, its fingerprint, and where its name may come from."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import assay
from assay.evaluation.evaluate import evaluate
from assay.records import Completion, PreferencePair
from assay.scorers.base import Scorer
from assay.scorers.checks import Law, scorer_laws
from assay.scorers.load import load
from assay.scorers.opened import open_scorer
from assay.scorers.rules import RuleScorer, load_rule, rule_scorer

COMPLETIONS = [Completion(messages="q", response=text) for text in ("four", "", "4", "a long answer")]

RULES = """
def length(completions):
    return [len(c.response) or None for c in completions]

def odd(completions):
    return [{"four": 4, "4": float("inf"), "": "none"}.get(c.response, None) for c in completions]

def breaks(completions):
    return [1 / (len(c.response) - 4) for c in completions]

def short(completions):
    return [1.0]

NAME = "no function"
"""


@pytest.fixture
def rules(tmp_path, monkeypatch) -> str:
    """A module of rules in the working directory; its name."""
    (tmp_path / "some_rules.py").write_text(RULES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("some_rules", None)
    importlib.invalidate_caches()
    yield "some_rules"
    sys.modules.pop("some_rules", None)


def length_of(completions):
    return [len(completion.response) or None for completion in completions]


@pytest.mark.parametrize("law", scorer_laws(rule_scorer(length_of), COMPLETIONS), ids=str)
def test_a_rule_keeps(law: Law):
    assert law.check() is None  # it raises AssertionError where the law is broken


def test_numbers_are_rewards_and_the_rest_is_nan_with_a_reason(rules):
    rewards = load(f"rule:{rules}:odd").score(COMPLETIONS)
    np.testing.assert_array_equal(rewards.value, [4, np.nan, np.nan, np.nan])
    none, text, infinite, missing = rewards.error
    assert none is None
    assert text == "the rule gave str 'none', which is no number"
    assert infinite == "the rule gave inf, which float32 does not hold"
    assert missing == "the rule gave no reward"


def test_an_exception_is_nan_with_its_name_and_loses_no_other_answer(rules):
    rewards = load(f"rule:{rules}:breaks").score(COMPLETIONS)
    np.testing.assert_allclose(rewards.value, [np.nan, -1 / 4, -1 / 3, 1 / 9], rtol=1e-6)
    assert rewards.error[0] == "some_rules:breaks raised ZeroDivisionError: division by zero"


def test_another_number_of_values_is_told_for_every_item(rules):
    rewards = load(f"rule:{rules}:short").score(COMPLETIONS)
    assert np.isnan(rewards.value).all()
    assert set(rewards.error) == {"the rule gave 1 values for 4 completions: one for each is needed"}


def test_the_fingerprint_is_of_the_source_the_name_and_the_version(rules, tmp_path):
    def printed() -> str:
        sys.modules.pop("some_rules", None)
        importlib.invalidate_caches()
        return load_rule("rule:some_rules:length").fingerprint

    first = printed()
    assert printed() == first
    assert load_rule("rule:some_rules:odd").fingerprint != first
    (tmp_path / "some_rules.py").write_text(RULES + "\nUNUSED = 1\n")
    changed = printed()
    assert changed != first, "what the function calls may stand anywhere in its module"
    (tmp_path / "some_rules.py").write_text(RULES + "\nUNUSED = 1\nlength.__version__ = '2'\n")
    assert printed() != changed


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("rule:", "a rule is named rule:MODULE:FUNCTION"),
        ("rule:some_rules", "a rule is named rule:MODULE:FUNCTION"),
        ("rule:no_such_module_here:f", "the module no_such_module_here cannot be imported"),
        ("rule:some_rules:missing", r"has no function missing \(it has length, odd, breaks, short\)"),
        ("rule:some_rules:NAME", "has no function NAME"),
    ],
)
def test_mistakes_name_the_value_and_the_fix(rules, spec, message):
    with pytest.raises(ValueError, match=message):
        load(spec)


def test_an_evaluation_says_why_pairs_were_not_scored(rules):
    pairs = [PreferencePair(prompt=f"q{i}", chosen="four", rejected="a long one") for i in range(12)]
    result = evaluate(load(f"rule:{rules}:breaks"), pairs, title="t", slices=False)
    (finding,) = [finding for finding in result.findings if finding.name == "unscored pairs"]
    assert finding.value == 12
    assert "some_rules:breaks raised ZeroDivisionError: division by zero (12 answers)" in finding.why


def test_a_rule_that_ends_the_process_or_returns_no_list_is_a_reason(rules, tmp_path):
    more = "import sys\ndef leaves(cs): sys.exit(0)\ndef keyed(cs): return {0: 1.0}\ndef one(cs): return 3.0\n"
    (tmp_path / "more_rules.py").write_text(more)
    for name, why in (("leaves", "SystemExit: 0"), ("keyed", "it returned dict"), ("one", "it returned float")):
        rewards = load(f"rule:more_rules:{name}").score(COMPLETIONS)
        assert np.isnan(rewards.value).all()
        assert all(why in error for error in rewards.error)
    (tmp_path / "leaving_module.py").write_text("import sys\nsys.exit(5)\n")
    with pytest.raises(ValueError, match="cannot be imported"):
        load("rule:leaving_module:f")


def test_a_wrong_name_is_told_before_any_data_are_read_and_a_forgotten_prefix_is_hinted_at(rules):
    with pytest.raises(ValueError, match="has no function missing"):
        open_scorer(f"rule:{rules}:missing")
    with pytest.raises(ValueError, match=f"a function is named rule:{rules}:length"):
        open_scorer(f"{rules}:length")


def test_a_path_never_names_code(rules):
    with pytest.raises(ValueError, match="is neither an artifact"):
        load(Path(f"rule:{rules}:length"))


def test_a_file_never_names_code(tmp_path, rules):
    """An artifact whose reward.json or members name a rule is refused: it is not read as a name."""
    for kind in ("rule:some_rules:length", "ensemble"):
        folder = tmp_path / kind.replace(":", "-")
        folder.mkdir()
        description = {"schema_version": 1, "kind": kind, "members": ["rule:some_rules:length"], "scorer": "rule:some_rules:length"}
        (folder / "reward.json").write_text(json.dumps(description))
        with pytest.raises(assay.ArtifactError):
            load(folder)


def test_a_rule_is_a_scorer_and_its_defaults_are_global(rules):
    scorer = load(f"rule:{rules}:length")
    assert isinstance(scorer, RuleScorer)
    assert isinstance(scorer, Scorer)
    assert (scorer.scope, scorer.tolerance) == ("global", 0.0)
    with pytest.raises(ValueError, match="is not computed from a directory"):
        load(f"rule:{rules}:length", dtype="float32")


@pytest.mark.slow
def test_commands_on_a_rule_load_no_torch(rules, tmp_path):
    pairs = [{"prompt": f"q{i}", "chosen": "a longer answer", "rejected": "short"} for i in range(30)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    script = (
        "import sys; from assay.cli import main\n"
        "status = main(['evaluate', 'rule:some_rules:length', '--data', 'pairs.jsonl', '--out', 'found'])\n"
        "print(status, sorted({'torch', 'transformers'} & sys.modules.keys()))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(assay.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=tmp_path, env=environment
    )
    assert done.stdout.splitlines()[-1:] == ["0 []"], done.stderr
    report = json.loads((tmp_path / "found" / "eval" / "data-pairs.json").read_text())
    assert {metric["name"]: metric["value"] for metric in report["metrics"]}["accuracy"] == 1.0
