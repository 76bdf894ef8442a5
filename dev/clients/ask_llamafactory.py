"""LLaMA-Factory's PPO: rewards of texts from a server."""

from __future__ import annotations

from asked import Seen, read_cases, without_engine

without_engine("llamafactory", "llamafactory.train", "llamafactory.train.ppo")
from llamafactory.train.ppo.ppo_utils import get_rewards_from_server  # noqa: E402

cases, seen = read_cases(), Seen("llamafactory")
values = get_rewards_from_server(f"{cases.url}/v1/score/evaluation", cases.texts)
seen.add("get_rewards_from_server", "/v1/score/evaluation", "texts", [float(value) for value in values])
seen.tell()
