"""The APIs of RL trainers that get rewards from a URL.

    OpenRLHF        POST /get_reward            query is rendered text: nothing is added to it; a rule or a judge gets its answer
    slime           POST /remote_rm             prompt and response of one sample, the reply is the reward
    LLaMA-Factory   POST /v1/score/evaluation   rendered texts

None of them has a field for a reason: a completion without a reward is an HTTP error, never a number. Their texts end where
generation ended; the template's end of an answer is added, since the reward is read there.
Written from the trainers' sources: OpenRLHF's utils/agent.py and serve_rm.py, slime's rm_hub, LLaMA-Factory's api/.
"""

from __future__ import annotations

import uuid
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from assay.data.raw.embedded import parted_query
from assay.messages import as_ground_truth, as_messages
from assay.records import Completion
from assay.scorers.base import needs_answer
from assay.serve.contracts.request_fields import ChatTurn, as_turns
from assay.serve.served import TextRules
from assay.serve.service import BadRequest, Body, StrictJSON, all_values, open_request

router = APIRouter()


class GetRewardRequest(Body):
    """query: prompts with their answers, decoded from the tokens; prompts: the prompts only, equal for answers to one prompt;
    labels: ground truth, for scorers that read it."""

    query: str | list[str]
    prompts: str | list[str] | None = None
    labels: Any = None


class RemoteRequest(Body):
    """prompt: messages, or a text: rendered if it contains special tokens of the model, else one user turn. label: ground truth,
    for scorers that read it."""

    prompt: str | list[ChatTurn]
    response: str
    label: Any = None


class EvaluationRequest(Body):
    messages: list[str]
    model: str | None = None
    max_length: int | None = None


@router.post("/get_reward", tags=["OpenRLHF"])
async def get_reward(body: GetRewardRequest, request: Request) -> Response:
    """OpenRLHF's remote reward model: rewards, also as scores, and the standard deviation as a log if there is one.

    A rule or a judge gets the answer apart: what follows the prompt in its query. Without `prompts` it gets the text as it is.
    """
    scoring = open_request(request)
    queries = [body.query] if isinstance(body.query, str) else body.query
    prompts = [body.prompts] if isinstance(body.prompts, str) else body.prompts
    if prompts is not None and len(prompts) != len(queries):
        raise BadRequest(422, f"{len(queries)} queries and {len(prompts)} prompts: give one for each, or none")
    labels = [None] * len(queries) if body.labels is None else body.labels if isinstance(body.labels, list) else [body.labels]
    if len(labels) != len(queries):
        raise BadRequest(422, f"{len(queries)} queries and {len(labels)} labels: give one for each, or none")
    try:
        if prompts is not None and needs_answer(scoring.loaded.batcher.scorer):
            completions = [_parted(*row) for row in zip(queries, prompts, labels, strict=True)]
        else:
            closed = map(scoring.text_rules.closed, queries)
            completions = [
                Completion(text=text, ground_truth=as_ground_truth(label)) for text, label in zip(closed, labels, strict=True)
            ]
    except ValueError as error:
        raise BadRequest(422, str(error)) from error
    rows = await scoring.rows(completions, prompts)
    values = all_values(rows)
    has_std = bool(rows) and all(row.get("std") is not None for row in rows)
    logs = {"reward_std": [row["std"] for row in rows]} if has_std else {}
    return StrictJSON({"rewards": values, "scores": values, "extra_logs": logs}, headers=scoring.headers)


@router.post("/remote_rm", tags=["slime"])
async def remote_rm(body: RemoteRequest, request: Request, reward_key: str | None = None, rendered: bool | None = None) -> Response:
    """slime's remote_rm: the reward itself; with ?reward_key=NAME it is {NAME: reward}, for slime's --reward-key.

    ?rendered=true or false says whether a text prompt is rendered; without it the prompt's special tokens decide.
    """
    scoring = open_request(request)
    (value,) = await scoring.values([_sample(body, scoring.text_rules, rendered)])
    return StrictJSON(value if reward_key is None else {reward_key: value}, headers=scoring.headers)


@router.post("/v1/score/evaluation", tags=["LLaMA-Factory"])
async def score_evaluation(body: EvaluationRequest, request: Request) -> Response:
    """LLaMA-Factory's score evaluation: texts in, scores out."""
    scoring = open_request(request, body.model, is_lenient=True)
    longest = scoring.text_rules.max_length
    if body.max_length is not None and longest is not None and body.max_length < longest:
        raise BadRequest(422, f"max_length {body.max_length}: the length policy is the artifact's, {longest} tokens; leave it out")
    scores = await scoring.values([Completion(text=scoring.text_rules.closed(text)) for text in body.messages])
    reply = {"id": f"scoreeval-{uuid.uuid4().hex}", "object": "score.evaluation", "model": scoring.served.name, "scores": scores}
    return StrictJSON(reply, headers=scoring.headers)


def _parted(query: str, prompt: str, label: Any) -> Completion:
    """Prompt and answer apart, for a rule or a judge. Raises ValueError where it is not known where the answer begins."""
    asked, answer = parted_query(query, prompt)
    return Completion(messages=as_messages(asked), response=answer, ground_truth=as_ground_truth(label))


def _sample(body: RemoteRequest, text_rules: TextRules, rendered: bool | None) -> Completion:
    truth = as_ground_truth(body.label)
    if isinstance(body.prompt, str) and (text_rules.is_rendered(body.prompt) if rendered is None else rendered):
        return Completion(text=text_rules.closed(body.prompt + body.response), ground_truth=truth)
    messages = as_messages(body.prompt) if isinstance(body.prompt, str) else as_turns(body.prompt)
    return Completion(messages=messages, response=body.response, ground_truth=truth)
