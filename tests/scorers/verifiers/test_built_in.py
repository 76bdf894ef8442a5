"""The built-in rules: laws, what is right, wrong and without a reward, and how they are opened."""

from __future__ import annotations

import gzip
import json
import threading
from pathlib import Path

import numpy as np
import pytest

from assay.data.pairs import read_pairs, write_pairs
from assay.evaluation.evaluate import evaluate
from assay.records import Completion, PreferencePair
from assay.rubrics.rubric import BUILT_IN_RULES
from assay.scorers.base import ThreadSafe, reads_ground_truth
from assay.scorers.checks import Law, scorer_laws
from assay.scorers.load import load
from assay.scorers.opened import open_scorer
from assay.scorers.verifiers.built_in import BuiltInRule, built_in_rule
from assay.scorers.wrappers.cached import Cached

GSM8K = Path(__file__).parents[4] / "shared" / "data" / "gsm8k" / "model_solutions.jsonl.gz"
SCHEMA = {"type": "object", "required": ["city"], "properties": {"city": {"type": "string"}}}
TRUTHS = {
    "answer": {"answer": "18"},
    "exact": {"answer": "eighteen ducks"},
    "choice": {"answer": "B"},
    "json-schema": {"schema": SCHEMA},
    "format": {"tags": ["think", "answer"]},
    "constraints": {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]},
    "tests": {"tests": ["assert double(2) == 4"]},
    "length": {"max_words": 3},
}
RIGHT = {
    "answer": r"so it is \boxed{18}",
    "exact": "eighteen  ducks\n",
    "choice": "The answer is (B).",
    "json-schema": '```json\n{"city": "Ulm"}\n```',
    "format": "<think>hm</think>\n<answer>18</answer>",
    "constraints": "no comma here",
    "tests": "```python\ndef double(n):\n    return 2 * n\n```",
    "length": "three words only",
}
WRONG = {
    "answer": "it is 17",
    "exact": "eighteen",
    "choice": "A",
    "json-schema": '{"city": 5}',
    "format": "<answer>18</answer>",
    "constraints": "one, two",
    "tests": "```python\ndef double(n):\n    return n\n```",
    "length": "these are four words",
}


def answer(text: str, truth=None) -> Completion:
    return Completion(messages="q", response=text, ground_truth=truth)


def opened(name: str, **settings) -> BuiltInRule:
    return built_in_rule(name, settings, run_code="unsandboxed")


def value_of(rule: BuiltInRule, text: str, truth=None) -> float:
    rewards = rule.score([answer(text, truth)])
    assert rewards.error == (None,)
    return float(rewards.value[0])


def reason_of(rule: BuiltInRule, text: str, truth=None) -> str:
    rewards = rule.score([answer(text, truth)])
    assert np.isnan(rewards.value[0])
    return rewards.error[0]


@pytest.mark.parametrize("name", BUILT_IN_RULES)
def test_right_is_1_wrong_is_0_and_without_a_ground_truth_there_is_no_reward(name):
    truth = TRUTHS[name]
    items = [answer(RIGHT[name], truth), answer(WRONG[name], truth), answer("", truth), answer(RIGHT[name])]
    rewards = opened(name).score(items)
    empty = 1.0 if name == "length" else 0.0  # no words are at most three
    np.testing.assert_array_equal(rewards.value, [1, 0, empty, np.nan])
    assert rewards.error[3] is not None
    rendered = opened(name).score([Completion(text="q a", ground_truth=truth)])
    assert "does not say where its answer begins" in rendered.error[0]


@pytest.mark.parametrize("law", scorer_laws(opened("answer"), [answer(t, TRUTHS["answer"]) for t in ("18", "17", "")]), ids=str)
def test_a_rule_in_other_processes_keeps(law: Law):
    assert law.check() is None


@pytest.mark.parametrize("name", [name for name in BUILT_IN_RULES if name != "answer"])
def test_every_other_rule_keeps_all_laws(name):
    items = [answer(RIGHT[name], TRUTHS[name]), answer(WRONG[name], TRUTHS[name]), answer(RIGHT[name])]
    for law in scorer_laws(opened(name), items):
        law.check()
    assert reads_ground_truth(opened(name))
    assert isinstance(opened(name), ThreadSafe)


@pytest.mark.parametrize(
    ("text", "gold", "value"),
    [
        ("The answer is 18 dollars.", "18", 1),
        ("A: 18", "She makes 9 * 2 = $<<9*2=18>>18.\n#### 18", 1),
        (r"\boxed{\frac{1}{2}}", "0.5", 1),
        (r"\boxed{17} no, \boxed{18}", "18", 1),
        ("The answer is 17. No, the answer is 18.", "18", 1),
        (r"\boxed{18} no, \boxed{17}", "18", 0),
        ("<think>18</think> It is 17", "18", 0),
        ("<think>it is 18", "18", 0),
        ("1,234", "1234", 1),
        ("x+1", "1+x", 1),
        (r"\boxed{blue}", "18", 0),
        ("I cannot say.", "18", 0),
        ("18", ["17", "18"], 1),
        ("18", 18, 1),
        ("18.0", 18.0, 1),
    ],
)
def test_mathematical_answers(text, gold, value):
    assert value_of(opened("answer"), text, {"answer": gold}) == value


@pytest.mark.parametrize(
    ("text", "gold", "value"),
    [
        ("10%", "10", 1),
        ("10", "10%", 1),
        ("0.1", "10%", 1),
        ("(1,2)", "{1,2}", 1),
        ("0.333", "1/3", 0),
        ("0.333333333", "1/3", 1),
        ("x=3", "3", 1),
        ("3", "x=3", 1),
        ("18 dollars", "18 euros", 1),
    ],
)
def test_math_verify_is_this_lenient(text, gold, value):
    """Properties of math-verify 0.9 that a reward inherits, on docs/rules.md too: units do not count, a percentage is either."""
    assert value_of(opened("answer"), text, {"answer": gold}) == value


@pytest.mark.slow
@pytest.mark.skipif(not GSM8K.is_file(), reason="the data are not here")
def test_answers_agree_with_all_labels_of_gsm8k():
    items, labels = [], []
    with gzip.open(GSM8K, "rt", encoding="utf-8") as file:
        for row in map(json.loads, file):
            solutions = [cell for cell in row.values() if isinstance(cell, dict)]
            items += [answer(cell["solution"], {"answer": row["ground_truth"]}) for cell in solutions]
            labels += [float(cell["is_correct"]) for cell in solutions]
    assert len(labels) == 2636
    np.testing.assert_array_equal(opened("answer").score(items).value, labels)


@pytest.mark.parametrize(
    ("name", "truth", "reason"),
    [
        ("answer", {"answer": "blue"}, "the ground truth 'blue' is no mathematical expression"),
        ("answer", {"tests": "x"}, "the ground truth has no answer"),
        ("answer", {"answer": True}, "the ground truth has the answer True"),
        ("answer", {"answer": " "}, "the ground truth has the answer ' '"),
        ("exact", {"answer": []}, "the ground truth has no answer"),
        ("choice", {"answer": "the second"}, "is no letter of a choice"),
        ("json-schema", {"schema": {"type": "objekt"}}, "the schema is not valid"),
        ("json-schema", {"schema": {"$ref": "http://localhost/x"}}, "which it does not hold"),
        ("json-schema", {}, "the ground truth has no schema"),
        ("format", {"pattern": "("}, "cannot be compiled"),
        ("format", {}, "there is no pattern and there are no tags"),
        ("constraints", {"instruction_id_list": ["no:such"], "kwargs": [{}]}, "none of IFEval's 25 kinds"),
        ("constraints", {"instruction_id_list": ["keywords:existence"], "kwargs": [{}]}, "needs 'keywords'"),
        ("constraints", {"instruction_id_list": ["punctuation:no_comma"], "kwargs": []}, "1 instructions, and kwargs for 0"),
        ("constraints", {"instruction_id_list": "punctuation:no_comma"}, "has no instruction_id_list"),
        ("tests", {"tests": []}, "the tests are"),
        ("tests", {"tests": ["assert f("]}, "is no Python"),
        ("tests", {"inputs": ["1"], "outputs": []}, "as many outputs"),
        ("length", {"max_words": "many"}, "the limit max_words is 'many'"),
    ],
)
def test_a_ground_truth_that_cannot_be_read_is_no_reward_and_never_0(name, truth, reason):
    assert reason in reason_of(opened(name), RIGHT[name], truth)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("B", 1), ("b", 1), ("(B)", 1), ("**B**", 1), ("B) a dog", 1), ("B. a dog", 1), ("The answer is B because it barks", 1),
        ("Answer: B", 1), (r"\boxed{B}", 1), (r"\boxed{\text{B}}", 1), ("<answer>B</answer>", 1), ("Option B fits", 1),
        ("<think>The answer is A</think>\nB", 1), ("The answer is A. No, the answer is B.", 1), ("The answer is C", 0),
        ("A dog barks", 0), ("The answer is a dog", 0), ("Both A and B", 0), ("I think so", 0), ("", 0), ("<think>B", 0),
    ],
)  # fmt: skip
def test_choices(text, value):
    assert value_of(opened("choice"), text, {"answer": "B"}) == value


def test_exact_text_has_settings():
    truth = {"answer": "Yes"}
    assert value_of(opened("exact"), "yes", truth) == 0
    assert value_of(opened("exact", ignore_case=True), "yes", truth) == 1
    assert value_of(opened("exact", final=True), "I think so.\nAnswer: Yes", truth) == 1
    assert value_of(opened("exact"), "I think so.\nAnswer: Yes", truth) == 0


@pytest.mark.parametrize("text", ["NaN", "[" * 100_000, '{"a": 1', "```json\n1\n```\n```json\n2\n```", "it is {}"])
def test_what_is_no_json_is_wrong(text):
    assert value_of(opened("json-schema", schema={}), text) == 0


def test_lengths_may_fade():
    rule = opened("length", max_words=4, fade=0.5)
    assert [value_of(rule, " ".join(["w"] * n)) for n in (3, 4, 5, 6, 7)] == [1, 1, 0.5, 0, 0]
    both = opened("length", min_characters=2, max_characters=3)
    assert [value_of(both, "x" * n) for n in (1, 2, 3, 4)] == [0, 1, 1, 0]
    assert value_of(both, "xxxx", {"max_characters": 9}) == 1, "the ground truth's limit comes first"


def test_a_share_of_the_constraints_may_count():
    kinds = {"instruction_id_list": ["punctuation:no_comma", "startend:quotation"], "kwargs": [{}, None]}
    truth = {**kinds, "kwargs": [{}, {}]}
    assert value_of(opened("constraints"), "no comma", truth) == 0
    assert value_of(opened("constraints", reward="share"), "no comma", truth) == 0.5
    assert "give a mapping" in reason_of(opened("constraints"), "no comma", kinds)


def test_a_regex_that_never_ends_is_no_reward_and_holds_nobody_up():
    rule = opened("format", pattern="(a+)+$", seconds=0.3)
    rewards = rule.score([answer("a" * 40 + "!"), answer("aaa"), answer("b")])
    np.testing.assert_array_equal(rewards.value, [np.nan, 1, 0])
    assert rewards.error[0] == "the check took longer than 0.3 s, and was ended"


def test_rules_work_outside_of_the_main_thread():
    """math-verify's own timeout is a signal, which raises there."""
    found: list[float] = []
    thread = threading.Thread(target=lambda: found.append(value_of(opened("answer"), "18", {"answer": "18"})))
    thread.start()
    thread.join()
    assert found == [1.0]


@pytest.mark.parametrize(
    ("spec", "name", "settings"),
    [
        ("rule:answer", "answer", {}),
        ("rule:length?max_words=120&fade=0.5", "length", {"max_words": 120.0, "fade": 0.5}),
        ("rule:format?tags=think,answer", "format", {"tags": ["think", "answer"]}),
        ("rule:format?pattern=^a+b:c$&whole=true", "format", {"pattern": "^a+b:c$", "whole": True}),
        ('rule:json-schema?schema={"type":"object"}', "json-schema", {"schema": {"type": "object"}}),
        ("rule:exact?ignore_case=true", "exact", {"ignore_case": True}),
    ],
)
def test_a_rule_is_opened_by_one_spelling(spec, name, settings):
    rule = load(spec)
    assert isinstance(rule, BuiltInRule)
    assert (rule.name, rule.settings) == (name, settings)
    assert open_scorer(spec).scorer == rule
    assert open_scorer(spec).name.startswith(name)
    assert len(open_scorer(spec).provenance.trained_on) == 0


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("rule:answr", "or rule:NAME for a built-in one: answer, exact"),
        ("rule:length?max_word=3", "rule:length has no setting 'max_word' .it has min_words"),
        ("rule:length?max_words=many", "max_words is 'many': give a number"),
        ("rule:length?max_words", "settings are written as in rule:length"),
        ("rule:length?fade=-1", "give a number that is not negative"),
        ("rule:constraints?reward=some", "give all or share"),
        ("rule:exact?final=yes", "give true or false"),
        ("rule:tests", "rule:tests runs code that a model wrote: allow it with --run-code"),
    ],
)
def test_mistakes_name_the_value_and_the_fix(spec, said):
    with pytest.raises(ValueError, match=said):
        load(spec)


def test_the_fingerprint_is_of_the_rule_and_its_settings_and_rewards_may_be_cached(tmp_path):
    rules = [load(spec) for spec in ("rule:length?max_words=3", "rule:length?max_words=4", "rule:exact", "rule:choice")]
    assert len({rule.fingerprint for rule in rules}) == 4
    assert load("rule:length?max_words=3").fingerprint == rules[0].fingerprint
    cached = Cached(rules[2], tmp_path / "cache.sqlite")
    items = [answer("a", {"answer": "a"}), answer("a", {"answer": "b"}), answer("a")]
    for _ in range(2):
        np.testing.assert_array_equal(cached.score(items).value, [1, 0, np.nan])
    assert cached.num_hits == 2


def test_a_rule_goes_through_an_evaluation_and_the_truth_through_files(tmp_path):
    pairs = [PreferencePair(prompt=f"q{i}", chosen=f"{i}", rejected=f"{i + 1}", ground_truth={"answer": str(i)}) for i in range(12)]
    write_pairs(tmp_path / "pairs.jsonl", pairs)
    result = evaluate(load("rule:answer"), list(read_pairs(tmp_path / "pairs.jsonl")), title="t", slices=False)
    assert result.report().metric("accuracy").value == 1.0
