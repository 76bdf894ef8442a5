"""From prompts to labelled pairs: what is written, what is counted, and what a run that goes on pays."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from assay.bulk.label import CUT, INCONSISTENT, SAME, TIED, Draws, judged, label, pairs_to_judge
from assay.cli import main
from assay.commands.data.label import Config, run
from assay.data.pairs import read_pairs
from assay.data.prompt_rows import Prompt, read_prompts
from assay.generation.generator import Generator
from assay.generation.policy import Policy
from assay.generation.replies import Ask, Desk, Features, Reply
from assay.messages import as_messages
from assay.records import Completion, PreferencePair, Rewards
from assay.scorers.judges.options import JudgeOptions
from assay.scorers.judges.pairwise import Comparison
from fake_chat import Request, fake_chat, said

POLICY = Policy(policy="m")
PROMPTS = [Prompt(messages=as_messages(f"Question {i}?"), id=str(i)) for i in range(3)]


class Backend:
    """A policy that answers by a function of the ask."""

    model, identity, price, is_thread_safe, repeats = "made-up", "made-up", None, True, True

    def __init__(self, answer) -> None:
        self.answer = answer

    def probe(self) -> tuple[Features, Reply]:
        return Features(False, False, False), Reply("yes")

    def run(self, asks: list[Ask], desk: Desk) -> None:
        for i, ask in enumerate(asks):
            while desk.settle(i, self.answer(ask), 1.0) is not None:
                pass


class Longer:
    """A judge of pairs that prefers the longer answer; of answers that differ by one letter it says what its place says."""

    fingerprint, scope, tolerance = "longer", "prompt", 0.0

    def score(self, completions):
        return Rewards(value=np.full(len(completions), np.nan, np.float32))

    def comparisons(self, pairs):
        return [self.of(len(first.response), len(second.response)) for first, second in pairs]

    def of(self, first: int, second: int) -> Comparison:
        if abs(first - second) == 1:
            return Comparison(1.0, 0.0, 0.5, False)
        if first == second:
            return Comparison(0.5, 0.5, 0.5, True)
        if max(first, second) > 20:
            return Comparison(math.nan, math.nan, math.nan, False, "no verdict: it is too long")
        p = 0.9 if first > second else 0.1
        return Comparison(p, p - 0.05, p - 0.025, True)


def test_pairs_that_turn_with_the_order_tie_or_have_no_verdict_are_counted_and_not_written():
    texts = [["aaaaaa", "aaa", "aaaa", "aaaaaa"], ["b" * 30, "bb", "bbbb", "cccc"], ["dddd", "c", "", "cut"]]

    def answer(ask: Ask) -> Reply:
        text = texts[int(ask.shared)][ask.sample]
        return Reply(text or None, "length" if text == "cut" else "stop", error=None if text else "the server is down")

    found = label(Generator(Backend(answer)), Longer(), PROMPTS, Draws(k=4), source="made up")
    # 0: aaaaaa aaa aaaa (and once more aaaaaa); 1: b x 30, bb, bbbb, cccc; 2: dddd, c (an error and a cut one)
    assert found.num_answers == 3 + 4 + 2
    assert found.unsampled == {SAME: 1, "the server is down": 1, CUT: 1}
    assert found.num_judged == 3 + 6 + 1
    assert found.unwritten == {INCONSISTENT: 1, "no verdict: it is too long": 3, TIED: 1}
    assert [(pair.chosen, pair.rejected) for pair in found.pairs] == [
        ("aaaaaa", "aaa"),
        ("aaaaaa", "aaaa"),
        ("bbbb", "bb"),
        ("cccc", "bb"),
        ("dddd", "c"),
    ]
    first, turned = found.pairs[0], found.pairs[2]
    assert first.preference == pytest.approx(0.875)
    assert turned.preference == pytest.approx(1 - 0.075)
    assert first.margin == pytest.approx(math.log(0.875 / 0.125))
    assert first.tags == {"judge": "longer", "policy": "made-up"}
    assert (first.id, first.source) == ("0:0-1", "made up")
    assert "3 prompts, 9 answers, 10 pairs judged -> 5 written" in found.summary()


def test_a_scorer_of_single_answers_gives_margins_and_ties():
    class Length:
        fingerprint, scope, tolerance = "length", "global", 0.0

        def score(self, completions):
            return Rewards(value=[len(c.response) if c.response != "?" else np.nan for c in completions])

    pairs = [PreferencePair(prompt="q", chosen=a, rejected=b) for a, b in (("aaa", "a"), ("a", "b"), ("?", "a"))]
    plain, tie, none = judged(Length(), pairs)
    assert (plain.margin, plain.p) == (2.0, pytest.approx(1 / (1 + math.exp(-2))))
    assert (tie.why_not, none.why_not) == (TIED, "no reward")


def test_a_comparer_that_does_not_tell_orders_is_asked_both_ways_round():
    class First:
        fingerprint, scope, tolerance = "first", "prompt", 0.0

        def score(self, completions):
            return Rewards(value=np.full(len(completions), np.nan, np.float32))

        def compare(self, pairs):
            return np.full(len(pairs), 0.8)

    assert judged(First(), [PreferencePair(prompt="q", chosen="a", rejected="b")])[0].why_not == INCONSISTENT


def test_so_many_pairs_of_a_prompt_are_drawn_by_the_seed():
    answers = [[Completion(messages=one.messages, response=f"answer {i}") for i in range(5)] for one in PROMPTS]
    ids = [[pair.id for pair in pairs_to_judge(PROMPTS, answers, Draws(k=5, pairs_per_prompt=3, seed=seed))] for seed in (0, 0, 1)]
    assert ids[0] == ids[1] != ids[2]
    assert len(ids[0]) == 9
    assert len(pairs_to_judge(PROMPTS, answers, Draws(k=5))) == 30


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"k": 1}, "k 1 must be at least 2"),
        ({"temperature": 0.0}, "at 0 the 4 answers are one"),
        ({"pairs_per_prompt": 0}, "pairs_per_prompt 0 must be at least 1"),
    ],
)
def test_draws_that_give_no_pair_are_refused(fields, says):
    with pytest.raises(ValueError, match=says):
        Draws(**fields)


def test_prompts_are_read_once_each_from_the_usual_columns(tmp_path):
    rows = [
        {"prompt": "One?", "ground_truth": {"answer": "1"}},
        {"instruction": "Add.", "input": "1 and 1"},
        {"prompt": "One?"},
        {"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]},
        {"prompt": "Kept", "chosen": "not read", "rejected": "nor this"},
        {"prompt": "  "},
    ]
    file = tmp_path / "prompts.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    prompts, problems = read_prompts(file)
    assert [one.messages[-1].content for one in prompts] == ["One?", "Add.\n1 and 1", "Kept"]
    assert prompts[0].ground_truth == {"answer": "1"}
    assert {reason: count for reason, (count, _) in problems.reasons.items()} == {
        "repeated prompt": 1,
        "the conversation ends with an answer": 1,
        "not in the form prompts": 1,
    }
    assert len(read_prompts(file, limit=1)[0]) == 1


def policy(request: Request):
    seed = request.body["seed"]
    return said(f"answer {seed} to {request.body['messages'][-1]['content']}")


def judge(request: Request):
    """The larger number wins; 2 against 3 goes by the place; 0 gets no verdict."""
    numbers = [int(number) for number in re.findall(r"answer (\d) to", request.text)]
    if 0 in numbers:
        return said("I would rather not say.")
    if sorted(numbers) == [2, 3]:
        return said("Verdict: A")
    return said(f"Longer is better.\nVerdict: {'AB'[numbers[1] > numbers[0]]}")


def test_the_command_labels_counts_and_pays_nothing_twice(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("POLICY_KEY", "secret-1")
    prompts, out = tmp_path / "prompts.jsonl", tmp_path / "pairs.jsonl"
    prompts.write_text("\n".join(json.dumps({"prompt": f"question {i}?"}) for i in range(2)))
    with fake_chat(policy) as answering, fake_chat(judge) as judging:
        words = ["data", "label", str(prompts), "--out", str(out), "--policy", "writer", "--policy-url", answering.url]
        words += ["--policy-key-env", "POLICY_KEY", "--judge", "helpfulness", "--judge-model", "reader", "--judge-url", judging.url]
        words += ["--judge-reading", "text", "--k", "4"]
        assert main([*words, "--dry-run"]) == 0
        assert not answering.requests
        assert not out.exists()
        assert "8 calls to make" in capsys.readouterr().err.replace("\n", " ")
        assert main(words) == 0
        told = capsys.readouterr().err
        written, calls = out.read_bytes(), (len(answering.requests), len(judging.requests))
        out.unlink()
        assert main(words) == 0
        assert (len(answering.requests), len(judging.requests)) == calls, "all from the ledger"
        assert out.read_bytes() == written
    assert all(
        request.headers.get("authorization", request.headers.get("Authorization")) == "Bearer secret-1"
        for request in answering.requests
    )
    assert not any("secret-1" in str(request.headers) for request in judging.requests)
    pairs = list(read_pairs(out))
    assert [(p.chosen[7], p.rejected[7]) for p in pairs] == [("2", "1"), ("3", "1")] * 2
    assert {(pair.preference, pair.margin) for pair in pairs} == {(1.0, None)}
    assert all(pair.tags["judge"] and pair.tags["policy"] == "writer" for pair in pairs)
    assert json.loads(written.splitlines()[0])["price"] is None, "a server of one's own has no list price"
    kept = json.loads((tmp_path / "pairs.jsonl.label.json").read_text())
    assert (kept["pairs judged"], kept["pairs written"]) == (12, 4)
    assert kept["pairs not written"][INCONSISTENT] == 2
    assert sum(kept["pairs not written"].values()) == 8
    assert "not written" in told
    assert "pairwise, 2 calls a pair" in " ".join(told.split())
    assert "4 pairs -> " in told


def test_no_pair_is_said_clearly(tmp_path, capsys):
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "q?"}\n')
    with fake_chat(policy) as answering, fake_chat(lambda request: said("Verdict: A")) as judging:
        words = ["data", "label", str(tmp_path / "prompts.jsonl"), "--out", str(tmp_path / "pairs.jsonl"), "--policy", "writer"]
        words += ["--policy-url", answering.url, "--judge", "helpfulness", "--judge-model", "reader", "--judge-url", judging.url]
        assert main([*words, "--judge-reading", "text", "--k", "2"]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert re.search(r"written 0 pairs -> \S*pairs.jsonl, which is empty", told), told
    assert "no pair came of it" in told


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"out": Path("pairs.csv")}, "pairs are written as .jsonl"),
        ({"limit": 0}, "--limit 0 must be at least 1"),
    ],
)
def test_flags_that_cannot_be_meant_are_refused(fields, says):
    with pytest.raises(ValueError, match=says):
        Config(**{"prompts": "prompts.jsonl", "out": Path("pairs.jsonl"), "policy": POLICY, "judge": "helpfulness", **fields})


def test_a_key_goes_to_the_host_that_is_named_with_it():
    with pytest.raises(ValueError, match="goes with --policy-url"):
        Policy(policy="m", policy_key_env="KEY")


def test_the_flags_of_a_judge_go_with_a_rubric(tmp_path):
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "q"}\n')
    config = Config(
        prompts=str(tmp_path / "prompts.jsonl"),
        out=tmp_path / "pairs.jsonl",
        policy=POLICY,
        judge="rule:json:dumps",
        judging=JudgeOptions(judge_model="m"),
    )
    with pytest.raises(ValueError, match="rule:json:dumps is no rubric"):
        run(config)
