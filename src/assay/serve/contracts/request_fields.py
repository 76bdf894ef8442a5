"""Parts that the engines' APIs have in common: chat messages, vLLM's settings, texts as engines read them, token counts."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Sequence
from typing import Any, Literal, Self

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, model_validator

from assay.messages import REASONING_FIELDS, Message, as_message, as_messages
from assay.records import Completion
from assay.serve.service import BadRequest, Body, Counted, ScoreRequest


class ContentPart(BaseModel):
    """A part of a message's content. Only texts are read; what is said beside the text (caching, annotations) changes no reward."""

    model_config = ConfigDict(strict=True)

    type: Literal["text", "input_text", "output_text"] = "text"
    text: str


def joined(content: str | Sequence[ContentPart] | None) -> str:
    """A content as one text; parts are joined by a line end, as vLLM joins them."""
    return content if isinstance(content, str) else "\n".join(part.text for part in content or ())


class ChatTurn(Body):
    """A message of OpenAI's API. The role developer is read as system; an assistant's content may be null."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[ContentPart] | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    name: str | None = None
    reasoning_content: str | None = None
    thinking: str | None = Field(default=None, description="Another name of reasoning_content.")
    reasoning: str | None = Field(default=None, description="Another name of reasoning_content.")

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        try:
            self.message()
        except ValueError:  # its message may contain the client's text, which error replies must not
            raise ValueError("a message has text as its content, and each of its calls a name") from None
        return self

    def as_row(self) -> dict[str, Any]:
        """The message with one text as its content, as `as_message` reads it."""
        is_missing = self.content is None and self.role != "assistant"
        role = "system" if self.role == "developer" else self.role
        content = None if is_missing else joined(self.content)
        others = ("tool_calls", "tool_call_id", "name", *REASONING_FIELDS)
        return {"role": role, "content": content, **{name: getattr(self, name) for name in others}}

    def message(self) -> Message:
        return as_message(self.as_row())


def as_turns(turns: Sequence[ChatTurn]) -> tuple[Message, ...]:
    return tuple(turn.message() for turn in turns)


class Scheduled(Body):
    """Fields of vLLM's requests that change no reward. user, cache_salt: not needed here. request_id: a part of the reply's id.
    priority: none but 0, for requests are answered in the order in which they come."""

    model: str | None = None
    user: str | None = None
    request_id: str | None = None
    cache_salt: str | None = None
    priority: int | None = Field(default=None, ge=0, le=0)


class Activated(Scheduled):
    """vLLM's switch. On (the default) it gives the sigmoid of the reward, unless the model's config.json has "problem_type":
    "regression", as in Assay's artifacts. Off it gives the reward.

    What would read a text otherwise than the artifact says is refused: cuts, padding, another template.
    """

    use_activation: bool | None = None
    softmax: bool | None = Field(default=None, description="Deprecated by vLLM: use_activation.")
    activation: bool | None = Field(default=None, description="Deprecated by vLLM: use_activation.")
    truncate_prompt_tokens: int | None = Field(default=None, description="-1, or not less than the model's length.")
    truncation_side: Literal["left", "right"] | None = None
    padding: Literal["do_not_pad"] | None = None
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class Pairwise(Activated):
    """Settings of vLLM's /score and /rerank. A question and an answer go through the artifact's chat template, without an
    instruction."""

    instruction: str | None = Field(default=None, description="Refused: the artifact was trained without.")
    max_tokens_per_query: int | None = Field(default=None, ge=0, description="0, or not less than the model's length.")
    max_tokens_per_doc: int | None = Field(default=None, ge=0, description="0, or not less than the model's length.")


def check_reading(body: Activated, scoring: ScoreRequest) -> None:
    """Raises BadRequest (400) for settings of a request that are not the artifact's own."""
    if body.chat_template is not None or body.chat_template_kwargs:
        raise BadRequest(400, "the chat template is the artifact's: leave chat_template and chat_template_kwargs out")
    longest = scoring.text_rules.max_length
    cuts = {"truncate_prompt_tokens": body.truncate_prompt_tokens}
    if isinstance(body, Pairwise):
        if body.instruction is not None:
            raise BadRequest(400, "the artifact was trained without an instruction: leave it out, or write it into the question")
        cuts |= {"max_tokens_per_query": body.max_tokens_per_query, "max_tokens_per_doc": body.max_tokens_per_doc}
    for name, cut in cuts.items():
        if cut in (None, -1) or (cut == 0 and name != "truncate_prompt_tokens"):
            continue
        if longest is not None and cut is not None and cut < longest:
            raise BadRequest(400, f"{name} {cut}: the length policy is the artifact's, {longest} tokens; leave it out")
    if body.truncation_side == "right" and body.truncate_prompt_tokens is not None:
        raise BadRequest(400, "truncation_side right would cut the end of the answer, where the reward is read: leave it out")


def rendered(scoring: ScoreRequest, given: str | Sequence[Any], *, with_specials: bool) -> list[Completion]:
    """One completion for a text or a list of ids, several for a list of either. with_specials: add the engine's special tokens."""
    entries: Sequence[Any] = [given] if is_one(given) else given
    return [
        Completion(text=scoring.text_rules.with_specials(one) if with_specials else one)
        if isinstance(one, str)
        else Completion(token_ids=tuple(one))
        for one in entries
    ]


def is_one(given: str | Sequence[Any]) -> bool:
    """One text, or the token ids of one."""
    return isinstance(given, str) or (bool(given) and isinstance(given[0], int))


def answers(queries: Sequence[str], documents: Sequence[str]) -> list[Completion]:
    """Answers to questions, which the chat template is for."""
    pairs = zip(queries, documents, strict=True)
    return [Completion(messages=as_messages(query), response=document) for query, document in pairs]


def activated(values: list[float], body: Activated, scoring: ScoreRequest) -> list[float]:
    """The rewards, or their sigmoids if vLLM would return sigmoids."""
    return [sigmoid(value) for value in values] if _is_activated(body, scoring) else values


def activated_rows(rows: list[list[float]], body: Activated, scoring: ScoreRequest) -> list[list[float]]:
    """The logits of each token, or their softmax over the labels if vLLM would return that."""
    return [softmax(row) for row in rows] if _is_activated(body, scoring) else rows


def _is_activated(body: Activated, scoring: ScoreRequest) -> bool:
    switches = (body.use_activation, body.softmax, body.activation)
    return scoring.text_rules.has_sigmoid and next((switch for switch in switches if switch is not None), True)


def softmax(logits: Sequence[float]) -> list[float]:
    exps = [math.exp(logit - max(logits)) for logit in logits]
    return [one / sum(exps) for one in exps]


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value)) if value >= 0 else math.exp(value) / (1 + math.exp(value))


def usage(counted: Counted) -> dict[str, int]:
    """The tokens that were read, as vLLM and OpenAI count them: 0 where this process does not tokenise (a rule, a URL)."""
    return {"prompt_tokens": counted.num_tokens, "total_tokens": counted.num_tokens, "completion_tokens": 0}


def list_reply(kind: str, scoring: ScoreRequest, body: Scheduled, rows: list[dict[str, Any]], counted: Counted) -> dict[str, Any]:
    """A reply of vLLM's with one row for each input."""
    head = {"id": reply_id(kind, body, scoring.request), "object": "list", "created": int(time.time())}
    return {**head, "model": scoring.served.name, "data": rows, "usage": usage(counted)}


def reply_id(kind: str, body: Scheduled, request: Request) -> str:
    return f"{kind}-{body.request_id or request.state.request_id or uuid.uuid4().hex}"
