"""Rewards of steps for verl, one at each step's last token: the two halves of a reward manager of one's own.

# step_rewards.py, named by reward.reward_manager.module.path, with source=importlib and name=StepRewards
import assay
from assay.rl.verl_steps import verl_rm_scores, verl_token_scores
from verl.experimental.reward_loop.reward_manager.base import RewardManagerBase

SCORER = assay.load("http://127.0.0.1:8000")

class StepRewards(RewardManagerBase):
    async def run_single(self, data):
        return {"reward_score": verl_token_scores(SCORER, self.tokenizer, data[-1]), "reward_extra_info": {}}

    @classmethod
    def assemble_rm_scores(cls, data, scores):
        return verl_rm_scores(data, scores)

verl must have `assemble_rm_scores` (its main branch, 2026): before, the reward loop wrote one number an answer itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

from assay.data.steps.step_rules import StepRule, split_steps
from assay.messages import as_messages
from assay.records import Completion
from assay.rl.dense import PolicyResponse, padded, policy_token_rewards
from assay.scorers.base import Scorer


def verl_token_scores(
    scorer: Scorer, tokenizer: Any, item: Any, *, rule: StepRule = "blank-lines", on_failure: Literal["raise", "none"] = "raise"
) -> list[float]:
    """The rewards of a response at its tokens: one item of verl's `DataProto`, with `raw_prompt`, `responses` and `attention_mask`.

    tokenizer: the policy's. rule: how the text is cut into steps. on_failure: see `policy_token_rewards`, which raises as this
    does; a blank response is a ValueError.
    """
    response = item.batch["responses"]
    length = int(item.batch["attention_mask"][-response.shape[-1] :].sum())
    token_ids = [int(token) for token in response[:length]]
    decode = partial(tokenizer.decode, skip_special_tokens=True)
    prompt = as_messages([dict(turn) for turn in item.non_tensor_batch["raw_prompt"]])
    completion = Completion(messages=prompt, steps=split_steps(decode(token_ids), rule))
    (found,) = policy_token_rewards(scorer, [PolicyResponse(completion, token_ids)], decode, on_failure=on_failure)
    return [float(one) for one in found]


def verl_rm_scores(data: Any, scores: Sequence[Sequence[float]]) -> Any:
    """(B, L) float32 tensor of the token rewards of B responses, in the form and on the device of `data.batch["responses"]`."""
    responses = data.batch["responses"]
    return (responses * 0.0).new_tensor(padded(scores, responses.shape[1]))
