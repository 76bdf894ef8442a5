"""text-embeddings-inference's API, and huggingface_hub's InferenceClient, which posts to the address itself.

    TEI               POST /predict, POST / (the same, or query and texts), GET /info
    InferenceClient   POST / with "parameters": text_classification, sentence_similarity

TEI's raw_scores is off when left out, and off means a sigmoid. A client of Hugging Face's text classification gets what
transformers' pipeline gives for the model: the reward, where config.json says that it is a regression. Written from text-
embeddings-inference's router and huggingface_hub's client.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, Literal

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from assay.messages import as_messages
from assay.records import Completion
from assay.scorers.base import HasRenderer, capability
from assay.serve.contracts.request_fields import answers, sigmoid
from assay.serve.contracts.rerank import TextRanks, Truncated, check_cut, tei_ranks
from assay.serve.service import BadRequest, Body, ScoreRequest, StrictJSON, open_request, service_of

router = APIRouter()

DEFAULT_LABEL = "LABEL_0"


class PredictRequest(Truncated):
    """inputs: a text; [question, answer]; or a list of [text] and [question, answer]."""

    inputs: str | list[str] | list[list[str]]
    raw_scores: bool = False


class Similarity(Body):
    """A sentence, and others that are compared with it: here a question and its answers."""

    source_sentence: str
    sentences: list[str]


class Parameters(Body):
    """Of Hugging Face's text classification. function_to_apply: softmax of a single class is always 1, so it is refused."""

    function_to_apply: Literal["none", "sigmoid"] | None = None
    top_k: int | None = Field(default=None, ge=1)


class RootRequest(TextRanks):
    """TEI's request, or with `parameters` Hugging Face's: there a list of texts is a batch, not a pair."""

    inputs: str | list[str] | list[list[str]] | Similarity | None = None
    parameters: Parameters | None = None
    query: str | None = None
    texts: list[str] | None = None


@router.post("/predict", tags=["TEI"])
async def predict(body: PredictRequest, request: Request) -> Response:
    """text-embeddings-inference's classification: a sigmoid of the reward, or with raw_scores the reward."""
    return await _predict(body.inputs, body, body.raw_scores, open_request(request))


@router.post("/", tags=["TEI", "Hugging Face"])
async def root(body: RootRequest, request: Request) -> Response:
    """TEI's prediction or ranking, and the text classification and sentence similarity of Hugging Face's InferenceClient."""
    scoring, inputs = open_request(request), body.inputs
    if body.query is not None and body.texts is not None and inputs is None:
        return await tei_ranks(body.query, body.texts, body, scoring)
    if inputs is None or body.query is not None or body.texts is not None:
        raise BadRequest(400, "give inputs, or query and texts")
    parameters = body.parameters or Parameters()
    if isinstance(inputs, Similarity):
        pairs = answers([inputs.source_sentence] * len(inputs.sentences), inputs.sentences)
        return StrictJSON(_applied(await scoring.values(pairs), parameters, scoring), headers=scoring.headers)
    if body.parameters is None:
        return await _predict(inputs, body, body.raw_scores, scoring)
    texts = [inputs] if isinstance(inputs, str) else inputs
    values = _applied(await scoring.values([_completion(scoring, text) for text in texts]), parameters, scoring)
    return StrictJSON([[_prediction(value, scoring)] for value in values], headers=scoring.headers)


@router.get("/info", tags=["TEI"])
async def model_info(request: Request) -> Response:
    """The default model, as TEI describes it: a reranker, with its fingerprint as its version."""
    service = service_of(request)
    served = service.find(request.state.model)
    label, batcher = served.current.text_rules.label or DEFAULT_LABEL, served.current.batcher
    reply = {
        "model_id": served.name,
        "model_sha": served.current.fingerprint,
        "served_model_name": served.name,
        "model_dtype": getattr(capability(batcher.scorer, HasRenderer), "computed_in", "float32"),
        "model_type": {"reranker": {"id2label": {"0": label}, "label2id": {label: 0}}},
        "max_concurrent_requests": batcher.max_queued,
        "max_input_length": served.current.text_rules.max_length,
        "max_batch_tokens": batcher.batch_tokens,
        "max_batch_requests": None,
        "max_client_batch_size": service.limits.max_items,
        "auto_truncate": True,
        "tokenization_workers": 1,
        "version": version("assay-rm"),
    }
    return StrictJSON(reply)


async def _predict(inputs: str | list[str] | list[list[str]], body: Truncated, raw_scores: bool, scoring: ScoreRequest) -> Response:
    is_batch = not isinstance(inputs, str) and bool(inputs) and isinstance(inputs[0], list)
    entries: Sequence[str | Sequence[str]] = inputs if is_batch else [inputs]  # type: ignore[list-item, assignment]
    counted = await scoring.counted([_completion(scoring, entry) for entry in entries])
    check_cut(body, counted.num_cut)
    values = counted.values if raw_scores else [sigmoid(value) for value in counted.values]
    rows = [[_prediction(value, scoring)] for value in values]
    return StrictJSON(rows if is_batch else rows[0], headers=scoring.headers)


def _prediction(value: float, scoring: ScoreRequest) -> dict[str, Any]:
    return {"score": value, "label": scoring.text_rules.label or DEFAULT_LABEL}


def _completion(scoring: ScoreRequest, entry: str | Sequence[str]) -> Completion:
    parts = [entry] if isinstance(entry, str) else list(entry)
    if len(parts) == 1:
        return Completion(text=scoring.text_rules.with_specials(parts[0]))
    if len(parts) == 2:
        return Completion(messages=as_messages(parts[0]), response=parts[1])
    raise BadRequest(422, f"an input has {len(parts)} texts: give one, or a question and its answer")


def _applied(values: list[float], parameters: Parameters, scoring: ScoreRequest) -> list[float]:
    """The rewards, or their sigmoids where that is asked for, or where transformers' pipeline would apply it."""
    function = parameters.function_to_apply or ("sigmoid" if scoring.text_rules.has_sigmoid else "none")
    return [sigmoid(value) for value in values] if function == "sigmoid" else values
