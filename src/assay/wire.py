"""The one JSON form of completions, rewards and reports: it serves cache, wire and logs alike.

A row of rewards is {"value": float or null, "std"?, "steps"?, "text"?, "error"?}; a number that JSON cannot hold (NaN, infinity)
is null. float32 values survive the round trip bit by bit. A message is written as chat templates and OpenAI's API have it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from assay.messages import as_ground_truth, as_message, as_messages
from assay.records import Completion, Finding, Metric, Report, Rewards, Table

FINGERPRINT_HEADER = "X-Assay-Fingerprint"
"""Of every reply with rewards: the model that gave them."""


def completion_to_row(completion: Completion, *, with_ground_truth: bool = True) -> dict[str, Any]:
    """A completion as a JSON-ready row: prompt and response (a message where it has more than text), or text, or token_ids."""
    row: dict[str, Any]
    if completion.token_ids is not None:
        row = {"token_ids": list(completion.token_ids)}
    elif completion.text is not None:
        row = {"text": completion.text}
    else:
        row = {"prompt": [turn.as_dict() for turn in completion.messages], "response": completion.answer.as_answer()}
    if completion.steps is not None:
        row["steps"] = list(completion.steps)
    if completion.tools:
        row["tools"] = list(completion.tools)
    if with_ground_truth and completion.ground_truth is not None:
        row["ground_truth"] = dict(completion.ground_truth)
    return row


def completion_from_row(row: Mapping[str, Any]) -> Completion:
    """The inverse of `completion_to_row`; `messages` that end in the answer may stand for prompt and response, `id` is kept.

    Raises ValueError for a row that says no completion, or two.
    """
    prompt, turns, response, steps = (row.get(name) for name in ("prompt", "messages", "response", "steps"))
    if prompt is not None and turns is not None:
        raise ValueError("prompt and messages say the same: give one of them")
    messages = as_messages(turns or () if prompt is None else prompt)
    if turns is not None and response is None and steps is None:
        if not messages or messages[-1].role != "assistant":
            raise ValueError("the messages do not end in an answer of the assistant, and there is no response")
        messages, response = messages[:-1], messages[-1]
    message = None if response is None or isinstance(response, str) else as_message(response)
    token_ids = row.get("token_ids")
    return Completion(
        messages=messages,
        response=response if message is None else None,
        response_message=message,
        steps=None if steps is None else tuple(steps),
        text=row.get("text"),
        token_ids=None if token_ids is None else tuple(token_ids),
        id=str(row.get("id") or ""),
        tools=row.get("tools") or (),
        ground_truth=as_ground_truth(row.get("ground_truth")),
    )


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
        value=np.array([as_float(row.get("value")) for row in rows], dtype=np.float32),
        std=np.array([as_float(row.get("std")) for row in rows], dtype=np.float32) if column("std") else None,
        steps=tuple(np.array([as_float(s) for s in row.get("steps") or []]) for row in rows) if column("steps") else None,
        text=tuple(row.get("text") for row in rows) if column("text") else None,
        error=tuple(row.get("error") for row in rows),
    )


def report_to_json(report: Report) -> str:
    """A report as strict JSON text (no NaN, no infinity)."""
    content = asdict(report) | {
        "metrics": [metric._asdict() for metric in report.metrics],
        "findings": [finding._asdict() for finding in report.findings],
    }
    return json.dumps(as_json(content), indent=1, ensure_ascii=False)


def report_from_json(text: str) -> Report:
    """The inverse of `report_to_json`; null figures become NaN."""
    raw = json.loads(text)
    return Report(
        title=raw["title"],
        metrics=tuple(
            Metric(m["name"], as_float(m["value"]), as_float(m["low"]), as_float(m["high"]), m["n_scored"], m["n"], m["note"])
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
            Finding(
                f["level"],
                f["name"],
                as_float(f["value"]),
                as_float(f["threshold"]),
                f["why"],
                f.get("failure"),
                f.get("remedy", ""),
            )
            for f in raw["findings"]
        ),
        facts=raw["facts"],
        lead=raw.get("lead", ""),  # reports from before there was one lack it
        key={name: tuple(beside) for name, beside in raw.get("key", {}).items()},
    )


def _number(value: Any) -> float | None:
    value = float(value)
    return value if math.isfinite(value) else None


def as_float(value: float | None) -> float:
    """A number that JSON may have as null: NaN then."""
    return math.nan if value is None else float(value)


def as_json(value: Any) -> Any:
    """The same structure with numpy scalars as Python's, and numbers that JSON lacks as None."""
    if isinstance(value, Mapping):
        return {str(k): as_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
