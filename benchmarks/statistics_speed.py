"""Seconds of the statistics of an evaluation and of a comparison on one core, beside those of scoring. Last line: one JSON.

    python benchmarks/statistics_speed.py
    python benchmarks/statistics_speed.py --data PATH/rmb/pairs.jsonl.gz

The margins are drawn, with prompts that move together: what they are costs the same. Pairs are written (words by a power law, three
pairs a prompt, tags of 4 and 30 values) or read. Law: evaluation and comparison of 10,000 pairs together take under 20 s on one
core, and an evaluation at most a tenth of the time of scoring with a small model (SmolLM2-135M with a fresh head, on all cores).
Both are held to the processor's seconds (of scoring: over its threads), which other jobs on the machine do not stretch.
(Not called statistics.py: that would stand before the standard library's module for all that is run from this folder.)
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

# One thread for the statistics; scoring asks for all of them.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
import tyro

from assay.data.pairs import read_pairs
from assay.evaluation.compare import Side, compare_margins
from assay.evaluation.evaluate import evaluate_margins
from assay.evaluation.rivals import BAG_OF_WORDS
from assay.evaluation.slices import columns_of, slice_tables
from assay.records import PreferencePair
from assay.scorers.baselines import LengthScorer
from assay.stats.metrics import sigmoid


@dataclass(frozen=True, kw_only=True)
class StatisticsConfig:
    pairs: int = 10_000
    data: str | None = None
    """Pairs to use in place of written ones; repeated under other prompts up to --pairs."""
    scored: int = 64
    """Pairs to time the scoring on; 0 leaves it out."""
    base: str | None = None
    repeats: int = 3
    seed: int = 0


def main() -> int:
    config = tyro.cli(StatisticsConfig)
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    pairs = some_pairs(config)
    a_P2, b_P2 = some_rewards(pairs, config.seed)
    margins_a_P, margins_b_P = a_P2[:, 0] - a_P2[:, 1], b_P2[:, 0] - b_P2[:, 1]
    a, b = Side(margins_a_P, sigmoid(margins_a_P)), Side(margins_b_P, sigmoid(margins_b_P))
    columns = columns_of(margins_a_P, pairs, a.probabilities_P, config.seed)
    jobs: dict[str, Callable[[], Any]] = {
        "evaluation": lambda: evaluate_margins(margins_a_P, pairs, a.probabilities_P, rewards_P2=a_P2, title="t"),
        "evaluation, words fitted before": lambda: evaluate_margins(
            margins_a_P, pairs, a.probabilities_P, rewards_P2=a_P2, title="t", baselines={BAG_OF_WORDS: LengthScorer()}
        ),
        "slices alone": lambda: slice_tables(columns),
        "comparison": lambda: compare_margins(a, b, pairs, title="t"),
    }
    seconds = {name: timed(job, config.repeats) for name, job in jobs.items()}
    total = seconds["evaluation"]["processor"] + seconds["comparison"]["processor"]
    slices = sum(len(table.rows) for table in slice_tables(columns))
    os.sched_setaffinity(0, cores)
    result: dict[str, Any] = {
        "machine": machine(len(cores)),
        "pairs": len(pairs),
        "prompts": columns.num_prompts,
        "slices": slices,
        "characters_an_answer": round(float(np.mean([len(p.chosen) + len(p.rejected) for p in pairs])) / 2),
        "seconds_on_one_core": seconds,
        "evaluation_and_comparison": round(total, 2),
        "under_20_s": total < 20,
    }
    if config.scored:
        result |= beside_scoring(config, pairs, seconds)
    print(json.dumps(result))
    return 0


def some_pairs(config: StatisticsConfig) -> list[PreferencePair]:
    if config.data is not None:
        read = list(read_pairs(config.data, limit=config.pairs))
        rounds = -(-config.pairs // len(read))
        again = [under_another_prompt(pair, r) for r in range(rounds) for pair in read]
        return again[: config.pairs]
    rng = np.random.default_rng(config.seed)
    words = np.array([f"word{i}" for i in range(20_000)])

    def text(num_words: int) -> str:
        return " ".join(words[np.minimum(rng.zipf(1.3, size=num_words), 20_000) - 1])

    pairs = []
    for i in range(config.pairs):
        chosen, rejected = (text(int(rng.integers(40, 260))) for _ in range(2))
        tags = {"axis": ("chat", "code", "maths", "safety")[i % 4], "scenario": f"scenario {int(rng.integers(30))}"}
        texts = {"prompt": f"question {i // 3}", "chosen": chosen, "rejected": rejected}
        pairs.append(PreferencePair(**texts, id=str(i), source=f"set {i % 5}", tags=tags))
    return pairs


def under_another_prompt(pair: PreferencePair, number: int) -> PreferencePair:
    last = pair.prompt[-1]
    return replace(pair, prompt=(*pair.prompt[:-1], last._replace(content=f"{number}: {last.content}"))) if number else pair


def some_rewards(pairs: list[PreferencePair], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(P, 2) rewards of two models of which the second is slightly better; a prompt's pairs move together."""
    rng = np.random.default_rng(seed)
    prompts_P = np.unique([pair.prompt_key for pair in pairs], return_inverse=True)[1]
    shared_P = rng.normal(0.7, 1.0, size=int(prompts_P.max()) + 1)[prompts_P]
    models = []
    for gain in (0.0, 0.1):
        margins_P = shared_P + rng.normal(gain, 1.0, size=len(pairs))
        level_P = rng.normal(0.0, 2.0, size=len(pairs))
        models.append(np.stack([level_P + margins_P / 2, level_P - margins_P / 2], axis=1).astype(np.float32).astype(np.float64))
    return models[0], models[1]


def beside_scoring(config: StatisticsConfig, pairs: list[PreferencePair], seconds: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Seconds that scoring as many pairs takes, from a sample of them, and the share that an evaluation adds."""
    import torch
    from transformers import AutoTokenizer

    from assay.cli import keep_freed_memory
    from assay.commands.demo.run import packaged_base
    from assay.data.tokens.render import Renderer
    from assay.models.backbone import load_backbone
    from assay.models.bases import resolve_base
    from assay.models.reward_model import RewardModel, new_head
    from assay.models.saved.artifact import save_artifact
    from assay.scorers.base import pair_rewards
    from assay.scorers.local import load_raw

    keep_freed_memory()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    base = config.base or packaged_base()
    path = resolve_base(base).path
    with tempfile.TemporaryDirectory() as directory:
        backbone = load_backbone(path, dtype=torch.float32)
        model = RewardModel(backbone, new_head(backbone.hidden_size, seed=0))
        save_artifact(model, Renderer(AutoTokenizer.from_pretrained(path), max_length=1024), Path(directory) / "a", {})
        scorer = load_raw(Path(directory) / "a")
        pair_rewards(scorer, pairs[:3])  # the first call sets up
        rng = np.random.default_rng(config.seed)
        starts = 3 * rng.choice(len(pairs) // 3, size=config.scored // 3 + 1, replace=False)
        sample = [pairs[s + k] for s in starts for k in range(3)][: config.scored]
        began, began_busy = time.perf_counter(), time.process_time()
        pair_rewards(scorer, sample)
        wall, busy = time.perf_counter() - began, time.process_time() - began_busy
    scoring = busy / torch.get_num_threads() / len(sample) * len(pairs)
    return {
        "base": Path(base).name,
        "scored_pairs": len(sample),
        "seconds_of_scoring_all": {"wall": round(wall / len(sample) * len(pairs), 1), "processor_a_thread": round(scoring, 1)},
        "threads_of_scoring": torch.get_num_threads(),
        "share_of_an_evaluation": round(seconds["evaluation"]["processor"] / scoring, 4),
        "share_of_a_comparison": round(seconds["comparison"]["processor"] / (2 * scoring), 4),
    }


def timed(job: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Median, least and most seconds, and the median of the processor's: less than the first where others hold the core."""
    took, busy = [], []
    for _ in range(repeats):
        began, began_busy = time.perf_counter(), time.process_time()
        job()
        took.append(time.perf_counter() - began)
        busy.append(time.process_time() - began_busy)
    figures = {"median": np.median(took), "least": min(took), "most": max(took), "processor": np.median(busy)}
    return {name: round(float(value), 2) for name, value in figures.items()}


def machine(num_cores: int) -> str:
    """The processor's name and the number of cores."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {num_cores} cores"


if __name__ == "__main__":
    sys.exit(main())
