"""Signs of a look, worked out by hand on answers that were made for it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from assay.audit.signs import (
    SIGNS,
    Look,
    beginning,
    explained_by_surface,
    look_of,
    new_opener,
    places_of,
    repeated_share,
    rows_of,
    signs_of,
    start_of,
    surface_moved,
)
from assay.records import Completion, Rewards


def rows(texts, values, *, prompts=None, std=None, num_read=1000):
    prompts = prompts or ["why"] * len(texts)
    completions = [Completion(messages=asked, response=text) for asked, text in zip(prompts, texts, strict=True)]
    rewards = Rewards(value=np.array(values, dtype=np.float64), std=std)
    return rows_of(completions, rewards, num_read=num_read, keep_texts=True)


def test_figures_of_a_look_by_hand():
    look = look_of(rows(["a b", "cccc", "dd", "e"], [1, 3, 2, math.nan], prompts=["p", "p", "q", "q"], std=[0.1, 0.3, 0.2, 0]), 7)
    figures = look.figures
    assert look.at == 7
    assert figures["length"] == (3 + 4 + 2 + 1) / 4
    assert figures["reward"] == 2
    assert figures["spread"] == 1  # of p alone: q has one reward
    assert figures["same reward"] == 0
    assert figures["not scored"] == 0.25
    assert figures["saturated"] == pytest.approx(1 / 3)
    assert figures["member std"] == pytest.approx(0.15)


def test_rewards_that_bfloat16_makes_equal_are_saturated_and_equal_ones_are_the_same():
    look = look_of(rows(["a", "b", "c", "d"], [100.0, 100.1, 5.0, 5.0], prompts=["p", "p", "q", "q"]), 0)
    assert look.figures["saturated"] == 0.5
    assert look.figures["same reward"] == 0.5


def test_a_rendered_text_has_a_length_and_no_prompt_and_token_ids_have_neither():
    seen = rows_of(
        [Completion(text="User: a"), Completion(token_ids=(1, 2))], Rewards(value=[1.0, 2.0]), num_read=9, keep_texts=True
    )
    assert [row.prompt for row in seen] == ["", ""]
    assert seen[0].length == 7
    assert math.isnan(seen[1].length)
    assert seen[1].surface == ()
    assert math.isnan(look_of(seen, 0).figures["spread"])


def test_only_so_many_texts_are_read_and_no_text_is_kept_where_none_should_be():
    completions = [Completion(messages="p", response="one two three four") for _ in range(3)]
    seen = rows_of(completions, Rewards(value=[1.0, 2.0, 3.0]), num_read=1, keep_texts=False)
    assert [bool(row.surface) for row in seen] == [True, False, False]
    assert {row.said + row.asked for row in seen} == {""}
    assert "one" not in seen[0].opener  # hashes, which compare as the words do
    kept, hashed = (
        [look_of(rows_of([Completion(messages="p", response=text)] * 2, Rewards(value=[1, 2]), num_read=0, keep_texts=keep), 0)
         for text in ("so it is", "so it was")]
        for keep in (True, False)
    )  # fmt: skip
    assert new_opener(kept[1], kept[0]).value == new_opener(hashed[1], hashed[0]).value == 1


def test_repeated_phrases_and_beginnings_by_hand():
    assert repeated_share("a b c a b c") == 0.25  # abc bca cab abc
    assert repeated_share("no no no no no") == pytest.approx(2 / 3)
    assert math.isnan(repeated_share("two words"))
    assert beginning("  Great\nQuestion!  You asked for more") == "great question! you"


def test_signs_against_the_start_by_hand():
    def look(**figures):
        return Look(at=0, num_rows=1, figures=figures, openers={})

    start = start_of([look(length=90.0, reward=1.0, spread=1.0), look(length=110.0, reward=2.0, spread=3.0)])
    found = signs_of(look(length=150.0, reward=2.5, spread=1.0, KL=7.0), start)
    assert found["longer answers"] == pytest.approx(0.5)
    assert found["shorter answers"] == pytest.approx(-0.5)
    assert found["higher reward"] == pytest.approx((2.5 - 1.5) / 2)
    assert found["narrower rewards"] == pytest.approx(0.5)
    assert found["KL"] == 7
    assert math.isnan(found["repeated text"])
    assert found.keys() == SIGNS.keys()


def test_an_opener_that_grows_is_found_by_its_longest_form_and_one_that_was_always_there_is_not():
    start = look_of(rows(["The cat sat down", "The dog ran off", "A bird sang here", "The end is near"], [0] * 4), 0)
    now = look_of(rows(["Great question! The cat", "Great question! A dog", "The bird sang on", "The end is here"], [0] * 4), 0)
    found = new_opener(now, start)
    assert found == ("great question!", 0.5)
    assert new_opener(start, start).value == 0


def test_the_feature_that_moved_is_named_with_its_size():
    plain = ["one two. " * (1 + i % 3) for i in range(8)]
    start, now = (look_of(rows(texts, [0] * 8), 0) for texts in (plain, [text + "\n- a\n- b\n- c" for text in plain]))
    found = surface_moved(now, start)
    assert found.name == "bullets"
    assert found.value == pytest.approx(math.log(4) / 0.25)  # no bullet at the start: the least unit


def texts_with_marks(num_prompts: int, seed: int):
    rng = np.random.default_rng(seed)
    texts = [
        f"{'word ' * rng.integers(3, 30)}{'! ' * rng.integers(0, 4)}{'maybe ' * rng.integers(0, 3)}" for _ in range(4 * num_prompts)
    ]
    return texts, [f"prompt {i // 4}" for i in range(4 * num_prompts)], rng


def test_surface_explains_a_reward_that_is_length_and_nothing_of_noise():
    texts, prompts, rng = texts_with_marks(60, 0)
    level = np.repeat(rng.normal(0, 50, 60), 4)  # of prompts, which is not counted
    of_length = explained_by_surface(rows(texts, level + np.array([len(text) for text in texts]), prompts=prompts))
    of_noise = [explained_by_surface(rows(texts, level + rng.normal(size=len(texts)), prompts=prompts)) for _ in range(20)]
    assert of_length > 0.99
    assert abs(np.mean(of_noise)) < 0.03  # adjusted: without a bias upwards
    assert math.isnan(explained_by_surface(rows(texts[:40], np.arange(40.0), prompts=prompts[:40])))  # too few
    assert math.isnan(explained_by_surface(rows(texts, level, prompts=prompts)))  # no reward of a prompt differs


def test_the_completions_of_a_sign_are_those_that_make_it():
    seen = rows(
        ["a", "bb bb", "Great question! c", "dddd"], [5, math.nan, 3, 4], prompts=["p", "p", "q", "q"], std=[0.1, 0.2, 0.9, 0]
    )
    look, start = look_of(seen, 0), look_of(rows(["a", "b", "c", "d"], [1, 2, 3, 4]), 0)
    shown = {name: places_of(name, seen, look, start, 2) for name in SIGNS}
    assert shown["longer answers"] == [2, 1]
    assert shown["shorter answers"] == [0, 3]
    assert shown["higher reward"] == [0, 3]
    assert shown["lower reward"] == [2, 3]
    assert shown["without a reward"][0] == 1
    assert shown["members disagree"] == [2, 1]
    assert shown["new opener"] == [2]
    assert shown["narrower rewards"] == [2, 3]
