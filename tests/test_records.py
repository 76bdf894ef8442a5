"""What the records accept, refuse and promise."""

import math
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.records import Completion, Message, Metric, PreferencePair, Report, Rewards, as_messages, prompt_key


def pair(**changes):
    return PreferencePair(**{"prompt": "q", "chosen": "a", "rejected": "b"} | changes)


def test_a_string_prompt_is_one_user_turn_in_every_form():
    expected = (Message("user", "hello"),)
    assert as_messages("hello") == expected
    assert as_messages([{"role": "user", "content": "hello"}]) == expected
    assert as_messages(expected) == expected
    assert pair(prompt="hello") == pair(prompt=[("user", "hello")])


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        ([{"role": "robot", "content": "x"}], "robot"),
        ([{"role": "user", "content": [{"type": "text"}]}], "list, not text"),
        ([{"role": "user"}], "NoneType, not text"),
    ],
)
def test_a_prompt_that_is_no_conversation_is_refused(prompt, reason):
    with pytest.raises(ValueError, match=reason):
        as_messages(prompt)


@pytest.mark.parametrize(
    "bad", [{"preference": 1.2}, {"preference": math.nan}, {"weight": -1}, {"weight": math.inf}, {"margin": math.nan}]
)
def test_a_pair_refuses_numbers_that_mean_nothing(bad):
    with pytest.raises(ValueError, match=str(next(iter(bad)))):
        pair(**bad)


def test_pairs_are_frozen_and_know_ties_and_their_completions():
    one = pair(id="7")
    with pytest.raises(FrozenInstanceError):
        one.chosen = "other"
    assert not one.is_tie
    assert pair(preference=0.5).is_tie
    chosen, rejected = one.completions()
    assert (chosen.response, rejected.response) == ("a", "b")
    assert (chosen.id, rejected.id) == ("7:chosen", "7:rejected")
    assert chosen.messages == rejected.messages == one.prompt


def test_prompt_key_is_the_prompt_alone_white_space_apart():
    assert pair().prompt_key == pair(prompt=" q\n", chosen="other", id="9").prompt_key
    assert pair().prompt_key != pair(prompt="Q").prompt_key
    assert prompt_key(as_messages([("system", "q")])) != pair().prompt_key
    assert len(pair().prompt_key) == 32


def test_a_completion_has_exactly_one_form():
    with pytest.raises(ValueError, match="got none"):
        Completion(messages="q")
    with pytest.raises(ValueError, match=r"\['response', 'text'\]"):
        Completion(response="a", text="b")
    with pytest.raises(ValueError, match="messages go with response"):
        Completion(messages="q", token_ids=(1,))
    assert Completion(messages="q", steps=["one ", "two"]).response == "one two"
    assert Completion(token_ids=np.array([1, 2])).token_ids == (1, 2)


def test_the_key_is_the_content_and_not_the_id():
    one = Completion(messages="q", response="a", id="1")
    assert one.key == Completion(messages="q", response="a", id="2").key
    others = [
        Completion(messages="q", response="b"),
        Completion(messages="r", response="a"),
        Completion(text="a"),
        Completion(messages="q", steps=("a",)),
        Completion(token_ids=(1,)),
    ]
    assert len({one.key, *(other.key for other in others)}) == 6


@given(st.text(), st.text())
def test_keys_differ_where_texts_differ(a, b):
    """Any text has a key, lone surrogates included, and moving the border between prompt and answer changes it."""
    assert (Completion(messages=a, response=b).key == Completion(messages=a + b, response="").key) == (b == "")


def test_rewards_turn_every_non_number_into_nan_with_a_reason():
    rewards = Rewards(value=[1.0, math.nan, math.inf, 2.0], error=[None, "timed out", None, None])
    assert rewards.ok.tolist() == [True, False, False, True]
    assert rewards.error == (None, "timed out", "the scorer returned no finite value", None)
    assert rewards.value.dtype == np.float32


def test_rewards_own_their_columns():
    value = np.array([1.0, 2.0], dtype=np.float32)
    rewards = Rewards(value=value, std=value)
    value[0] = 9.0
    assert rewards.value.tolist() == [1.0, 2.0]
    assert rewards.std.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("column", [{"std": [1.0]}, {"steps": [[1.0]]}, {"text": ["a"]}])
def test_columns_of_another_length_are_refused(column):
    with pytest.raises(ValueError, match=f"Rewards.{next(iter(column))} has 1 rows, value has 2"):
        Rewards(value=[1.0, 2.0], **column)


def test_take_picks_rows_of_every_column():
    rewards = Rewards(value=[1, math.nan, 3], std=[0.1, 0.2, 0.3], steps=[[1], [], [3, 4]], text=["a", None, "c"])
    taken = rewards.take([2, 1, 2])
    np.testing.assert_array_equal(taken.value, [3, math.nan, 3])
    np.testing.assert_allclose(taken.std, [0.3, 0.2, 0.3], rtol=1e-6)
    assert [step.tolist() for step in taken.steps] == [[3, 4], [], [3, 4]]
    assert taken.text == ("c", None, "c")
    assert taken.error == (None, "the scorer returned no finite value", None)
    assert len(rewards.take([])) == 0


def test_a_report_finds_its_metrics_by_name():
    report = Report(title="t", metrics=(Metric("accuracy", 0.5),))
    assert report.metric("accuracy").value == 0.5
    with pytest.raises(KeyError, match=r"no metric 'f1'.*'accuracy'"):
        report.metric("f1")
