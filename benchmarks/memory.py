"""Host memory of training against the number of pairs: read, tokenise, pack and train on 10k, 100k and 1M rows. Last line: JSON.

    python benchmarks/memory.py

A tiny random model and short texts, so that the rows are what costs. Each size runs in a process of its own; `anonymous` is the
peak of memory that no file stands behind (RssAnon), `resident` the peak of all that is mapped in, the token table's pages included.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))


@dataclass(frozen=True, kw_only=True)
class MemoryConfig:
    sizes: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    steps: int = 50
    """Optimiser steps of 32 pairs."""
    blocks: int | None = None
    """Train so many blocks over a cached trunk, one epoch over all pairs, in place of `steps` steps of the whole model."""
    one: int | None = None
    """Run this size in this process."""


def main() -> int:
    config = tyro.cli(MemoryConfig)
    if config.one is not None:
        print(json.dumps(run(config.one, config.steps, config.blocks)))
        return 0
    rows = []
    for size in config.sizes:
        command = [sys.executable, __file__, "--one", str(size), "--steps", str(config.steps)]
        command += ["--blocks", str(config.blocks)] if config.blocks else []
        rows.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]))
        print(rows[-1], flush=True)
    growth = rows[-1]["anonymous_mb"] - rows[0]["anonymous_mb"]
    print(
        json.dumps(
            {"sizes": rows, "anonymous_growth_mb": round(growth, 1), "bytes_a_row": round(1e6 * growth / config.sizes[-1], 1)}
        )
    )
    return 0


def run(num_pairs: int, steps: int, blocks: int | None) -> dict[str, float]:
    """Peak memory in MB and seconds of the stages for one size."""
    import torch

    from assay.data.pairs import read_pairs
    from assay.data.tokens.table import build_table
    from assay.models.backbone import split_backbone
    from assay.models.reward_model import RewardModel
    from assay.training.batches import TokenSource
    from assay.training.loop import LoopSettings, fit
    from assay.training.states.cache import build_cache
    from assay.training.tasks.pairs import PairTask
    from tiny import tiny_model, tiny_renderer

    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as directory, Watch() as watch:
        path = Path(directory) / "pairs.jsonl"
        with path.open("w") as file:
            for i in range(num_pairs):
                row = {"prompt": f"Question {i}: how?", "chosen": f"Put {i} in water.", "rejected": f"No, not {i} again."}
                file.write(json.dumps(row) + "\n")
        began = time.perf_counter()
        table, _ = build_table(read_pairs(path), tiny_renderer(), Path(directory) / "tokens.arrow")
        tokenised = time.perf_counter()
        settings = LoopSettings(epochs=1, batch_size=32, learning_rate=1e-3, head_learning_rate=1e-3, seed=0, log_every=10)
        train_rows, model, cache = table.rows("train"), tiny_model(), None
        cached = tokenised
        if blocks:
            model.backbone.requires_grad_(False)
            trunk, top = split_backbone(model.backbone, blocks)
            for part in (top.model.layers, top.model.norm):
                part.requires_grad_(True)
            model = RewardModel(top, model.head)
            where = Path(directory) / "activations.bin"
            cache = build_cache(trunk, table, where, identity="", max_tokens=1024, dtype=torch.float32, limit_bytes=10**11)
            cached = time.perf_counter()
        else:
            drawn = torch.randperm(len(train_rows), generator=torch.Generator().manual_seed(0))[: 32 * steps].numpy()
            train_rows = train_rows[drawn]
        source = TokenSource(table=table, max_tokens=1024, layout=model.backbone.layout, cache=cache)
        fit(model, PairTask(table=table, source=source), train_rows, settings)
        ended = time.perf_counter()
        size_mb = (Path(directory) / "tokens.arrow").stat().st_size / 1e6
    return {
        "pairs": num_pairs,
        "anonymous_mb": round(watch.peak["RssAnon"] / 1e3, 1),
        "resident_mb": round(watch.peak["VmRSS"] / 1e3, 1),
        "table_mb": round(size_mb, 1),
        "tokenise_seconds": round(tokenised - began, 1),
        "cache_seconds": round(cached - tokenised, 1),
        "train_seconds": round(ended - cached, 1),
    }


class Watch:
    """Peaks of this process's memory, looked at twenty times a second, in kB."""

    def __enter__(self) -> Watch:
        self.peak = {"RssAnon": 0, "VmRSS": 0}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(0.05):
            for line in Path("/proc/self/status").read_text().splitlines():
                name, _, value = line.partition(":")
                if name in self.peak:
                    self.peak[name] = max(self.peak[name], int(value.split()[0]))


if __name__ == "__main__":
    sys.exit(main())
