"""`Watched`: a scorer that passes everything through unchanged and watches what comes by.

    watched = Watched(scorer, healthy="healthy.jsonl")       # give it to the trainer in the scorer's place
    ...
    print(watched.findings())

Signs and their rates: `audit/watch`, `stats/healthy_runs`, docs/monitors.md. Alarms with a guarantee need an anchor, and are
`audit/monitors`; the two are never mixed.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from assay.audit.healthy_file import RATE, Healthy, keep_healthy, read_healthy
from assay.audit.watch import Watch, WatchSettings
from assay.files import write_text
from assay.records import Completion, Finding, Rewards
from assay.scorers.base import OfInner, Scope, Scorer, capability
from assay.scorers.wrappers.cached import Cached
from assay.wire import completion_from_row, completion_to_row

CANARY = "canaries"
"""The name of the finding on fixed texts that are scored again."""


class Seen(NamedTuple):
    """What a monitor shows of a scorer at work. canary_change: NaN before canaries were scored twice."""

    num_looks: int
    seconds: float
    failing: bool
    canary_change: float
    canary_changed: bool
    current: Mapping[str, float]
    thresholds: Mapping[str, float]
    passed: frozenset[str]
    has_together: bool


class Watched:
    """The inner scorer's rewards, the same object, and signs of what they are given to.

    canaries: fixed texts that are scored again by themselves every `canary_looks` looks, below any cache: their rewards move beyond
    the scorer's tolerance only where the model, its template or the engine behind it was changed. A number takes so many of the
    first completions that have a reward. healthy: a file of whole healthy runs (`keep_healthy`), at which signs have the rate
    `rate`; without it signs have none. step: set it to what findings should name a look by, such as the trainer's step.

    seconds: spent on watching, canaries included; problem: why watching failed the last time, "" where it never did: rewards are
    returned all the same. Several threads may call `score` where the inner scorer allows it.

    Raises ValueError for healthy runs that were watched with another window, start or read.
    """

    scope = OfInner[Scope]()
    fingerprint = OfInner[str]()
    tolerance = OfInner[float]()

    def __init__(
        self,
        scorer: Scorer,
        *,
        settings: WatchSettings | None = None,
        healthy: str | Path | Healthy | None = None,
        rate: float = RATE,
        canaries: Sequence[Completion] | int = (),
        canary_looks: int = 4,
    ) -> None:
        settings = settings or WatchSettings()
        if canary_looks < 1:
            raise ValueError(f"canary_looks {canary_looks} must be at least 1: looks from one scoring of the canaries to the next")
        self.scorer, self.problem, self.seconds = scorer, "", 0.0
        self.step: int | None = None
        found = read_healthy(Path(healthy), settings.watching, rate=rate) if isinstance(healthy, str | Path) else healthy
        self.watch = Watch(settings=settings, healthy=found)
        given = () if isinstance(canaries, int) else tuple(canaries)
        self.canaries = _Canaries(given, wanted=canaries if isinstance(canaries, int) else len(given), every=canary_looks)
        self._lock = threading.Lock()

    def score(self, completions: Sequence[Completion]) -> Rewards:
        """What the inner scorer gives, unchanged. Raises what it raises."""
        rewards = self.scorer.score(completions)
        began = time.perf_counter()
        with self._lock:
            try:
                self.canaries.collect(completions, rewards)
                closed = self.watch.see(completions, rewards, step=self.step)
                if closed or self.canaries.is_new:
                    self.canaries.look(self.scorer, self.watch.num_looks)
            except Exception as error:  # a training run must not end because somebody watched it
                self.problem = f"{type(error).__name__}: {error}"
            self.seconds += time.perf_counter() - began
        return rewards

    def findings(self) -> tuple[Finding, ...]:
        """Canaries first, then signs. Only canaries fail: signs warn, at the rate that they have."""
        with self._lock:
            found = (*self.canaries.findings(self.scorer.tolerance), *self.watch.findings())
            found += self._of_others()
        if self.problem:
            found += (Finding("warn", "watching", math.nan, math.nan, f"watching failed, and rows were not seen: {self.problem}"),)
        return found

    def _of_others(self) -> tuple[Finding, ...]:
        """What is known to make the rate doubtful."""
        healthy = self.watch.healthy
        if healthy is None or self.scorer.fingerprint in healthy.scorers:
            return ()
        why = "the healthy runs had other scorers: the rate is theirs, and this run's only as far as its world is the same"
        return (Finding("warn", "healthy runs", math.nan, math.nan, why),)

    def summary(self) -> Seen:
        """What is known now, as figures."""
        with self._lock:
            watch, canaries = self.watch, self.canaries
            healthy = watch.healthy
            return Seen(
                num_looks=watch.num_looks,
                seconds=self.seconds,
                failing=bool(self.problem),
                canary_change=canaries.largest if canaries.num_scored > 1 else math.nan,
                canary_changed=canaries.changed is not None,
                current=dict(watch.current),
                thresholds={} if healthy is None else {name: one.value for name, one in healthy.thresholds.items()},
                passed=frozenset(watch.passed),
                has_together=healthy is not None and healthy.together is not None,
            )

    def examples(self) -> list[dict[str, Any]]:
        """The completions behind the signs that passed (all signs, where none has a threshold), as rows of a report."""
        with self._lock:
            return self.watch.examples()

    def keep_healthy(self, path: str | Path) -> None:
        """Add this run, seen whole and known to be healthy, to a file of them. Raises ValueError for one without signs."""
        with self._lock:
            keep_healthy(Path(path), self.watch.record(self.scorer.fingerprint))

    def save(self, path: str | Path) -> None:
        """Write the state; `restore` goes on from it bit for bit."""
        with self._lock:
            content = {"fingerprint": self.scorer.fingerprint, "canaries": self.canaries.saved(), "watch": self.watch.saved()}
            write_text(Path(path), json.dumps(content, allow_nan=False))

    def restore(self, path: str | Path) -> None:
        """Go on from a saved state, with its settings. Raises ValueError for that of another scorer, version or window."""
        saved = json.loads(Path(path).read_text(encoding="utf-8"))
        if saved["fingerprint"] != self.scorer.fingerprint:
            raise ValueError(f"{path} watched {saved['fingerprint']}, and this is {self.scorer.fingerprint}: watch anew")
        watch = Watch.of_saved(saved["watch"], self.watch.healthy)
        if self.watch.healthy is not None and watch.settings.watching != dict(self.watch.healthy.watching):
            raise ValueError(
                f"{path} was watched with {watch.settings.watching}, the healthy runs with {self.watch.healthy.watching}"
            )
        with self._lock:
            self.watch, self.canaries = watch, _Canaries.of_saved(saved["canaries"])


class _Canaries:
    """Fixed texts and their first rewards. changed: where and how far a reward first moved beyond the tolerance."""

    def __init__(self, texts: Sequence[Completion], *, wanted: int, every: int) -> None:
        if wanted < 0:
            raise ValueError(f"canaries {wanted} must not be negative")
        self.texts, self.wanted, self.every = list(texts), wanted, every
        self.values: list[float] = []
        self.num_scored = self.num_lost = self.last = 0
        self.largest = 0.0
        self.changed: dict[str, Any] | None = None

    @property
    def is_new(self) -> bool:
        """Complete, and never scored."""
        return bool(self.texts) and len(self.texts) == self.wanted and not self.values

    def collect(self, completions: Sequence[Completion], rewards: Rewards) -> None:
        """Take the first completions with a reward, each content once, until there are as many as wanted."""
        if len(self.texts) >= self.wanted:
            return
        known = {one.key for one in self.texts}
        for completion, is_scored in zip(completions, rewards.ok.tolist(), strict=True):
            if is_scored and len(self.texts) < self.wanted and completion.key not in known:
                self.texts.append(completion)
                known.add(completion.key)

    def look(self, scorer: Scorer, num_looks: int) -> None:
        """Score them where it is time, and compare."""
        if len(self.texts) < max(self.wanted, 1) or (self.values and num_looks < self.last + self.every):
            return
        cached = capability(scorer, Cached, of_same_rewards=True)
        scored = (scorer if cached is None else cached.scorer).score(self.texts)  # a cache would give back the old rewards
        now = scored.value.astype(np.float64).tolist()
        self.last = num_looks
        self.num_scored += 1
        if not self.values:
            self.values = now
            return
        for i, (before, after) in enumerate(zip(self.values, now, strict=True)):
            if math.isnan(after) or math.isnan(before):
                self.num_lost += not (math.isnan(before) and math.isnan(after))
                continue
            moved = abs(after - before)
            self.largest = max(self.largest, moved)
            if moved > scorer.tolerance and self.changed is None:
                self.changed = {"canary": i, "look": num_looks, "before": before, "after": after}

    def findings(self, tolerance: float) -> tuple[Finding, ...]:
        if self.num_scored < 2:
            return ()
        lost = f"; {self.num_lost} times one had a reward on one side only" if self.num_lost else ""
        if self.changed is not None:
            one = self.changed
            why = (
                f"canary {one['canary'] + 1} of {len(self.texts)} went from {one['before']:.6g} to {one['after']:.6g} by look "
                f"{one['look']}, beyond the scorer's tolerance: another model, template or engine answers{lost}"
            )
            return (Finding("fail", CANARY, self.largest, tolerance, why),)
        why = f"{len(self.texts)} fixed texts kept their rewards in {self.num_scored} scorings{lost}"
        return (Finding("warn" if self.num_lost else "ok", CANARY, self.largest, tolerance, why),)

    def saved(self) -> dict[str, Any]:
        values = [None if math.isnan(one) else one for one in self.values]
        others = {name: getattr(self, name) for name in ("wanted", "every", "num_scored", "num_lost", "last", "largest", "changed")}
        return {**others, "values": values, "texts": [completion_to_row(one) for one in self.texts]}

    @classmethod
    def of_saved(cls, saved: Mapping[str, Any]) -> _Canaries:
        texts = [completion_from_row(row) for row in saved["texts"]]
        canaries = cls(texts, wanted=saved["wanted"], every=saved["every"])
        for name in ("num_scored", "num_lost", "last", "largest", "changed"):
            setattr(canaries, name, saved[name])
        canaries.values = [math.nan if one is None else one for one in saved["values"]]
        return canaries
