"""The APIs of inference engines, so that clients of vLLM, SGLang or text-embeddings-inference can use this service.

    vLLM     POST /classify /pooling /score /rerank, GET /v1/models
    SGLang   POST /classify ("text" or "input_ids") /v1/embeddings
    TEI      POST /predict

A text counts as rendered: no template is applied, and special tokens are added as the engine's tokenizer would, never twice. A
completion without a reward is an error of the whole request, since these APIs have no field for a reason. The length policy is
the artifact's.
Written from the engines' sources: vLLM's pooling entry points, SGLang's http_server, text-embeddings-inference's router.
"""

from __future__ import annotations

import base64
import math
import struct
import time
import uuid
from collections.abc import Sequence
from typing import Any, Literal, Self

from fastapi import APIRouter, Request
from pydantic import Field, model_validator
from starlette.responses import Response

from assay.messages import Message, as_message, as_messages
from assay.records import Completion
from assay.serve.service import BadRequest, Body, ScoreRequest, StrictJSON, open_request, service_of

router = APIRouter()

_NO_USAGE = {"prompt_tokens": None, "total_tokens": None, "completion_tokens": None}
"""Only the engine thread counts tokens; here they are not known."""


class ChatTurn(Body):
    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
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
            raise ValueError("a message has text as its content, unless it has reasoning or calls, each with a name") from None
        return self

    def message(self) -> Message:
        return as_message(self.model_dump())


class Activated(Body):
    """vLLM's switch. On (the default) it gives the sigmoid of the reward, unless the model's config.json has "problem_type":
    "regression", as in Assay's artifacts. Off it gives the reward."""

    model: str | None = None
    use_activation: bool | None = None
    softmax: bool | None = Field(default=None, description="Deprecated by vLLM: use_activation.")
    activation: bool | None = Field(default=None, description="Deprecated by vLLM: use_activation.")


class PoolingInput(Activated):
    """The input of vLLM's /classify and /pooling: rendered text or token ids, or one conversation that ends in the answer."""

    input: str | list[str] | list[int] | list[list[int]] | None = None
    messages: list[ChatTurn] | None = None
    add_special_tokens: bool | None = Field(default=None, description="Of texts; true when left out.")
    truncate_prompt_tokens: int | None = None
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class ClassifyRequest(PoolingInput):
    """vLLM's request, or SGLang's with `text` or `input_ids`."""

    text: str | list[str] | None = None
    input_ids: list[int] | list[list[int]] | None = None


class PoolingRequest(PoolingInput):
    task: str | None = None
    encoding_format: Literal["float", "base64"] = "float"


class ScorePairsRequest(Activated):
    """Questions and answers: one question for all answers, or one for each."""

    queries: str | list[str] | None = None
    text_1: str | list[str] | None = None
    data_1: str | list[str] | None = None
    documents: str | list[str] | None = None
    items: str | list[str] | None = None
    text_2: str | list[str] | None = None
    data_2: str | list[str] | None = None


class RerankRequest(Activated):
    query: str
    documents: list[str]
    top_n: int = 0


class EmbeddingsRequest(Body):
    input: str | list[str] | list[int] | list[list[int]]
    model: str | None = None
    encoding_format: Literal["float", "base64"] = "float"


class PredictRequest(Body):
    """inputs: a text; [question, answer]; or a list of [text] and [question, answer]."""

    inputs: str | list[str] | list[list[str]]
    raw_scores: bool = False
    truncate: bool | None = None
    truncation_direction: Literal["Left", "Right", "left", "right"] | None = None


@router.post("/classify", tags=["vLLM", "SGLang"])
async def classify(body: ClassifyRequest, request: Request) -> Response:
    """vLLM's and SGLang's classification: the reward as the one probability, or as an embedding of one number."""
    given = body.text if body.text is not None else body.input_ids
    if given is not None:
        return await _sglang_classify(body, given, request)
    scoring = open_request(request, body.model)
    values = _activated(await scoring.values(_pooling_input(scoring, body)), body, scoring)
    rows = [{"index": i, "label": scoring.text_rules.label, "probs": [v], "num_classes": 1} for i, v in enumerate(values)]
    return StrictJSON(_list_reply("classify", scoring, rows), headers=scoring.headers)


@router.post("/pooling", tags=["vLLM"])
async def pooling(body: PoolingRequest, request: Request) -> Response:
    """vLLM's pooling, for the task "classify"."""
    if body.task not in (None, "classify"):
        raise BadRequest(400, f"the task {body.task[:50]!r} is not served here: this is a reward model, use classify")
    scoring = open_request(request, body.model)
    values = _activated(await scoring.values(_pooling_input(scoring, body)), body, scoring)
    rows = [{"index": i, "object": "pooling", "data": _encoded(v, body.encoding_format)} for i, v in enumerate(values)]
    return StrictJSON(_list_reply("pool", scoring, rows), headers=scoring.headers)


@router.post("/score", tags=["vLLM"])
async def score_pairs(body: ScorePairsRequest, request: Request) -> Response:
    """vLLM's score of text pairs: the answer to a question, through the artifact's chat template."""
    scoring = open_request(request, body.model)
    queries = _texts(body.queries, body.text_1, body.data_1, "queries")
    documents = _texts(body.documents, body.items, body.text_2, body.data_2, "documents")
    if len(queries) == 1:
        queries = queries * len(documents)
    if len(queries) != len(documents):
        raise BadRequest(400, f"{len(queries)} queries and {len(documents)} documents: give one query, or one for each document")
    values = _activated(await scoring.values(_answers(queries, documents)), body, scoring)
    rows = [{"index": i, "object": "score", "score": value} for i, value in enumerate(values)]
    return StrictJSON(_list_reply("score", scoring, rows), headers=scoring.headers)


@router.post("/rerank", tags=["vLLM"])
async def rerank(body: RerankRequest, request: Request) -> Response:
    """vLLM's rerank: answers to one question, best first."""
    scoring = open_request(request, body.model)
    queries = [body.query] * len(body.documents)
    values = _activated(await scoring.values(_answers(queries, body.documents)), body, scoring)
    best = sorted(range(len(values)), key=lambda i: -values[i])[: body.top_n if body.top_n > 0 else None]
    results = [{"index": i, "document": {"text": body.documents[i]}, "relevance_score": values[i]} for i in best]
    reply = {"id": _new_id("rerank"), "model": scoring.served.name, "usage": _NO_USAGE, "results": results}
    return StrictJSON(reply, headers=scoring.headers)


@router.get("/v1/models", tags=["vLLM"])
async def models(request: Request) -> Response:
    """The models by name, as vLLM and OpenAI list them."""
    rows = [
        {
            "id": name,
            "object": "model",
            "created": 0,
            "owned_by": "assay",
            "root": served.current.fingerprint,
            "max_model_len": served.current.text_rules.max_length,
        }
        for name, served in service_of(request).models.items()
    ]
    return StrictJSON({"object": "list", "data": rows})


@router.post("/v1/embeddings", tags=["SGLang"])
async def embeddings(body: EmbeddingsRequest, request: Request) -> Response:
    """SGLang's rewards: embeddings of one number."""
    scoring = open_request(request, body.model, is_lenient=True)
    values = await scoring.values(_rendered(scoring, body.input, with_specials=True))
    rows = [{"object": "embedding", "index": i, "embedding": _encoded(v, body.encoding_format)} for i, v in enumerate(values)]
    reply = {"object": "list", "data": rows, "model": scoring.served.name, "usage": _NO_USAGE}
    return StrictJSON(reply, headers=scoring.headers)


@router.post("/predict", tags=["TEI"])
async def predict(body: PredictRequest, request: Request) -> Response:
    """text-embeddings-inference's classification: a sigmoid of the reward, or with raw_scores the reward."""
    scoring = open_request(request)
    is_batch = not isinstance(body.inputs, str) and bool(body.inputs) and isinstance(body.inputs[0], list)
    entries: Sequence[str | Sequence[str]] = body.inputs if is_batch else [body.inputs]  # type: ignore[list-item, assignment]
    values = await scoring.values([_predict_input(scoring, entry) for entry in entries])
    values = values if body.raw_scores else [_sigmoid(value) for value in values]
    rows = [[{"score": value, "label": scoring.text_rules.label or "LABEL_0"}] for value in values]
    return StrictJSON(rows if is_batch else rows[0], headers=scoring.headers)


async def _sglang_classify(body: ClassifyRequest, given: str | list[Any], request: Request) -> Response:
    scoring = open_request(request, body.model, is_lenient=True)
    values = await scoring.values(_rendered(scoring, given, with_specials=True))
    rows = [{"embedding": [value], "meta_info": {"id": uuid.uuid4().hex}} for value in values]
    return StrictJSON(rows[0] if _is_one(given) else rows, headers=scoring.headers)


def _pooling_input(scoring: ScoreRequest, body: PoolingInput) -> list[Completion]:
    """The completions of a vLLM request. Settings that differ from the artifact's own are refused, not ignored."""
    if body.chat_template is not None or body.chat_template_kwargs:
        raise BadRequest(400, "the chat template is the artifact's: leave chat_template and chat_template_kwargs out")
    cut, longest = body.truncate_prompt_tokens, scoring.text_rules.max_length
    if cut is not None and cut != -1 and longest is not None and cut < longest:
        raise BadRequest(400, f"truncate_prompt_tokens {cut}: the length policy is the artifact's, {longest} tokens; leave it out")
    if (body.input is None) == (body.messages is None):
        raise BadRequest(400, "give input, or messages")
    if body.messages is None:
        assert body.input is not None
        return _rendered(scoring, body.input, with_specials=body.add_special_tokens is not False)
    if not body.messages or body.messages[-1].role != "assistant":
        raise BadRequest(400, "the messages must end in the assistant's answer, which is what gets a reward")
    return [Completion(messages=as_turns(body.messages[:-1]), response_message=body.messages[-1].message())]


def as_turns(turns: Sequence[ChatTurn]) -> tuple[Message, ...]:
    return tuple(turn.message() for turn in turns)


def _rendered(scoring: ScoreRequest, given: str | Sequence[Any], *, with_specials: bool) -> list[Completion]:
    """One completion for a text or a list of ids, several for a list of either. with_specials: add the engine's special tokens."""
    entries: Sequence[Any] = [given] if _is_one(given) else given
    return [
        Completion(text=scoring.text_rules.with_specials(one) if with_specials else one)
        if isinstance(one, str)
        else Completion(token_ids=tuple(one))
        for one in entries
    ]


def _is_one(given: str | Sequence[Any]) -> bool:
    """One text, or the token ids of one."""
    return isinstance(given, str) or (bool(given) and isinstance(given[0], int))


def _predict_input(scoring: ScoreRequest, entry: str | Sequence[str]) -> Completion:
    parts = [entry] if isinstance(entry, str) else list(entry)
    if len(parts) == 1:
        return Completion(text=scoring.text_rules.with_specials(parts[0]))
    if len(parts) == 2:
        return Completion(messages=as_messages(parts[0]), response=parts[1])
    raise BadRequest(422, f"an input has {len(parts)} texts: give one, or a question and its answer")


def _answers(queries: Sequence[str], documents: Sequence[str]) -> list[Completion]:
    pairs = zip(queries, documents, strict=True)
    return [Completion(messages=as_messages(query), response=document) for query, document in pairs]


def _texts(*given: str | list[str] | None) -> list[str]:
    """The first value that is not None, of several names for one field. The last argument is the field's name."""
    *values, name = given
    found = next((value for value in values if value is not None), None)
    if not found:
        raise BadRequest(400, f"{name} is missing or empty")
    return [found] if isinstance(found, str) else found


def _activated(values: list[float], body: Activated, scoring: ScoreRequest) -> list[float]:
    """The rewards, or their sigmoids if vLLM would return sigmoids."""
    switches = (body.use_activation, body.softmax, body.activation)
    is_on = next((switch for switch in switches if switch is not None), True)
    return [_sigmoid(value) for value in values] if is_on and scoring.text_rules.has_sigmoid else values


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value)) if value >= 0 else math.exp(value) / (1 + math.exp(value))


def _encoded(value: float, encoding: str) -> list[float] | str:
    return [value] if encoding == "float" else base64.b64encode(struct.pack("<f", value)).decode()


def _list_reply(kind: str, scoring: ScoreRequest, rows: list[dict[str, Any]]) -> dict[str, Any]:
    head = {"id": _new_id(kind), "object": "list", "created": int(time.time()), "model": scoring.served.name}
    return {**head, "data": rows, "usage": _NO_USAGE}


def _new_id(kind: str) -> str:
    return f"{kind}-{uuid.uuid4().hex}"
