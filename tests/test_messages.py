"""Messages, calls, tools and ground truth in the forms that people have them; what is none of them is refused."""

import pytest

from assay.messages import Message, ToolCall, as_ground_truth, as_message, as_tools, prompt_key

CALL = {"id": "call_1", "type": "function", "function": {"name": "lookup", "arguments": {"q": "stärke"}}}
CALLED = Message("assistant", "", (ToolCall("lookup", '{"q": "stärke"}', "call_1"),), reasoning="I look.")


@pytest.mark.parametrize(
    "entry",
    [
        {"role": "assistant", "content": "", "reasoning_content": "I look.", "tool_calls": [CALL]},
        {"role": "assistant", "content": None, "thinking": "I look.", "tool_calls": [CALL], "name": None, "tool_call_id": None},
        {"role": "assistant", "reasoning": "I look.", "reasoning_content": None, "tool_calls": (CALL,)},
        {
            "role": "assistant",
            "content": "",
            "reasoning": "I look.",
            "tool_calls": [{"id": "call_1", "function": {"name": "lookup", "arguments": '{"q":"st\\u00e4rke"}'}}],
        },
        {
            "role": "assistant",
            "content": "",
            "reasoning": "I look.",
            "tool_calls": [{"id": "call_1", "name": "lookup", "arguments": {"q": "stärke"}}],
        },
        ["assistant", "", [["lookup", '{"q": "stärke"}', "call_1"]], "", None, "I look."],
        CALLED,
    ],
)
def test_one_message_in_every_form_is_the_same_message(entry):
    assert as_message(entry) == CALLED
    assert hash(as_message(entry)) == hash(CALLED)


def test_a_message_goes_out_in_the_form_of_chat_templates_and_comes_back():
    assert CALLED.as_dict() == {"role": "assistant", "content": "", "reasoning_content": "I look.", "tool_calls": [CALL]}
    assert as_message(CALLED.as_dict()) == CALLED
    answer = Message("tool", "retrogradation", tool_call_id="call_1", name="lookup")
    assert answer.as_dict() == {"role": "tool", "content": "retrogradation", "tool_call_id": "call_1", "name": "lookup"}
    assert as_message(answer.as_dict()) == answer
    assert Message("user", "q").as_dict() == {"role": "user", "content": "q"}
    assert (Message("user", "q").as_answer(), CALLED.as_answer()) == ("q", CALLED.as_dict())
    assert repr(Message("user", "q")) == "Message(role='user', content='q')"
    assert repr(answer) == "Message(role='tool', content='retrogradation', tool_call_id='call_1', name='lookup')"


@pytest.mark.parametrize("text", ["", "not JSON {", "[1]", '"a"', "5"])
def test_arguments_that_are_no_mapping_stay_as_the_model_wrote_them(text):
    written = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": text}}]}
    (call,) = as_message(written).tool_calls
    assert call.as_dict()["function"] == {"name": "f", "arguments": text}
    assert as_message(as_message(written).as_dict()) == as_message(written)


def test_a_call_without_arguments_has_an_empty_mapping():
    (call,) = as_message({"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}).tool_calls
    assert call.as_dict() == {"type": "function", "function": {"name": "f", "arguments": {}}}


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        ({"tool_calls": [{"function": {"arguments": {}}}]}, "give a name"),
        ({"tool_calls": [{"function": {"name": "f", "arguments": [1]}}]}, "arguments as a mapping"),
        ({"reasoning_content": ["a"]}, "must be text"),
        ({"tool_call_id": 5}, "must be text"),
        ({"content": None}, "NoneType, not text"),
        ({"content": None, "tool_call_id": "1"}, "NoneType, not text"),
    ],
)
def test_what_is_no_message_is_refused(extra, reason):
    with pytest.raises(ValueError, match=reason):
        as_message({"role": "assistant", "content": "", **extra})


def test_a_message_is_blank_without_text_calls_and_reasoning():
    assert Message("assistant", " \n").is_blank
    assert not Message("assistant", "a").is_blank
    assert not Message("assistant", "", (ToolCall("f"),)).is_blank
    assert not Message("assistant", "", reasoning="hm").is_blank


def test_the_prompt_key_is_of_the_text_alone():
    assert prompt_key((CALLED,)) == prompt_key((Message("assistant", ""),))


def test_tools_are_read_from_mappings_and_json():
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    flat = {"name": "g", "parameters": {}}
    assert as_tools([tool, flat]) == (tool, flat)
    assert as_tools('[{"name": "g", "parameters": {}}]') == as_tools(['{"name": "g", "parameters": {}}']) == (flat,)
    assert as_tools(None) == as_tools([]) == as_tools("") == ()
    for wrong in ("search, calculate", [5], [{"parameters": {}}], {"name": "f"}, [{"function": "f"}], 7):
        with pytest.raises(ValueError, match="no list of function descriptions"):
            as_tools(wrong)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ("", None),
        ({"tests": ["a"]}, {"tests": ["a"]}),
        ('{"answer": "4"}', {"answer": "4"}),
        ("4", {"answer": "4"}),
        ("{4}", {"answer": "{4}"}),
        (4, {"answer": 4}),
        (["4", "four"], {"answer": ["4", "four"]}),
    ],
)
def test_a_ground_truth_is_a_mapping(value, expected):
    assert as_ground_truth(value) == expected
