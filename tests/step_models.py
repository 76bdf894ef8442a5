"""Tiny process reward models, and what they are compared with: every prefix of a solution in a forward of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForTokenClassification, AutoTokenizer

from assay.models.reward_model import RewardModel, new_head
from assay.models.saved.artifact import load_artifact, save_artifact
from assay.models.saved.step_policy import StepPolicy
from assay.records import Completion
from assay.scorers.local import LocalScorer
from tiny import CHATML, tiny_backbone, tiny_renderer

QUESTION = "What is two and two? Please tell me, and put the egg in water."
SOLUTIONS = (
    ("It is two and two.\n\n", "Two and two is four.\n\n", "It is four."),
    ("It is two and two.\n\n", "Two and two is five.\n\n", "It is five, not four."),
    ("The quick brown fox is four.",),
    ("a lazy dog: one\n\ntwo\n", "and three\n", "not five\n"),
)
COMPLETIONS = [Completion(messages=QUESTION, steps=steps) for steps in SOLUTIONS]


def step_model(kind: str = "llama", *, seed: int = 0, bias: bool = True) -> RewardModel:
    backbone = tiny_backbone(kind, seed=seed)
    head = new_head(backbone.hidden_size, 2, seed=seed, bias=bias)
    if bias:
        with torch.no_grad():
            head.bias.copy_(torch.tensor([0.3, -0.4]))
    return RewardModel(backbone, head, outputs="steps")


def step_scorer(kind: str = "llama", *, policy: StepPolicy | None = None, prompt_bytes: int = 0, **settings) -> LocalScorer:
    renderer = tiny_renderer(**{"overlong": "keep_start", **settings})
    return LocalScorer(step_model(kind), renderer, identity="steps", policy=policy, prompt_bytes=prompt_bytes)


def save_step_artifact(
    path: Path, kind: str = "llama", *, template: str = CHATML, description: dict | None = None, **settings
) -> Path:
    renderer = tiny_renderer(template, **{"overlong": "keep_start", "max_length": 256, **settings})
    save_artifact(step_model(kind), renderer, path, description or {})
    return path


def saved_scorer(path: Path, **settings) -> LocalScorer:
    loaded = load_artifact(path)
    policy = StepPolicy.from_description(loaded.description)
    return LocalScorer(loaded.model, loaded.renderer, identity="saved", policy=policy, **settings)


@torch.no_grad()
def prefix_oracle(path: Path, completion: Completion) -> np.ndarray:
    """Log-odds (S,) of the steps of a completion: plain transformers on the text up to each step's end, a forward for each."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForTokenClassification.from_pretrained(path, dtype=torch.float32).eval()
    turns = [{"role": turn.role, "content": turn.content} for turn in completion.messages]
    text = tokenizer.apply_chat_template([*turns, {"role": "assistant", "content": completion.response}], tokenize=False)
    start, found = text.rindex(completion.response.strip()), []
    for step in completion.steps:
        end = start + len(step.rstrip())
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids = [token for token, (begin, _) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True) if begin < end]
        logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
        found.append(float(logits[1] - logits[0]))
        start += len(step)
    return np.array(found, np.float32)
