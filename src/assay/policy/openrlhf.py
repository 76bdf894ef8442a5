"""A Scorer as OpenRLHF's local reward function. For a reward model on another machine give OpenRLHF the server's /get_reward URL.

# reward.py, named by --reward.remote_url
import assay
from assay.policy.openrlhf import openrlhf_reward

reward_func = openrlhf_reward(assay.load("runs/mine"))
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from assay.policy.failures import ALONE, OnFailure, check, settle
from assay.records import Completion
from assay.scorers.base import Scorer, closed, closing_of, turn_of


def openrlhf_reward(scorer: Scorer, *, on_failure: OnFailure = "raise") -> Callable[..., dict[str, Any]]:
    """A function with the signature that OpenRLHF 0.11 calls: (queries, prompts, labels) -> rewards, scores, extra_logs.

    A query is prompt and answer as OpenRLHF rendered them with the policy's template: it is not templated again, so that the
    template of the policy and of the reward model must be one; it is closed as the template closes an answer. OpenRLHF calls with
    one rollout at a time from several threads; they take turns, but for a served model, which scores them together. rewards and
    scores are (N,) float32 tensors; `scores`, which OpenRLHF filters prompts by, are the same rewards.
    extra_logs: an ensemble's std. on_failure: "raise", or "none" for NaN, which OpenRLHF cannot leave out: training stops on it.
    Raises ValueError for a policy that needs an answer's siblings, RewardError for answers without a reward.
    """
    check(on_failure, ALONE)
    turn, closing = turn_of(scorer), closing_of(scorer)

    def reward_func(queries: Sequence[str], prompts: Sequence[str], labels: Sequence[Any], **_: Any) -> dict[str, Any]:
        import torch

        with turn:
            rewards = scorer.score([Completion(text=closed(query, closing)) for query in queries])
        settled = settle(rewards, range(len(rewards)), on_failure)
        values = torch.tensor([np.nan if value is None else value for value in settled], dtype=torch.float32)
        logs = {} if rewards.std is None else {"reward_std": torch.from_numpy(rewards.std.copy())}
        return {"rewards": values, "scores": values.clone(), "extra_logs": logs}

    return reward_func
