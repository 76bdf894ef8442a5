"""What `--params auto` loses against the better of its two candidates: five sets, and growing shares of RMB. Last line: one JSON
document.

python benchmarks/auto.py                                          everything, about two days of two idle cores
python benchmarks/auto.py --sets truthful --sizes 600 --seeds 1    one fit of each kind

Claims, written before it was run:

1. The mean regret is at most half a point of accuracy: the accuracy of the better candidate, fitted to all training pairs and
   measured on test prompts of its own, less that of the one which `auto` chose from the training pairs alone. Its interval
   resamples fits.
2. The trial costs less than two more fits of the blocks on all pairs (three folds at most, each fitted to two thirds).
3. With few pairs the head is chosen, with many of RMB (9,000) the blocks.

The frozen layers are run once for all fits of a set, at 20 of 30 layers. A fit: a quarter of the prompts is the test; of the others
so many pairs as the size says, whole prompts; blocks and head are trained on them as `assay train` would, and `choose` sees them
alone.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from assay import cli  # first: it sets OpenMP up before torch is loaded

# isort: split
import numpy as np
import torch
import tyro
from real import RealConfig, Set, read_set

from assay.commands.demo.run import packaged_base
from assay.console import say
from assay.data.pairs import write_pairs
from assay.stats.bootstrap import cluster_bootstrap
from assay.training.checkpoint import trained_weights
from assay.training.fits.choice import Candidate, choose
from assay.training.fits.weight_decay import choose_decay
from assay.training.loop import fit
from assay.training.prepare import Prepared, prepare
from assay.training.settings import TrainConfig, derive
from assay.training.tasks.pairs import pair_figures
from assay.training.trained import head_above

HEAD, BLOCKS = "head:mean", "blocks:4"


@dataclass(frozen=True, kw_only=True)
class AutoConfig:
    sets: tuple[Set, ...] = ("truthful", "harmless", "alpaca", "rmb-helpful", "rmb-harmless")
    sizes: tuple[int, ...] = (1500,)
    """Training pairs of a fit on each set; fewer where a set has fewer."""
    rmb_sizes: tuple[int, ...] = (500, 1500, 4500, 9000)
    """The same of RMB as a whole; none: leave it out."""
    seeds: int = 5
    depth: str = "20"
    max_length: int = 512
    folder: Path = Path("../shared/data")
    base: str | None = None
    keep: Path | None = None
    """Keep caches here, for another run of the same set."""


def main() -> int:
    config = tyro.cli(AutoConfig)
    cli.keep_freed_memory()
    began, fits = time.perf_counter(), list[dict[str, Any]]()
    with tempfile.TemporaryDirectory() as folder:
        work = config.keep or Path(folder)
        for name in config.sets:
            fits += fits_of(config, name, (name,), config.sizes, work)
        if config.rmb_sizes:
            fits += fits_of(config, "rmb", ("rmb-helpful", "rmb-harmless"), config.rmb_sizes, work)
    regrets = np.array([row["regret"] for row in fits])
    interval = cluster_bootstrap(regrets, np.arange(len(regrets)), seed=0) if len(regrets) > 1 else (float("nan"),) * 2
    result = {
        "base": Path(config.base or packaged_base()).name,
        "fits": fits,
        "mean regret, points, asked 0.5": [round(100 * float(value), 2) for value in (regrets.mean(), *interval)],
        **{f"always {params}, points": always(fits, params) for params in (HEAD, BLOCKS)},
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "torch": torch.__version__},
        "seconds": round(time.perf_counter() - began),
    }
    print(json.dumps(result))
    return 0


def always(fits: list[dict[str, Any]], params: str) -> float:
    """Mean regret of a rule that looks at nothing."""
    return round(100 * float(np.mean([max(row["accuracy"].values()) - row["accuracy"][params] for row in fits])), 2)


def fits_of(config: AutoConfig, label: str, names: tuple[Set, ...], sizes: tuple[int, ...], work: Path) -> list[dict[str, Any]]:
    """Every size and seed of one set; the frozen layers are run once."""
    most = round(max(sizes) * 4 / 3)
    pairs = [pair for name in names for pair in read_set(RealConfig(set=name, folder=config.folder, pairs=-(-most // len(names))))]
    work.mkdir(parents=True, exist_ok=True)
    write_pairs(work / f"{label}.jsonl", pairs)
    prepared = prepare(
        TrainConfig(
            data=(str(work / f"{label}.jsonl"),),
            base=config.base or packaged_base(),
            out=work / label,
            params=BLOCKS,
            depth=config.depth,
            max_length=config.max_length,
        ),
        split=lambda pair: "train",
    )
    head_config = replace(prepared.config, params=HEAD)
    whole, source = prepared.trained.whole, prepared.task.source
    trained, states = head_above(head_config, whole, prepared.table, source, num_blocks=4, base_digest=prepared.base_digest)
    head = Candidate(
        config=head_config,
        derived=derive(head_config, len(pairs), whole.backbone.hidden_size, prepared.compute.device),
        trained=trained,
        built=prepared.built._replace(task=replace(prepared.task, source=states)),
    )
    blocks = Candidate(config=prepared.config, derived=prepared.derived, trained=prepared.trained, built=prepared.built)
    found = []
    for size in sizes:
        for seed in range(config.seeds):
            found.append({"set": label, **one_fit(prepared, head, blocks, size, seed)})
            say("fit", json.dumps(found[-1]))
    return found


def one_fit(prepared: Prepared, head: Candidate, blocks: Candidate, size: int, seed: int) -> dict[str, Any]:
    """What each candidate reaches on the test prompts, and what `choose` chose."""
    table = prepared.table
    prompts = np.random.default_rng([seed, 3]).permutation(np.unique(table.prompt))
    num_test = len(prompts) // 4
    test = np.flatnonzero(np.isin(table.prompt, prompts[:num_test]))
    train = training(table.prompt, prompts[num_test:], size)
    ready = [at_size(one, len(train), prepared, seed) for one in (head, blocks)]
    began = time.process_time()
    choice = choose(ready, table, train, seed=seed)
    took, accuracy, losses, cost = time.process_time() - began, {}, {}, {}
    for one in ready:
        began = time.process_time()
        figures = fitted(one, table, train, test)
        accuracy[one.config.params], losses[one.config.params] = round(figures.accuracy, 4), round(figures.loss, 4)
        cost[one.config.params] = round(time.process_time() - began, 1)
    return {
        "size": len(train),
        "seed": seed,
        "chosen": choice.params,
        "reason": choice.reason,
        "accuracy": accuracy,
        "loss": losses,
        "regret": round(max(accuracy.values()) - accuracy[choice.params], 4),
        "trial_cpu_seconds": round(took, 1),
        "fit_cpu_seconds": cost,
    }


def training(prompt_P: np.ndarray, prompts: np.ndarray, size: int) -> np.ndarray:
    """Rows of the first of some prompts, whole prompts, as many as come nearest to the size from below."""
    counts = np.cumsum([int(np.sum(prompt_P == prompt)) for prompt in prompts])
    return np.flatnonzero(np.isin(prompt_P, prompts[: max(1, int(np.searchsorted(counts, size, side="right")))]))


def at_size(one: Candidate, num_pairs: int, prepared: Prepared, seed: int) -> Candidate:
    """With the settings that `assay train` derives for so many pairs."""
    width = prepared.trained.whole.backbone.hidden_size
    return replace(one, derived=derive(replace(one.config, seed=seed), num_pairs, width, prepared.compute.device))


def fitted(one: Candidate, table: Any, train: np.ndarray, test: np.ndarray) -> Any:
    """Loss and accuracy on the test rows of the candidate fitted to the training rows; it is put back to its start."""
    model, task, loop = one.trained.model, one.built.task, one.derived.loop
    start = trained_weights(model)
    if one.config.params == HEAD:
        loop = replace(loop, weight_decay=choose_decay(model, task, train, table.prompt[train], loop)[0])
    fit(model, task, train, loop)
    figures = pair_figures(task.rewards(model, test), table.preference[test])
    model.load_state_dict(start, strict=False)
    return figures


if __name__ == "__main__":
    sys.exit(main())
