"""Which signal detects drift best, on real preferences. Last line: one JSON document.

python benchmarks/drift.py --pairs 1000 --members 3

Trains an ensemble on TruthfulQA (so that its std is a signal too) with the reference that `assay train` keeps, and holds against
it the run's own test split (which should not alarm), that split with an opener before every answer and with every answer cut in
half (small drifts of a policy), and sets of other kinds. Then the attribution of the margins on the test split.
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
import tyro
from real import RealConfig, machine, read_set

from assay.audit.audits import attribute_pairs, drift_of_sets
from assay.commands.demo.run import packaged_base
from assay.console import say
from assay.data.pairs import write_pairs
from assay.records import PreferencePair, Report, Table
from assay.scorers.opened import open_scorer
from assay.training.run import train
from assay.training.settings import Machine, Members, TrainConfig

OTHERS = ("harmless", "rmb-helpful", "alpaca")


@dataclass(frozen=True, kw_only=True)
class DriftBenchConfig:
    folder: Path = Path("../shared/data")
    pairs: int = 1000
    """Of TruthfulQA, three quarters of its prompts to train and calibrate on."""
    params: str = "blocks:2"
    depth: str = "20"
    members: int = 3
    other_pairs: int = 100
    """Of each set of another kind."""
    max_length: int = 256
    reference: int = 800
    edits: int = 240
    base: str | None = None
    seed: int = 0


def main() -> int:
    cli.keep_freed_memory()
    config = tyro.cli(DriftBenchConfig)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        asked = train_on_truthful(config, work)
        seconds: dict[str, float] = {"train": time.perf_counter() - began}
        opened = open_scorer(asked.out)
        named = opened.own_pairs("test")
        test = named.pairs
        files = write_sets(config, work, test)
        mark = time.perf_counter()
        limit = max(len(test), config.other_pairs)
        report = drift_of_sets(opened, tuple(map(str, files)), limit=limit, seed=config.seed).report()
        seconds["drift"] = time.perf_counter() - mark
        mark = time.perf_counter()
        surface = attribute_pairs(opened, named, num_edits=config.edits, seed=config.seed).report()
        seconds["attribute"] = time.perf_counter() - mark
    result = {
        "trained_on": "truthful",
        "num_pairs": config.pairs,
        "test_pairs": len(test),
        "params": config.params,
        "depth": config.depth,
        "members": config.members,
        "max_length": config.max_length,
        "facts": {name: report.facts[name] for name in ("bank", "held out", "shrinkage of the covariance", "computed in")},
        "drift": summary_of(report),
        "attribution": summary_of(surface),
        "machine": machine(),
        "seconds": {name: round(spent) for name, spent in seconds.items()} | {"all": round(time.perf_counter() - began)},
    }
    print(json.dumps(result))
    return 0


def train_on_truthful(config: DriftBenchConfig, work: Path) -> TrainConfig:
    data = work / "truthful.jsonl"
    write_pairs(data, read_set(RealConfig(set="truthful", folder=config.folder, pairs=config.pairs)))
    asked = TrainConfig(
        data=(str(data),),
        base=config.base or packaged_base(),
        out=work / "run",
        params=config.params,
        depth=config.depth,
        max_length=config.max_length,
        calibration=0.25,
        test=0.25,
        seed=config.seed,
        members=Members(ensemble=config.members),
        machine=Machine(dtype="float32", reference=config.reference),
    )
    train(asked)
    return asked


def write_sets(config: DriftBenchConfig, work: Path, test: list[PreferencePair]) -> list[Path]:
    """The sets as files: the own test split, two small drifts of it, and sets of other kinds."""
    sets = {
        "own-test": test,
        "opener-added": [edited(pair, lambda text: f"Certainly! {text}") for pair in test],
        "cut-in-half": [edited(pair, lambda text: " ".join(text.split()[: (len(text.split()) + 1) // 2])) for pair in test],
        **{name: read_set(RealConfig(set=name, folder=config.folder, pairs=config.other_pairs)) for name in OTHERS},  # type: ignore[arg-type]
    }
    for name, pairs in sets.items():
        write_pairs(work / f"{name}.jsonl", [pair for pair in pairs if pair.chosen != pair.rejected])
        say("set", f"{name}: {len(pairs)} pairs")
    return [work / f"{name}.jsonl" for name in sets]


def edited(pair: PreferencePair, edit: Any) -> PreferencePair:
    return replace(pair, chosen=edit(pair.chosen), rejected=edit(pair.rejected))


def summary_of(report: Report) -> dict[str, Any]:
    """Metrics, findings and tables of a report as plain rows, rounded."""
    return {
        "metrics": [[m.name, *(rounded(part) for part in m[1:4]), m.n_scored, m.n] for m in report.metrics],
        "findings": [[f.level, f.name, rounded(f.value), f.why] for f in report.findings],
        "tables": {table.title: plain_rows(table) for table in report.tables if table.chart == "none"},
    }


def plain_rows(table: Table) -> list[list[object]]:
    return [list(table.columns), *([rounded(cell) for cell in row] for row in table.rows)]


def rounded(cell: object) -> object:
    if not isinstance(cell, float):
        return cell
    return None if cell != cell else round(float(cell), 4)


if __name__ == "__main__":
    sys.exit(main())
