"""The main job in one go: train, then calibrate, evaluate and report, each a step of its own that can also be run alone."""

from __future__ import annotations

from pathlib import Path

from assay.records import Report
from assay.workflows.settings import TrainConfig
from assay.workflows.show import print_figures, report_rows, say
from assay.workflows.steps import CalibrateConfig, EvaluateConfig, ReportConfig, calibrate, evaluate_model, report_run
from assay.workflows.train import train


def train_all(config: TrainConfig) -> Path:
    """Preferences and a base in; a trained, calibrated, evaluated and explained reward model out. Returns the run directory.

    Calibration takes the calibration split, evaluation the test split; one that is too small is said to be, and left out.
    """
    train(config)
    try:
        calibrate(CalibrateConfig(model=config.out, device=config.device, dtype=config.dtype))
    except ValueError as error:
        say("not calibrated", f"{error} (assay calibrate --data, or train with a larger --calibration)")
    report: Report | None = None
    try:
        report = evaluate_model(EvaluateConfig(model=config.out, seed=config.seed, device=config.device, dtype=config.dtype))
    except ValueError as error:
        say("not evaluated", str(error))
    page = report_run(ReportConfig(run=config.out))
    if report is not None:
        print_figures(report.title, report_rows(report))
    say("artifact", str(config.out / "artifact"))
    say("report", str(page))
    return config.out
