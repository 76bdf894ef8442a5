"""A Scorer as OpenRLHF's local reward function. For a reward model on another machine give OpenRLHF the server's /get_reward URL.

# reward.py, named by --reward.remote_url
import assay
from assay.rl.openrlhf import openrlhf_reward

reward_func = openrlhf_reward(assay.load("runs/mine"))
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from assay.records import Completion
from assay.rl.failures import ALONE, OnFailure, check, resolve_failures
from assay.scorers.base import Scorer, closed, closing_of, padding_of, turn_of


def openrlhf_reward(scorer: Scorer, *, on_failure: OnFailure = "raise") -> Callable[..., dict[str, Any]]:
    """A function with the signature that OpenRLHF 0.11 calls: (queries, prompts, labels) -> rewards, scores, extra_logs.

    A query is prompt and answer as OpenRLHF rendered them with the policy's template. It is not rendered again, so policy and
    reward model must have the same template; only the template's end of an answer is added. OpenRLHF calls with one rollout at a
    time from several threads. They take turns, except for a served model, which scores them in one batch. rewards and scores are
    (N,) float32 tensors of the same rewards; OpenRLHF filters prompts by `scores`.
    extra_logs: an ensemble's std. on_failure: "raise", or "none" for NaN. OpenRLHF cannot leave NaN out: training stops on it.
    Raises ValueError for a policy that needs the other answers to a prompt, RewardError for answers without a reward.
    """
    check(on_failure, ALONE)
    closing, padding = closing_of(scorer), padding_of(scorer)

    def reward_func(queries: Sequence[str], prompts: Sequence[str], labels: Sequence[Any], **_: Any) -> dict[str, Any]:
        import torch

        with turn_of(scorer):
            rewards = scorer.score([Completion(text=closed(query, closing, padding)) for query in queries])
        resolved = resolve_failures(rewards, range(len(rewards)), on_failure)
        values = torch.tensor([np.nan if value is None else value for value in resolved], dtype=torch.float32)
        logs = {} if rewards.std is None else {"reward_std": torch.from_numpy(rewards.std.copy())}
        return {"rewards": values, "scores": values.clone(), "extra_logs": logs}

    return reward_func
