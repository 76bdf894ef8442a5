"""What a policy's training came to, from the files of its run.

Suffixes: E evaluations, P held-out prompts.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from assay.audit.monitors import GroundLost
from assay.records import Finding, Metric, Report, Table
from assay.rl.evaluations import Evaluations, read_evaluations
from assay.rl.loop.look_rows import nan_mean
from assay.rl.loop.train_policy import read_metrics
from assay.run_files import COMPLETIONS
from assay.stats.mean_intervals import mean_interval

REWARD, GOLD, KL = "reward", "gold", "KL"
_STUCK = 0.5  # share of prompts whose answers all have one reward, above which little is learnt
_UNFINISHED = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyResult:
    """findings: the alarm first. page: the report."""

    findings: tuple[Finding, ...]
    page: Report

    def report(self) -> Report:
        return self.page


def policy_result(
    out: Path, *, title: str, facts: Mapping[str, str], ground: GroundLost | None, anchor: str, seed: int
) -> PolicyResult:
    """The figures of a run, from its files."""
    rows = read_metrics(out)
    found = read_evaluations(out)
    metrics = [*_changes(found, seed), *_of_steps(rows)]
    findings = (*(ground.findings(anchor) if ground is not None else ()), *_findings(rows))
    page = Report(
        title=title,
        metrics=tuple(metrics),
        tables=tuple(_tables(found, rows)),
        examples=tuple(_examples(out)),
        findings=findings,
        facts=facts,
        lead=_lead(found, findings),
        key={one.name: ("before training",) for one in metrics[:3] if one.n},
    )
    return PolicyResult(findings=findings, page=page)


def _changes(found: Evaluations, seed: int) -> list[Metric]:
    """At the last evaluation, and by how much more than before training, paired by prompt."""
    prompts_P = np.arange(found.reward_EP.shape[1])
    metrics = []
    for name, values_EP in ((REWARD, found.reward_EP), (GOLD, found.gold_EP)):
        if np.isnan(values_EP).all():
            continue
        gain_P = values_EP[-1] - values_EP[0]
        metrics.append(_metric(f"gain in {name}", gain_P, prompts_P, seed, "last evaluation less before training, by prompt"))
    metrics.append(
        _metric(f"{KL} of an answer", found.kl_EP[-1], prompts_P, seed, "nats, to the policy that training started from")
    )
    if found.has_gold:
        best = int(np.nanargmax(np.nanmean(found.gold_EP, axis=1)))
        lost_P = found.gold_EP[-1] - found.gold_EP[best]
        when = "before training" if found.steps[best] < 0 else f"at step {found.steps[best]}"
        note = f"the best was {when}, chosen by the same answers: it flatters the best a little"
        metrics.append(_metric("gold against its best", lost_P, prompts_P, seed, note))
    return metrics


def _metric(name: str, values_P: np.ndarray, prompts_P: np.ndarray, seed: int, note: str) -> Metric:
    known_P = ~np.isnan(values_P)
    if not known_P.any():
        return Metric(name, math.nan, n=len(values_P), note="no answer has a reward")
    interval = mean_interval(values_P, prompts_P, seed=seed, support=None)
    return Metric(name, float(values_P[known_P].mean()), *interval, int(known_P.sum()), len(values_P), note)


def _of_steps(rows: Sequence[Mapping[str, Any]]) -> list[Metric]:
    last = rows[-max(len(rows) // 10, 1) :]

    def mean_of(name: str) -> float:
        kept = [row[name] for row in last if row.get(name) is not None and not math.isnan(row[name])]
        return float(np.mean(kept)) if kept else math.nan

    spent = {
        name: sum(row["seconds"].get(name, 0.0) for row in rows) for name in ("drawing", "scoring", "weighing", "updating", "all")
    }
    own = spent["all"] - sum(one for name, one in spent.items() if name != "all")
    return [
        Metric("tokens of an answer", mean_of("tokens"), note="mean of the last tenth of the steps"),
        Metric("finished answers", mean_of("finished"), note="share that ended by itself"),
        Metric("prompts with one reward", mean_of("same_reward"), note="share of prompts whose answers all have the same reward"),
        Metric("beta", float(rows[-1]["beta"]), note="factor of the KL in the last step"),
        Metric("seconds", spent["all"], note=", ".join(f"{name} {one:,.0f}" for name, one in spent.items() if name != "all")),
        Metric(
            "own time", own / spent["all"] if spent["all"] else math.nan, note="share outside of drawing, scoring and the model"
        ),
    ]


def _findings(rows: Sequence[Mapping[str, Any]]) -> list[Finding]:
    last = rows[-max(len(rows) // 10, 1) :]
    scored = float(np.mean([row["scored"] for row in rows]))
    same = [row["same_reward"] for row in last if not math.isnan(row["same_reward"])]
    finished = float(np.mean([row["finished"] for row in last]))
    skipped = int(sum(row["updates_skipped"] for row in rows))
    found = []
    if scored < 1:
        reasons = Counter(row["why_unscored"] for row in rows if "why_unscored" in row)
        most = f", most often: {reasons.most_common(1)[0][0]}" if reasons else ""
        left = "They left their groups and were not trained on; --empty gives answers without text a reward"
        why = f"{1 - scored:.1%} of the answers have no reward{most}. {left}"
        found.append(Finding("warn", "answers without a reward", scored, 1.0, why))
    if same and float(np.mean(same)) > _STUCK:
        why = "most prompts' answers have all one reward, so that they teach nothing: draw more answers, or use a finer reward"
        found.append(Finding("warn", "prompts with one reward", float(np.mean(same)), _STUCK, why))
    if finished < _UNFINISHED:
        why = "most answers are cut off at --max-tokens: raise it, or give unfinished answers a reward with --unfinished"
        found.append(Finding("warn", "finished answers", finished, _UNFINISHED, why))
    if skipped:
        why = f"{skipped} updates had a gradient that is not finite and were left out: lower --learning-rate"
        found.append(Finding("warn", "updates left out", float(skipped), 0.0, why))
    return found


def _tables(found: Evaluations, rows: Sequence[Mapping[str, Any]]) -> list[Table]:
    distance_E = found.distance_E
    columns = [("reward", found.reward_EP)]
    if found.has_gold:
        columns.append(("gold", found.gold_EP))
    gains = [_means(values_EP - values_EP[:1]) for _, values_EP in columns]
    names = tuple(name for name, _ in columns)
    note = "gain over the policy that training started from; each in its own unit"
    by_kl = tuple((float(distance_E[i]), *(float(one[i]) for one in gains)) for i in np.argsort(distance_E, kind="stable"))
    by_step = tuple((int(step) + 1, *(float(one[i]) for one in gains)) for i, step in enumerate(found.steps))
    looks = [(row["step"], row["ground"]) for row in rows if row.get("ground")]
    tables = [
        Table(title="gain by distance", columns=("square root of KL", *names), rows=by_kl, chart="line", note=note),
        Table(title="gain by step", columns=("step", *names), rows=by_step, chart="line", note=note),
    ]
    if looks:
        kinds = [name for name in looks[0][1] if name.startswith("wins against ")]
        table = tuple((step, *(math.nan if won[kind] is None else won[kind] for kind in kinds)) for step, won in looks)
        tables.append(
            Table(title="against its own past", columns=("step", *kinds), rows=table, chart="line", note="share won by the anchor")
        )
    return tables


def _examples(out: Path) -> list[dict[str, object]]:
    path = out / COMPLETIONS
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
    steps = sorted({row["step"] for row in rows})
    wanted = {steps[0], steps[-1]} if steps else set()
    return [
        {
            "kind": f"{row['kind']}, {'before training' if row['step'] < 0 else 'step ' + str(row['step'])}",
            "prompt": "\n".join(str(turn["content"]) for turn in row["prompt"]),
            "response": row["response"],
            "reward": row["reward"],
            "gold": row["gold"],
        }
        for row in rows
        if row["step"] in wanted
    ]


def _means(values_EP: np.ndarray) -> np.ndarray:
    """(E,) over what is known; NaN where nothing is."""
    return np.array([np.nan if (mean := nan_mean(values_P)) is None else mean for values_P in values_EP])


def _lead(found: Evaluations, findings: Sequence[Finding]) -> str:
    reward_E = _means(found.reward_EP)
    words = f"The reward went from {reward_E[0]:.3g} to {reward_E[-1]:.3g}"
    if found.has_gold:
        gold_E = np.nanmean(found.gold_EP, axis=1)
        best = int(np.argmax(gold_E))
        words += f", gold from {gold_E[0]:.3g} to {gold_E[-1]:.3g}"
        if best not in (0, len(gold_E) - 1):
            words += f" over {gold_E[best]:.3g} at step {found.steps[best]}"
    kl = float(np.nanmean(found.kl_EP[-1]))
    alarmed = any(one.level == "fail" for one in findings)
    return f"{words}, at a KL of {kl:.3g} nats an answer{'; the policy lost ground against its own past' if alarmed else ''}."
