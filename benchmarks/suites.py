"""Every suite of a data folder through one evaluator: its figures, and what it costs beside scoring. Last line: one JSON document.

python benchmarks/suites.py --folder DATA                                   # the longer answer wins: no model, all cases
python benchmarks/suites.py --folder DATA --model RUN --limit 40 --suites llmbar rmb
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from assay import cli  # first: it sets OpenMP up before torch is loaded

# isort: split
import tyro

from assay.evaluation.suites.catalog import SUITES
from assay.evaluation.suites.lookup import load_suite
from assay.evaluation.suites.summary import evaluate_suite
from assay.records import Completion, Metric, Rewards
from assay.scorers.base import Scorer
from assay.scorers.baselines import LengthScorer
from assay.scorers.load import load


@dataclass(frozen=True, kw_only=True)
class SuitesConfig:
    folder: Path
    suites: tuple[str, ...] = ()
    """All that lie in the folder when left out."""
    model: Path | None = None
    """Run directory or artifact; the longer answer wins when left out."""
    limit: int | None = None


class Timed:
    """A scorer that tells how long it took and how often it was called."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer, self.seconds, self.cpu_seconds, self.calls, self.answers = scorer, 0.0, 0.0, 0, 0
        self.fingerprint, self.scope, self.tolerance = scorer.fingerprint, scorer.scope, scorer.tolerance

    def score(self, completions: Sequence[Completion]) -> Rewards:
        began, cpu_began = time.perf_counter(), time.process_time()
        rewards = self.scorer.score(completions)
        self.seconds += time.perf_counter() - began
        self.cpu_seconds += time.process_time() - cpu_began
        self.calls, self.answers = self.calls + 1, self.answers + len(completions)
        return rewards


def main() -> int:
    cli.keep_freed_memory()
    config = tyro.cli(SuitesConfig)
    scorer: Scorer = LengthScorer() if config.model is None else load(config.model)
    here = [s.name for s in SUITES.values() if any(list(config.folder.glob(f"{name}.*")) for name in s.files.values())]
    result = {name: run(name, scorer, config) for name in config.suites or here}
    print(json.dumps({"scorer": "length" if config.model is None else config.model.name, "limit": config.limit, "suites": result}))
    return 0


def run(name: str, scorer: Scorer, config: SuitesConfig) -> dict[str, object]:
    began = time.process_time()
    loaded = load_suite(name, config.folder, config.limit)
    read, timed = time.process_time(), Timed(scorer)
    report = evaluate_suite(timed, loaded).report()
    rest = time.process_time() - read - timed.cpu_seconds
    print(f"{name}: {timed.answers:,} answers scored in {timed.seconds:.1f} s; evaluator {rest:.2f} s of CPU", file=sys.stderr)
    return {
        "cases": len(loaded.cases),
        "answers": timed.answers,
        "calls": timed.calls,
        "set_aside": sum(loaded.set_aside.values()),
        "missing": list(loaded.missing),
        "seconds": {"reading (CPU)": round(read - began, 2), "scoring": round(timed.seconds, 2), "evaluator (CPU)": round(rest, 2)},
        "figures": {metric.name.partition(": ")[2]: described(metric) for metric in report.metrics},
    }


def described(metric: Metric) -> dict[str, object]:
    numbers = {name: round(value, 4) for name in ("value", "low", "high") if math.isfinite(value := getattr(metric, name))}
    return {**numbers, "n_scored": metric.n_scored, "n": metric.n}


if __name__ == "__main__":
    sys.exit(main())
