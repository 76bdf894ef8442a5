"""What the records accept, refuse and promise."""

import math
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.messages import Message, ToolCall, as_messages, prompt_key
from assay.records import Completion, Metric, PreferencePair, Report, Rewards


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


EGG = "How do I boil an egg?"
TURNS = (Message("system", "Be brief."), Message("user", "Wie heißt du? 🙏"), Message("assistant", "Ada."), Message("tool", "x"))
TOOLS = ({"type": "function", "function": {"name": "lookup"}},)
CALLS = (ToolCall("lookup", '{"q": "egg"}'),)


@pytest.mark.parametrize(
    ("completion", "key"),
    [
        (Completion(messages=EGG, response="Put it in water."), "009aa75e4bd24d107785fe6f510ab4a5"),
        (Completion(messages=TURNS, response="", id="7"), "799ff83022b217346e39ad2bb8fff08a"),
        (Completion(messages="q", steps=("one ", "two")), "4481378a89e132e4069621a45d2d202f"),
        (Completion(text="User: hi\nAssistant: hello"), "0aa78fc21e033cd946bedb1db4b682a2"),
        (Completion(token_ids=(1, 2, 3)), "2db9d295d64406dd4aee3cdb3d832beb"),
    ],
)
def test_keys_of_plain_completions_stay_as_they_were_so_that_caches_hold(completion, key):
    assert completion.key == key
    assert replace(completion, ground_truth={"answer": "4"}).key == key
    assert prompt_key(TURNS) == "f5f564f0bdc003738e61fba03f5acbbe"


def test_tools_calls_and_reasoning_change_the_key_wherever_they_stand():
    plain = Completion(messages=EGG, response="In water.")
    called = (Message("user", EGG), Message("assistant", "", CALLS), Message("tool", "hot"))
    others = [
        replace(plain, tools=TOOLS),
        replace(plain, response_message=Message("assistant", "", CALLS)),
        replace(plain, response_message=Message("assistant", "", reasoning="egg")),
        replace(plain, messages=called),
        replace(plain, messages=(called[0], called[1]._replace(tool_calls=()), called[2])),
        replace(plain, messages=(*called[:2], called[2]._replace(tool_call_id="1"))),
        replace(plain, messages=(*called[:2], called[2]._replace(name="1"))),
    ]
    assert len({plain.key, *(other.key for other in others)}) == 1 + len(others)


def test_the_text_of_an_answer_and_its_message_are_one():
    thought = Message("assistant", "four", reasoning="2 + 2")
    one = Completion(messages="q", response_message=thought)
    assert (one.response, one.answer, one.is_plain) == ("four", thought, False)
    edited = replace(one, response="five")
    assert edited.answer == Message("assistant", "five", reasoning="2 + 2")
    assert one.conversation() == [{"role": "user", "content": "q"}, thought.as_dict()]
    plain = Completion(messages="q", response_message=Message("assistant", "four"))
    assert plain == Completion(messages="q", response="four")
    assert plain.is_plain
    both = pair(chosen="four", chosen_message=thought, tools=TOOLS, ground_truth={"answer": "4"})
    chosen, rejected = both.completions()
    assert (chosen.answer, rejected.answer) == (thought, Message("assistant", "b"))
    assert chosen.tools == rejected.tools == TOOLS
    assert chosen.ground_truth == rejected.ground_truth == {"answer": "4"}
    assert replace(both, chosen="five").chosen_message == edited.answer
    with pytest.raises(ValueError, match="role 'user'"):
        pair(chosen_message=Message("user", "a", reasoning="b"))
    with pytest.raises(ValueError, match="tools too"):
        Completion(text="rendered", tools=TOOLS)
    with pytest.raises(ValueError, match="does not say where its answer begins"):
        Completion(text="rendered").answer  # noqa: B018


def test_records_with_extras_can_be_hashed_and_the_ground_truth_has_a_digest_of_its_content():
    one = Completion(messages=(Message("assistant", "", CALLS),), response="a", tools=TOOLS, ground_truth={"a": 1, "b": [2]})
    assert len({one, replace(one)}) == 1
    assert len({pair(tools=TOOLS, ground_truth={"a": 1}), pair(tools=TOOLS, ground_truth={"a": 1})}) == 1
    assert one.ground_truth_digest == replace(one, ground_truth={"b": [2], "a": 1}).ground_truth_digest != ""
    assert one.ground_truth_digest != replace(one, ground_truth={"a": 1}).ground_truth_digest
    assert replace(one, ground_truth=None).ground_truth_digest == ""


def test_sizes_count_what_stands_beside_the_text():
    plain = Completion(messages="four", response="three")
    assert plain.sizes == (4, 5)
    assert Completion(text="three").sizes == (0, 5)
    assert Completion(token_ids=(1, 2)).sizes == (0, 0)
    prompt, answer = replace(plain, tools=TOOLS, response_message=Message("assistant", "", reasoning="x" * 100)).sizes
    assert prompt > 4 + len("lookup")
    assert answer > 105


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
