"""What a run says of itself: the training report, the entries of reward.json, and config.json."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from assay.data.run_data import has_unknown_past
from assay.data.tokens.problem_table import num_items, up_to
from assay.data.tokens.table import SplitTable
from assay.evaluation.evaluate import gap_finding
from assay.files import digest as digest_of
from assay.files import write_text
from assay.models.bases import Base
from assay.models.device import library_versions
from assay.models.reward_model import RewardModel
from assay.records import Finding, Metric, Report, Table
from assay.run_files import UNKNOWN_PAST
from assay.stats.mean_intervals import mean_interval
from assay.stats.metrics import is_right
from assay.training.fits.choice import QUICK
from assay.training.fits.neutral import off_neutral, reached
from assay.training.objective import Objective
from assay.training.prepare import Prepared
from assay.training.settings import Machine, Members, Regularization, TrainConfig
from assay.training.tasks.task import COUNTER_EXAMPLES

SAMPLED = 2000  # training pairs of the report
ROWS = {"process": "solutions", "outcome": "solutions", "rankings": "lists", "attributes": "answers"}  # what a row is, by kind
DRAWN = 50  # points of a training curve: a step's loss alone is noise


def training_sample(prepared: Prepared) -> np.ndarray:
    """Rows of at most 2,000 training pairs, whose accuracy is compared with the held-out one."""
    drawn = np.random.default_rng(prepared.config.seed).permutation(prepared.table.rows("train"))
    return np.sort(up_to(prepared.table, drawn, SAMPLED))


def accuracy_report(
    prepared: Prepared, rows: list[dict[str, Any]], train_rewards_P2: np.ndarray, heldout_rewards_P2: np.ndarray
) -> Report:
    """Accuracy of pairs: on the training sample and on the calibration split, and the training curve.

    rows: of metrics.jsonl; none for an ensemble, whose members have curves of their own.
    """
    table, num_pairs = prepared.table, f"{len(prepared.table.rows('train')):,}"
    train = _accuracy(prepared, "accuracy on training pairs", train_rewards_P2, training_sample(prepared))
    heldout = _accuracy(prepared, "accuracy on calibration pairs", heldout_rewards_P2, table.rows("calibration"))
    tables = tuple(curve(rows, name) for name in ("loss", "accuracy") if rows)
    if prepared.choice is not None and prepared.choice.tried:
        tables = (*tables, prepared.choice.table())
    if prepared.probe is not None:
        tables = (*tables, prepared.probe.table())
    worth = reached(prepared)
    if prepared.neutral is not None:
        tables = (*tables, prepared.neutral.table(worth))
    findings = tuple(off_neutral(worth))
    if not (np.isnan(train.value) or np.isnan(heldout.value)):
        findings = (gap_finding(train, heldout), *findings)
    if prepared.config.machine.quick:
        findings += (Finding("warn", "quick run", float(prepared.trained.whole.backbone.num_layers), math.nan, QUICK),)
    facts = {"params": prepared.config.params, "base": prepared.base.name, "training pairs": num_pairs}
    if num_added := len(table.rows(COUNTER_EXAMPLES)):
        facts["counter-examples"] = f"{num_added:,}, from {prepared.config.regularization.augment}"
    key = {train.name: (heldout.name,)}
    return Report(title="Training", metrics=(train, heldout), tables=tables, findings=findings, facts=facts, key=key)


def _accuracy(prepared: Prepared, name: str, rewards_P2: np.ndarray, rows: np.ndarray) -> Metric:
    """Of the pairs at `rows`, with an interval by prompt."""
    table = prepared.table
    right_P = is_right(rewards_P2[:, 0] - rewards_P2[:, 1], table.preference[rows])
    is_scored_P = ~np.isnan(right_P)
    if not is_scored_P.any():
        return Metric(name, float("nan"), note="only ties" if len(rows) else "no pairs")
    interval = mean_interval(right_P[is_scored_P], table.prompt[rows][is_scored_P], seed=prepared.config.seed)
    return Metric(name, float(right_P[is_scored_P].mean()), *interval, int(is_scored_P.sum()), len(rows))


def curve(rows: list[dict[str, Any]], name: str) -> Table:
    """A figure by epoch, on training and on held-out pairs, at about `DRAWN` points or fewer: steps in between are averaged.

    They are those of the evaluations where there are enough of them.
    """
    evaluated = [i for i, row in enumerate(rows) if f"heldout_{name}" in row]
    spread = range(len(rows) - 1, -1, -math.ceil(len(rows) / DRAWN)) if rows else ()
    places = evaluated if len(evaluated) >= DRAWN / 2 else sorted({*evaluated, *spread})
    points, begin = [], 0
    for place in places:
        since = [row[name] for row in rows[begin : place + 1] if name in row]
        held_out = rows[place].get(f"heldout_{name}", float("nan"))
        points.append((rows[place]["epoch"], sum(since) / len(since) if since else float("nan"), held_out))
        begin = place + 1
    return Table(title=name, columns=("epoch", "training", "held out"), rows=tuple(points), chart="line")


def trained_prompts(prepared: Prepared) -> np.ndarray:
    """Sorted hashes of the prompts that the model has seen."""
    return np.union1d(prepared.table.prompt[prepared.table.rows("train")], prepared.config.run_data.known_prompts)


def describe(prepared: Prepared, model: RewardModel, extra: dict[str, Any] | None) -> dict[str, Any]:
    """Entries of reward.json for the finished model of a run. extra: further entries."""
    config, reasons = prepared.config, prepared.reasons
    return {
        "title": f"{prepared.base.name} reward model" + (", a quick look" if config.machine.quick else ""),
        "base_model": prepared.base.name,
        "base_note": prepared.base.note,
        "base_license": prepared.base.license,
        "base_revision": getattr(model.backbone.config, "_commit_hash", None),
        "depth": model.backbone.num_layers,
        "objective": config.objective.name,
        "params": config.params,
        **({} if prepared.choice is None else {"choice": prepared.choice.entry()}),
        "data": prepared.data,
        "splits": split_sizes(prepared.table),
        "rows": ROWS.get(config.kind.partition(":")[0], "pairs"),
        "settings": {name: {"value": value, "reason": reasons.get(name, "")} for name, value in prepared.settings.items()},
        "trained_in": prepared.compute.name,
        "versions": library_versions("accelerate"),
        **({UNKNOWN_PAST: True} if config.init_from is not None and has_unknown_past(config.init_from) else {}),
        **(extra or {}),
    }


def write_config(prepared: Prepared) -> None:
    """config.json: see `config_content`."""
    content = config_content(
        prepared.config,
        settings=prepared.settings,
        data=prepared.data,
        base=prepared.base,
        split_by_prompt=prepared.split_by_prompt,
        choice=None if prepared.choice is None else prepared.choice.entry(),
    )
    write_text(prepared.config.out / "config.json", json.dumps(content, indent=1, default=str))


def config_content(
    config: TrainConfig,
    *,
    settings: Mapping[str, Any],
    data: list[dict[str, Any]],
    base: Base,
    split_by_prompt: bool = True,
    choice: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The flags (files by their absolute path), the derived settings, and what was read."""
    paths = {
        "data": [_absolute(name) for name in config.data],
        "init_from": _absolute(str(config.init_from)) if config.init_from is not None else None,
        "eval_data": _absolute(config.eval_data) if config.eval_data is not None else None,
    }
    return {
        "config": {**asdict(config), "depth": config.depth_rule, **paths, "split_by_prompt": split_by_prompt},
        "settings": settings,
        "choice": choice,
        "data": data,
        "base": base._asdict(),
    }


def config_of_run(run: Path) -> TrainConfig:
    """The flags that a run directory was trained with, from its config.json; its files by their absolute path.

    Raises ValueError for a directory that is none.
    """
    file = run / "config.json"
    content = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    saved = content.get("config") if isinstance(content, dict) else None
    if saved is None:
        raise ValueError(f"{run} is no run directory of assay train: its config.json with the data and flags is not there")
    groups = {"objective": Objective, "regularization": Regularization, "members": Members, "machine": Machine}
    kept: dict[str, Any] = {name: _plain(saved[name]) for name in _names(TrainConfig) & saved.keys() - groups.keys()}
    for name, group in groups.items():
        inner = saved.get(name, {})
        kept[name] = group(**{key: _plain(inner[key]) for key in _names(group) & inner.keys()})
    kept["init_from"] = None if kept.get("init_from") is None else Path(kept["init_from"])
    kept["depth"] = None if kept["machine"].quick else kept.get("depth")  # --quick says it itself
    return TrainConfig(**{**kept, "out": run})


def _names(group: type) -> set[str]:
    return {one.name for one in fields(group)}


def _plain(value: Any) -> Any:
    """A value of config.json as a flag has it: lists are tuples there."""
    return tuple(value) if isinstance(value, list) else value


def _absolute(name: str) -> str:
    """The absolute path of a file; any other name, such as that of a hub data set, as it is."""
    return str(Path(name).resolve()) if Path(name).exists() else name


def split_sizes(table: SplitTable) -> dict[str, dict[str, Any]]:
    """Number of pairs (lists, solutions) and fingerprint of the prompts of each split."""
    added = (COUNTER_EXAMPLES,) if len(table.rows(COUNTER_EXAMPLES)) else ()
    names = ("train", "calibration", "test", *added)
    return {name: split_size(num_items(table, table.rows(name)), table.prompt[table.rows(name)]) for name in names}


def split_size(num_rows: int, prompts: np.ndarray) -> dict[str, Any]:
    """The same of one split. prompts: hashes, each as often as it likes."""
    unique = np.unique(prompts)
    return {"num_pairs": num_rows, "num_prompts": len(unique), "fingerprint": digest_of(unique.tobytes())}
