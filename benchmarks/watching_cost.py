"""What watching costs beside scoring: processor seconds an answer of each, and bytes that are kept. Last line: one JSON document.

    python benchmarks/watching_cost.py

Scoring is SmolLM2-135M with a fresh head on one thread, in float32, groups of four answers. Law: as a service watches (texts of
128 rows in 512 read, no text kept), it takes under 2% of the time of scoring, canaries included, and its state does not grow from
look 70 to look 140. A GPU that scores 500 answers a second has 2 ms for each: the share that is printed for it is what watching
takes of that.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

from assay import cli  # first: it sets OpenMP up before torch is loaded

# isort: split
import numpy as np
import torch
import tyro
from statistics_speed import machine
from transformers import AutoTokenizer

from assay.audit.watch import Watch, WatchSettings
from assay.commands.demo.run import packaged_base
from assay.data.tokens.render import Renderer
from assay.models.backbone import load_backbone
from assay.models.bases import resolve_base
from assay.models.reward_model import RewardModel, new_head
from assay.models.saved.artifact import save_artifact
from assay.records import Completion, Rewards
from assay.scorers.local import load_raw
from assay.serve.metrics.watching import CANARIES, CANARY_LOOKS, SERVED

WAYS = {"as a service": SERVED, "every text read, three kept": WatchSettings()}
GPU_SECONDS = 1 / 500


@dataclass(frozen=True, kw_only=True)
class CostConfig:
    words: int = 120
    """Of an answer, about."""
    scored: int = 16
    """Answers to time the scoring on; 0 leaves it out."""
    looks: int = 140
    """Looks as a service watches; a seventh of them where every text is read."""
    base: str | None = None
    seed: int = 0


def answers(num: int, words: int, seed: int) -> list[Completion]:
    """Four to a prompt, in words by a power law, with marks and sentences."""
    rng = np.random.default_rng(seed)
    vocabulary = np.array(
        [f"word{i}" for i in range(5_000)] + ["the", "it", "might", "you", "not", "**bold**", "?", "!", "\n- item", "."] * 20
    )

    def text(length: int) -> str:
        return " ".join(vocabulary[rng.integers(len(vocabulary), size=length)])

    return [
        Completion(messages=f"question {seed} {i // 4}", response=text(int(rng.integers(words // 2, 3 * words // 2))))
        for i in range(num)
    ]


def watched(settings: WatchSettings, config: CostConfig) -> dict[str, float]:
    """Processor seconds an answer, and the size of the state half way and at the end."""
    watch, busy, sizes = Watch(settings=settings), 0.0, []
    rng, looks = np.random.default_rng(config.seed), config.looks if settings.read is not None else config.looks // 7
    for look in range(looks):
        completions = answers(settings.window, config.words, look)
        rewards = Rewards(value=rng.normal(size=len(completions)))
        began = time.process_time()
        watch.see(completions, rewards)
        busy += time.process_time() - began
        if look + 1 in (looks // 2, looks):
            sizes.append(len(json.dumps(watch.saved())))
    return {"seconds": busy / watch.num_rows, "bytes_half_way": sizes[0], "bytes": sizes[1]}


def scored(config: CostConfig) -> float:
    """Processor seconds of scoring an answer."""
    cli.keep_freed_memory()
    torch.set_num_threads(1)
    path = resolve_base(config.base or packaged_base()).path
    with tempfile.TemporaryDirectory() as directory:
        backbone = load_backbone(path, dtype=torch.float32)
        model = RewardModel(backbone, new_head(backbone.hidden_size, seed=0))
        save_artifact(model, Renderer(AutoTokenizer.from_pretrained(path), max_length=1024), Path(directory) / "a", {})
        scorer = load_raw(Path(directory) / "a")
        scorer.score(answers(2, config.words, 99))  # the first call sets up
        given = answers(config.scored, config.words, 100)
        began = time.process_time()
        assert scorer.score(given).ok.all()
        return (time.process_time() - began) / len(given)


def main() -> int:
    config = tyro.cli(CostConfig)
    ways = {name: watched(settings, config) for name, settings in WAYS.items()}
    result: dict[str, Any] = {"machine": machine(1), "words": config.words, "watching": ways}
    if config.scored:
        scoring = scored(config)
        canaries = CANARIES / (CANARY_LOOKS * SERVED.window)  # answers scored again, for each that is scored
        shares = {name: way["seconds"] / scoring + canaries for name, way in ways.items()}
        gpu = {name: way["seconds"] / GPU_SECONDS for name, way in ways.items()}
        result |= {"scoring_seconds": scoring, "share_of_scoring": shares, "share_of_500_a_second": gpu}
        result |= {"under_2_percent": shares["as a service"] < 0.02}
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
