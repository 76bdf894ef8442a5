"""The one JSON form of rewards and reports: it serves cache, wire and logs alike.

A row of rewards is {"value": float or null, "std"?, "steps"?, "text"?, "error"?}; a number that JSON cannot hold (NaN, infinity)
is null. float32 values survive the round trip bit by bit.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from assay.records import Finding, Metric, Report, Rewards, Table

FINGERPRINT_HEADER = "X-Assay-Fingerprint"
"""Of every reply with rewards: the model that gave them."""


def rewards_to_rows(rewards: Rewards) -> list[dict[str, Any]]:
    """N rewards as N JSON-ready rows; columns that the rewards do not have are left out."""
    rows = []
    for i, value in enumerate(rewards.value):
        row: dict[str, Any] = {"value": _number(value)}
        if rewards.std is not None:
            row["std"] = _number(rewards.std[i])
        if rewards.steps is not None:
            row["steps"] = [_number(step) for step in rewards.steps[i]]
        if rewards.text is not None:
            row["text"] = rewards.text[i]
        if rewards.error is not None and rewards.error[i] is not None:
            row["error"] = rewards.error[i]
        rows.append(row)
    return rows


def rewards_from_rows(rows: Iterable[Mapping[str, Any]]) -> Rewards:
    """The inverse of `rewards_to_rows`. A column is kept when any row has it."""
    rows = list(rows)

    def column(name: str) -> bool:
        return any(name in row for row in rows)

    return Rewards(
        value=np.array([_float(row.get("value")) for row in rows], dtype=np.float32),
        std=np.array([_float(row.get("std")) for row in rows], dtype=np.float32) if column("std") else None,
        steps=tuple(np.array([_float(s) for s in row.get("steps") or []]) for row in rows) if column("steps") else None,
        text=tuple(row.get("text") for row in rows) if column("text") else None,
        error=tuple(row.get("error") for row in rows),
    )


def report_to_json(report: Report) -> str:
    """A report as strict JSON text (no NaN, no infinity)."""
    content = asdict(report) | {
        "metrics": [metric._asdict() for metric in report.metrics],
        "findings": [finding._asdict() for finding in report.findings],
    }
    return json.dumps(_strict(content), indent=1, ensure_ascii=False)


def report_from_json(text: str) -> Report:
    """The inverse of `report_to_json`; null figures become NaN."""
    raw = json.loads(text)
    return Report(
        title=raw["title"],
        metrics=tuple(
            Metric(m["name"], _float(m["value"]), _float(m["low"]), _float(m["high"]), m["n_scored"], m["n"], m["note"])
            for m in raw["metrics"]
        ),
        tables=tuple(
            Table(
                title=t["title"],
                columns=tuple(t["columns"]),
                rows=tuple(tuple(math.nan if cell is None else cell for cell in row) for row in t["rows"]),
                chart=t["chart"],
                note=t["note"],
            )
            for t in raw["tables"]
        ),
        examples=tuple(raw["examples"]),
        findings=tuple(
            Finding(f["level"], f["name"], _float(f["value"]), _float(f["threshold"]), f["why"]) for f in raw["findings"]
        ),
        facts=raw["facts"],
    )


def _number(value: Any) -> float | None:
    value = float(value)
    return value if math.isfinite(value) else None


def _float(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _strict(value: Any) -> Any:
    """The same structure with numpy scalars as Python's, and numbers that JSON lacks as None."""
    if isinstance(value, Mapping):
        return {str(k): _strict(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
