"""NeMo Gym's resources server: POST /verify gives the reward of a rollout, POST /seed_session has nothing to prepare.

A rollout is a request to OpenAI's Responses API and the response to it. Its items become messages: what was thought, called and
said in a row is one turn of the assistant, results of calls are turns of the tools, the last turn is the answer. Other fields of
the row (such as expected_answer) are the ground truth, for scorers that read it. Written from NeMo Gym's base_resources_server and
openai_utils.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict
from starlette.responses import Response

from assay.messages import as_messages
from assay.records import Completion
from assay.serve.service import BadRequest, StrictJSON, open_request

router = APIRouter()

_TEXTS = ("input_text", "output_text", "text", "reasoning_text", "summary_text")


class CreateParams(BaseModel):
    """What the policy was asked. Settings of its sampling change no reward."""

    model_config = ConfigDict(extra="allow")

    input: str | list[dict[str, Any]]
    instructions: str | None = None
    tools: list[dict[str, Any]] | None = None


class PolicyResponse(BaseModel):
    """What the policy answered."""

    model_config = ConfigDict(extra="allow")

    output: list[dict[str, Any]]


class VerifyRequest(BaseModel):
    """One row of a rollout: what else it holds is the ground truth, and is sent back."""

    model_config = ConfigDict(extra="allow")

    responses_create_params: CreateParams
    response: PolicyResponse


@router.post("/seed_session", tags=["NeMo Gym"])
async def seed_session() -> Response:
    """Nothing to prepare: rewards depend on the rollout alone."""
    return StrictJSON({})


@router.post("/verify", tags=["NeMo Gym"])
async def verify(body: VerifyRequest, request: Request) -> Response:
    """The row with its reward."""
    scoring = open_request(request)
    try:
        completion = rollout(body)
    except ValueError as error:
        raise BadRequest(422, str(error)) from None
    (value,) = await scoring.values([completion])
    try:
        return StrictJSON({**body.model_dump(exclude_unset=True), "reward": value}, headers=scoring.headers)
    except ValueError:
        raise BadRequest(422, "the row holds NaN or infinity, which JSON has no words for") from None


def rollout(body: VerifyRequest) -> Completion:
    """The messages before the last answer, and the answer. Raises ValueError for items that are no text, call or result."""
    asked = body.responses_create_params
    turns = [{"role": "system", "content": asked.instructions}] if asked.instructions else []
    items = [{"role": "user", "content": asked.input}] if isinstance(asked.input, str) else asked.input
    messages = as_messages([*turns, *turns_of([*items, *body.response.output])])
    if not messages or messages[-1].role != "assistant":
        raise ValueError("the response does not end in a message or a call of the assistant: there is no answer to score")
    return Completion(
        messages=messages[:-1],
        response_message=messages[-1],
        tools=tuple(_tool(tool) for tool in asked.tools or ()),
        ground_truth=body.model_extra or None,
    )


def turns_of(items: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Items of the Responses API as messages of the chat API."""
    turns: list[dict[str, Any]] = []
    is_open = False  # whether the assistant's last turn goes on

    def own(is_new: bool = False) -> dict[str, Any]:
        if not is_open or is_new:
            turns.append({"role": "assistant", "content": ""})
        return turns[-1]

    for item in items:
        kind = item.get("type", "message")
        if kind == "reasoning":
            turn = own(is_new=bool(turns) and is_open and bool(turns[-1]["content"] or "tool_calls" in turns[-1]))
            turn["reasoning_content"] = _text_of(item.get("content") or item.get("summary") or ())
        elif kind == "function_call":
            turn = own()
            function = {"name": item.get("name"), "arguments": item.get("arguments")}
            turn.setdefault("tool_calls", []).append({"id": item.get("call_id"), "type": "function", "function": function})
        elif kind == "message" and item.get("role") == "assistant":
            turn = own(is_new=is_open and bool(turns[-1]["content"] or "tool_calls" in turns[-1]))
            turn["content"] = _text_of(item.get("content"))
        elif kind == "message":
            role = "system" if item.get("role") == "developer" else item.get("role")
            turns.append({"role": role, "content": _text_of(item.get("content"))})
        elif kind == "function_call_output":
            turns.append({"role": "tool", "content": _text_of(item.get("output")), "tool_call_id": item.get("call_id")})
        else:
            raise ValueError(
                f"an item of type {str(kind)[:40]!r} cannot be read: only messages, reasoning, function calls and results"
            )
        is_open = turns[-1]["role"] == "assistant"
    return turns


def _text_of(content: Any) -> str:
    """A content as one text. Raises ValueError for parts that are none."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [
        part.get("refusal") if part.get("type") == "refusal" else part.get("text") for part in parts if isinstance(part, Mapping)
    ]
    known = all(isinstance(part, Mapping) and part.get("type") in (*_TEXTS, "refusal") for part in parts)
    if not (known and isinstance(content, list | tuple) and all(isinstance(text, str) for text in texts)):
        raise ValueError("a content holds something else than texts, which a reward model of text cannot read")
    return "\n".join(map(str, texts))


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    """A function's description in the form of chat templates. Raises ValueError for the tools that a provider runs itself."""
    if tool.get("type", "function") != "function":
        raise ValueError(f"a tool of type {str(tool.get('type'))[:40]!r} cannot be described to a chat template: only functions")
    if "function" in tool:
        return dict(tool)
    return {"type": "function", "function": {key: value for key, value in tool.items() if key not in ("type", "strict")}}
