"""Round trips: what goes through JSON comes back the same, bit by bit, and the JSON is strict."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.messages import Message, ToolCall
from assay.records import Completion, Finding, Metric, Report, Rewards, Table
from assay.wire import (
    completion_from_row,
    completion_to_row,
    report_from_json,
    report_to_json,
    rewards_from_rows,
    rewards_to_rows,
)

number = st.floats(width=32, allow_infinity=False)
figure = st.floats(allow_infinity=False)
label = st.text(max_size=8)


@st.composite
def some_rewards(draw):
    n = draw(st.integers(0, 5))

    def column(element):
        return draw(st.none() | st.lists(element, min_size=n, max_size=n)) if n else None

    return Rewards(
        value=draw(st.lists(number, min_size=n, max_size=n)),
        std=column(number),
        steps=column(st.lists(number, max_size=3).map(lambda steps: np.array(steps, dtype=np.float32))),
        text=column(st.none() | label),
        error=column(st.none() | label),
    )


def same_floats(a, b):
    return (a is None) == (b is None) and (a is None or np.array_equal(a, b, equal_nan=True))


@given(some_rewards())
def test_rewards_survive_strict_json_bit_by_bit(rewards):
    back = rewards_from_rows(json.loads(json.dumps(rewards_to_rows(rewards), allow_nan=False)))
    assert same_floats(back.value, rewards.value)
    assert same_floats(back.std, rewards.std)
    assert (back.steps is None) == (rewards.steps is None)
    assert all(same_floats(a, b) for a, b in zip(back.steps or (), rewards.steps or (), strict=True))
    assert back.text == rewards.text
    assert back.error == rewards.error


def test_a_row_by_hand():
    rewards = Rewards(value=[0.5, math.nan], steps=[[1.0], []], error=[None, "timed out"])
    assert rewards_to_rows(rewards) == [{"value": 0.5, "steps": [1.0]}, {"value": None, "steps": [], "error": "timed out"}]


def test_rows_of_a_far_side_may_lack_columns():
    back = rewards_from_rows([{"value": 1.0}, {"error": "no GPU"}, {"value": 2.0, "std": 0.5}])
    np.testing.assert_array_equal(back.value, [1.0, math.nan, 2.0])
    np.testing.assert_array_equal(back.std, [math.nan, math.nan, 0.5])
    assert back.error == (None, "no GPU", None)
    assert len(rewards_from_rows([])) == 0


metrics = st.builds(Metric, label, figure, figure, figure, st.integers(0, 9), st.integers(0, 9), label)
findings = st.builds(Finding, st.sampled_from(["ok", "warn", "fail"]), label, figure, figure, label)
cells = st.one_of(label, figure, st.integers(), st.booleans())
tables = st.builds(
    Table,
    title=label,
    columns=st.just(("a", "b")),
    rows=st.lists(st.tuples(cells, cells), max_size=3).map(tuple),
    chart=st.sampled_from(["none", "line", "bars", "reliability", "panels"]),
    note=label,
)
reports = st.builds(
    Report,
    title=label,
    metrics=st.lists(metrics, max_size=3).map(tuple),
    tables=st.lists(tables, max_size=2).map(tuple),
    examples=st.lists(st.dictionaries(label, st.one_of(label, st.integers())), max_size=2).map(tuple),
    findings=st.lists(findings, max_size=3).map(tuple),
    facts=st.dictionaries(label, label, max_size=3),
    lead=label,
    key=st.dictionaries(label, st.lists(label, max_size=2).map(tuple), max_size=2),
)


@given(reports)
def test_reports_survive_strict_json(report):
    text = report_to_json(report)
    json.loads(text, parse_constant=lambda constant: (_ for _ in ()).throw(AssertionError(f"{constant} is not strict JSON")))
    assert repr(report_from_json(text)) == repr(report)  # repr, since NaN is not equal to itself


def test_numpy_figures_become_plain_ones_and_infinity_is_null():
    report = Report(title="t", metrics=(Metric("m", np.float64(0.5), -math.inf, np.float32(2)),))
    back = report_from_json(report_to_json(report)).metric("m")
    assert (back.value, back.high) == (0.5, 2.0)
    assert math.isnan(back.low)


call = st.builds(ToolCall, st.text(min_size=1), st.dictionaries(label, figure | label, max_size=2).map(json.dumps), label)
message = st.builds(
    Message,
    st.sampled_from(["system", "user", "assistant", "tool"]),
    label,
    st.lists(call, max_size=2).map(tuple),
    label,
    label,
    label,
)


@given(
    st.lists(message, max_size=3),
    message,
    st.booleans(),
    st.none() | st.dictionaries(label, st.lists(label, max_size=2), max_size=2),
)
def test_conversations_survive_strict_json(messages, answer, has_tools, truth):
    tools = ({"name": "f", "parameters": {"type": "object"}},) if has_tools else ()
    one = Completion(messages=tuple(messages), response_message=answer._replace(role="assistant"), tools=tools, ground_truth=truth)
    back = completion_from_row(json.loads(json.dumps(completion_to_row(one))))
    assert back.key == one.key
    assert (back.answer, back.tools, back.ground_truth) == (one.answer, one.tools, one.ground_truth)


def test_completions_by_hand():
    turn = {"role": "user", "content": "q"}
    plain = Completion(messages="q", response="a", id="7")
    assert completion_to_row(plain) == {"prompt": [turn], "response": "a"}
    assert completion_to_row(Completion(messages="q", steps=("a", "b"))) == {
        "prompt": [turn],
        "response": "ab",
        "steps": ["a", "b"],
    }
    assert completion_to_row(Completion(text="t")) == {"text": "t"}
    assert completion_to_row(Completion(token_ids=(1, 2))) == {"token_ids": [1, 2]}
    known = Completion(text="t", ground_truth={"answer": "4"})
    assert completion_to_row(known) == {"text": "t", "ground_truth": {"answer": "4"}}
    assert completion_to_row(known, with_ground_truth=False) == {"text": "t"}
    thought = {"role": "assistant", "content": "a", "reasoning_content": "hm"}
    row = {"prompt": [turn], "response": thought}
    assert completion_to_row(completion_from_row(row)) == row
    for form in ({"prompt": "q", "response": "a"}, {"messages": [turn, {"role": "assistant", "content": "a"}]}):
        assert completion_from_row(form | {"id": "7"}) == plain
    assert completion_from_row({"messages": [turn, thought]}) == completion_from_row(row)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "q", "messages": []}, "say the same"),
        ({"messages": [{"role": "user", "content": "q"}]}, "do not end in an answer"),
        ({"prompt": "q"}, "got none"),
        ({"prompt": "q", "response": {"role": "user", "content": "a", "name": "b"}}, "must be the assistant's"),
        ({"prompt": "q", "response": "a", "tools": ["f"]}, "no list of function descriptions"),
    ],
)
def test_a_row_that_says_no_completion_is_refused(row, reason):
    with pytest.raises(ValueError, match=reason):
        completion_from_row(row)
