"""`assay train`: train, calibrate, evaluate and report. Each step but the first can be run again by a command of its own."""

from __future__ import annotations

from pathlib import Path

from assay.commands.shared import keep, show
from assay.console import say
from assay.evaluation.calibrate import calibrate
from assay.evaluation.measure import evaluate_pairs
from assay.records import Report
from assay.report.run_page import write_run_page
from assay.run_files import read_description
from assay.scorers.opened import open_scorer
from assay.scorers.wrappers.calibrated import MIN_PAIRS
from assay.training import distributed
from assay.training.run import train
from assay.training.settings import TrainConfig as Config


def run(config: Config) -> int:
    """Preferences and a base in; a trained, calibrated, evaluated and explained reward model in --out."""
    train_all(config)
    return 0


def train_all(config: Config) -> Path:
    """The whole job; returns the run directory.

    Calibration takes the calibration split, evaluation the test split; one that is too small is said to be, and left out.
    Of several processes (torchrun) all train, the first one does the rest.
    """
    with distributed.process_group(config.machine.device):
        artifact, is_first = train(config), distributed.rank() == 0
    if not is_first:
        return config.out
    splits = read_description(artifact)["splits"]
    if splits["calibration"]["num_pairs"] >= MIN_PAIRS:
        opened = open_scorer(config.out, device=config.machine.device, dtype=config.machine.dtype)
        calibrate(opened, opened.own_pairs("calibration"))
    else:
        few = f"the calibration split has {splits['calibration']['num_pairs']} pairs, {MIN_PAIRS} are needed"
        say("not calibrated", f"{few}: raise --calibration, or run assay model calibrate with --data")
    report: Report | None = None
    if splits["test"]["num_pairs"] or config.eval_data is not None:
        opened = open_scorer(config.out, device=config.machine.device, dtype=config.machine.dtype)
        named = opened.own_pairs("test")
        result = evaluate_pairs(opened, named, title=f"Evaluation on {named.name}", seed=config.seed)
        report = keep(result, config.out, named.kept_as)
    else:
        say("not evaluated", "the test split is empty: raise --test, or run assay evaluate with --data")
    page = write_run_page(config.out)
    if report is not None:
        show(report)
    say("artifact", str(config.out / "artifact"))
    say("report", str(page))
    return config.out
