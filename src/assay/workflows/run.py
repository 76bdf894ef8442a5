"""The main job in one go: train, then calibrate, evaluate and report, each a step of its own that can also be run alone."""

from __future__ import annotations

from pathlib import Path

from assay.models.artifact import read_description
from assay.records import Report
from assay.scorers.calibrate import MIN_PAIRS
from assay.train import distributed
from assay.workflows.settings import TrainConfig
from assay.workflows.show import print_figures, report_rows, say
from assay.workflows.steps import CalibrateConfig, EvaluateConfig, ReportConfig, calibrate, evaluate_model, report_run
from assay.workflows.train import train


def train_all(config: TrainConfig) -> Path:
    """Preferences and a base in; a trained, calibrated, evaluated and explained reward model out. Returns the run directory.

    Calibration takes the calibration split, evaluation the test split; one that is too small is said to be, and left out.
    Of several processes (torchrun) all train, the first one does the rest.
    """
    with distributed.joined(config.machine.device):
        artifact, is_first = train(config), distributed.rank() == 0
    if not is_first:
        return config.out
    splits = read_description(artifact)["splits"]
    if splits["calibration"]["num_pairs"] >= MIN_PAIRS:
        calibrate(CalibrateConfig(model=config.out, device=config.machine.device, dtype=config.machine.dtype))
    else:
        few = f"the calibration split has {splits['calibration']['num_pairs']} pairs, {MIN_PAIRS} are needed"
        say("not calibrated", f"{few}: raise --calibration, or run assay calibrate with --data")
    report: Report | None = None
    if splits["test"]["num_pairs"] or config.eval_data is not None:
        report = evaluate_model(
            EvaluateConfig(model=config.out, seed=config.seed, device=config.machine.device, dtype=config.machine.dtype)
        )
    else:
        say("not evaluated", "the test split is empty: raise --test, or run assay evaluate with --data")
    page = report_run(ReportConfig(model=config.out))
    if report is not None:
        print_figures(report.title, report_rows(report))
    say("artifact", str(config.out / "artifact"))
    say("report", str(page))
    return config.out
