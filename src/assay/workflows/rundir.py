"""What lies in a run directory, and how the steps find it again: configuration, splits, reports, training prompts."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from assay.data.pairs import read_pairs
from assay.data.split import is_among, split_of
from assay.models.artifact import PROMPTS_FILE
from assay.records import PreferencePair, Report
from assay.scorers.load import artifact_path
from assay.train.objective import Objective
from assay.wire import report_to_json
from assay.workflows.settings import Machine, Members, Restraint, TrainConfig
from assay.workflows.show import say


def run_config(run: Path) -> TrainConfig:
    """The configuration that a run directory was trained with. Raises ValueError when there is none."""
    file = run / "config.json"
    raw = json.loads(file.read_text()).get("config") if file.is_file() else None
    if raw is None:  # an artifact's config.json is transformers' own
        raise ValueError(f"{run} is no run directory, so its splits are not known: give --data")
    if not raw.get("split_by_prompt", True):
        raise ValueError(f"{run} was split by a rule of its own, which config.json cannot repeat: give --data")
    values = _known(TrainConfig, raw) | {"depth": str(raw.get("depth") or "full")}
    groups = {"objective": Objective, "restraint": Restraint, "machine": Machine, "members": Members}
    values |= {name: group(**_known(group, raw.get(name, {}))) for name, group in groups.items()}
    for name in ("out", "init_from"):
        values[name] = Path(raw[name]) if raw.get(name) is not None else None
    return TrainConfig(**{**values, "data": tuple(raw["data"]), "track": tuple(raw.get("track", ()))})


def _known(group: type, raw: dict[str, Any]) -> dict[str, Any]:
    names = {field.name for field in fields(group)}
    return {name: value for name, value in raw.items() if name in names}


def split_name(config: TrainConfig, pair: PreferencePair) -> str:
    """The split of a pair; with an evaluation set of its own there is no test split."""
    if config.init_from is not None and is_among(known_prompts(config), pair):
        return "train"  # the model to start from has seen this prompt: nothing can be measured on it
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


def pairs_to_look_at(model: Path, data: str | None, *, limit: int | None, form: str | None) -> tuple[list[PreferencePair], str]:
    """Pairs whose answers are looked at rather than whose labels are counted, and their name: a set's, or the run's own test split.

    Prompts that the model was trained on are not refused. Raises ValueError when there are none.
    """
    if data is None:
        pairs, name = list(itertools.islice(split_pairs(run_config(model), "test"), limit)), "the test split"
    else:
        reader = read_pairs(data, form=form, limit=limit)
        pairs, name = list(reader), Path(data).name
        say("read", f"{data}: {reader.summary()}")
    if not pairs:
        raise ValueError(f"there are no pairs in {name}: give --data")
    return pairs, name


@lru_cache(maxsize=2)
def _prompts_of(artifact: Path) -> np.ndarray:
    prompts = prompt_file(artifact, PROMPTS_FILE)
    if prompts is None:
        raise ValueError(
            f"{artifact} does not say which prompts it was trained on ({PROMPTS_FILE} is missing): it cannot be gone on from"
        )
    return prompts


def known_prompts(config: TrainConfig) -> np.ndarray:
    """Sorted hashes of the prompts that the model of --init-from was trained on; none without it."""
    return np.empty(0, np.uint64) if config.init_from is None else _prompts_of(artifact_path(config.init_from))


def prompt_file(path: Path, name: str) -> np.ndarray | None:
    """Hashes of the prompts that an artifact was trained (PROMPTS_FILE) or calibrated on; None when the artifact does not say."""
    return np.load(path / name, allow_pickle=False) if (path / name).is_file() else None


def write_report(model: Path, name: str, report: Report) -> Path:
    """Keep a report as JSON under eval/ of the run directory (or of the artifact, when that is all there is)."""
    path = model / "eval" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(report_to_json(report), encoding="utf-8")
    return path
