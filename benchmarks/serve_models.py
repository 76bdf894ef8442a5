"""What the load benchmark serves: SmolLM2-135M with a fresh head, and a tiny random model for the requests that are many."""

from __future__ import annotations

import json
from pathlib import Path

from assay import cli  # noqa: F401  first: it sets OpenMP up before torch is loaded

# isort: split
import numpy as np
import torch
from score import rendered_text
from score_texts import Texts, read_texts, sizes
from serve_faults import POISON
from transformers import AutoModel, AutoTokenizer, LlamaConfig

from assay.data.tokens.render import Renderer
from assay.models.attention import ATTENTION
from assay.models.backbone import Backbone
from assay.models.bases import resolve_base
from assay.models.reward_model import RewardModel, new_head
from assay.models.saved.artifact import save_artifact
from assay.records import Completion

TINY_LENGTH = 256


def save_tiny(base: str, work: Path) -> Renderer:
    """Two random layers behind the base's tokenizer; one token's embedding is NaN."""
    tokenizer = AutoTokenizer.from_pretrained(resolve_base(base).path)
    renderer = Renderer(tokenizer, max_length=TINY_LENGTH)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
        pad_token_id=renderer.pad_id,
    )
    backbone = Backbone(AutoModel.from_config(config, attn_implementation=ATTENTION).eval())
    (poison,) = tokenizer(POISON, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        backbone.model.get_input_embeddings().weight[poison] = float("nan")
    save_artifact(RewardModel(backbone, new_head(32, seed=0)), renderer, work / "artifact", {"title": "a tiny random model"})
    return renderer


def save_items(
    renderer: Renderer, work: Path, *, prompts: int, prompt_tokens: int, answer_tokens: int, part: int
) -> dict[str, float]:
    """Groups of 8 answers whose lengths vary by half around the middle, as messages and as rendered text. Returns their sizes.

    `serve-part` are the first `part` items.
    """
    texts, rng = read_texts(renderer), np.random.default_rng(7)
    completions = [one for _ in range(prompts) for one in _group(texts, prompt_tokens, answer_tokens, rng)]
    rows = [{"messages": [turn.as_dict() for turn in one.messages], "response": one.response} for one in completions]
    (work / "workloads.json").write_text(json.dumps({"serve": rows, "serve-part": rows[:part]}))
    (work / "texts.json").write_text(json.dumps({"serve": [rendered_text(renderer, row) for row in rows]}))
    return sizes(completions, renderer)


def _group(texts: Texts, prompt_tokens: int, answer_tokens: int, rng: np.random.Generator) -> list[Completion]:
    least = texts.answer_extra + 1
    lengths = [max(least, round(answer_tokens * rng.uniform(0.5, 1.5))) for _ in range(8)]
    return texts.group(max(texts.prompt_extra + 2, round(prompt_tokens * rng.uniform(0.5, 1.5))), lengths, rng)
