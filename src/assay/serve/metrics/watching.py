"""Signs of what a service is asked, for its metrics: `Watched` around each engine's scorer, with bounded memory and no text kept
but that of the canaries. Off unless asked for."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from assay.audit.healthy_file import Healthy, read_healthy
from assay.audit.watch import TOGETHER, WatchSettings
from assay.audit.watched import Watched
from assay.scorers.base import HasBill, Scorer, capability

SERVED = WatchSettings(window=512, read=128, keep=0, history=64)
CANARIES, CANARY_LOOKS = 4, 8  # completions of the first looks, scored again every 4,096 completions or so: a thousandth


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchFlags:
    """Signs in /metrics."""

    watch: bool = False
    """Watch what is scored: signs of reward hacking in /metrics (docs/monitors.md)."""
    healthy: Path | None = None
    """File of whole healthy runs: thresholds beside the signs; they are watched as those runs were."""

    def read(self) -> Watching | None:
        """Raises ValueError for --healthy without --watch, and for a file that cannot be used."""
        if self.healthy is not None and not self.watch:
            raise ValueError("--healthy gives signs a threshold: give --watch too")
        if not self.watch:
            return None
        if self.healthy is None:
            return Watching(SERVED, None)
        found = read_healthy(self.healthy)
        if found.watching.get("of") != "rows":
            raise ValueError(
                f"{self.healthy} is of run directories, and a service sees rows: keep healthy runs of logs or of Watched"
            )
        there = {name: found.watching[name] for name in ("window", "start", "read")}
        return Watching(WatchSettings(**there, keep=0, history=SERVED.history), found)


class Watching(NamedTuple):
    """How every engine is watched."""

    settings: WatchSettings
    healthy: Healthy | None

    def around(self, scorer: Scorer) -> Watched:
        """Canaries are left out where scoring is paid for by the call."""
        canaries = 0 if capability(scorer, HasBill) is not None else CANARIES
        return Watched(scorer, settings=self.settings, healthy=self.healthy, canaries=canaries, canary_looks=CANARY_LOOKS)


class Gauge(NamedTuple):
    """A metric of a model's signs. sign: the label, "" for none."""

    name: str
    help: str
    value: float
    sign: str = ""


def sign_gauges(scorer: Scorer) -> Iterator[Gauge]:
    """What /metrics says of a model's signs; nothing for one that is not watched."""
    watched = capability(scorer, Watched)
    if watched is None:
        return
    seen = watched.summary()
    yield Gauge("assay_looks_total", "Looks of signs, of some hundred completions each.", seen.num_looks)
    yield Gauge("assay_watch_seconds_total", "Seconds spent on watching signs, canaries included.", seen.seconds)
    yield Gauge("assay_watch_failing", "Whether watching failed, so that rows were not seen.", float(seen.failing))
    if not math.isnan(seen.canary_change):
        yield Gauge("assay_canary_largest_change", "Largest change of a fixed text's reward.", seen.canary_change)
        yield Gauge("assay_canary_changed", "Whether one changed beyond the scorer's tolerance.", float(seen.canary_changed))
    for sign, value in seen.current.items():
        if not math.isnan(value):
            yield Gauge("assay_sign", "A sign in the last look, against the first ones (docs/monitors.md).", value, sign)
    for sign, limit in seen.thresholds.items():
        yield Gauge("assay_sign_threshold", "What healthy runs of the file reach; their rate is for runs as long.", limit, sign)
    for sign in seen.thresholds:
        yield Gauge("assay_sign_passed", "Whether a sign has passed that.", float(sign in seen.passed), sign)
    if seen.has_together:
        yield Gauge(
            "assay_signs_passed", "Whether all signs together have passed it, at their one rate.", float(TOGETHER in seen.passed)
        )
