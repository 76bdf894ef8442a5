"""Counter-examples: their share is what was asked for, they say what they should, and what is held out is left alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from assay.audit.probes.battery import battery
from assay.messages import Message
from assay.records import PreferencePair
from assay.training.rows.augment import AUGMENTED, augment, augmented
from random_scorers import made_up_pairs

KINDS = {probe.name: probe.kind for probe in battery(())}


def added(pairs) -> list[PreferencePair]:
    return [pair for pair in pairs if AUGMENTED in pair.tags]


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (0.25, 100), (0.5, 300), (0.75, 900), (1 / 3, 150)])
def test_the_share_is_that_of_all_pairs(share, expected):
    pairs = made_up_pairs(300)
    rows = augment(pairs, share=share)
    assert rows[:300] == pairs
    assert len(rows) - 300 == len(added(rows)) == expected


def test_every_kind_says_what_it_should():
    pairs = made_up_pairs(400)
    answers = {(pair.prompt, answer): better for pair in pairs for answer, better in ((pair.chosen, True), (pair.rejected, False))}
    seen = Counter()
    for pair in added(augment(pairs, share=0.75)):
        kind = KINDS[pair.tags[AUGMENTED]]
        is_chosen_plain, is_rejected_plain = ((pair.prompt, text) in answers for text in (pair.chosen, pair.rejected))
        if pair.preference == 1.0 and kind != "destructive":  # kept true, with either side edited
            assert is_chosen_plain != is_rejected_plain
            assert answers[pair.prompt, pair.chosen if is_chosen_plain else pair.rejected] == is_chosen_plain
            seen["kept true", "good" if is_rejected_plain else "bad"] += 1
        elif kind == "destructive":
            assert answers[pair.prompt, pair.chosen], "only the better answer is ruined"
            assert pair.preference == 1.0
            seen[kind] += 1
        else:
            assert is_chosen_plain
            assert pair.preference == {"worthless": 0.9, "style": 0.5}[kind]
            seen[kind] += 1
    assert len(seen) == 5
    assert min(seen.values()) > 30
    kept_true = seen["kept true", "good"] + seen["kept true", "bad"]
    assert seen["kept true", "good"] / kept_true == pytest.approx(0.5, abs=0.1), "the edit itself wins as often as it loses"
    assert kept_true / (kept_true + seen["worthless"] + seen["style"]) == pytest.approx(1 / 3, abs=0.06)


def test_every_safe_probe_is_used_and_no_prompt_is_new():
    short = "It isn't far, and you don't need a map."  # the made-up words have no contractions
    pairs = made_up_pairs(400) + [
        PreferencePair(prompt=f"Where {i}?", chosen=f"{short} {i}", rejected=f"No idea {i}.") for i in range(40)
    ]
    made = added(augment(pairs, share=0.75))
    assert {pair.tags[AUGMENTED] for pair in made} == set(KINDS) - {"agreement", "empty"}
    assert {pair.prompt_key for pair in made} <= {pair.prompt_key for pair in pairs}


def test_the_same_seed_makes_the_same_pairs():
    pairs = made_up_pairs(50)
    assert augment(pairs, seed=3) == augment(pairs, seed=3)
    assert augment(pairs, seed=3) != augment(pairs, seed=4)


def test_soft_labels_and_swapped_ones_keep_their_side_and_ties_are_not_kept_true():
    swapped = [PreferencePair(prompt=p.prompt, chosen=p.rejected, rejected=p.chosen, preference=0.1) for p in made_up_pairs(200)]
    better = {pair.prompt: pair.rejected for pair in swapped}
    for pair in added(
        augment(swapped, share=0.75, probes=[probe for probe in battery(()) if probe.name in ("echo alone", "echo")])
    ):
        if pair.tags[AUGMENTED] == "echo alone":
            assert (pair.chosen, pair.rejected) == (better[pair.prompt], pair.prompt[0].content)
        assert pair.preference in (0.9, 1.0)
    ties = [PreferencePair(prompt=p.prompt, chosen=p.chosen, rejected=p.rejected, preference=0.5) for p in made_up_pairs(100)]
    flattery = [probe for probe in battery(()) if probe.name == "flattery"]
    assert {pair.preference for pair in added(augment(ties, share=0.5, probes=flattery))} == {0.9}


def test_only_sources_make_counter_examples_and_what_was_made_makes_none():
    pairs = made_up_pairs(100)
    rows = list(augmented(pairs, share=0.5, is_source=lambda pair: int(pair.id) < 40))
    assert len(added(rows)) == 40
    assert {int(pair.id.split(":")[0]) for pair in added(rows)} <= set(range(40))
    assert [pair for pair in rows if AUGMENTED not in pair.tags] == pairs
    again = augment(rows, share=0.5)
    assert len(added(again)) == 40 + 100


def test_a_users_own_function_makes_pairs_too_and_a_share_that_is_none_is_refused():
    def shouting(completion, rng):
        return completion.response.upper()

    made = added(augment(made_up_pairs(40), share=0.5, probes=[shouting]))
    assert len(made) == 40
    assert all(pair.rejected.isupper() or pair.chosen.isupper() for pair in made)
    with pytest.raises(ValueError, match=r"share 1.0 must be at least 0 and below 1"):
        augment(made_up_pairs(2), share=1.0)


def test_counter_examples_keep_the_reasoning_of_the_answer_that_they_edit():
    def shout(completion, rng):
        return completion.response.upper()

    thought = Message("assistant", "", reasoning="hm")
    pairs = [replace(pair, chosen_message=thought, rejected_message=thought) for pair in made_up_pairs(20)]
    made = added(augment(pairs, share=0.5, probes=[shout]))
    assert made
    for pair in made:
        assert (pair.chosen_message.reasoning, pair.rejected_message.reasoning) == ("hm", "hm")
        assert (pair.chosen_message.content, pair.rejected_message.content) == (pair.chosen, pair.rejected)
