"""What a refresh came to, from its state and the files of the policy's last stretch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assay.records import Finding, Metric, PageResult, Report, Table
from assay.rl.refresh.refresh_settings import RefreshRun
from assay.rl.refresh.refresh_state import State

ROUNDS = "refreshes"


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshResult(PageResult):
    """rounds: what came of each. page: the report."""

    rounds: Sequence[Mapping[str, Any]]


def refresh_result(run: RefreshRun, state: State, *, title: str) -> RefreshResult:
    """The rounds as a table, with what was not promoted, not labelled, or is on another scale."""
    rounds = [one for one in (*state.rounds, state.now) if "round" in one]
    promoted = [one for one in rounds if one.get("promoted") and not one.get("rolled back")]
    page = Report(
        title=title,
        metrics=(
            Metric(ROUNDS, len(rounds), n=run.settings.rounds, note="of so many at most"),
            Metric(
                "reward models promoted", len(promoted), n=len(rounds), note="not worse than the one before, and not rolled back"
            ),
            Metric("labels", sum(one.get("labelled", 0) for one in rounds), n=sum(one.get("pairs", 0) for one in rounds)),
        ),
        tables=(_table(rounds),) if rounds else (),
        findings=tuple(_findings(rounds)) or (_none(run),),
        facts={
            "policy": run.policy,
            "first reward model": str(run.reward),
            "reward model in use": state.reward or str(run.reward),
            "labels by": run.labeller_name,
        },
        lead=_lead(rounds, promoted, state),
        key={ROUNDS: ("reward models promoted", "labels")},
    )
    return RefreshResult(rounds=rounds, page=page)


def _table(rounds: Sequence[Mapping[str, Any]]) -> Table:
    columns = (
        "round",
        "why",
        "step",
        "KL",
        "pairs",
        "labels",
        "accuracy before",
        "accuracy",
        "promoted",
        "factor",
        "policy",
        "from step",
    )

    def cells(one: Mapping[str, Any]) -> tuple[Any, ...]:
        promoted = "rolled back" if one.get("rolled back") else "yes" if one.get("promoted") else "no"
        before, new, factor, begins = (one.get(name, math.nan) for name in ("accuracy before", "accuracy", "factor", "from"))
        came = (one["round"], one["why"], one["step"], one["kl"], one.get("pairs", 0), one.get("labelled", 0))
        return (*came, before, new, promoted, factor, one.get("then", ""), begins)

    note = "accuracy on pairs that neither model was trained on, of the model in use and of the new one"
    return Table(title="rounds", columns=columns, rows=tuple(cells(one) for one in rounds), note=note)


def _findings(rounds: Sequence[Mapping[str, Any]]) -> list[Finding]:
    found = []
    for one in rounds:
        name, where = f"refresh {one['round']}", Path("rounds") / f"{one['round']:02d}"
        if "gate" in one and not one["promoted"] and "factor" not in one:
            why = f"{one['gate']} The new model was not promoted; it is kept in {where / 'reward'}."
            found.append(Finding("warn", f"{name}: gate", one["change"], 0.0, why))
        elif one.get("rolled back"):
            found.append(Finding("warn", f"{name}: rolled back", math.nan, math.nan, "its reward model was taken back by hand"))
        elif one.get("promoted"):
            scale = one["scale warnings"]
            why = " ".join(scale) or f"{one['gate']} Promoted, its rewards times {one['factor']:.3g}."
            found.append(
                Finding("warn" if scale else "ok", f"{name}: {'scale' if scale else 'promoted'}", one["factor"], math.nan, why)
            )
        if (lost := one.get("pairs", 0) - one.get("labelled", 0)) and "labelled" in one:
            reasons = ", ".join(f"{num:,} {why}" for why, num in one["not labelled"].items())
            many = lost > one["pairs"] / 4
            found.append(Finding("warn" if many else "ok", f"{name}: pairs without a label", lost, one["pairs"] / 4, reasons))
    return found


def _none(run: RefreshRun) -> Finding:
    settings = run.settings
    asked = [f"{settings.every} steps" if settings.every else "", f"{settings.kl_budget:g} nats" if settings.kl_budget else ""]
    asked.append("an alarm" if settings.at_alarm else "")
    return Finding("ok", ROUNDS, 0.0, math.nan, f"nothing asked for a refresh: {' or '.join(filter(None, asked))} did not come")


def _lead(rounds: Sequence[Mapping[str, Any]], promoted: Sequence[Mapping[str, Any]], state: State) -> str:
    if not rounds:
        return "The policy took its steps, and nothing asked for a refresh."
    models = f"{len(promoted)} new reward model{'' if len(promoted) == 1 else 's'} in place of the old"
    times = f"{len(rounds)} refresh{'' if len(rounds) == 1 else 'es'}, {models}"
    ended = {"done": "the policy took its steps", "stopped": "stopped, since the last new model was worse"}
    return f"{times}; {ended.get(state.doing, f'not at its end, which is {state.doing}')}."
