"""Every failure mode on models of real sets, and on two scorers that must be exposed. Last line: one JSON document.

python benchmarks/trust.py --pairs 600

For each set a head on frozen states is trained by `assay train` (on the first set also an ensemble of such heads), and judged by
`assay audit all` on its own test split, against the other sets. The controls, the longer answer and a bag of words fitted on the
same training pairs, are judged on the same test pairs by the same functions.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assay import cli  # first: it sets OpenMP up before torch is loaded

# isort: split
import tyro
from real import RealConfig, machine, read_set

from assay.audit.attribution.attribute import attribute
from assay.audit.probes.battery import run_probes
from assay.audit.verdicts import verdicts
from assay.commands.demo.run import packaged_base
from assay.commands.train import train_all
from assay.console import say
from assay.data.pairs import write_pairs
from assay.data.run_data import run_data
from assay.evaluation.evaluate import evaluate
from assay.records import PreferencePair, Report, Result
from assay.scorers.base import Scorer, margins
from assay.scorers.baselines import LengthScorer, fit_bag_of_words
from assay.training.settings import Members, TrainConfig
from assay.wire import report_from_json

SETS = ("truthful", "harmless", "rmb-helpful")


@dataclass(frozen=True, kw_only=True)
class TrustBenchConfig:
    folder: Path = Path("../shared/data")
    sets: tuple[str, ...] = SETS
    pairs: int = 600
    """Of each set, drawn by prompt."""
    depth: str = "18"
    max_rows: int = 100
    """Answers edited by each probe."""
    members: int = 5
    seed: int = 0
    keep: Path | None = None


def main() -> int:
    cli.keep_freed_memory()
    config = tyro.cli(TrustBenchConfig)
    began = time.perf_counter()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as directory:
        work = config.keep or Path(directory)
        work.mkdir(parents=True, exist_ok=True)
        files = {name: pairs_file(config, name, work) for name in config.sets}
        for place, name in enumerate(config.sets):
            others = tuple(str(file) for other, file in files.items() if other != name)
            for members in (1, config.members) if place == 0 else (1,):
                run = trained(config, name, files[name], work, members)
                kind = "model" if members == 1 else f"ensemble of {members} heads"
                against = [word for other in others for word in ("--against", other)]
                cli.main(["audit", "all", str(run), *against, "--max-rows", str(config.max_rows), "--seed", str(config.seed)])
                kept = sorted((run / "eval").glob("*.json"))
                reports = {file.stem: report_from_json(file.read_text(encoding="utf-8")) for file in kept}
                rows.append({"set": name, "scorer": kind, **figures(list(reports.values()), reports["trust"])})
                say(f"{name}, {kind}", json.dumps(rows[-1]))
            data = run_data(run)
            train_pairs, test_pairs = list(data.pairs("train")), list(data.pairs("test"))
            for kind, scorer in (("length", LengthScorer()), ("bag of words", fit_bag_of_words(train_pairs))):
                rows.append({"set": name, "scorer": kind, **control(scorer, test_pairs, config)})
                say(f"{name}, {kind}", json.dumps(rows[-1]))
    print(json.dumps({"rows": rows, "pairs": config.pairs, "machine": machine(), "seconds": round(time.perf_counter() - began)}))
    return 0


def pairs_file(config: TrustBenchConfig, name: str, work: Path) -> Path:
    file = work / f"{name}.jsonl"
    write_pairs(file, read_set(RealConfig(set=name, folder=config.folder, pairs=config.pairs)))  # type: ignore[arg-type]
    return file


def trained(config: TrustBenchConfig, name: str, file: Path, work: Path, members: int) -> Path:
    """The run directory of a calibrated model, its test split a quarter of the prompts."""
    out = work / f"{name}-{members}"
    if not (out / "artifact" / "reward.json").is_file():
        asked = {"params": "head", "depth": config.depth, "max_length": 512, "calibration": 0.25, "test": 0.25, "seed": config.seed}
        ensemble = Members(ensemble=members) if members > 1 else Members()
        train_all(TrainConfig(data=(str(file),), base=packaged_base(), out=out, members=ensemble, **asked))  # type: ignore[arg-type]
    return out


def control(scorer: Scorer, pairs: list[PreferencePair], config: TrustBenchConfig) -> dict[str, Any]:
    results: list[Result] = [
        evaluate(scorer, pairs, title="evaluation", seed=config.seed),
        run_probes(scorer, pairs, max_rows=config.max_rows, seed=config.seed),
        attribute(scorer, pairs, margins(scorer, pairs), title="attribution", seed=config.seed),
    ]
    reports = [result.report() for result in results]
    return figures(reports, verdicts(reports, title="control").report())


def figures(reports: list[Report], judged: Report) -> dict[str, Any]:
    """Verdicts, accuracy, what length explains, and the probes that failed with their mean rise."""
    metrics = {metric.name: metric for report in reports for metric in report.metrics}
    failed = {
        finding.name: round(finding.value, 2)
        for report in reports
        for finding in report.findings
        if finding.failure == "hacking" and finding.level == "fail"
    }
    names = (
        "accuracy",
        "accuracy: length baseline",
        "accuracy: bag-of-words baseline",
        "R2 of length alone",
        "R2 of surface features",
    )
    return {
        "verdicts": {finding.name: finding.level for finding in judged.findings},
        "why": {finding.name: finding.why for finding in judged.findings if finding.level == "fail"},
        "figures": {
            name: [round(value, 3) for value in (metrics[name].value, metrics[name].low, metrics[name].high)]
            for name in names
            if name in metrics
        },
        "failed probes": failed,
    }


if __name__ == "__main__":
    sys.exit(main())
