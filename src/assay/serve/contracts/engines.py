"""The APIs of inference engines, so that clients of vLLM and SGLang can use this service.

    vLLM     POST /classify /pooling /score, GET /v1/models /version
    SGLang   POST or PUT /classify ("text" or "input_ids"), POST /v1/embeddings

A text counts as rendered: no template is applied, and special tokens are added as the engine's tokenizer would, never twice. A
completion without a reward is an error of the whole request, since these APIs have no field for a reason. The length policy is
the artifact's. Rerankers are in `rerank`, text-embeddings-inference in `tei`.
Written from the engines' sources: vLLM's pooling entry points, SGLang's http_server.
"""

from __future__ import annotations

import base64
import struct
import sys
import uuid
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, Literal

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from assay.records import Completion
from assay.serve.contracts.request_fields import (
    Activated,
    ChatTurn,
    ContentPart,
    Pairwise,
    Scheduled,
    activated,
    activated_rows,
    answers,
    as_turns,
    check_reading,
    is_one,
    joined,
    list_reply,
    rendered,
    usage,
)
from assay.serve.served import Served
from assay.serve.service import BadRequest, Body, Counted, ScoreRequest, StrictJSON, all_values, open_request, service_of

router = APIRouter()


class Conversation(Body):
    """vLLM's other form of a document: a content of parts."""

    content: list[ContentPart]


Document = str | Conversation
Documents = Document | list[Document]


class PoolingInput(Activated):
    """The input of vLLM's /classify and /pooling: rendered text or token ids, or one conversation that ends in the answer.

    add_generation_prompt, continue_final_message: off, as the reward is read where the template closes an answer.
    """

    input: str | list[str] | list[int] | list[list[int]] | None = None
    messages: list[ChatTurn] | None = None
    add_special_tokens: bool | None = Field(default=None, description="Of texts; true when left out. Not of messages.")
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None


class ClassifyRequest(PoolingInput):
    """vLLM's request, or SGLang's with `text` or `input_ids`."""

    text: str | list[str] | None = None
    input_ids: list[int] | list[list[int]] | None = None


class Encoded(Body):
    """How numbers are written: as JSON, or as base64 of the bytes of one type."""

    encoding_format: Literal["float", "base64"] = "float"
    embed_dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    endianness: Literal["native", "little", "big"] = "native"


class PoolingRequest(PoolingInput, Encoded):
    task: str | None = None
    dimensions: int | None = Field(default=None, ge=1, le=1)


class ScorePairsRequest(Pairwise):
    """Questions and answers: one question for all answers, or one for each."""

    queries: Documents | None = None
    text_1: Documents | None = None
    data_1: Documents | None = None
    documents: Documents | None = None
    items: Documents | None = None
    text_2: Documents | None = None
    data_2: Documents | None = None


class EmbeddingsRequest(Scheduled, Encoded):
    input: str | list[str] | list[int] | list[list[int]]
    dimensions: int | None = Field(default=None, ge=1, le=1)


async def classify(body: ClassifyRequest, request: Request) -> Response:
    """vLLM's and SGLang's classification: the reward as the one probability, or as an embedding of one number."""
    given = body.text if body.text is not None else body.input_ids
    if given is not None:
        return await _sglang_classify(body, given, request)
    scoring = open_request(request, body.model)
    counted = await scoring.counted(_pooling_input(scoring, body))
    values = activated(counted.values, body, scoring)
    rows = [{"index": i, "label": scoring.text_rules.label, "probs": [v], "num_classes": 1} for i, v in enumerate(values)]
    return StrictJSON(list_reply("classify", scoring, body, rows, counted), headers=scoring.headers)


router.post("/classify", tags=["vLLM", "SGLang"])(classify)
router.put("/classify", tags=["SGLang"])(classify)  # SGLang takes both


@router.post("/pooling", tags=["vLLM"])
async def pooling(body: PoolingRequest, request: Request) -> Response:
    """vLLM's pooling: the reward for the task "classify"; of a process reward model the logits of every token, for
    "token_classify"."""
    scoring = open_request(request, body.model)
    own = "token_classify" if scoring.text_rules.token_labels else "classify"
    if body.task not in (None, own):
        what = "a process reward model" if scoring.text_rules.token_labels else "a reward model"
        raise BadRequest(400, f"the task {body.task[:50]!r} is not served here: this is {what}, use {own}")
    if own == "token_classify":
        return await _label_tokens(body, scoring)
    counted = await scoring.counted(_pooling_input(scoring, body))
    values = activated(counted.values, body, scoring)
    rows = [{"index": i, "object": "pooling", "data": _encoded(v, body)} for i, v in enumerate(values)]
    return StrictJSON(list_reply("pool", scoring, body, rows, counted), headers=scoring.headers)


@router.post("/score", tags=["vLLM"])
async def score_pairs(body: ScorePairsRequest, request: Request) -> Response:
    """vLLM's score of text pairs: the answer to a question, through the artifact's chat template."""
    scoring = open_request(request, body.model)
    check_reading(body, scoring)
    queries = _texts(body.queries, body.text_1, body.data_1, name="queries")
    documents = _texts(body.documents, body.items, body.text_2, body.data_2, name="documents")
    if len(queries) == 1:
        queries = queries * len(documents)
    if len(queries) != len(documents):
        raise BadRequest(400, f"{len(queries)} queries and {len(documents)} documents: give one query, or one for each document")
    counted = await scoring.counted(answers(queries, documents))
    values = activated(counted.values, body, scoring)
    rows = [{"index": i, "object": "score", "score": value} for i, value in enumerate(values)]
    return StrictJSON(list_reply("score", scoring, body, rows, counted), headers=scoring.headers)


@router.get("/v1/models", tags=["vLLM"])
async def models(request: Request) -> Response:
    """The models by name, as vLLM and OpenAI list them."""
    return StrictJSON({"object": "list", "data": [_model_row(served) for served in service_of(request).models.values()]})


@router.get("/v1/models/{name:path}", tags=["vLLM"])
async def one_model(name: str, request: Request) -> Response:
    """One model, as OpenAI describes it."""
    return StrictJSON(_model_row(service_of(request).find(name)))


@router.get("/version", tags=["vLLM"])
async def service_version() -> Response:
    """The version of this service."""
    return StrictJSON({"version": version("assay-rm")})


@router.post("/v1/embeddings", tags=["SGLang"])
async def embeddings(body: EmbeddingsRequest, request: Request) -> Response:
    """SGLang's rewards: embeddings of one number."""
    scoring = open_request(request, body.model, is_lenient=True)
    counted = await scoring.counted(rendered(scoring, body.input, with_specials=True))
    rows = [{"object": "embedding", "index": i, "embedding": _encoded(v, body)} for i, v in enumerate(counted.values)]
    reply = {"object": "list", "data": rows, "model": scoring.served.name, "usage": usage(counted)}
    return StrictJSON(reply, headers=scoring.headers)


async def _sglang_classify(body: ClassifyRequest, given: str | list[Any], request: Request) -> Response:
    scoring = open_request(request, body.model, is_lenient=True)
    check_reading(body, scoring)
    rows = await scoring.rows(rendered(scoring, given, with_specials=True), with_tokens=True)
    values = all_values(rows)
    replies = [
        {"embedding": [value], "meta_info": {"id": uuid.uuid4().hex, "prompt_tokens": row["tokens"]}}
        for value, row in zip(values, rows, strict=True)
    ]
    return StrictJSON(replies[0] if is_one(given) else replies, headers=scoring.headers)


async def _label_tokens(body: PoolingRequest, scoring: ScoreRequest) -> Response:
    """A row for each input, of a list for each of its tokens: vLLM's pooling of all tokens. The ends of steps are the client's to
    find; /v1/score finds them itself."""
    if body.dimensions is not None:
        raise BadRequest(400, "rows of tokens are not cut: leave dimensions out")
    found = await scoring.rows(_pooling_input(scoring, body), of_tokens=True)
    counted = Counted(all_values(found), sum(row["tokens"] for row in found), 0)
    rows = [
        {"index": i, "object": "pooling", "data": _encoded_rows(activated_rows(row["logits"], body, scoring), body)}
        for i, row in enumerate(found)
    ]
    return StrictJSON(list_reply("pool", scoring, body, rows, counted), headers=scoring.headers)


def _pooling_input(scoring: ScoreRequest, body: PoolingInput) -> list[Completion]:
    """The completions of a vLLM request. Settings that differ from the artifact's own are refused, not ignored."""
    check_reading(body, scoring)
    if body.add_generation_prompt or body.continue_final_message:
        raise BadRequest(
            400,
            "the reward is read where the template closes an answer: leave add_generation_prompt and continue_final_message out",
        )
    if (body.input is None) == (body.messages is None):
        raise BadRequest(400, "give input, or messages")
    if body.messages is None:
        assert body.input is not None
        return rendered(scoring, body.input, with_specials=body.add_special_tokens is not False)
    if body.add_special_tokens:
        raise BadRequest(400, "the chat template writes the special tokens of messages: leave add_special_tokens out")
    if not body.messages or body.messages[-1].role != "assistant":
        raise BadRequest(400, "the messages must end in the assistant's answer, which is what gets a reward")
    return [Completion(messages=as_turns(body.messages[:-1]), response_message=body.messages[-1].message())]


def _texts(*given: Documents | None, name: str) -> list[str]:
    """The first value that is not None, of several names for one field, as texts."""
    found = next((value for value in given if value is not None), None)
    if not found:
        raise BadRequest(400, f"{name} is missing or empty")
    entries: Sequence[Document] = found if isinstance(found, list) else [found]
    return [document_text(entry) for entry in entries]


def document_text(entry: Document) -> str:
    return entry if isinstance(entry, str) else joined(entry.content)


def _model_row(served: Served) -> dict[str, Any]:
    return {
        "id": served.name,
        "object": "model",
        "created": 0,
        "owned_by": "assay",
        "root": served.current.fingerprint,
        "max_model_len": served.current.text_rules.max_length,
    }


def _encoded(value: float, how: Encoded) -> list[float] | str:
    """One number as the request wants it."""
    return [value] if how.encoding_format == "float" else base64.b64encode(_as_bytes(value, how)).decode()


def _encoded_rows(rows: list[list[float]], how: Encoded) -> list[list[float]] | str:
    """Rows of numbers as the request wants them; as bytes one row follows another."""
    if how.encoding_format == "float":
        return rows
    return base64.b64encode(b"".join(_as_bytes(value, how) for row in rows for value in row)).decode()


def _as_bytes(value: float, how: Encoded) -> bytes:
    """A bfloat16 is the upper half of a float32, rounded to even."""
    order = {"native": sys.byteorder, "little": "little", "big": "big"}[how.endianness]
    mark = "<" if order == "little" else ">"
    if how.embed_dtype == "bfloat16":
        (bits,) = struct.unpack("<I", struct.pack("<f", value))
        return struct.pack(f"{mark}H", min(0xFFFF, (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16))
    return struct.pack(f"{mark}{'f' if how.embed_dtype == 'float32' else 'e'}", value)
