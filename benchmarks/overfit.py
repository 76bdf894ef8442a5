"""What each remedy against overfitting buys when 20% of the training labels are wrong. Last line: one JSON document.

python benchmarks/overfit.py --pairs 1000 --epochs 4

Real pairs (TruthfulQA), trained for longer than is good for them. Each seed has its own split by prompt, its own flips and its own
head; every remedy sees the same ones. Held-out labels are clean. A remedy is held against "none" pair by pair.
"""

from __future__ import annotations

import json
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
from real import RealConfig, machine, read_set

from assay.commands.demo.run import packaged_base
from assay.console import say
from assay.data.pairs import write_pairs
from assay.data.split import split_of
from assay.models.reward_model import new_head
from assay.stats.mean_intervals import mean_interval
from assay.stats.metrics import is_right
from assay.training.loop import fit
from assay.training.objective import Objective
from assay.training.prepare import Prepared, prepare
from assay.training.settings import Machine, Regularization, TrainConfig, derive
from assay.training.tasks.pairs import pair_figures


@dataclass(frozen=True, kw_only=True)
class OverfitConfig:
    folder: Path = Path("../shared/data")
    pairs: int = 1000
    """Training pairs."""
    flips: float = 0.2
    """Share of training labels turned round."""
    params: str = "blocks:4"
    depth: str = "18"
    epochs: int = 4
    seeds: int = 3
    members: int = 3
    """Of the ensemble."""
    only: tuple[str, ...] = ()
    """Of the remedies; all when left out. "none" is always among them."""
    keep: Path | None = None


def remedies(flips: float) -> dict[str, dict[str, Any]]:
    """Settings of each remedy, for `TrainConfig`."""
    return {
        "none": {},
        "early stopping": {"regularization": Regularization(early_stopping=3)},
        "weight decay 0.1": {"regularization": Regularization(weight_decay=0.1)},
        "weight decay 1": {"regularization": Regularization(weight_decay=1.0)},
        "label smoothing": {"objective": Objective(label_smoothing=flips)},
        "noise-robust, likelihood (flips)": {"objective": Objective(loss="flips", flip_rate=flips)},
        "noise-robust, unbiased (rdpo)": {"objective": Objective(loss="rdpo", flip_rate=flips)},
        "dropout 0.1": {"regularization": Regularization(dropout=0.1)},
        "dropout 0.3": {"regularization": Regularization(dropout=0.3)},
        "fewer blocks: 1": {"params": "blocks:1"},
        "head only": {"params": "head"},
        "one epoch": {"epochs": 1},
    }


def main() -> int:
    cli.keep_freed_memory()
    config = tyro.cli(OverfitConfig)
    began = time.perf_counter()
    pairs = read_set(RealConfig(set="truthful", folder=config.folder))
    labels = np.array([pair.preference for pair in pairs])
    prompts = np.array([pair.prompt_key for pair in pairs])
    splits = [
        np.array([split_of(pair.prompt, seed=seed, calibration=0.0, test=0.25) for pair in pairs]) for seed in range(config.seeds)
    ]
    found: dict[str, list[np.ndarray]] = {}
    facts: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as directory:
        work = config.keep or Path(directory)
        work.mkdir(parents=True, exist_ok=True)
        write_pairs(work / "truthful.jsonl", pairs)
        ready: dict[str, Prepared] = {}
        for name, settings in remedies(config.flips).items():
            if config.only and name not in ("none", *config.only):
                continue
            params = settings.get("params", config.params)
            dropout = settings.get("regularization", Regularization()).dropout
            key = f"{params}-{dropout}"  # a prepared model has its dropout built in
            asked = TrainConfig(
                data=(str(work / "truthful.jsonl"),),
                base=packaged_base(),
                out=work / f"truthful-{params.replace(':', '-')}",
                depth=config.depth,
                max_length=512,
                machine=Machine(),
                **{"params": params, "epochs": config.epochs if params != "head" else None, **settings},
            )
            if key not in ready:
                ready = {key: prepare(asked, split=lambda pair: "train")}
            for seed in range(config.seeds):
                members = config.members if name == "none" else 1
                scored = []
                for member in range(members):
                    margins, fact = one_run(ready[key], asked, splits[seed], seed, 100 * member + seed, config)
                    scored.append(margins)
                    facts.setdefault(name, []).append(fact)
                    say(name, json.dumps(fact))
                found.setdefault(name, []).append(scored[0])
                if members > 1:
                    found.setdefault(f"ensemble mean of {members}", []).append(np.mean(scored, axis=0))
    tests = [split == "test" for split in splits]
    clusters = np.concatenate([prompts[test] for test in tests])

    def right(margins_SP: list[np.ndarray]) -> np.ndarray:
        return np.concatenate([is_right(m[t], labels[t]) for m, t in zip(margins_SP, tests, strict=True)])

    def loss(margins_SP: list[np.ndarray]) -> float:
        joined = np.concatenate([m[t] * np.sign(labels[t] - 0.5) for m, t in zip(margins_SP, tests, strict=True)])
        return float(np.logaddexp(0, -joined).mean())

    plain = right(found["none"])
    rows = []
    for name, margins_SP in found.items():
        gain = mean_interval(right(margins_SP) - plain, clusters, seed=0, support=None)
        mean = float((right(margins_SP) - plain).mean())
        row: dict[str, Any] = {"remedy": name, "held_out_accuracy": round(float(right(margins_SP).mean()), 4)}
        row["gain"] = [round(mean, 4), round(gain.low, 4), round(gain.high, 4)]
        row["held_out_loss"] = round(loss(margins_SP), 4)
        runs = facts.get(name, [])
        for figure in ("accuracy_on_given_labels", "accuracy_on_true_labels", "seconds"):
            row[figure] = round(float(np.mean([fact[figure] for fact in runs])), 4) if runs else None
        rows.append(row)
        say(name, json.dumps(row))
    result = {
        "set": "truthful",
        "flips": config.flips,
        "train_pairs": config.pairs,
        "test_pairs": [int(test.sum()) for test in tests],
        "params": config.params,
        "depth": config.depth,
        "epochs": config.epochs,
        "seeds": config.seeds,
        "rows": rows,
        "machine": machine(),
        "seconds": round(time.perf_counter() - began),
    }
    print(json.dumps(result))
    return 0


def one_run(
    prepared: Prepared, asked: TrainConfig, split: np.ndarray, seed: int, fit_seed: int, config: OverfitConfig
) -> tuple[np.ndarray, dict[str, float]]:
    """(P,) margins of a model trained on flipped labels, and its training accuracy on the labels given and on the true ones.

    seed: of the training pairs and the flips; fit_seed: of head and order. The model is put back to its start.
    """
    began = time.perf_counter()
    rng = np.random.default_rng([seed, 7])
    table = prepared.table
    true = table.preference.copy()
    train = np.sort(rng.permutation(np.flatnonzero(split == "train"))[: config.pairs])
    flipped = rng.permutation(train)[: round(config.flips * len(train))]
    start = {name: p.detach().clone() for name, p in prepared.model.named_parameters() if p.requires_grad}
    width = prepared.trained.whole.backbone.hidden_size
    held = None
    fitted = train
    if asked.regularization.early_stopping:  # a fifth of the training prompts, with their flips, are evaluated, not trained on
        keys = np.random.default_rng([seed, 8]).permutation(np.unique(table.prompt[train]))
        looked = np.isin(table.prompt[train], keys[: len(keys) // 5])
        fitted, held = train[~looked], train[looked]
    loop = derive(replace(asked, seed=fit_seed), len(fitted), width, prepared.compute.device).loop
    try:
        table.preference = true.copy()
        table.preference[flipped] = 1 - table.preference[flipped]
        given = table.preference.copy()
        with torch.no_grad():
            prepared.model.head.weight.copy_(new_head(width, seed=fit_seed).weight)
        rows = fit(prepared.model, replace(prepared.task, objective=asked.objective), fitted, loop, heldout_rows=held)
        scored = np.union1d(train, np.flatnonzero(split == "test"))
        rewards = np.full((len(split), 2), np.nan, np.float32)
        rewards[scored] = prepared.task.rewards(prepared.model, scored)
    finally:
        table.preference = true
        with torch.no_grad():
            for name, parameter in prepared.model.named_parameters():
                if name in start:
                    parameter.copy_(start[name])
    test = np.flatnonzero(split == "test")
    fact = {
        "seed": fit_seed,
        "accuracy_on_given_labels": round(pair_figures(rewards[train], given[train]).accuracy, 4),
        "accuracy_on_true_labels": round(pair_figures(rewards[train], true[train]).accuracy, 4),
        "test_accuracy": round(pair_figures(rewards[test], true[test]).accuracy, 4),
        "epochs": rows[-1]["epoch"],
        "seconds": round(time.perf_counter() - began, 1),
    }
    return (rewards[:, 0] - rewards[:, 1]).astype(np.float64), fact


if __name__ == "__main__":
    sys.exit(main())
