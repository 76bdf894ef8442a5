"""verl: its reward manager calls the custom reward function of docs/serving.md, an answer at a time; its reward loop runs the
manager of assay/rl/verl_steps.py, whose rewards have to stand at the last tokens of the steps."""

from __future__ import annotations

import asyncio
import math
import re
from pathlib import Path

import numpy as np
import torch
from asked import Seen, read_cases
from omegaconf import OmegaConf
from transformers import AutoTokenizer
from verl import DataProto
from verl.experimental.reward_loop.reward_loop import RewardLoopWorker
from verl.experimental.reward_loop.reward_manager.naive import NaiveRewardManager

import assay
from assay.data.steps.step_rules import split_steps
from assay.rl import verl_steps

cases, seen = read_cases(), Seen("verl")
tokenizer = AutoTokenizer.from_pretrained(cases.base)
page = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()
(shown,) = re.findall(r"```python\n([^`]*?compute_score = .*?)```", page, re.DOTALL)
found: dict = {}
exec(shown.replace("http://127.0.0.1:8000", cases.url), found)


def row(turns) -> DataProto:
    ids = torch.tensor([tokenizer(turns[-1]["content"], add_special_tokens=False)["input_ids"]])
    extra = {"prompt": turns[:-1]}
    others = {"data_source": "toy", "reward_model": {"ground_truth": "4"}, "extra_info": extra}
    columns = {name: np.array([value], dtype=object) for name, value in others.items()}
    return DataProto.from_dict(tensors={"responses": ids, "attention_mask": torch.ones_like(ids)}, non_tensors=columns)


async def rewarded() -> list[float]:
    manager = NaiveRewardManager(None, tokenizer, found["compute_score"])
    return [(await manager.run_single(row(turns)))["reward_score"] for turns in cases.conversations]


seen.add("NaiveRewardManager.run_single", "/v1/score", "answers", asyncio.run(rewarded()))

QUESTION = [{"role": "user", "content": cases.question}]
RESPONSES = ["Put it in water.\n\nIt is four, not five.\n\nTell me a story.", "The lazy dog.\n\nIt is four.", " "]
steps_file = Path("step_rewards.py").resolve()
(manager,) = re.findall(r"# step_rewards.py.*?\n(import assay\n.*?)\n\nBoth need", verl_steps.__doc__, re.DOTALL)
steps_file.write_text(manager.replace("http://127.0.0.1:8000", cases.steps))


def batch(texts: list[str]) -> DataProto:
    """As verl pads: the prompt at the left, responses at the right, each with the end token."""
    rows = [[*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id] for text in texts]
    longest, asked = max(map(len, rows)), tokenizer(cases.question, add_special_tokens=False)["input_ids"]
    responses = torch.tensor([row + [tokenizer.pad_token_id] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[0, 0] + [1] * (len(asked) + len(row)) + [0] * (longest - len(row)) for row in rows])
    prompts = torch.tensor([[tokenizer.pad_token_id] * 2 + asked] * len(rows))
    turns = np.empty(len(rows), dtype=object)
    turns[:] = [QUESTION] * len(rows)
    tensors = {"prompts": prompts, "responses": responses, "attention_mask": mask}
    return DataProto.from_dict(tensors=tensors, non_tensors={"raw_prompt": turns})


async def of_steps(texts: list[str]) -> torch.Tensor:
    """verl's worker loads the manager by its file, and the manager's class makes one tensor of all answers."""
    reward = {
        "custom_reward_function": {"path": None},
        "reward_model": {"enable": False},
        "reward_manager": {"source": "importlib", "name": "StepRewards", "module": {"path": str(steps_file)}},
    }
    policy = {"model": {"path": cases.base, "tokenizer_path": None}}
    worker = RewardLoopWorker(OmegaConf.create({"actor_rollout_ref": policy, "reward": reward}))
    data = batch(texts)
    outputs = await worker.compute_score_batch(data)
    return worker.reward_manager.assemble_rm_scores(data, [one["reward_score"] for one in outputs])


written = asyncio.run(of_steps(RESPONSES[:2]))
values, items = [], []
for text, ids, rewards in zip(RESPONSES, batch(RESPONSES[:2]).batch["responses"].tolist(), written, strict=False):
    steps = split_steps(text, "blank-lines")
    ends = ["".join(steps[: k + 1]) for k in range(len(steps))]
    places = rewards.nonzero().flatten().tolist()
    told = [tokenizer.decode(ids[: place + 1], skip_special_tokens=True) for place in places]
    assert told == ends, f"the rewards stand behind {told}, and the steps end with {ends}"
    values += rewards[places].tolist()
    items.append({"messages": QUESTION, "steps": list(steps)})
seen.add("RewardLoopWorker.compute_score_batch", "in process", items, values, of_steps=True)

blank = batch(RESPONSES)
found_T = [
    verl_steps.verl_token_scores(assay.load(cases.steps), tokenizer, blank[k], on_failure="none") for k in range(len(RESPONSES))
]
tensor = verl_steps.verl_rm_scores(blank, found_T)
assert tensor.isnan().sum() == 1
assert math.isnan(tensor[2, len(found_T[2]) - 1]), "what says nothing has a NaN at its last token, and no 0"
seen.tell()
