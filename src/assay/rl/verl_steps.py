"""Rewards of steps for verl, one at each step's last token. verl takes them in one of two places.

While answers are written (the default: no `reward.reward_model`, or one with resources of its own) a reward manager has ONE number
for an answer, which verl puts at the last token; a manager that gives a list stops the run. There an agent loop of one's own gives
the tokens' rewards with the answer:

# step_loop.py on the PYTHONPATH, and loops.yaml with the line `[{name: steps, _target_: step_loop.StepLoop}]`, named by
# actor_rollout_ref.rollout.agent.agent_loop_config_path=loops.yaml and actor_rollout_ref.rollout.agent.default_agent_loop=steps
import asyncio
import assay
import torch
from assay.rl.verl_steps import verl_response_scores
from verl.experimental.agent_loop.agent_loop import AgentLoopOutput
from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop

SCORER = assay.load("http://127.0.0.1:8000")

class StepOutput(AgentLoopOutput):
    token_rewards: list[float]

    def as_dict(self):
        fields = super().as_dict()
        fields["rm_scores"] = torch.tensor(fields.pop("token_rewards"), dtype=torch.float32)
        return fields

class StepLoop(SingleTurnAgentLoop):
    async def run(self, sampling_params, **columns):
        output = await super().run(sampling_params, **columns)
        rewards = await asyncio.to_thread(
            verl_response_scores, SCORER, self.tokenizer, columns["raw_prompt"], output.response_ids
        )
        output.extra_fields["reward_extra_info"] = {}
        return StepOutput(**{**output.__dict__, "reward_score": sum(rewards), "token_rewards": rewards})

With a reward model that shares the policy's resources (`reward.reward_model.enable=True`, `enable_resource_pool=False`, and any
`reward.custom_reward_function.path`, without which verl asks that model) a reward manager of one's own is asked for whole batches:

# step_rewards.py, named by reward.reward_manager.module.path, with source=importlib and name=StepRewards
import assay
from assay.rl.verl_steps import verl_rm_scores, verl_token_scores
from verl.experimental.reward_loop.reward_manager.base import RewardManagerBase

SCORER = assay.load("http://127.0.0.1:8000")

class StepRewards(RewardManagerBase):
    def __init__(self, config, tokenizer, compute_score, **addresses):
        super().__init__(config, tokenizer, compute_score)

    async def run_single(self, data):
        return {"reward_score": verl_token_scores(SCORER, self.tokenizer, data[-1]), "reward_extra_info": {}}

    @classmethod
    def assemble_rm_scores(cls, data, scores):
        return verl_rm_scores(data, scores)

Both need verl 0.9 or newer. Of an answer's tokens verl's `grpo` and `rloo` make a sum, which grows with the number of steps; `gae`
and `reinforce_plus_plus` give each token what stands behind it. verl has no word for an answer without a reward: a NaN goes on into
the loss of its batch, so that "raise" is the default.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

from assay.data.steps.step_rules import StepRule, split_steps
from assay.errors import RewardError
from assay.messages import as_messages
from assay.records import Completion
from assay.rl.dense import PolicyResponse, padded, policy_token_rewards
from assay.scorers.base import Scorer


def verl_response_scores(
    scorer: Scorer,
    tokenizer: Any,
    prompt: Iterable[Mapping[str, Any]],
    response_ids: Sequence[int],
    *,
    rule: StepRule = "blank-lines",
    on_failure: Literal["raise", "none"] = "raise",
) -> list[float]:
    """The rewards of a response at its tokens, (T,): each step's at the token that ends it, 0 elsewhere.

    prompt: the messages that the policy was shown. tokenizer: the policy's. rule: how the text is cut into steps. on_failure: see
    `policy_token_rewards`, which raises as this does; a response without a word has NaN at its last token, or with "raise" a
    RewardError, as one without a token always has, where there is no place for a NaN.
    """
    token_ids = [int(token) for token in response_ids]
    decode = partial(tokenizer.decode, skip_special_tokens=True)
    text = decode(token_ids)
    if not text.strip():
        if on_failure == "raise" or not token_ids:
            raise RewardError(f"a response of {len(token_ids)} tokens says nothing, and has no step that could have a reward")
        return [0.0] * (len(token_ids) - 1) + [math.nan]
    completion = Completion(messages=as_messages([dict(turn) for turn in prompt]), steps=split_steps(text, rule))
    (found,) = policy_token_rewards(scorer, [PolicyResponse(completion, token_ids)], decode, on_failure=on_failure)
    return [float(one) for one in found]


def verl_token_scores(
    scorer: Scorer, tokenizer: Any, item: Any, *, rule: StepRule = "blank-lines", on_failure: Literal["raise", "none"] = "raise"
) -> list[float]:
    """`verl_response_scores` of one item of verl's `DataProto`, with `raw_prompt`, `responses` and `attention_mask`. Raises
    ValueError for an item without a prompt."""
    response = item.batch["responses"]
    length = int(item.batch["attention_mask"][-response.shape[-1] :].sum())
    if "raw_prompt" not in item.non_tensor_batch:
        raise ValueError(f"the batch has no raw_prompt (it has {sorted(item.non_tensor_batch)}), which verl 0.9 gives")
    return verl_response_scores(
        scorer, tokenizer, item.non_tensor_batch["raw_prompt"], response[:length], rule=rule, on_failure=on_failure
    )


def verl_rm_scores(data: Any, scores: Sequence[Sequence[float]]) -> Any:
    """(B, L) float32 tensor of the token rewards of B responses, in the form and on the device of `data.batch["responses"]`."""
    responses = data.batch["responses"]
    return (responses * 0.0).new_tensor(padded(scores, responses.shape[1]))
