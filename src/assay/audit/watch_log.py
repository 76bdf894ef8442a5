"""Signs of a run that is over, from what it wrote: scored completions with their steps, or a run directory of `assay rl train`.

A log is one run. Rows: step, prompt, response (or text), reward, and std where there is one, under the names of `NAMES`; TRL's
parquet files of completions are read as they are once the column of the reward is named. A run directory has its figures in
metrics.jsonl, a look a step, what was kept of its answers in completions.jsonl, and the evidence of its alarm.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from assay.audit.healthy_file import Healthy
from assay.audit.monitors import ALPHA
from assay.audit.signs import SIGNS, Look
from assay.audit.watch import TOGETHER, Watch, WatchSettings
from assay.data.raw.rows import read_rows, unit_of
from assay.errors import DataError
from assay.records import Completion, Finding, Metric, PageResult, Report, Rewards, Table
from assay.run_files import COMPLETIONS, METRICS
from assay.wire import as_float, completion_from_row

NAMES: Mapping[str, tuple[str, ...]] = {
    "step": ("step", "global_step"),
    "reward": ("reward", "value", "score"),
    "std": ("std",),
    "prompt": ("prompt", "messages", "question"),
    "response": ("response", "completion", "answer", "output"),
    "text": ("text",),
    "error": ("error",),
}
"""Meaning -> columns of a log, the first that is there counts."""
FIGURES: Mapping[str, str] = {
    "reward": "reward",
    "reward_std_in_prompt": "spread",
    "same_reward": "same reward",
    "member_std": "member std",
    "tokens": "length",
    "finished": "finished",
    "kl": "KL",
    "entropy": "entropy",
}
"""Column of metrics.jsonl -> figure of a look; length is in tokens there."""
ALARM = "ground lost"


class LogRow(NamedTuple):
    """A scored completion of a log. step: None where the log has none."""

    step: int | None
    completion: Completion
    value: float
    std: float | None
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchResult(PageResult):
    """What was seen of one run. name: of the log. watch: its state after the whole log."""

    name: str
    watch: Watch


def is_run(path: Path) -> bool:
    """Whether it is a run directory of `assay rl train`."""
    return (path / METRICS).is_file()


def settings_for(path: Path, *, window: int, start: int) -> WatchSettings:
    """How a log is watched: by its rows, a run directory by the figures of its steps."""
    return WatchSettings(start=start, of="steps") if is_run(path) else WatchSettings(window=window, start=start)


def watch_log(
    path: Path, *, settings: WatchSettings, healthy: Healthy | None = None, columns: Mapping[str, str] | None = None
) -> WatchResult:
    """Watch a log from its first row to its last. columns: meaning (of `NAMES`) -> column. Raises DataError for a log without rows,
    without rewards, or whose steps go back."""
    watch, others = Watch(settings=settings, healthy=healthy), tuple[Finding, ...]()
    if is_run(path):
        alarm, facts = _watch_run(path, watch)
        others = () if alarm is None else (alarm,)
    else:
        facts = _watch_rows(path, watch, columns or {})
    findings = (*others, *watch.findings())
    page = Report(
        title=f"Signs of {path.name}",
        metrics=tuple(_metrics(watch)),
        tables=(_signs(watch), *_figures(watch)),
        examples=tuple(watch.examples()),
        findings=findings,
        facts=facts,
        lead=_lead(watch, others),
        key={name: _held_against(name, watch) for name in [metric.name for metric in _metrics(watch)][:4]},
    )
    return WatchResult(name=path.name, watch=watch, page=page)


def read_log(path: Path, columns: Mapping[str, str]) -> Iterator[LogRow]:
    """The rows of a log. Raises DataError for the first row that is none, with its number and the fix."""
    unknown = sorted(columns.keys() - NAMES.keys())
    if unknown:
        raise DataError(f"--columns {unknown[0]}: give MEANING=COLUMN with one of {', '.join(NAMES)}")
    for number, row in read_rows(path):
        where = f"{path}, {unit_of(path)} {number}"
        if isinstance(row, str):
            raise DataError(f"{where}: {row}")
        found = {name: next((row[one] for one in _asked_for(name, columns) if row.get(one) is not None), None) for name in NAMES}
        if found["reward"] is None and not any(one in row for one in _asked_for("reward", columns)):
            raise DataError(f"{where} has no reward among {', '.join(row)}: name its column, as --columns reward=COLUMN")
        try:
            given = {"prompt": found["prompt"], "response": _one_answer(found["response"]), "text": found["text"]}
            kept = {name: value for name, value in given.items() if value is not None}
            completion = completion_from_row(kept if "response" in kept else {"text": kept.get("text")})
            value = math.nan if found["reward"] is None else float(found["reward"])
            std = None if found["std"] is None else float(found["std"])
            step = None if found["step"] is None else int(found["step"])
        except (ValueError, TypeError) as error:
            raise DataError(f"{where} cannot be read: {error}") from None
        yield LogRow(step, completion, value, std, None if found["error"] is None else str(found["error"]))


def _asked_for(name: str, columns: Mapping[str, str]) -> tuple[str, ...]:
    return (columns[name],) if name in columns else NAMES[name]


def _one_answer(response: Any) -> Any:
    """The answer of a list of one message, as TRL writes it."""
    if isinstance(response, Sequence) and not isinstance(response, str) and len(response) == 1:
        return response[0]
    return response


def _watch_rows(path: Path, watch: Watch, columns: Mapping[str, str]) -> dict[str, str]:
    last = -math.inf
    for step, rows in groupby(read_log(path, columns), key=lambda row: row.step):
        if step is not None and step < last:
            raise DataError(f"{path}: steps go back from {last:g} to {step}: a log is one run, in the order of its steps")
        last = last if step is None else step
        given = list(rows)
        stds = [row.std for row in given]
        rewards = Rewards(
            value=np.array([row.value for row in given]),
            std=None if all(std is None for std in stds) else np.array([math.nan if std is None else std for std in stds]),
            error=tuple(row.error for row in given),
        )
        watch.see([row.completion for row in given], rewards, step=step)
    if not watch.num_rows:
        raise DataError(f"{path} has no rows: a log has a row for each scored completion")
    left = f", {len(watch.rows):,} of them after the last look" if watch.rows else ""
    return {"log": str(path.name), "rows": f"{watch.num_rows:,}{left}"}


def _watch_run(path: Path, watch: Watch) -> tuple[Finding | None, dict[str, str]]:
    """Looks from the figures of each step; the alarm's finding from the evidence that the run kept."""
    steps = [json.loads(line) for line in (path / METRICS).read_text(encoding="utf-8").splitlines() if line]
    if not steps:
        raise DataError(f"{path / METRICS} is empty: the run has taken no step")
    kept = path / COMPLETIONS
    answers = [json.loads(line) for line in kept.read_text(encoding="utf-8").splitlines()] if kept.is_file() else []
    for row in steps:
        figures = {name: as_float(row.get(column)) for column, name in FIGURES.items()}
        figures["not scored"] = 1 - as_float(row.get("scored"))
        look = Look(at=row["step"], num_rows=0, figures=figures, openers={})
        watch.take(look, _about(answers, row["step"]))
    looks = [(row["step"], row["ground"]) for row in steps if row.get("ground")]
    return _alarm(looks), {"run": path.name, "steps": f"{len(steps):,}", "length": "in tokens"}


def _about(answers: Sequence[Mapping[str, Any]], step: int) -> list[dict[str, Any]]:
    """The kept answers of the last evaluation up to a step, best ones first."""
    last = max((one["step"] for one in answers if one["step"] <= step), default=None)
    return [
        {"prompt": "\n".join(str(turn["content"]) for turn in one["prompt"]), "response": one["response"], "reward": one["reward"]}
        for one in answers
        if one["step"] == last
    ]


def _alarm(looks: Sequence[tuple[int, Mapping[str, Any]]]) -> Finding | None:
    """The alarm of a run that compared its policy with its own past; None where it did not."""
    if not looks:
        return None
    highest, limit = max(float(one["evidence"]) for _, one in looks), 1 / ALPHA
    first = next((step for step, one in looks if float(one["evidence"]) >= limit), None)
    if first is None:
        why = f"the run's alarm did not ring in {len(looks)} comparisons with its own past, which proves no health"
        return Finding("ok", ALARM, highest, limit, why)
    why = (
        f"by its anchor the policy lost to its own earlier answers, seen at step {first}; a healthy run rings in at most {ALPHA:g}"
    )
    return Finding("fail", ALARM, highest, limit, why)


def _metrics(watch: Watch) -> list[Metric]:
    """The highest value of each sign, those that passed first."""
    names = sorted(watch.highest, key=lambda name: (name not in watch.passed, list(SIGNS).index(name)))
    return [
        Metric(name, watch.highest[name].value, note=f"{SIGNS[name].words}; highest at look {watch.highest[name].look}")
        for name in names
    ]


def _held_against(name: str, watch: Watch) -> tuple[str, ...]:
    limit = None if watch.healthy is None else watch.healthy.thresholds.get(name)
    return () if limit is None else (f"healthy runs: {limit.value:.3g}",)


def _signs(watch: Watch) -> Table:
    """Every sign that was measured, beside its threshold and the rate that it has."""
    rows = []
    for name, peak in watch.highest.items():
        limit = None if watch.healthy is None else watch.healthy.thresholds.get(name)
        passed = watch.passed.get(name)
        rows.append(
            (
                name,
                peak.value,
                peak.at,
                "none" if limit is None else limit.value,
                "none" if limit is None else f"{limit.rate:.1%}",
                "" if passed is None else passed.at,
            )
        )
    columns = ("sign", "highest", "at", "healthy runs reach", "rate of a false alarm", "passed at")
    note = (
        "at: the step, or the rows so far. A rate is of one sign alone in a healthy run of the same world and length; none: no rate"
    )
    return Table(title="signs", columns=columns, rows=tuple(rows), note=note)


def _figures(watch: Watch) -> list[Table]:
    """A line for each figure over the looks."""
    names = list(dict.fromkeys(name for look, _ in watch.looks for name in look.figures))
    found = []
    for name in names:
        rows = tuple((look.at, look.figures.get(name, math.nan)) for look, _ in watch.looks)
        if any(not math.isnan(value) for _, value in rows):
            found.append(Table(title=name, columns=("step or rows", name), rows=rows, chart="line"))
    return found


def _lead(watch: Watch, others: Sequence[Finding]) -> str:
    alarm = "".join("The alarm rang. " if one.level == "fail" else "The alarm did not ring. " for one in others)
    if watch.healthy is None:
        return f"{alarm}{watch.num_looks:,} looks; without healthy runs signs have no rate."
    passed = [name for name in watch.passed if name != TOGETHER]
    if not watch.passed:
        return f"{alarm}In {watch.num_looks:,} looks no sign passed what {watch.healthy.num_runs} healthy runs reach."
    return f"{alarm}Passed what healthy runs reach: {', '.join(passed) or 'the largest of all signs'}."
