"""NeMo Gym's rows: items of the Responses API as a conversation, the reward in the row that came."""

from __future__ import annotations

import pytest

from assay.records import Completion
from assay.scorers.local import LocalScorer
from assay.serve.contracts.gym import VerifyRequest, rollout, turns_of
from serving import Lengths, service_of, serving
from tiny import AGENT, tiny_model, tiny_renderer

TOOL = {"type": "function", "name": "lookup", "description": "d", "parameters": {"type": "object"}, "strict": True}
CALL = {"type": "function_call", "call_id": "c1", "name": "lookup", "arguments": '{"q": "egg"}'}
RESULT = {"type": "function_call_output", "call_id": "c1", "output": "ten minutes"}
SAID = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Ten minutes.", "annotations": []}]}
THOUGHT = {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "hm"}]}


def row(asked, *output, **more) -> dict:
    params = {"input": asked, "temperature": 1.0, "parallel_tool_calls": True}
    response = {"id": "resp", "object": "response", "output": list(output), "tools": []}
    return {"responses_create_params": params, "response": response, **more}


def test_items_become_turns():
    items = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "input_text", "text": "How long"}, {"type": "input_text", "text": "for an egg?"}]},
        THOUGHT,
        CALL,
        RESULT,
        THOUGHT,
        SAID,
    ]
    function = {"name": "lookup", "arguments": '{"q": "egg"}'}
    assert turns_of(items) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "How long\nfor an egg?"},
        {
            "role": "assistant",
            "content": "",
            "reasoning_content": "hm",
            "tool_calls": [{"id": "c1", "type": "function", "function": function}],
        },
        {"role": "tool", "content": "ten minutes", "tool_call_id": "c1"},
        {"role": "assistant", "content": "Ten minutes.", "reasoning_content": "hm"},
    ]


def test_two_answers_in_a_row_are_two_turns_and_a_call_belongs_to_what_was_said_before_it():
    twice = turns_of([SAID, SAID, CALL])
    assert [turn["content"] for turn in twice] == ["Ten minutes.", "Ten minutes."]
    assert [("tool_calls" in turn) for turn in twice] == [False, True]


def test_the_row_comes_back_with_the_reward_that_the_conversation_gets():
    scorer = LocalScorer(tiny_model(), tiny_renderer(AGENT), identity="tiny")
    body = row("How do I boil an egg?", THOUGHT, CALL, RESULT, SAID, expected_answer="10")
    body["responses_create_params"] |= {"tools": [TOOL], "instructions": "Be brief."}
    call = {"id": "c1", "function": {"name": "lookup", "arguments": '{"q": "egg"}'}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "How do I boil an egg?"},
        {"role": "assistant", "content": "", "reasoning_content": "hm", "tool_calls": [call]},
        {"role": "tool", "content": "ten minutes", "tool_call_id": "c1"},
    ]
    tool = {"type": "function", "function": {"name": "lookup", "description": "d", "parameters": {"type": "object"}}}
    (expected,) = scorer.score([Completion(messages=messages, response="Ten minutes.", tools=(tool,))]).value
    with serving(service_of(scorer)) as client:
        assert client.post("/seed_session", json={}).json() == {}
        reply = client.post("/verify", json=body)
    assert reply.status_code == 200, reply.text
    assert reply.json() == {**body, "reward": pytest.approx(float(expected), abs=scorer.tolerance)}


def test_other_fields_of_the_row_are_the_ground_truth():
    body = VerifyRequest.model_validate(row("q", SAID, expected_answer="10", verifier_metadata={"unit": "min"}))
    assert rollout(body).ground_truth == {"expected_answer": "10", "verifier_metadata": {"unit": "min"}}
    assert rollout(VerifyRequest.model_validate(row("q", SAID))).ground_truth is None


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ([], "no answer to score"),
        ([CALL, RESULT], "no answer to score"),
        ([{"type": "web_search_call", "id": "w"}], "cannot be read"),
        (
            [{"type": "message", "role": "assistant", "content": [{"type": "input_image", "image_url": "u"}]}],
            "something else than texts",
        ),
        ([{"type": "message", "role": "wizard", "content": "a"}], "unknown message role"),
        ([{"type": "message", "role": "assistant", "content": ""}], "has no reward"),
    ],
)
def test_a_row_without_a_reward_is_an_error_and_no_number(output, reason):
    with serving(service_of(LocalScorer(tiny_model(), tiny_renderer(AGENT), identity="tiny"))) as client:
        reply = client.post("/verify", json=row("q", *output))
    assert reply.status_code == 422
    assert reason in reply.json()["error"]["message"]


def test_a_tool_that_a_provider_runs_is_refused():
    body = row("q", SAID)
    body["responses_create_params"]["tools"] = [{"type": "web_search"}]
    with serving(service_of(Lengths())) as client:
        assert "only functions" in client.post("/verify", json=body).json()["error"]["message"]
