"""Tiny language models that learned to write one reply, whatever they are asked: a critique and a verdict that can be read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from assay.messages import Messages
from assay.records import Completion
from assay.run_files import GENERATIVE, write_description
from assay.scorers.generative.own_forms import own_form
from tiny import CHATML, tiny_config, tiny_tokenizer

ANSWERS = [Completion(messages="How many eggs?", response=text) for text in ("Five.", "Six eggs, or so.", "None of them")]
_SHORT = ("How many?", "What is it? Tell me all of it.", "Six eggs. Who has the key?")


def save_writer(path: Path, reply: str, *, template: str | None = CHATML, steps: int = 90, lead: str = "") -> Path:
    """The directory of a causal language model that replies so to every message. lead: what the template opens a reply with."""
    torch.manual_seed(0)
    tokenizer, config = tiny_tokenizer(template), tiny_config("llama")
    config.num_hidden_layers, config.max_position_embeddings = 1, 1024
    model = AutoModelForCausalLM.from_config(config)
    end = [tokenizer.convert_tokens_to_ids("<|im_end|>")]
    target = tokenizer(reply, add_special_tokens=False)["input_ids"] + end
    rows = []
    for asked in (*_SHORT, *(turn.content for turns in _own_prompts() for turn in turns)):
        text = (
            tokenizer.apply_chat_template([{"role": "user", "content": asked}], tokenize=False, add_generation_prompt=True) + lead
        )
        rows.append(tokenizer(text, add_special_tokens=False)["input_ids"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-2)
    for step in range(steps):
        prompt = rows[step % len(rows)]
        ids = torch.tensor([prompt + target])
        labels = ids.clone()
        labels[:, : len(prompt)] = -100
        optimizer.zero_grad()
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
    model.eval().save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def _own_prompts() -> list[Messages]:
    pairs = [(ANSWERS[i], ANSWERS[j]) for i, j in ((0, 1), (2, 0), (1, 2))]
    return [own_form("pairwise").prompt(*pair) for pair in pairs] + [own_form("pointwise").prompt(one) for one in ANSWERS]


def save_generative(path: Path, reply: str, entry: Mapping[str, Any], **settings: Any) -> Path:
    """The same as an artifact of Assay. entry: how reward.json says that it is asked."""
    save_writer(path, reply, **settings)
    parts = ("weights_digest", "template_digest", "max_length", "overlong", "dtype", "calibration")
    write_description(path, {**dict.fromkeys(parts), "title": "a tiny writer", GENERATIVE: dict(entry)})
    assert json.loads((path / "reward.json").read_text())["fingerprint"]
    return path
