"""What lies in a run directory, and how the steps find it again: configuration, splits, reports, training prompts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np

from assay.data.pairs import read_pairs
from assay.data.split import split_of
from assay.records import PreferencePair, Report
from assay.wire import report_to_json
from assay.workflows.settings import TrainConfig


def run_config(run: Path) -> TrainConfig:
    """The configuration that a run directory was trained with. Raises ValueError when there is none."""
    file = run / "config.json"
    raw = json.loads(file.read_text()).get("config") if file.is_file() else None
    if raw is None:  # an artifact's config.json is transformers' own
        raise ValueError(f"{run} is no run directory, so its splits are not known: give --data")
    if not raw.get("split_by_prompt", True):
        raise ValueError(f"{run} was split by a rule of its own, which config.json cannot repeat: give --data")
    names = {field.name for field in fields(TrainConfig)}
    values = {name: value for name, value in raw.items() if name in names}
    return TrainConfig(**{**values, "data": tuple(raw["data"]), "out": Path(raw["out"])})


def split_name(config: TrainConfig, pair: PreferencePair) -> str:
    """The split of a pair; with an evaluation set of its own there is no test split."""
    test = 0.0 if config.eval_data is not None else config.test
    return split_of(pair.prompt, seed=config.seed, calibration=config.calibration, test=test)


def split_pairs(config: TrainConfig, split: str) -> Iterator[PreferencePair]:
    """The pairs of one split, read again from the data."""
    if split == "test" and config.eval_data is not None:
        yield from read_pairs(config.eval_data, form=config.form, strict=config.strict)
        return
    for path in config.data:
        reader = read_pairs(path, form=config.form, limit=config.limit, strict=config.strict, seed=config.seed)
        yield from (pair for pair in reader if split_name(config, pair) == split)


def prompt_file(path: Path, name: str) -> np.ndarray | None:
    """Hashes of the prompts that an artifact was trained (PROMPTS_FILE) or calibrated on; None when the artifact does not say."""
    return np.load(path / name, allow_pickle=False) if (path / name).is_file() else None


def write_report(model: Path, name: str, report: Report) -> Path:
    """Keep a report as JSON under eval/ of the run directory (or of the artifact, when that is all there is)."""
    path = model / "eval" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(report_to_json(report), encoding="utf-8")
    return path
