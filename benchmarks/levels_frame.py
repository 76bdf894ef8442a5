"""What a claimed level is, and how it is held against what simulation shows. The claims themselves stand in levels_*.py.

Suffixes: R runs of a simulation.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias
from zlib import crc32

import numpy as np

Simulate: TypeAlias = Callable[[np.random.Generator, int], np.ndarray]
"""(generator, R) -> (R,) bool: in which of R data sets, drawn by a known law, what is counted happened."""

ERRORS = 2.0  # Monte-Carlo standard errors by which what is seen may pass what is claimed
AGAIN = 4  # times as many runs, of other draws, decide about a level that was not kept at first


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """A claim about one interval, test or threshold under one law of the data.

    name: what is claimed and by which function. law: how data are drawn, in words. count: see `Simulate`; of a test the runs in
    which it speaks, of an interval those in which it misses the truth. most: largest share that is claimed; least: smallest (the
    power that is kept).
    """

    name: str
    law: str
    count: Simulate
    most: float = 1.0
    least: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A claim beside what was seen in `runs` runs. error: Monte-Carlo standard error of the claimed share."""

    level: Level
    seen: float
    runs: int
    error: float
    is_kept: bool
    seconds: float

    def row(self) -> dict[str, object]:
        claim = {"at most": self.level.most} if self.level.least == 0 else {"at least": self.level.least}
        counted = {"seen": round(self.seen, 4), "error": round(self.error, 4), "runs": self.runs, "kept": self.is_kept}
        return {"name": self.level.name, "law": self.level.law, **claim, **counted, "seconds": round(self.seconds, 1)}


def held_against(level: Level, runs: int, *, seed: int, errors: float = ERRORS) -> Seen:
    """Simulate a claim. One that is not kept is tried again with four times the runs and other draws, and that decides: of many
    exact levels, two errors alone would call one in forty broken."""
    first = _simulated(level, runs, seed=seed, errors=errors)
    return first if first.is_kept else _simulated(level, AGAIN * runs, seed=seed + 1, errors=errors)


def all_held(levels: Sequence[Level], runs: int, *, seed: int, tell: Callable[[Seen], None] = lambda seen: None) -> list[Seen]:
    found = []
    for level in levels:
        found.append(held_against(level, runs, seed=seed))
        tell(found[-1])
    return found


def _simulated(level: Level, runs: int, *, seed: int, errors: float) -> Seen:
    rng = np.random.default_rng([seed, crc32(f"{level.name}/{level.law}".encode())])  # another level beside it changes no draw
    start = time.perf_counter()
    happened_R = np.asarray(level.count(rng, runs))
    assert happened_R.shape == (runs,), f"{level.name}: {happened_R.shape} of {runs} runs"
    seen = float(happened_R.mean())
    most, least = _error(level.most, runs), _error(level.least, runs)
    is_kept = level.least - errors * least <= seen <= level.most + errors * most
    error = least if level.least else most
    return Seen(level=level, seen=seen, runs=runs, error=error, is_kept=is_kept, seconds=time.perf_counter() - start)


def _error(share: float, runs: int) -> float:
    return math.sqrt(share * (1 - share) / runs)
