"""TRL's GRPOTrainer with a served model as its reward function: two steps, whose rewards are kept as they come."""

from __future__ import annotations

import torch
from asked import Seen, read_cases
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

import assay
from assay.rl.trl import trl_reward

cases, seen = read_cases(), Seen("trl")
torch.manual_seed(0)
reward = trl_reward(assay.load(cases.url), on_failure="none")
items, values = [], []


def kept(prompts, completions, **more):
    found = reward(prompts, completions, **more)
    for prompt, completion, value in zip(prompts, completions, found, strict=True):
        if value is not None:
            items.append({"prompt": prompt, "response": completion[-1]["content"]})
            values.append(value)
    return found


data = Dataset.from_list([{"prompt": turns[:-1]} for turns in cases.conversations])
settings = GRPOConfig(
    output_dir="out",
    max_steps=2,
    per_device_train_batch_size=4,
    num_generations=2,
    max_completion_length=8,
    logging_steps=1,
    save_strategy="no",
    report_to="none",
    use_cpu=True,
    bf16=False,
)
trainer = GRPOTrainer(
    model=AutoModelForCausalLM.from_pretrained(cases.base),
    processing_class=AutoTokenizer.from_pretrained(cases.base),
    reward_funcs=[kept],
    args=settings,
    train_dataset=data,
)
trainer.train()
seen.add("GRPOTrainer(reward_funcs=[trl_reward(...)])", "/v1/score", items, values)
seen.tell()
