"""Roll-outs give the labels that known continuations give by hand; what is unknown is never wrong; nothing is paid for twice."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from assay.bulk.label_steps import (
    CUT,
    DISAGREE,
    Rollouts,
    StepLabels,
    beginnings,
    consensus,
    continued,
    label_by_judge,
    label_by_rollouts,
    relabelled,
    rollout_asks,
)
from assay.cli import main
from assay.commands.data.label_steps import Config
from assay.data.steps.labelled_steps import LabelledSteps
from assay.data.steps.step_rows import read_labelled_steps, write_labelled_steps
from assay.generation.generator import Generator
from assay.generation.ledger import Ledger
from assay.generation.prices import Price
from assay.generation.replies import Ask, Desk, Features, Reply
from assay.messages import Message
from assay.records import Completion, Rewards
from fake_chat import fake_chat, said

STEPS = ("3 * 4 = 12.\n", "2 + 12 = 15.\n", "Answer: 15")


def solution(steps=STEPS, answer="14", number=0, right=None) -> LabelledSteps:
    return LabelledSteps(
        completion=Completion(messages=f"Task {number}: 2 + 3 * 4?", steps=steps, ground_truth={"answer": answer}, id=str(number)),
        right=right or (None,) * len(steps),
        id=str(number),
    )


class Policy:
    """Goes on as `texts` says: (last line of what it is shown, number of the sample) -> the continuation."""

    model, identity, is_thread_safe, repeats = "made-up", "made-up", True, True

    def __init__(self, texts, price: Price | None = None) -> None:
        self.texts, self.price, self.asked = texts, price, []

    def probe(self):
        return Features(False, False, False), Reply("yes")

    def use(self, features: Features) -> None:
        pass

    def run(self, asks: list[Ask], desk: Desk) -> None:
        for i, ask in enumerate(asks):
            if (why := desk.may_send(i)) is not None:
                desk.unsent(i, why)
                continue
            key = ask.messages[-1].content.rpartition("\n")[2], ask.sample
            self.asked.append(key)
            given = self.texts(*key)
            reply = given if isinstance(given, Reply) else Reply(given, "stop", 10, 5)
            while desk.settle(i, reply, 1.0) is not None:
                pass


class Exact:
    """The verifier: what stands behind "Answer:"; NaN for "?"."""

    fingerprint, scope, tolerance, reads_ground_truth = "exact", "global", 0.0, True

    def score(self, completions):
        found = [one.response.rpartition("Answer: ")[2].strip() for one in completions]
        values = [
            math.nan if said == "?" else float(said == c.ground_truth["answer"]) for said, c in zip(found, completions, strict=True)
        ]
        return Rewards(value=np.array(values, np.float32), error=tuple("cannot tell" if math.isnan(v) else None for v in values))


def table(first: list[str], second: list[str]):
    """Continuations behind step 1 and behind step 2, by sample."""
    return lambda line, sample: {"3 * 4 = 12.": first, "2 + 12 = 15.": second}[line][sample]


A, B, UNKNOWN = "Answer: 14", "So it is.\nAnswer: 15", "Answer: ?"


def test_hard_labels_stop_at_the_first_roll_out_that_is_right():
    policy = Policy(table([B, A, A, A], [B, B, B, B]))
    found = label_by_rollouts(Generator(policy), Exact(), [solution()], Rollouts(n=4))
    assert found.right == ((1.0, 0.0, 0.0),)
    assert found.outcomes == (0.0,)
    assert Counter(line for line, _ in policy.asked) == {"3 * 4 = 12.": 2, "2 + 12 = 15.": 4}
    assert (found.num_rollouts, found.num_saved) == (6, 2)
    assert "3 steps: 1 right, 2 wrong, 0 unknown; 6 roll-outs, 2 spared" in found.summary()


def test_soft_labels_are_the_share_of_the_known():
    policy = Policy(table([A, A, B, A], [B, UNKNOWN, A, B]))
    found = label_by_rollouts(Generator(policy), Exact(), [solution()], Rollouts(n=4, target="soft"))
    assert found.right == ((0.75, pytest.approx(1 / 3), 0.0),)
    assert found.num_rollouts == 8
    assert found.reasons == {"cannot tell": 1}


def test_a_step_is_wrong_only_when_all_of_its_roll_outs_are_known_to_be():
    cut = Reply("Answer: 15", "length", 10, 5)
    down = Reply(None, error="the server is down")
    policy = Policy(table([B, UNKNOWN, A], [B, cut, down]))
    found = label_by_rollouts(Generator(policy), Exact(), [solution()], Rollouts(n=3))
    assert found.right == ((1.0, None, 0.0),)
    assert found.reasons == {"cannot tell": 1, CUT: 1, "the server is down": 1}
    nothing = label_by_rollouts(Generator(Policy(table([UNKNOWN], [cut]))), Exact(), [solution(answer="?")], Rollouts(n=1))
    assert nothing.right == ((None, None, 0.0),)


def test_a_verifier_that_cannot_tell_leaves_the_last_step_and_the_outcome_unknown():
    steps = (*STEPS[:2], "Answer: ?")
    found = label_by_rollouts(Generator(Policy(table([A], [B]))), Exact(), [solution(steps)], Rollouts(n=1))
    assert found.right == ((1.0, 0.0, None),)
    assert found.outcomes == (None,)
    kept = relabelled([solution(steps)], found, source="made", by="me")[0]
    assert (kept.right, kept.outcome, kept.tags["labelled"], kept.source) == ((1.0, 0.0, None), None, "me", "made")


def test_up_to_the_error_nothing_behind_it_is_rolled_out():
    policy = Policy(table([B, B], [A, A]))
    found = label_by_rollouts(Generator(policy), Exact(), [solution(), solution(number=1)], Rollouts(n=2, until_error=True))
    assert found.right == ((0.0, None, None),) * 2
    assert {line for line, _ in policy.asked} == {"3 * 4 = 12."}
    assert (found.num_rollouts, found.num_saved) == (4, 4)
    right = label_by_rollouts(Generator(Policy(table([A], [A]))), Exact(), [solution()], Rollouts(n=1, until_error=True))
    assert right.right == ((1.0, 1.0, 0.0),)


def test_the_continuation_stands_behind_the_beginning_on_a_line_of_its_own():
    seen = []

    class Looks(Exact):
        def score(self, completions):
            seen.extend(one.response for one in completions)
            return super().score(completions)

    steps = ("a", " b\n", "Answer: 1")
    label_by_rollouts(Generator(Policy(lambda line, sample: "c Answer: 14")), Looks(), [solution(steps)], Rollouts(n=1))
    assert seen[1:] == ["a\nc Answer: 14", "a b\nc Answer: 14"]
    asked = continued((Message("system", "Be short."), Message("user", "2 + 2?")), "It is\n")
    assert (asked[0], asked[1].role) == (Message("system", "Be short."), "user")
    assert asked[1].content.startswith("2 + 2?\n\n")
    assert asked[1].content.endswith("\n\nIt is")
    assert [turn.role for turn in continued((Message("system", "s"),), "x")] == ["system", "user"]


def test_a_run_that_was_killed_pays_for_no_roll_out_twice(tmp_path):
    solutions = [solution(number=i) for i in range(4)]
    rollouts = Rollouts(n=4)
    whole = Policy(table([B, A, A, A], [B, B, B, B]))
    expected = label_by_rollouts(Generator(whole), Exact(), solutions, rollouts)
    assert len(whole.asked) == 24

    class Killed(Exception):
        pass

    def dies(line, sample):
        if len(dying.asked) > 10:
            raise Killed
        return whole.texts(line, sample)

    dying = Policy(dies)
    with pytest.raises(Killed):
        label_by_rollouts(Generator(dying, ledger=Ledger(tmp_path / "ledger.sqlite")), Exact(), solutions, rollouts)
    again = Policy(whole.texts)
    ledger = Ledger(tmp_path / "ledger.sqlite")
    found = label_by_rollouts(Generator(again, ledger=ledger), Exact(), solutions, rollouts)
    assert found == expected
    assert len(again.asked) == 24 - 10
    assert (ledger.bill().num_calls, ledger.bill().input_tokens) == (24, 240)


def test_the_estimate_is_of_all_roll_outs():
    solutions = [solution(), solution(("Answer: 14",), number=1)]
    asks = rollout_asks(solutions, Rollouts(n=4, max_tokens=100))
    assert len(asks) == 8
    estimate = Generator(Policy(table([], []), Price(1.0, 10.0))).estimate(asks)
    assert estimate.max_output_tokens == 800
    assert estimate.price > 800 * 10.0 / 1e6


class Judge:
    """Says of each beginning what it is told of its last line."""

    fingerprint, scope, tolerance = "judge", "global", 0.0

    def __init__(self, said: dict[str, float]) -> None:
        self.said = said

    def score(self, completions):
        values = np.array([self.said[one.response.rpartition("\n")[2]] for one in completions], np.float32)
        return Rewards(value=values, error=tuple("no verdict" if np.isnan(v) else None for v in values))


def test_a_judge_labels_each_beginning_by_its_last_step():
    assert [one.response for one in beginnings([solution()])] == [
        "3 * 4 = 12.", "3 * 4 = 12.\n2 + 12 = 15.", "3 * 4 = 12.\n2 + 12 = 15.\nAnswer: 15",
    ]  # fmt: skip
    judge = Judge({"3 * 4 = 12.": 0.5, "2 + 12 = 15.": 0.4, "Answer: 15": math.nan})
    found = label_by_judge(judge, [solution(), solution(number=1)])
    assert found.right == ((1.0, 0.0, None),) * 2
    assert found.reasons == {"no verdict": 2}


def test_consensus_keeps_what_both_say_and_counts_where_they_differ():
    rolled = StepLabels(right=((1.0, 0.25, 0.75, None, 0.0),), outcomes=(0.0,), reasons=Counter({CUT: 2}), num_rollouts=9)
    judged = StepLabels(right=((1.0, 0.0, 0.0, 1.0, None),), outcomes=(None,), reasons=Counter({"no verdict": 1}))
    both = consensus(rolled, judged)
    assert both.right == ((1.0, 0.0, None, None, None),)
    assert both.reasons == {CUT: 2, "no verdict": 1, DISAGREE: 1}
    assert (both.outcomes, both.num_rollouts) == ((0.0,), 9)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n": 0}, "n 0 must be at least 1"),
        ({"temperature": 0.0}, "roll-outs of a step are one"),
        ({"target": "loud"}, "must be hard or soft"),
        ({"target": "soft", "until_error": True}, "goes with hard labels"),
    ],
)
def test_settings_that_make_no_labels_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Rollouts(**settings)


# The command.


def goes_on(request):
    """The policy of the command's tests: right behind a first step, wrong behind a second."""
    return said("Answer: 14" if request.text.endswith("3 * 4 = 12.") else "Answer: 15")


def test_the_command_labels_a_file_and_a_second_run_costs_nothing(tmp_path, capsys):
    rows = [{"prompt": f"{i}: 2 + 3 * 4?", "response": "".join(STEPS), "ground_truth": {"answer": "14"}} for i in range(3)]
    source, out = tmp_path / "answers.jsonl", tmp_path / "steps.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"prompt": "q", "response": " "}]))
    with fake_chat(goes_on) as chat:
        words = ["data", "label-steps", str(source), "--out", str(out), "--policy", "m", "--policy-url", chat.url, "--n", "2"]
        words += ["--verifier", "rule:exact?final=true"]
        assert main([*words, "--dry-run"]) == 0
        assert not chat.requests
        assert main(words) == 0
        assert len(chat.requests) == 3 * (1 + 2)
        first = out.read_bytes()
        assert main(words) == 0
        assert len(chat.requests) == 9
    assert out.read_bytes() == first
    labelled = list(read_labelled_steps(out, strict=True))
    assert [(one.right, one.outcome) for one in labelled] == [((1, 0, 0), 0)] * 3
    assert labelled[0].completion.steps == STEPS
    said_of_it = capsys.readouterr().err
    assert "4 rows -> 3 solutions, cut by lines; set aside: 1 there is no text that could be cut into steps" in said_of_it
    assert "12 calls to make" in said_of_it
    content = json.loads((tmp_path / "steps.jsonl.labels.json").read_text())
    assert (content["steps with a label"], content["calls"], content["tokens read"], content["tokens written"]) == (9, 9, 90, 18)
    assert (content["roll-outs"], content["roll-outs spared"]) == (9, 3)


def test_consensus_by_the_command_compares_with_the_labels_that_were_there(tmp_path, capsys):
    source, out = tmp_path / "given.jsonl", tmp_path / "steps.jsonl"
    write_labelled_steps(source, [solution(right=(1, 0, None))])

    def answers(request):
        if "The answer to grade:" not in request.text:
            return goes_on(request)
        is_first = "= 15." not in request.text  # the beginning that ends with the first step
        return said("Verdict: yes" if is_first else "Verdict: no")

    with fake_chat(answers) as chat:
        words = ["--policy", "m", "--policy-url", chat.url, "--n", "2", "--verifier", "rule:exact?final=true"]
        words += ["--judge", "last-step", "--judge-model", "m", "--judge-url", chat.url, "--judge-reading", "text"]
        assert main(["data", "label-steps", str(source), "--out", str(out), *words]) == 0
    (found,) = read_labelled_steps(out)
    assert (found.right, found.outcome) == ((1, 0, 0), 0)
    content = json.loads((tmp_path / "steps.jsonl.labels.json").read_text())
    assert content["agreement with labels that were there"] == {"same": 2, "both known": 2}
    assert "2 of 2 labels are those that the file had" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({}, "give --policy for roll-outs, --judge, or both"),
        ({"judge": "last-step", "out": Path("x.csv")}, "written as .jsonl"),
        ({"judge": "last-step", "limit": 0}, "must be at least 1"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(flags, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Config(**{"solutions": "in.jsonl", "out": Path("out.jsonl")} | flags)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--policy", "m", "--policy-key-env", "KEY"], "--policy-key-env KEY goes with --policy-url"),
        (["--judge", "last-step", "--policy-budget", "1"], "--policy-budget are of --policy, which names no language model"),
    ],
)
def test_flags_of_a_policy_need_what_they_are_of(words, message, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["data", "label-steps", "in.jsonl", "--out", "out.jsonl", *words])
    assert ended.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_any_scorer_of_0_to_1_is_a_judge_without_the_flags_of_one(tmp_path, capsys):
    source, out = tmp_path / "given.jsonl", tmp_path / "steps.jsonl"
    write_labelled_steps(source, [solution(right=(1, 0, None))])
    words = ["data", "label-steps", str(source), "--out", str(out), "--judge", "rule:length?max_words=4"]
    assert main([*words, "--judge-model", "m"]) == 2
    assert "is no rubric" in capsys.readouterr().err
    assert main(words) == 0
    assert [one.right for one in read_labelled_steps(out)] == [(1, 0, 0)]
