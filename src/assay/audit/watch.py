"""A run that is watched: rows or figures go in, looks close, signs are held against healthy runs where there are any. The same code
for a scorer at work (`audit/watched`), for logs (`audit/watch_log`) and for the service.

Memory does not grow with the run: rows are kept until their look closes, looks up to `history`, of each sign the look in which it
was highest with a few completions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np

from assay.audit.healthy_file import Healthy
from assay.audit.signs import SIGNS, Look, SeenRow, look_of, places_of, rows_of, signs_of, start_of
from assay.records import Completion, Finding, Rewards
from assay.wire import as_float, as_json

STATE_VERSION = 1
TOGETHER = "signs"
"""The name of the finding on all signs together."""
Show: TypeAlias = Callable[[str, Look], Sequence[Mapping[str, Any]]]
"""From a sign's name and the start to the completions that make it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchSettings:
    """window: rows of a look, which closes with the call that fills it. start: looks that signs start from; they have no sign.
    read: rows of a look whose texts are read for surface features, None for all. keep: completions kept of each sign's highest
    look; 0 keeps no text at all. history: looks that are remembered for tables. of: "rows", or "steps" whose figures somebody else
    measured; the two are never compared."""

    window: int = 256
    start: int = 4
    read: int | None = None
    keep: int = 3
    history: int = 4096
    of: Literal["rows", "steps"] = "rows"

    def __post_init__(self) -> None:
        for name, least in (("window", 2), ("start", 1), ("keep", 0), ("history", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} {getattr(self, name)} must be at least {least}")
        if self.read is not None and self.read < 0:
            raise ValueError(f"read {self.read} must not be negative: rows of a look whose texts are read")

    @property
    def watching(self) -> dict[str, Any]:
        """What decides the signs: healthy runs must have been watched with the same."""
        return {name: getattr(self, name) for name in (("of", "window", "start", "read") if self.of == "rows" else ("of", "start"))}


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """A sign at a look: its value, the look's number from 1, its step or rows so far, and the completions that made it."""

    value: float
    look: int
    at: int
    shown: tuple[Mapping[str, Any], ...] = ()


@dataclass(kw_only=True)
class Watch:
    """What was seen so far. highest: of each sign. passed: where each sign first passed its threshold, and under `TOGETHER` where
    the largest of all did. looks: the last ones, with their signs. It is fed by `see` or `take`, never by both."""

    settings: WatchSettings = field(default_factory=WatchSettings)
    healthy: Healthy | None = None
    rows: list[SeenRow] = field(default_factory=list)
    first: list[Look] = field(default_factory=list)
    looks: list[tuple[Look, Mapping[str, float]]] = field(default_factory=list)
    highest: dict[str, Peak] = field(default_factory=dict)
    passed: dict[str, Peak] = field(default_factory=dict)
    num_rows: int = 0
    num_looks: int = 0

    def see(self, completions: Sequence[Completion], rewards: Rewards, *, step: int | None = None) -> int:
        """Add the rows of one call, in their order. A look closes at the end of the call that fills it; of a long call some looks
        are made, cut between prompts. step: what findings name the look by; the rows so far when left out. Returns how many
        looks closed."""
        window, read, num = self.settings.window, self.settings.read, len(completions)
        if num != len(rewards):
            raise ValueError(f"{num} completions and {len(rewards)} rewards: give one for each")
        closed, begin = 0, 0
        while begin < num:
            end, waiting = num, len(self.rows)
            if waiting + num - begin > 2 * window:  # no look of more rows, whatever is given
                end = begin + max(window - waiting, 1)
                while end - begin + waiting < 2 * window and completions[end].messages == completions[end - 1].messages != ():
                    end += 1
            part, taken = completions[begin:end], rewards.take(range(begin, end))
            room = len(part) if read is None else max(read - waiting, 0)
            self.rows += rows_of(part, taken, num_read=room, keep_texts=self.settings.keep > 0)
            self.num_rows += len(part)
            begin = end
            if len(self.rows) >= window:
                self._close(step)
                closed += 1
        return closed

    def take(self, look: Look, shown: Sequence[Mapping[str, Any]] = ()) -> None:
        """Add a look whose figures somebody else measured. shown: completions of about then."""
        self.num_rows += look.num_rows
        self._add(look, lambda name, start: list(shown[: self.settings.keep]))

    def _close(self, step: int | None) -> None:
        rows, self.rows = self.rows, []
        look = look_of(rows, self.num_rows if step is None else step)
        keep = self.settings.keep

        def shown(name: str, start: Look) -> list[dict[str, Any]]:
            return [_shown(rows[i]) for i in places_of(name, rows, look, start, keep)]

        self._add(look, shown)

    def _add(self, look: Look, shown: Show) -> None:
        self.num_looks += 1
        signs: dict[str, float] = {}
        if len(self.first) < self.settings.start:
            self.first.append(look)
        else:
            start = start_of(self.first)
            signs = signs_of(look, start)
            self._hold(look, start, signs, shown)
        self.looks.append((look, signs))
        del self.looks[: -self.settings.history]

    def _hold(self, look: Look, start: Look, signs: Mapping[str, float], shown: Show) -> None:
        """Against the highest so far, and against healthy runs."""
        thresholds = {} if self.healthy is None else self.healthy.thresholds
        for name, value in signs.items():
            if math.isnan(value):
                continue
            rises = name not in self.highest or value > self.highest[name].value
            passes = name in thresholds and name not in self.passed and value > thresholds[name].value
            if not (rises or passes):
                continue
            peak = Peak(value=value, look=self.num_looks, at=look.at, shown=tuple(shown(name, start)))
            self.highest |= {name: peak} if rises else {}
            self.passed |= {name: peak} if passes else {}
        together = None if self.healthy is None else self.healthy.together
        if together is not None and TOGETHER not in self.passed:
            row_1S = np.array([[signs.get(name, math.nan) for name in together.names]])
            if together.alarms(row_1S)[0]:
                in_units = (row_1S[0] - together.centres) / together.units
                name = together.names[int(np.nanargmax(in_units))]
                largest = float(together.largest(row_1S)[0])
                told = ({"kind": name}, *shown(name, start))
                self.passed[TOGETHER] = Peak(value=largest, look=self.num_looks, at=look.at, shown=told)

    @property
    def current(self) -> Mapping[str, float]:
        """The signs of the last look; empty before there are any."""
        return self.looks[-1][1] if self.looks else {}

    @property
    def num_judged(self) -> int:
        """Looks that have signs."""
        return max(self.num_looks - self.settings.start, 0)

    def record(self, scorer: str) -> dict[str, Any]:
        """What `keep_healthy` writes of a run that was seen whole. scorer: its fingerprint, or what it is called."""
        return {
            "watching": self.settings.watching,
            "scorer": scorer,
            "looks": self.num_judged,
            "rows": self.num_rows,
            "highest": {name: peak.value for name, peak in self.highest.items()},
        }

    def findings(self) -> tuple[Finding, ...]:
        """What passed, first all signs together. Without healthy runs that no sign has a rate, and no more."""
        if not self.num_judged:
            begin = f"and signs begin after {self.settings.start} looks of {self.settings.window:,} rows or more"
            why = f"{self.num_rows:,} rows make {self.num_looks} looks, {begin}"
            return (Finding("warn", TOGETHER, math.nan, math.nan, why),)
        if self.healthy is None:
            why = (
                "no healthy runs were given, so that no sign has a threshold or a rate of false alarms, and nothing is said of "
                "this run: keep whole healthy runs of the same world first (docs/monitors.md)"
            )
            return (Finding("warn", TOGETHER, math.nan, math.nan, why),)
        return (self._of_all(self.healthy), *self._of_each(self.healthy))

    def _of_all(self, healthy: Healthy) -> Finding:
        if healthy.together is None:
            why = f"all signs together have no rate: {healthy.missing.get('all signs together', 'no sign is in every healthy run')}"
            return Finding("warn", TOGETHER, math.nan, math.nan, why)
        limit = healthy.together.threshold
        words = f"at most {limit.rate:.1%} of healthy runs do, in the mean over files of {healthy.num_runs}{self._beyond(healthy)}"
        peak = self.passed.get(TOGETHER)
        if peak is None:
            why = f"no sign passed what healthy runs reach, with one rate for all: {words}"
            return Finding("ok", TOGETHER, self._largest(healthy), limit.value, why)
        why = f"{peak.shown[0]['kind']!r} passed what healthy runs reach, {self._where(peak)}; {words}"
        return Finding("warn", TOGETHER, peak.value, limit.value, why)

    def _of_each(self, healthy: Healthy) -> list[Finding]:
        found = []
        for name, peak in sorted(self.passed.items(), key=lambda one: one[1].look):
            if name != TOGETHER:
                limit = healthy.thresholds[name]
                rate = f"alone, {limit.rate:.1%} of {limit.runs} healthy runs pass it{self._beyond(healthy)}"
                why = f"{SIGNS[name].words}, {self._where(peak)}; {rate}"
                found.append(Finding("warn", f"sign: {name}", peak.value, limit.value, why))
        return found

    def _largest(self, healthy: Healthy) -> float:
        assert healthy.together is not None
        table_TS = np.array([[signs.get(name, math.nan) for name in healthy.together.names] for _, signs in self.looks if signs])
        largest_T = healthy.together.largest(table_TS) if len(table_TS) else np.array([np.nan])
        return float(np.nanmax(largest_T)) if not np.isnan(largest_T).all() else math.nan

    def _beyond(self, healthy: Healthy) -> str:
        if self.num_judged <= healthy.looks:
            return ""
        return f"; but this run has {self.num_judged:,} looks and the shortest of those {healthy.looks:,}: the rate is of that many"

    def _where(self, peak: Peak) -> str:
        return f"at look {peak.look} ({peak.at:,})"

    def examples(self) -> list[dict[str, Any]]:
        """The completions behind what passed, and where nothing has a threshold behind the highest of each sign."""
        told = self.passed if self.healthy is not None else self.highest
        return [
            {**one, "kind": f"{name}, look {peak.look}"}
            for name, peak in told.items()
            for one in peak.shown
            if "response" in one and name != TOGETHER
        ]

    def saved(self) -> dict[str, Any]:
        """The state as JSON has it; numbers that are none as None. `of_saved` goes on from it bit for bit."""
        return as_json(
            {
                "version": STATE_VERSION,
                "settings": asdict(self.settings),
                "rows": [row._asdict() for row in self.rows],
                "first": [asdict(look) for look in self.first],
                "looks": [[asdict(look), signs] for look, signs in self.looks],
                "highest": {name: asdict(peak) for name, peak in self.highest.items()},
                "passed": {name: asdict(peak) for name, peak in self.passed.items()},
                "num_rows": self.num_rows,
                "num_looks": self.num_looks,
            }
        )

    @classmethod
    def of_saved(cls, saved: Mapping[str, Any], healthy: Healthy | None = None) -> Watch:
        """Raises ValueError for a state of another version."""
        if saved.get("version") != STATE_VERSION:
            raise ValueError(f"the state has version {saved.get('version')}, this Assay reads {STATE_VERSION}: watch anew")
        return cls(
            settings=WatchSettings(**saved["settings"]),
            healthy=healthy,
            rows=[_row(one) for one in saved["rows"]],
            first=[_look(one) for one in saved["first"]],
            looks=[(_look(look), _numbers(signs)) for look, signs in saved["looks"]],
            highest={name: _peak(one) for name, one in saved["highest"].items()},
            passed={name: _peak(one) for name, one in saved["passed"].items()},
            num_rows=saved["num_rows"],
            num_looks=saved["num_looks"],
        )


def _shown(row: SeenRow) -> dict[str, Any]:
    reward = None if math.isnan(row.value) else row.value
    return {"prompt": row.asked, "response": row.said, "reward": reward}


def _numbers(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: as_float(value) for name, value in values.items()}


def _row(saved: Mapping[str, Any]) -> SeenRow:
    numbers = {name: as_float(saved[name]) for name in ("value", "std", "length", "repeated")}
    return SeenRow(**{**saved, **numbers, "surface": tuple(saved["surface"])})


def _look(saved: Mapping[str, Any]) -> Look:
    parts = {name: tuple(saved[name]) for name in ("surface", "surface_std")}
    return Look(**{**saved, **parts, "figures": _numbers(saved["figures"])})


def _peak(saved: Mapping[str, Any]) -> Peak:
    return Peak(**{**saved, "shown": tuple(saved["shown"])})
