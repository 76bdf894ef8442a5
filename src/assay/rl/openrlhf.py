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

from assay.data.raw.embedded import parted_query
from assay.messages import as_ground_truth, as_messages
from assay.records import Completion, Rewards
from assay.rl.failures import ALONE, OnFailure, check, resolve_failures
from assay.scorers.base import Scorer, closed, closing_of, needs_answer, padding_of, turn_of


def openrlhf_reward(scorer: Scorer, *, on_failure: OnFailure = "raise") -> Callable[..., dict[str, Any]]:
    """A function with the signature that OpenRLHF 0.11 calls: (queries, prompts, labels) -> rewards, scores, extra_logs.

    A query is prompt and answer as OpenRLHF rendered them with the policy's template. It is not rendered again, so policy and
    reward model must have the same template; only the template's end of an answer is added. OpenRLHF calls with one rollout at a
    time from several threads. They take turns, except for a served model, which scores them in one batch. rewards and scores are
    (N,) float32 tensors of the same rewards; OpenRLHF filters prompts by `scores`.
    A rule or a judge renders nothing, and gets prompt and answer apart: the answer is what follows the prompt's text, without the
    end token, and the label (`--data.label_key`) is the ground truth. A query that does not begin with its prompt (OpenRLHF cuts
    long prompts at their front) has no reward, with that reason.
    extra_logs: an ensemble's std. on_failure: "raise", or "none" for NaN. OpenRLHF cannot leave NaN out: training stops on it.
    Raises ValueError for a policy that needs the other answers to a prompt and for a rule and a model in one scorer, RewardError
    for answers without a reward.
    """
    check(on_failure, ALONE)
    closing, padding, takes_parts = closing_of(scorer), padding_of(scorer), needs_answer(scorer)

    def reward_func(queries: Sequence[str], prompts: Sequence[str], labels: Sequence[Any], **_: Any) -> dict[str, Any]:
        import torch

        with turn_of(scorer):
            if takes_parts:
                rewards = _of_parts(scorer, queries, prompts, labels)
            else:
                rewards = scorer.score([Completion(text=closed(query, closing, padding)) for query in queries])
        resolved = resolve_failures(rewards, range(len(rewards)), on_failure)
        values = torch.tensor([np.nan if value is None else value for value in resolved], dtype=torch.float32)
        logs = {} if rewards.std is None else {"reward_std": torch.from_numpy(rewards.std.copy())}
        return {"rewards": values, "scores": values.clone(), "extra_logs": logs}

    return reward_func


def _of_parts(scorer: Scorer, queries: Sequence[str], prompts: Sequence[str], labels: Sequence[Any]) -> Rewards:
    """Rewards of a scorer that has to know where the answer begins; NaN with the reason where that cannot be told."""
    items: dict[int, Completion] = {}
    errors: list[str | None] = [None] * len(queries)
    for i, (query, prompt, label) in enumerate(zip(queries, prompts, labels, strict=True)):
        try:
            asked, answer = parted_query(query, prompt)
            items[i] = Completion(messages=as_messages(asked), response=answer, ground_truth=as_ground_truth(label))
        except ValueError as error:
            errors[i] = str(error)
    scored = scorer.score(list(items.values()))
    value_N = np.full(len(queries), np.nan, np.float32)
    std_N = None if scored.std is None else np.full(len(queries), np.nan, np.float32)
    for row, i in enumerate(items):
        value_N[i], errors[i] = scored.value[row], None if scored.error is None else scored.error[row]
        if std_N is not None and scored.std is not None:
            std_N[i] = scored.std[row]
    return Rewards(value=value_N, std=std_N, error=tuple(errors))
