"""Real human labels: the four commands on a set of pairs, then grouped 5-fold cross-validation. Last line: one JSON document.

python benchmarks/human.py --data PATH/hh-rlhf-harmless/pairs.jsonl.gz --params head --depth 20
"""

from __future__ import annotations

import json
import platform
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from assay import cli  # first: it sets OpenMP up before torch is loaded

# isort: split
import numpy as np
import torch
import tyro
from crossval import cross_validate

from assay.commands.demo.run import packaged_base
from assay.console import progress
from assay.data.pairs import read_pairs
from assay.data.split import group_keys
from assay.evaluation.evaluate import ACCURACY, BRIER, ECE, EXPECTED_ECE, evaluate_margins
from assay.records import Metric, Report
from assay.scorers.wrappers.calibrated import cross_fitted_probabilities
from assay.stats.metrics import sigmoid
from assay.training.prepare import prepare
from assay.training.settings import TrainConfig
from assay.wire import report_from_json


@dataclass(frozen=True, kw_only=True)
class HumanConfig:
    data: str
    base: str | None = None
    params: str = "blocks:4"
    depth: str = "20"
    epochs: int | None = None
    learning_rate: float | None = None
    max_length: int = 512
    seed: int = 0
    commands: bool = True
    """Also run assay train, calibrate, evaluate and report."""


def main() -> int:
    cli.keep_freed_memory()
    config = tyro.cli(HumanConfig)
    base = config.base or packaged_base()
    result: dict[str, object] = {"data": Path(config.data).parent.name, "base": Path(base).name, "machine": machine()}
    result |= {"params": config.params, "depth": config.depth, "max_length": config.max_length, "seed": config.seed}
    with tempfile.TemporaryDirectory() as directory:
        if config.commands:
            result["commands"] = run_commands(config, base, Path(directory) / "run")
        result["cross_validation"] = run_folds(config, base, Path(directory) / "folds")
    print(json.dumps(result))
    return 0


def run_commands(config: HumanConfig, base: str, out: Path) -> dict[str, object]:
    """assay train (30% of the prompts to test on, 15% to calibrate on), then the three steps alone once more."""
    flags = ["--data", config.data, "--base", base, "--out", str(out), "--params", config.params, "--seed", str(config.seed)]
    flags += ["--max-length", str(config.max_length), "--calibration", "0.15", "--test", "0.3"]
    for name in ("depth", "epochs", "learning_rate"):
        value = getattr(config, name)
        flags += [f"--{name.replace('_', '-')}", str(value)] if value is not None else []
    seconds = {}
    for command in (
        ["train", *flags],
        ["calibrate", str(out)],
        ["evaluate", str(out)],
        ["report", str(out)],
    ):
        began = time.perf_counter()
        status = cli.main(command)
        seconds[command[0]] = round(time.perf_counter() - began, 1)
        if status:
            raise SystemExit(f"assay {command[0]} ended with {status}")
    training, test = (report_from_json((out / "eval" / f"{name}.json").read_text()) for name in ("training", "test"))
    return {"seconds": seconds, **figures(test), **{m.name: described(m) for m in training.metrics}}


def run_folds(config: HumanConfig, base: str, out: Path) -> dict[str, object]:
    """Every pair scored by a model that saw neither its prompt nor its answers."""
    began = time.perf_counter()
    settings = {
        "epochs": config.epochs,
        "learning_rate": config.learning_rate,
        "max_length": config.max_length,
        "seed": config.seed,
    }
    prepared = prepare(TrainConfig(data=(config.data,), base=base, out=out, params=config.params, depth=config.depth, **settings))
    pairs = list(read_pairs(config.data))
    ready = time.perf_counter()
    with progress("5-fold", 5, "folds") as advance:
        out_of_fold = cross_validate(prepared, pairs, on_fold=advance)
    groups, preference = np.array(group_keys(pairs)), np.array([pair.preference for pair in pairs])
    calibrated = cross_fitted_probabilities(out_of_fold.margins, groups, preference_P=preference, seed=config.seed)
    before = evaluate_margins(
        out_of_fold.margins, pairs, sigmoid(out_of_fold.margins), title="before", seed=config.seed, slices=False
    ).report()
    after = evaluate_margins(out_of_fold.margins, pairs, calibrated, title="after", seed=config.seed, slices=False).report()
    return {
        "seconds": {"activations": round(ready - began, 1), "folds": round(time.perf_counter() - ready, 1)},
        **figures(after),
        "Brier before calibration": described(before.metric(BRIER)),
        "ECE before calibration": described(before.metric(ECE)),
        "accuracy on training pairs": round(float(np.nanmean(out_of_fold.train_right)), 4),
    }


def machine() -> str:
    """The processor's name and the number of cores in use."""
    names = [
        line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")
    ]
    return f"{names[0] if names else platform.machine()}, {torch.get_num_threads()} threads"


def figures(report: Report) -> dict[str, object]:
    names = [ACCURACY, *(m.name for m in report.metrics if m.name.startswith("accuracy:")), BRIER, ECE, EXPECTED_ECE]
    return {name: described(report.metric(name)) for name in names}


def described(metric: Metric) -> dict[str, object]:
    numbers = {
        name: float(f"{getattr(metric, name):.4g}") for name in ("value", "low", "high") if np.isfinite(getattr(metric, name))
    }
    return {**numbers, "n_scored": metric.n_scored, "n": metric.n}


if __name__ == "__main__":
    sys.exit(main())
