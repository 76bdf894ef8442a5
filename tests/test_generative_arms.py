"""The parts of benchmarks/generative.py that train nothing: what of a judged pair is counted, which pairs an arm sees, what a claim
asks."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from assay.recipes.worlds.relay_pairs import PairWorldSettings, relay_pairs
from assay.records import Rewards

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import generative_arms
from generative_arms import as_array, as_list, judge, kept_or_new, of_right
from generative_relay import claims, figures_of_test, joined
from generative_worlds import (
    CRITIQUE,
    DIRECT,
    HALF,
    READS,
    SCALAR,
    RelaySettings,
    control_of_seed,
    relay_of_seed,
    seen_pairs,
    write,
)

WORLD = list(relay_pairs(PairWorldSettings(pairs=12, lengths=(2,), seed=3)))
SETTINGS = RelaySettings(base="none", pairs=12, test_pairs=6, other_names=4, dev_pairs=4)


class Reader:
    """Follows the facts, writes the chain; of answers that it does not like to read it has no verdict."""

    fingerprint, scope, tolerance = "reader", "global", 0.0

    def __init__(self, unread: str = "") -> None:
        self.unread = unread

    def score(self, completions):
        values, texts = [], []
        for one in completions:
            facts, question = one.messages[0].content.split("\n")
            passed = {fact.split()[0]: fact.rstrip(".").split()[-1] for fact in facts.partition(": ")[2].split(". ")}
            words = question.split()
            holder, chain = words[2], [words[2]]
            for _ in range(int(words[-2])):
                holder = passed[holder]
                chain.append(holder)
            values.append(np.nan if self.unread and self.unread in one.response else float(holder in one.response))
            texts.append(" ".join(chain))
        return Rewards(value=np.array(values, np.float32), text=tuple(texts))


def test_a_model_that_follows_the_facts_is_always_right_and_what_it_wrote_is_kept():
    judged = judge(Reader(), [one.pair for one in WORLD], chunk=5)
    assert judged.right.tolist() == [1] * 12
    assert judged.bill is None
    assert judged.texts[0][0].split()[-1] == WORLD[0].pair.ground_truth["answer"]
    found = figures_of_test(judged, WORLD)
    assert found["by kind"] == {"one too few": 1, "one too many": 1, "other chain": 1}
    assert found["critique exact"] == 0  # it is not in the words of the world
    gold = judged._replace(texts=[(one.chosen + "\nVerdict: Yes", "something else") for one in WORLD])
    assert figures_of_test(gold, WORLD)["critique exact"] == 0.5


def test_a_pair_without_a_verdict_is_not_right_of_all_and_stays_out_of_the_accuracy():
    name = WORLD[0].pair.chosen.split()[0]
    judged = judge(Reader(name), [one.pair for one in WORLD])
    num_lost = int(np.isnan(judged.margins).sum())
    assert 2 <= num_lost < 12
    found = of_right(judged.right, np.arange(12))
    assert found["no verdict"] == pytest.approx(num_lost / 12, abs=1e-4)
    assert found["accuracy"][0] == 1
    assert found["right of all"][0] == pytest.approx(1 - num_lost / 12, abs=1e-4)
    np.testing.assert_array_equal(as_array(as_list(judged.right)), judged.right)
    ties = of_right(np.array([0.5, 0.5, 1.0, 0.0]), np.arange(4))
    assert ties["accuracy"][0] == 0.5


def test_what_an_arm_sees_of_the_pairs(tmp_path):
    rows = {}
    for arm in (CRITIQUE, HALF, DIRECT, SCALAR, READS):
        write(tmp_path / "pairs.jsonl", arm, WORLD)
        rows[arm] = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    has = {arm: [("chosen_critique" in row) for row in of] for arm, of in rows.items()}
    assert all(has[CRITIQUE])
    assert not any(has[DIRECT] + has[SCALAR] + has[READS])
    assert sum(has[HALF]) == 6
    assert has[HALF][0::2] == has[HALF][1::2]  # whole twins
    assert [pair.chosen for pair in seen_pairs(READS, WORLD)] == [f"{one.pair.chosen} {one.both}" for one in WORLD]
    assert all(pair.chosen.endswith(f"So {pair.ground_truth['answer']} has it.") for pair in seen_pairs(READS, WORLD))


def test_training_and_tests_share_no_prompt_and_other_names_are_other_names():
    world = relay_of_seed(SETTINGS, 0)
    assert set(world.tests) == {f"{m}{other}" for m in range(1, 6) for other in ("", ", other names")}
    train = {one.pair.prompt_key for one in world.train}
    names = {word for one in world.train for word in one.pair.prompt[0].content.replace(".", "").split()}
    for test, made in world.tests.items():
        assert not train & {one.pair.prompt_key for one in made}
        assert {one.pair.tags["passes"] for one in made} == {test[0]}
        answers = {one.pair.chosen.split()[0] for one in made}
        assert bool(answers & names) == ("other" not in test)
    assert not train & {one.pair.prompt_key for one in world.dev}
    control = control_of_seed(replace(SETTINGS, control_pairs=4, control_test=2), relay_pairs, 1)
    assert {one.pair.tags["passes"] for one in (*control.train, *control.tests["test"])} == {"1"}


def test_found_is_kept_and_not_mixed_with_other_settings(tmp_path):
    path, calls = tmp_path / "keep" / "one.json", []
    settings = {"lengths": (1, 2), "seed": 0}

    def find():
        calls.append(1)
        return {"right": as_list(np.array([1.0, np.nan]))}

    assert kept_or_new(path, settings, find) == kept_or_new(path, settings, find) == {"right": [1.0, None]}
    assert len(calls) == 1
    with pytest.raises(ValueError, match=r"other settings \(seed\)"):
        kept_or_new(path, {**settings, "seed": 1}, find)


def test_claims_are_of_all_seeds_together_and_what_was_not_run_is_not_claimed():
    def arm(share):
        tests = {}
        for m in range(1, 6):
            right = np.zeros(200)
            right[: round(200 * share[m - 1])] = 1
            tests[str(m)] = {"right": right.tolist(), "twins": [str(i) for i in range(200)]}
        return {"tests": tests}

    seed = {"critique": arm([1, 1, 0.95, 0.9, 0.85]), "scalar": arm([1, 0.8, 0.6, 0.5, 0.5])}
    found = claims(joined([seed, seed]), (1, 2, 3, 4, 5))
    assert found == {
        "critique at least .90 at 2 and 3 passes": True,
        "critique at least .80 at 4 and 5 passes": True,
        "scalar at most .70 at 3 passes or more": True,
        "direct at most .70 at 3 passes or more": None,
        "intervals apart at 3 passes or more": True,
    }
    seed["direct"] = arm([1, 1, 0.9, 0.9, 0.9])
    found = claims(joined([seed]), (1, 2, 3, 4, 5))
    assert not found["direct at most .70 at 3 passes or more"]
    assert not found["intervals apart at 3 passes or more"]
    assert joined([seed, seed])["scalar"]["3"]["pairs"] == 400


def test_a_run_that_was_stopped_goes_on_and_all_that_it_took_is_counted(tmp_path, monkeypatch):
    """It began anew, and an arm takes half an hour."""
    commands, out = [], tmp_path / "runs" / "arm"

    def main(command: list[str]) -> int:
        commands.append(command)
        out.mkdir(exist_ok=True)
        end = time.process_time() + 0.2
        while time.process_time() < end:
            pass
        if len(commands) == 1:
            raise KeyboardInterrupt
        return 0

    monkeypatch.setattr(generative_arms.cli, "main", main)
    with pytest.raises(KeyboardInterrupt):
        generative_arms.train_arm(["--epochs", "1"], out)
    assert generative_arms.train_arm(["--epochs", "1"], out).seconds >= 0.4
    assert ("--resume" in commands[0], "--resume" in commands[1]) == (False, True)
    generative_arms.train_arm(["--epochs", "1"], out)
    assert len(commands) == 2  # it was finished
    (out / "benchmark-seconds.json").unlink()
    assert generative_arms.train_arm(["--epochs", "2"], out).seconds < 0.4
    assert commands[2][-1] == "--overwrite"
