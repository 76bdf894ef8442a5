"""Gold of best-of-n by several proxies on recorded candidates, Gao's form, the peak. Last line: one JSON document.

python benchmarks/overoptimization.py --set alpaca                       # length, bag-of-words and gold itself: seconds
python benchmarks/overoptimization.py --set truthful --model runs/mine   # and an artifact, on prompts that it was not trained on
python benchmarks/overoptimization.py --set truthful --train-pairs 800   # and a model trained here, on the other prompts

Bag-of-words, and with --train-pairs a reward model on the packaged base, are fitted on pairs of the same set whose prompts are not
among the measured ones. Gold: GPT-4's preference over one reference (AlpacaEval), the best of a list (RMB), a checked number
(GSM8K), a person's label (TruthfulQA).
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from assay import cli  # first: it sets OpenMP up before torch is loaded

# isort: split
import numpy as np
import tyro
from real import machine

from assay.audit.audits import unseen
from assay.audit.choosing import best_of_n, draw_groups
from assay.audit.overoptimization import OVEROPTIMISED
from assay.commands.demo.run import packaged_base
from assay.console import say
from assay.data.candidates import Candidates, read_candidates
from assay.data.pairs import read_pairs, write_pairs
from assay.messages import prompt_key
from assay.records import PreferencePair, Report
from assay.report.html import write_html
from assay.scorers.base import Scorer, margins
from assay.scorers.baselines import LengthScorer, fit_bag_of_words
from assay.scorers.load import load
from assay.scorers.opened import open_scorer
from assay.stats.metrics import is_right
from assay.training.run import train
from assay.training.settings import Members, TrainConfig

Set = Literal["alpaca", "rmb", "gsm8k", "truthful"]
CANDIDATES = {
    "alpaca": "alpacaeval",
    "rmb": "rmb/best_of_n.jsonl.gz",
    "gsm8k": "gsm8k/model_solutions.jsonl.gz",
    "truthful": "truthfulqa-judge/truth.jsonl.gz",
}
PAIRS = {"alpaca": "alpacaeval", "rmb": "rmb/pairs.jsonl.gz", "gsm8k": None, "truthful": "truthfulqa-judge/truth.jsonl.gz"}


@dataclass(frozen=True, kw_only=True)
class OveroptimizationConfig:
    set: Set = "alpaca"
    folder: Path = Path("../shared/data")
    """Where the sets lie."""
    prompts: int = 60
    model: Path | None = None
    """An artifact or run directory to measure as well."""
    train_pairs: int = 0
    """Pairs to train a model on here; 0: none."""
    params: str = "blocks:2"
    depth: str = "20"
    members: int = 1
    """Of an ensemble of heads or blocks, which is then measured against a member."""
    max_length: int = 512
    fitted_pairs: int = 5000
    """Pairs of the bag-of-words model."""
    seed: int = 0
    page: Path | None = None
    """Write the reports there as one page."""


def main() -> int:
    cli.keep_freed_memory()
    config = tyro.cli(OveroptimizationConfig)
    began = time.perf_counter()
    recorded = read_candidates(config.folder / CANDIDATES[config.set])
    groups: list[Candidates] = list(recorded.groups)
    if config.model is not None:
        groups = unseen(open_scorer(config.model), groups, config.set)
    groups = draw_groups(groups, config.prompts, config.seed)
    measured = {prompt_key(group.prompt) for group in groups}
    pairs = other_pairs(config, measured)
    scorers: dict[str, Scorer] = {"length": LengthScorer()}
    if pairs:
        scorers["bag of words"] = fit_bag_of_words(pairs[: config.fitted_pairs])
    facts: dict[str, Any] = {}
    if config.model is not None:
        scorers["model"] = load(config.model)
    if config.train_pairs:
        scorers["trained"], facts = trained(config, pairs)
    results = {name: best_of_n(one, groups, title=f"{config.set}: {name}", seed=config.seed) for name, one in scorers.items()}
    reports = {name: result.report() for name, result in results.items()}
    if config.page is not None:
        write_html(config.page, list(reports.values()), f"Best of n on {config.set}")
    result = {
        "set": config.set,
        "note": recorded.note,
        "prompts": len(groups),
        "candidates": sum(len(group.answers) for group in groups),
        "bag_of_words_pairs": len(pairs[: config.fitted_pairs]),
        **facts,
        "proxies": {name: row_of(report) for name, report in reports.items()},
        "gold itself": control_of(next(iter(reports.values()))),
        "machine": machine(),
        "seconds": round(time.perf_counter() - began),
    }
    print(json.dumps(result))
    return 0


def other_pairs(config: OveroptimizationConfig, measured: set[str]) -> list[PreferencePair]:
    """Pairs of the set, in random order, whose prompts are not among the measured ones."""
    name = PAIRS[config.set]
    if name is None:
        return []
    pairs = [pair for pair in read_pairs(config.folder / name, max_pairs_per_prompt=8) if pair.prompt_key not in measured]
    return [pairs[i] for i in np.random.default_rng(config.seed).permutation(len(pairs))]


def trained(config: OveroptimizationConfig, pairs: list[PreferencePair]) -> tuple[Scorer, dict[str, Any]]:
    """A reward model on the packaged base, and its accuracy on the next pairs (those that share no prompt with the training)."""
    asked = pairs[: config.train_pairs]
    seen = {pair.prompt_key for pair in asked}
    held = [pair for pair in pairs[config.train_pairs : 4 * config.train_pairs] if pair.prompt_key not in seen][:200]
    with tempfile.TemporaryDirectory() as directory:
        data, out = Path(directory) / "pairs.jsonl", Path(directory) / "run"
        write_pairs(data, asked)
        began = time.perf_counter()
        train(
            TrainConfig(
                data=(str(data),),
                base=packaged_base(),
                out=out,
                params=config.params,
                depth=config.depth,
                max_length=config.max_length,
                calibration=0.05,
                test=0.0,
                members=Members(ensemble=config.members),
                seed=config.seed,
            )
        )
        scorer = load(out)
    facts: dict[str, Any] = {"train_pairs": len(asked), "params": config.params, "depth": config.depth, "members": config.members}
    facts["train_seconds"] = round(time.perf_counter() - began)
    if held:
        right = is_right(margins(scorer, held), np.array([pair.preference for pair in held]))
        facts |= {"held_out_pairs": int(np.sum(~np.isnan(right))), "held_out_accuracy": round(float(np.nanmean(right)), 4)}
        say("held out", json.dumps(facts))
    return scorer, facts


def row_of(report: Report) -> dict[str, Any]:
    """Every figure of a report with its interval, and the verdict."""
    row: dict[str, Any] = {metric.name: [_rounded(cell) for cell in metric[1:4]] for metric in report.metrics}
    table = next(table for table in report.tables if table.title == "best-of-n")
    row["curve: n, gold gained, fit, proxy gained"] = [[cells[0], *(_rounded(cells[i]) for i in (5, 6, 7))] for cells in table.rows]
    row["verdict"] = next(f"{finding.level}: {finding.why}" for finding in report.findings if finding.name == OVEROPTIMISED)
    return row


def control_of(report: Report) -> dict[str, Any]:
    """Gold as its own proxy."""
    table = next(table for table in report.tables if table.title == "the proxy and its controls")
    cells = next(cells for cells in table.rows if cells[0] == "gold itself")
    return {name: _rounded(cell) for name, cell in zip(table.columns[1:], cells[1:], strict=True)}


def _rounded(value: Any) -> float | None:
    return round(float(value), 4) if np.isfinite(value) else None


if __name__ == "__main__":
    sys.exit(main())
