"""verl: its reward manager calls the custom reward function of docs/serving.md, an answer at a time."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import numpy as np
import torch
from asked import Seen, read_cases
from transformers import AutoTokenizer
from verl import DataProto
from verl.experimental.reward_loop.reward_manager.naive import NaiveRewardManager

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
seen.tell()
