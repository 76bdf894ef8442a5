"""One way to score, in a process of its own (see score.py): Assay's scorer, transformers' pipeline, padded batches by length.

python benchmarks/score_ways.py WAY WORK DTYPE, asked over standard input.
"""

from __future__ import annotations

import copy
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from assay import cli  # first: it sets OpenMP up before torch is loaded

# isort: split
import numpy as np
import torch
from score_child import serve, watched
from score_texts import read_texts
from torch import nn
from train import layer_parameters, matmul_rate
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline
from transformers.utils import logging as transformers_logging

from assay.models.backbone import split_backbone
from assay.models.reward_model import RewardModel, new_head
from assay.models.saved.artifact import load_artifact
from assay.records import Completion
from assay.scorers.local import PROMPT_BYTES, LocalScorer, load_local
from assay.scorers.wrappers.cached import Cached

Handlers = Mapping[str, Callable[..., Any]]


class Counter:
    """What went into a decoder's first layer: tokens with their padding, and pairs of tokens that dense attention looks at."""

    def __init__(self, decoder: Any) -> None:
        self.tokens = self.pairs = 0
        decoder.layers[0].register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, layer: nn.Module, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
        num_rows, width = (positional[0] if positional else named["hidden_states"]).shape[:2]
        self.tokens += num_rows * width
        self.pairs += num_rows * width**2

    def watched(self, score: Callable[[], list[float]]) -> dict[str, Any]:
        self.tokens = self.pairs = 0
        return {**watched(score), "computed_tokens": self.tokens, "attention_pairs": self.pairs}


def flops_a_token(decoder: Any, layers_run: int | None = None) -> dict[str, float]:
    """Operations of the layers' matrices for one token, and of attention for one pair of tokens."""
    config = decoder.config
    share = (layers_run or config.num_hidden_layers) / config.num_hidden_layers
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    attention = 4.0 * config.num_hidden_layers * config.num_attention_heads * head_size
    return {"flops_a_token": 2.0 * layer_parameters(decoder) * share, "flops_an_attention_pair": attention * share}


def padded(work: Path, dtype: torch.dtype) -> Handlers:
    """Plain transformers: sorted by length, batches of at most `setting` tokens with their padding."""
    model, tokenizer, workloads = plain_model(work, dtype), AutoTokenizer.from_pretrained(work / "artifact"), texts_of(work)
    counter = Counter(model.model)

    @torch.inference_mode()
    def score(texts: Sequence[str], budget: int) -> list[float]:
        rows = tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False)["input_ids"]
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
        scores = np.empty(len(rows), np.float32)
        while order:
            size = max(1, budget // len(rows[order[0]]))
            members, order = order[:size], order[size:]
            inputs = tokenizer.pad({"input_ids": [rows[i] for i in members]}, return_tensors="pt")
            scores[members] = model(**inputs, use_cache=False).logits[:, 0].float().numpy()
        return scores.tolist()

    return {
        "score": lambda workload, setting: counter.watched(lambda: score(workloads[workload], setting)),
        "about": lambda: flops_a_token(model.model),
    }


def piped(work: Path, dtype: torch.dtype) -> Handlers:
    """transformers' pipeline in batches of `setting` texts, in the order in which they come."""
    model, workloads = plain_model(work, dtype), texts_of(work)
    classify = pipeline("text-classification", model=model, tokenizer=AutoTokenizer.from_pretrained(work / "artifact"))
    counter = Counter(model.model)

    def score(texts: Sequence[str], size: int) -> list[float]:
        rows = classify(list(texts), batch_size=size, function_to_apply="none", add_special_tokens=False)
        return [row["score"] for row in rows]

    return {
        "score": lambda workload, setting: counter.watched(lambda: score(workloads[workload], setting)),
        "about": lambda: flops_a_token(model.model),
    }


def ours(work: Path, dtype: torch.dtype) -> Handlers:
    """Assay's scorer with its own budget, and what only it can do: the cache, ensembles, the throughput curve."""
    scorer = load_local(work / "artifact", dtype=str(dtype).removeprefix("torch."), device="cpu")  # type: ignore[arg-type]
    backbone = scorer.model.backbone
    counter = Counter(backbone.model)

    def score(workload: str, setting: int | None = None) -> dict[str, Any]:
        completions = completions_of(work, workload)
        figures = counter.watched(lambda: scorer.score(completions).value.tolist())
        predicted = getattr(getattr(scorer, "plan", None), "predicted_bytes", None)
        return {**figures, "predicted_bytes": None if predicted is None else int(predicted)}

    return {
        "score": score,
        "about": lambda: {
            **flops_a_token(backbone.model, backbone.num_layers - int(backbone.stops_early())),
            "max_tokens": scorer.max_tokens,
            "tolerance": scorer.tolerance,
            "fingerprint": scorer.fingerprint,
        },
        "one_by_one": lambda workload: one_by_one(scorer, completions_of(work, workload)),
        "cached": lambda workload: cached_twice(scorer, completions_of(work, workload), work / "rewards.sqlite"),
        "point": lambda **point: curve_point(scorer, counter, **point),
        "matmul": lambda: matmul_rate(dtype),
    }


def ensembles(work: Path, dtype: torch.dtype) -> Handlers:
    """One model, the same with K heads, and K members with their own last blocks over one trunk: each by a LocalScorer."""
    artifact = load_artifact(work / "artifact", dtype=dtype, device="cpu")
    counter = Counter(artifact.model.backbone.model)
    makers: dict[str, Callable[[int, int], nn.Module]] = {
        "one": lambda members, blocks: artifact.model,
        "heads": lambda members, blocks: with_heads(artifact.model, members),
        "members": lambda members, blocks: with_members(artifact.model, members, blocks),
    }
    made: dict[str, LocalScorer] = {}

    def build(kind: str, members: int, blocks: int) -> bool:
        """Raises what the library raises where it does not support this kind yet."""
        model = makers[kind](members, blocks)
        made[kind] = LocalScorer(model, artifact.renderer, identity=kind)  # type: ignore[arg-type]
        return True

    def score(workload: str, setting: str) -> dict[str, Any]:
        completions = completions_of(work, workload)
        return counter.watched(lambda: made[setting].score(completions).value.tolist())

    return {"build": build, "score": score}


def with_heads(model: RewardModel, members: int) -> RewardModel:
    head = nn.Linear(model.backbone.hidden_size, members, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.cat([new_head(model.backbone.hidden_size, seed=seed).weight for seed in range(members)]))
    return RewardModel(model.backbone, head, compute_dtype=model.compute_dtype)


def with_members(model: RewardModel, members: int, blocks: int) -> Any:
    """Members that differ in their heads and own copies of the last blocks; the embeddings are not copied."""
    from assay.models.shared_trunk import SharedTrunk

    trunk, top = split_backbone(model.backbone, blocks)
    shared = model.backbone.model.get_input_embeddings()
    tops = [
        RewardModel(
            copy.deepcopy(top, {id(shared): shared}), new_head(top.hidden_size, seed=seed), compute_dtype=model.compute_dtype
        )
        for seed in range(members)
    ]
    return SharedTrunk(trunk, tops)


def one_by_one(scorer: LocalScorer, completions: Sequence[Completion]) -> dict[str, Any]:
    """Seconds of answers asked for alone, groups interleaved, with prompts kept between the calls and without."""
    order = np.random.default_rng(0).permutation(len(completions))
    found: dict[str, Any] = {}
    values = {}
    for name, memory in (("kept", PROMPT_BYTES), ("anew", 0)):
        asked = LocalScorer(scorer.model, scorer.renderer, identity="", prompt_bytes=memory)
        began = time.perf_counter()
        values[name] = [float(asked.score([completions[i]]).value[0]) for i in order]
        found[f"{name}_seconds"] = time.perf_counter() - began
    return found | {"largest_difference": float(np.abs(np.subtract(*values.values())).max())}


def cached_twice(scorer: LocalScorer, completions: Sequence[Completion], path: Path) -> dict[str, Any]:
    """Seconds of two passes through an empty cache."""
    for file in path.parent.glob(path.name + "*"):
        file.unlink()
    cached, seconds, values = Cached(scorer, path), [], []
    for _ in range(2):
        began = time.perf_counter()
        values.append(cached.score(completions).value)
        seconds.append(time.perf_counter() - began)
    cached.close()
    hits = {"hits": cached.num_hits, "misses": cached.num_misses}
    return {"first_seconds": seconds[0], "second_seconds": seconds[1], "same": bool(np.array_equal(*values)), **hits}


def curve_point(
    scorer: LocalScorer, counter: Counter, *, batch_tokens: int, length: int, group_size: int, prefix_share: float, tokens: int
) -> dict[str, float]:
    """Computed tokens and sequences a second on about `tokens` tokens of groups of one form."""
    rng = np.random.default_rng([batch_tokens, length, group_size])
    texts = read_texts(scorer.renderer)
    extra = texts.prompt_extra + 1
    prompt = min(max(extra, round(length * prefix_share)), length - texts.answer_extra - 1)
    size = prompt + group_size * (length - prompt)
    groups = [texts.group(prompt, [length - prompt] * group_size, rng) for _ in range(max(1, round(tokens / size)))]
    completions = [one for group in groups for one in group]
    if prefix_share == 0.0:  # nothing is shared, not even the template: token ids are taken as they are
        rendered = scorer.renderer.render(completions)
        completions = [Completion(token_ids=tuple(item.tokens.tolist())) for item in rendered]
    asked = LocalScorer(scorer.model, scorer.renderer, identity="", max_tokens=batch_tokens)
    figures = counter.watched(lambda: asked.score(completions).value.tolist())
    assert np.isfinite(figures["scores"]).all()
    return {
        "computed_tokens_per_s": figures["computed_tokens"] / figures["seconds"],
        "sequences_per_s": len(completions) / figures["seconds"],
    }


def plain_model(work: Path, dtype: torch.dtype) -> Any:
    model = AutoModelForSequenceClassification.from_pretrained(str(work / "artifact"), dtype=dtype)
    return model.eval()


def completions_of(work: Path, workload: str) -> list[Completion]:
    rows = json.loads((work / "workloads.json").read_text())[workload]
    return [Completion(messages=row["messages"], response=row["response"]) for row in rows]


def texts_of(work: Path) -> dict[str, list[str]]:
    return json.loads((work / "texts.json").read_text())


WAYS: dict[str, Callable[[Path, torch.dtype], Handlers]] = {
    "assay": ours,
    "padded": padded,
    "pipeline": piped,
    "ensembles": ensembles,
}

if __name__ == "__main__":
    cli.keep_freed_memory()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    way, directory, dtype_name = sys.argv[1:4]
    sys.exit(serve(lambda: WAYS[way](Path(directory), getattr(torch, dtype_name))))
