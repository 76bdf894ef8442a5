"""Rerankers' APIs: a question and answers in, the answers best first. One handler, since their fields differ in names alone.

    vLLM      POST /rerank                 documents, top_n
    Jina      POST /v1/rerank              documents, top_n, return_documents
    Cohere    POST /v1/rerank /v2/rerank   the same; documents may be {"text": ...}
    TEI       POST /rerank                 texts, raw_scores, return_text, truncate; the reply is a bare list

A question and an answer go through the artifact's chat template. relevance_score is the reward: better is larger, and it is no
probability unless vLLM would make it one (see `Activated`).
Written from vLLM's and text-embeddings-inference's sources and the documentation of Cohere and Jina.
"""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from assay.serve.contracts.engines import Conversation
from assay.serve.contracts.request_fields import Pairwise, activated, answers, check_reading, joined, reply_id, sigmoid
from assay.serve.service import BadRequest, Body, ScoreRequest, StrictJSON, all_values, open_request

router = APIRouter()

Direction = Literal["Left", "Right", "left", "right"]


class TextDocument(Body):
    """Cohere's and Jina's other form of a document."""

    text: str


class Truncated(Body):
    """TEI's settings of a text that is too long. truncate: true cuts it, false refuses it; left out, the artifact's length policy
    holds."""

    truncate: bool | None = None
    truncation_direction: Direction | None = None


class TextRanks(Truncated):
    """TEI's settings of a ranking."""

    raw_scores: bool = Field(default=False, description="TEI's: the reward, not its sigmoid.")
    return_text: bool = Field(default=False, description="TEI's.")


class RerankRequest(Pairwise, TextRanks):
    """query, and documents or TEI's texts."""

    query: str | Conversation
    documents: list[str | TextDocument | Conversation] | None = None
    texts: list[str] | None = None
    top_n: int | None = Field(default=None, ge=0, description="How many are returned; all when 0 or left out.")
    return_documents: bool | None = Field(default=None, description="True when left out.")
    rank_fields: list[Literal["text"]] | None = None


@router.post("/rerank", tags=["vLLM", "TEI"])
async def rerank(body: RerankRequest, request: Request) -> Response:
    """Answers to one question, best first."""
    return await _rerank(body, request, is_lenient=False)


@router.post("/v1/rerank", tags=["Cohere", "Jina"])
async def rerank_v1(body: RerankRequest, request: Request) -> Response:
    """The same; where one model is served, any model name means it."""
    return await _rerank(body, request, is_lenient=True)


@router.post("/v2/rerank", tags=["Cohere"])
async def rerank_v2(body: RerankRequest, request: Request) -> Response:
    """The same; where one model is served, any model name means it."""
    return await _rerank(body, request, is_lenient=True)


async def _rerank(body: RerankRequest, request: Request, *, is_lenient: bool) -> Response:
    if (body.documents is None) == (body.texts is None):
        raise BadRequest(400, "give documents, or texts")
    scoring = open_request(request, body.model, is_lenient=is_lenient)
    check_reading(body, scoring)
    query = body.query if isinstance(body.query, str) else joined(body.query.content)
    if body.texts is not None:
        return await tei_ranks(query, body.texts, body, scoring)
    documents = [_text(document) for document in body.documents or ()]
    counted = await scoring.counted(answers([query] * len(documents), documents))
    values = activated(counted.values, body, scoring)
    best = best_first(counted.values, body.top_n)
    results: list[dict[str, Any]] = [{"index": i, "relevance_score": values[i]} for i in best]
    if body.return_documents is not False:
        results = [{**row, "document": {"text": documents[row["index"]]}} for row in results]
    tokens = {"prompt_tokens": counted.num_tokens, "total_tokens": counted.num_tokens}
    billed = {"billed_units": {"search_units": 1}, "tokens": {"input_tokens": counted.num_tokens, "output_tokens": 0}}
    reply = {
        "id": reply_id("rerank", body, request),
        "model": scoring.served.name,
        "usage": tokens,
        "meta": billed,
        "results": results,
    }
    return StrictJSON(reply, headers=scoring.headers)


async def tei_ranks(query: str, texts: list[str], body: TextRanks, scoring: ScoreRequest) -> Response:
    """TEI's reply: a bare list, best first; by the rewards, of which sigmoids may be equal."""
    rows = await scoring.rows(answers([query] * len(texts), texts), with_tokens=True)
    values = all_values(rows)
    check_cut(body, sum(row["is_cut"] for row in rows))
    ranks: list[dict[str, Any]] = [
        {"index": i, "score": values[i] if body.raw_scores else sigmoid(values[i])} for i in best_first(values)
    ]
    if body.return_text:
        ranks = [{**row, "text": texts[row["index"]]} for row in ranks]
    return StrictJSON(ranks, headers=scoring.headers)


def check_cut(body: Truncated, num_cut: int) -> None:
    """Raises BadRequest (413) when texts had to be cut, and the request says not to, or where this model is not cut."""
    if not num_cut or body.truncate is None:
        return
    if body.truncate is False:
        raise BadRequest(413, f"{num_cut} texts are longer than the model reads, and truncate is false")
    if (body.truncation_direction or "right").lower() == "right":
        why = "this model is cut at the front, since the reward is read at the end"
        raise BadRequest(413, f"{num_cut} texts are too long: {why}; ask for truncation_direction left, or leave truncate out")


def best_first(values: list[float], top_n: int | None = None) -> list[int]:
    return sorted(range(len(values)), key=lambda i: -values[i])[: top_n or None]


def _text(document: str | TextDocument | Conversation) -> str:
    if isinstance(document, str):
        return document
    return document.text if isinstance(document, TextDocument) else joined(document.content)
