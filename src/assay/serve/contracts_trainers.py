"""The contracts of RL trainers that ask a reward URL of their own.

    OpenRLHF        POST /get_reward            query is rendered text: nothing is added to it
    slime           POST /remote_rm             prompt and response of one sample, the reply is the reward
    LLaMA-Factory   POST /v1/score/evaluation   rendered texts

None of them has a place for a reason: what has no reward is an HTTP error, never a number. Their texts end where generation did;
they are closed as the template closes an answer, since there the reward is read.
Written from the trainers' sources: OpenRLHF's utils/agent.py and serve_rm.py, slime's rm_hub, LLaMA-Factory's api/.
"""

from __future__ import annotations

import uuid
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from assay.records import Completion, as_messages
from assay.scorers.base import closed
from assay.serve.contracts_engines import ChatTurn, as_turns
from assay.serve.served import Reading
from assay.serve.service import BadRequest, Body, StrictJSON, all_values, begin

router = APIRouter()


class GetRewardRequest(Body):
    """query: prompts with their answers, decoded from the tokens; prompts alone, which tell what belongs together."""

    query: str | list[str]
    prompts: str | list[str] | None = None
    labels: Any = None


class RemoteRequest(Body):
    """prompt: messages, or a text: rendered, when it holds special tokens of the model, else one user turn."""

    prompt: str | list[ChatTurn]
    response: str
    label: Any = None


class EvaluationRequest(Body):
    messages: list[str]
    model: str | None = None
    max_length: int | None = None


@router.post("/get_reward", tags=["OpenRLHF"])
async def get_reward(body: GetRewardRequest, request: Request) -> Response:
    """OpenRLHF's remote reward model: rewards, the same as scores, and the standard deviation as a log where there is one."""
    asked = begin(request)
    queries = [body.query] if isinstance(body.query, str) else body.query
    prompts = [body.prompts] if isinstance(body.prompts, str) else body.prompts
    if prompts is not None and len(prompts) != len(queries):
        raise BadRequest(422, f"{len(queries)} queries and {len(prompts)} prompts: give one for each, or none")
    rows = await asked.rows([Completion(text=closed(query, asked.reading.closing)) for query in queries], prompts)
    values = all_values(rows)
    has_std = bool(rows) and all(row.get("std") is not None for row in rows)
    logs = {"reward_std": [row["std"] for row in rows]} if has_std else {}
    return StrictJSON({"rewards": values, "scores": values, "extra_logs": logs}, headers=asked.headers)


@router.post("/remote_rm", tags=["slime"])
async def remote_rm(body: RemoteRequest, request: Request, reward_key: str | None = None, rendered: bool | None = None) -> Response:
    """slime's remote_rm: the reward itself; with ?reward_key=NAME, as slime's --reward-key wants it, {NAME: reward}.

    ?rendered=true or false says whether a text prompt was rendered, where its special tokens are not to decide.
    """
    asked = begin(request)
    (value,) = await asked.values([_sample(body, asked.reading, rendered)])
    return StrictJSON(value if reward_key is None else {reward_key: value}, headers=asked.headers)


@router.post("/v1/score/evaluation", tags=["LLaMA-Factory"])
async def score_evaluation(body: EvaluationRequest, request: Request) -> Response:
    """LLaMA-Factory's score evaluation: texts in, scores out."""
    asked = begin(request, body.model, is_lenient=True)
    longest = asked.reading.max_length
    if body.max_length is not None and longest is not None and body.max_length < longest:
        raise BadRequest(422, f"max_length {body.max_length}: the length policy is the artifact's, {longest} tokens; leave it out")
    scores = await asked.values([Completion(text=closed(text, asked.reading.closing)) for text in body.messages])
    reply = {"id": f"scoreeval-{uuid.uuid4().hex}", "object": "score.evaluation", "model": asked.served.name, "scores": scores}
    return StrictJSON(reply, headers=asked.headers)


def _sample(body: RemoteRequest, reading: Reading, rendered: bool | None) -> Completion:
    if not isinstance(body.prompt, str):
        return Completion(messages=as_turns(body.prompt), response=body.response)
    if reading.is_rendered(body.prompt) if rendered is None else rendered:
        return Completion(text=closed(body.prompt + body.response, reading.closing))
    return Completion(messages=as_messages(body.prompt), response=body.response)
