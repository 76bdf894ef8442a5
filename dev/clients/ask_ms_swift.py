"""ms-swift: the code that calls a plugin's reward functions, with the plugin of docs/serving.md."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from asked import Seen, read_cases
from swift.rewards import orms
from swift.rl_core.data import GRPOSample
from swift.rl_core.grpo_algorithm import compute_rewards_per_func

cases, seen = read_cases(), Seen("ms-swift")
page = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()
(plugin,) = re.findall(r"```python\n([^`]*?class AssayReward.*?)```", page, re.DOTALL)
exec(plugin.replace("http://127.0.0.1:8000", cases.url))
samples = [GRPOSample(messages=turns) for turns in cases.conversations]
rewards = compute_rewards_per_func(samples, [orms["assay"]()], None, torch.device("cpu"))
seen.add("compute_rewards_per_func, orms['assay']", "/v1/score", "answers", rewards[:, 0].tolist())
seen.tell()
