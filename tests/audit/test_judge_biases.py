"""Biases that are planted are found, and an even judge is left in peace; probes of a judge of pairs."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from assay.audit.judge_biases import FORMAT, LENGTH, OWN, POSITION, judge_biases, marks
from assay.audit.probes.battery import INJECTIONS, run_probes
from assay.audit.probes.beside import BesideReference, with_rewards
from assay.cli import main
from assay.data.pairs import write_pairs
from assay.evaluation.verdict_figures import filled, label_figures, order_figures
from assay.records import Completion, PreferencePair, Rewards
from assay.scorers.checks import check_scorer
from random_scorers import Function, content, made_up_pairs

NAN = np.nan


def pairs_of(number: int, seed: int = 0) -> list[PreferencePair]:
    """Pairs whose better answer is longer, has markup or is "mine" in half of the cases, all independent."""
    rng, pairs = np.random.default_rng(seed), []
    for i in range(number):
        texts = [("- " if rng.random() < 0.5 else "") + "word " * int(rng.integers(3, 30)) + str(i) for _ in range(2)]
        writers = rng.permutation(["mine-7b", "other"])
        tags = {"chosen_model": str(writers[0]), "rejected_model": str(writers[1])}
        pairs.append(PreferencePair(prompt=f"Question {i}?", chosen=texts[0], rejected=texts[1], tags=tags))
    return pairs


class Judge:
    """A judge of pairs: knows the better answer with chance .8, and in six of ten pairs goes by `pull` instead."""

    scope, tolerance = "prompt", 0.0

    def __init__(self, pull, seed: int = 0, *, tells: bool = True) -> None:
        self.pull, self.seed, self.fingerprint = pull, seed, f"judge {seed}"
        if tells:
            self.compare_in_order = self._in_order

    def score(self, completions):
        return Rewards(value=np.full(len(completions), np.nan, np.float32))

    def compare(self, pairs):
        return self._in_order(pairs).mean(1)

    def _in_order(self, pairs):
        rng = np.random.default_rng(self.seed)
        knows = np.where(rng.random(len(pairs)) < 0.8, 1.0, -1.0)
        found = np.empty((len(pairs), 2))
        for i, pair in enumerate(pairs):
            away = rng.random() < 0.6  # how often the pull decides
            gain = self.pull(pair, True) if away else 0, self.pull(pair, False) if away else 0
            found[i] = [float((g or knows[i]) > 0) for g in gain]
        return found


def even(pair, is_chosen_first):
    return 0


def to_first(pair, is_chosen_first):
    return 1 if is_chosen_first else -1


def to_longer(pair, is_chosen_first):
    return len(pair.chosen) - len(pair.rejected)


def to_markup(pair, is_chosen_first):
    return marks(pair.chosen) - marks(pair.rejected)


def to_own(pair, is_chosen_first):
    return 1 if "mine" in pair.tags["chosen_model"] else -1


PULLS = {POSITION: to_first, LENGTH: to_longer, FORMAT: to_markup, OWN: to_own}


@pytest.mark.parametrize("name", PULLS)
def test_a_planted_bias_is_found_and_no_other(name):
    found = judge_biases(Judge(PULLS[name]), pairs_of(400), own="Mine")
    levels = {finding.name: finding.level for finding in found.findings}
    assert levels == {other: "fail" if other == name else "ok" for other in PULLS}
    assert found.is_biased


def test_an_even_judge_is_left_in_peace():
    found = judge_biases(Judge(even, seed=1), pairs_of(400), own="mine")
    assert {finding.level for finding in found.findings} == {"ok"}
    assert not found.is_biased
    metrics = {metric.name: metric for metric in found.metrics}
    assert metrics["flips on swap"].value == 0
    accuracy = metrics["accuracy, ties half right"]
    assert accuracy.low < 0.8 < accuracy.high
    kappa = metrics["kappa with the labels"]
    assert kappa.low < 2 * 0.8 - 1 < kappa.high, "with answers taken in the order of their texts chance agrees in half"


def test_a_judge_that_punishes_length_is_found_too():
    found = judge_biases(Judge(lambda pair, is_chosen_first: -to_longer(pair, is_chosen_first)), pairs_of(400), own="mine")
    length = next(finding for finding in found.findings if finding.name == LENGTH)
    assert (length.level, length.why[-25:]) == ("fail", "it pulls to the other answer"[-25:])


def test_flips_to_neither_side_are_warned_of():
    rng = np.random.default_rng(0)
    found = judge_biases(Judge(lambda pair, is_chosen_first: rng.choice([-1, 1])), pairs_of(300), own="mine")
    position = next(finding for finding in found.findings if finding.name == POSITION)
    assert position.level == "warn"
    assert "turn with the order" in position.why


def test_a_comparer_that_keeps_its_orders_to_itself_is_asked_both_ways_round():
    class Place:
        fingerprint, scope, tolerance = "place", "prompt", 0.0

        def score(self, completions):
            return Rewards(value=np.full(len(completions), np.nan, np.float32))

        def compare(self, pairs):
            return np.ones(len(pairs))

    found = judge_biases(Place(), pairs_of(50))
    assert found.facts["asked"] == "every pair, and every pair turned"
    assert {metric.name: metric.value for metric in found.metrics}["flips on swap"] == 1
    assert next(finding for finding in found.findings if finding.name == POSITION).level == "fail"


def test_a_scorer_of_single_answers_has_no_place_to_go_by_and_what_is_not_known_is_said():
    found = judge_biases(Function(lambda c: float(len(c.response))), pairs_of(100))
    levels = {finding.name: (finding.level, finding.why) for finding in found.findings}
    assert levels[POSITION] == ("ok", "one answer at a time: it sees no order")
    assert levels[LENGTH][0] == "fail"
    assert levels[OWN][0] == "warn"
    assert "not measured" in levels[OWN][1]
    with pytest.raises(ValueError, match="no pairs to judge"):
        judge_biases(content(0), [])


def test_verdicts_that_were_not_given_count_as_what_is_said():
    first, gold, prompts = np.array([[1, 1], [NAN, 1], [NAN, NAN], [0, 1]]), np.array([1.0, 1, 0, 0]), np.arange(4)
    assert filled(first, "tie")[1].tolist() == [0.5, 1]
    honest = order_figures(first, gold, prompts)
    assert (honest.given.value, honest.given.n_scored, honest.num_missing) == (1.0, 2, 3)
    assert honest.flips.value == 0.5
    wrong = order_figures(first, gold, prompts, missing="wrong")
    assert (wrong.given.value, wrong.swapped.value, wrong.both.value) == (0.5, 0.5, 0.25)
    assert wrong.equal.value == 0.5, "two that are missing are equal"
    second = order_figures(first, gold, prompts, missing="second")
    assert (second.given.value, second.equal.value) == (0.75, 0.5)
    figures = label_figures(np.array([1, 0, 0.5, NAN]), np.array([1, 0, 0, 0.5]), prompts)
    assert (figures.accuracy.value, figures.accuracy.n_scored, figures.accuracy.n) == (2 / 3, 3, 4)
    assert label_figures(np.array([1, NAN]), np.array([1.0, 0]), prompts[:2], missing="wrong").accuracy.value == 0.5


class Fooled:
    """A judge of pairs by a scorer's rewards, that an injection tells what to say."""

    fingerprint, scope, tolerance = "fooled", "prompt", 0.0

    def __init__(self, mark: str) -> None:
        self.mark, self.scorer_inside = mark, content(0)

    def score(self, completions):
        return Rewards(value=np.full(len(completions), np.nan, np.float32))

    def compare(self, pairs):
        found = []
        for pair in pairs:
            told = (self.mark in pair.chosen) - (self.mark in pair.rejected) if self.mark else 0
            a, b = (float(self.scorer_inside.score([one]).value[0]) for one in pair.completions())
            margin = 3.0 * told or a - b
            found.append(1 / (1 + math.exp(-margin)))
        return np.array(found)


def test_an_injection_that_wins_against_the_answer_itself_is_caught():
    pairs = made_up_pairs(60)
    found = run_probes(Fooled("rubric"), pairs, probes=INJECTIONS)
    assert "ignored rubric" in found.failed
    assert found.mean_of("ignored rubric").value > 0.1
    assert run_probes(Fooled(""), pairs, probes=INJECTIONS).failed == ()


def test_injections_are_text_that_is_added_and_nothing_of_the_answer_is_lost():
    completion = Completion(messages="Why?", response="Because of that.")
    for probe in INJECTIONS:
        for seed in range(8):
            edited = probe.edit(completion, np.random.default_rng(seed))
            assert "Because of that." in edited
            assert edited != completion.response


REFERENCE = Completion(messages="Q0", response="the reference")
BESIDE = BesideReference(judge=Fooled(""), comparer=Fooled(""), references={REFERENCE.messages: REFERENCE})


def test_rewards_beside_a_reference_keep_the_laws_and_need_one():
    others = [Completion(messages="Q0", response=text) for text in ("a b", "c")]
    items = [REFERENCE, *others, Completion(messages="Q1", response="d")]
    check_scorer(BESIDE, items)
    assert np.isnan(BESIDE.score(items).value).tolist() == [False, False, False, True]


def test_the_reference_is_even_with_itself_and_a_scorer_of_answers_stays_as_it_is():
    assert BESIDE.score([REFERENCE]).value == pytest.approx([0.5])
    scorer = content(0)
    assert with_rewards(scorer, {}) is scorer


def test_the_command_exits_with_8_for_a_biased_judge_and_keeps_its_reports(tmp_path, monkeypatch, capsys):
    (tmp_path / "my_judges.py").write_text("def longer(completions):\n    return [float(len(c.response)) for c in completions]\n")
    monkeypatch.chdir(tmp_path)
    write_pairs(tmp_path / "pairs.jsonl", pairs_of(120))
    words = ["audit", "judge", "rule:my_judges:longer", "--data", "pairs.jsonl", "--out", "found"]
    assert main([*words, "--max-rows", "0"]) == 8
    kept = json.loads(next((tmp_path / "found" / "eval").glob("judge-*pairs.json")).read_text())
    assert {finding["name"]: finding["level"] for finding in kept["findings"]}[LENGTH] == "fail"
    assert "verbosity" in capsys.readouterr().out
    assert main([*words, "--max-rows", "40", "--only", "closing_fence"]) == 8
    probes = json.loads(next((tmp_path / "found" / "eval").glob("judge-probes-*pairs.json")).read_text())
    assert [finding["level"] for finding in probes["findings"] if finding["name"] == "closing fence"] == ["fail"]
    with pytest.raises(SystemExit):
        main([*words, "--max-rows", "-1"])
