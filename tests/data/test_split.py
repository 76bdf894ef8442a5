"""Splits: by prompt alone, stable, and proven apart."""

from __future__ import annotations

import random

import numpy as np
import pytest

from assay.data.split import fingerprint, group_keys, prompt_hashes, refuse_overlap, split_of
from assay.errors import DataError
from assay.messages import Message, as_messages
from assay.records import PreferencePair


def pair(prompt: str, chosen: str = "a", **changes: object) -> PreferencePair:
    return PreferencePair(**({"prompt": prompt, "chosen": chosen, "rejected": "b"} | changes))  # type: ignore[arg-type]


def test_the_fingerprint_of_plain_pairs_stays_as_it_was_and_what_is_beside_the_text_changes_it():
    pairs = [
        pair("q"),
        PreferencePair(
            prompt=(Message("system", "s"), Message("user", "u")), chosen="c", rejected="d", preference=0.7, margin=1.5, weight=2.0
        ),
    ]
    assert fingerprint(pairs) == "c895064da6d78e35ed7dd19c69fce91f"
    thought = Message("assistant", "", reasoning="hm")
    others = [
        pair("q", tools=[{"name": "f"}]),
        pair("q", ground_truth={"answer": "a"}),
        pair("q", chosen_message=thought),
        pair("q", rejected_message=thought),
    ]
    assert len({fingerprint([one]) for one in (pair("q"), *others)}) == 5


PROMPTS = [as_messages(f"prompt {i}") for i in range(5000)]


def test_shares_come_out_as_asked():
    splits = [split_of(prompt, calibration=0.2, test=0.1) for prompt in PROMPTS]
    assert abs(splits.count("test") / 5000 - 0.1) < 0.02  # 5 standard errors
    assert abs(splits.count("calibration") / 5000 - 0.2) < 0.03


def test_a_split_is_the_same_everywhere():
    # from sha256 alone, written anew outside of Assay
    assert [i for i in range(40) if split_of(PROMPTS[i]) == "test"] == [5, 14, 20]
    assert [i for i in range(40) if split_of(PROMPTS[i]) == "calibration"] == [15, 16, 26, 32, 33, 38]
    assert split_of((Message("user", " prompt 3\n"),)) == split_of(PROMPTS[3]), "white space around a prompt makes no new prompt"
    assert [split_of(prompt, seed=1) for prompt in PROMPTS] != [split_of(prompt) for prompt in PROMPTS]


def test_a_larger_calibration_share_takes_from_train_alone():
    for prompt in PROMPTS[:1000]:
        before, after = split_of(prompt, calibration=0.1), split_of(prompt, calibration=0.3)
        assert before == after or (before, after) == ("train", "calibration")


def test_extreme_shares():
    assert {split_of(prompt, calibration=0, test=0) for prompt in PROMPTS} == {"train"}
    assert {split_of(prompt, calibration=0, test=1) for prompt in PROMPTS} == {"test"}
    with pytest.raises(ValueError, match=r"calibration 0.6 and test 0.6"):
        split_of(PROMPTS[0], calibration=0.6, test=0.6)


def test_a_fingerprint_is_of_the_content_whatever_its_order():
    pairs = [pair(f"p{i}", margin=float(i)) for i in range(20)]
    shuffled = random.Random(0).sample(pairs, len(pairs))
    assert fingerprint(iter(pairs)) == fingerprint(iter(shuffled))
    assert fingerprint(pairs) == fingerprint([pair(f"p{i}", margin=float(i), id=str(i), source="s") for i in range(20)])
    others = [pairs[1:], [*pairs, pairs[0]], [pair("p0", chosen="c", margin=0.0), *pairs[1:]], [pair("p0"), *pairs[1:]], []]
    assert len({fingerprint(each) for each in [pairs, *others]}) == 6


def test_prompt_hashes_are_sorted_and_unique_and_count_prompts():
    hashes = prompt_hashes(pair(f"p{i % 7}", chosen=f"a{i}") for i in range(50))
    assert hashes.dtype == np.uint64
    assert len(hashes) == 7
    assert (np.diff(hashes.astype(object)) > 0).all()
    assert int(pair("p0").prompt_key[:16], 16) in hashes.tolist()
    assert len(prompt_hashes([])) == 0


def test_an_overlap_is_refused_with_names_counts_prompts_and_a_fix():
    train = prompt_hashes(pair(f"p{i}") for i in range(10))
    refuse_overlap(train, [pair("new"), pair("newer")], train_name="train set", eval_name="bench")
    refuse_overlap(prompt_hashes([]), [pair("new")], train_name="train set", eval_name="bench")
    shared = [pair(f"p{i % 5}", chosen=f"a{i}") for i in range(10)]
    with pytest.raises(DataError) as error:
        refuse_overlap(train, [*shared, pair("new")], train_name="train set", eval_name="bench")
    message = str(error.value)
    assert message.startswith("5 of the 6 prompts of bench are also in train set")
    assert all(f"'p{i}'" in message for i in range(3))
    assert "'p3'" not in message
    assert "split_of" in message


def test_group_keys_join_whatever_shares_a_prompt_or_an_answer():
    pairs = [
        pair("p0", chosen="a0", rejected="b0"),
        pair("p1", chosen="b0 ", rejected="a1"),  # shares an answer with the first, white space apart
        pair("p2", chosen="c", rejected="d"),
        pair("p1", chosen="e", rejected="f"),  # shares a prompt with the second
        pair("p3", chosen="f", rejected="g"),  # and an answer with the one before: a chain of three
        pair("p4", chosen="p2", rejected="p0"),  # an answer that reads like a prompt joins nothing
    ]
    keys = group_keys(iter(pairs))
    assert keys[0] == keys[1] == keys[3] == keys[4]
    assert len({keys[0], keys[2], keys[5]}) == 3
    assert group_keys([]) == []


def test_group_keys_are_the_same_partition_in_any_order():
    rng = random.Random(0)
    pairs = [pair(f"p{rng.randrange(40)}", chosen=f"a{rng.randrange(60)}", rejected=f"b{i}") for i in range(60)]
    order = rng.sample(range(60), 60)
    keys, shuffled = group_keys(pairs), group_keys(pairs[i] for i in order)
    together = {(i, j) for i in range(60) for j in range(60) if keys[i] == keys[j]}
    place = {i: row for row, i in enumerate(order)}
    assert together == {(i, j) for i in range(60) for j in range(60) if shuffled[place[i]] == shuffled[place[j]]}
    assert len(set(keys)) > 1
