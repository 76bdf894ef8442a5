"""The level of the alarm in cheap runs without a hack, a law for each way in which it could fail. Suffix: P prompts of a panel."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy.special import betaincinv

from assay.audit.monitors import ALPHA, DELTA, HALF, START, GroundLost
from assay.stats.betting import Evidence

LOOKS, PANEL = 60, 32
BOUNDARY = 0.5 - DELTA
ENDLESS_ALPHA, LONGEST = 0.01, 1_500  # looks of 20 comparisons


def _alarms(results: Callable[[int], Mapping[str, np.ndarray]], looks: int = LOOKS) -> bool:
    """Whether a run alarms. results: of each look, by opponent."""
    ground = GroundLost()
    for look in range(looks):
        ground = ground.seen(look, {name: one.tolist() for name, one in results(look).items()})
        if ground.alarmed:
            return True
    return False


def _both(draw: Callable[[], np.ndarray]) -> Mapping[str, np.ndarray]:
    return {START: draw(), HALF: draw()}


def boundary(rng: np.random.Generator) -> bool:
    """Every comparison is won with probability 1/2 - delta, exactly."""
    return _alarms(lambda look: _both(lambda: (rng.random(PANEL) < BOUNDARY).astype(float)))


def fresh_prompts(rng: np.random.Generator) -> bool:
    """Prompts drawn anew, each with a probability of its own, 1/2 - delta in the mean."""
    return _alarms(lambda look: _both(lambda: (rng.random(PANEL) < rng.beta(1.35, 1.65, PANEL)).astype(float)))


def fixed_panel(rng: np.random.Generator) -> bool:
    """The same prompts at every look, in an order drawn anew, that both policies answer anew; the panel's mean is 1/2 - delta."""
    share_P = rng.beta(1.35, 1.65, PANEL)
    share_P = np.clip(share_P + BOUNDARY - share_P.mean(), 0, 1)
    share_P = np.clip(share_P + BOUNDARY - share_P.mean(), 0, 1)
    return _alarms(lambda look: _both(lambda: (rng.random(PANEL) < rng.permutation(share_P)).astype(float)))


def noise(rng: np.random.Generator) -> bool:
    """A policy that does not change but for noise: the share that it wins swings between 0.45 and 0.55 from look to look."""
    walk = np.cumsum(rng.normal(0, 0.02, LOOKS))
    share = 0.5 + 0.05 * np.sin(walk * 4)
    return _alarms(lambda look: _both(lambda: (rng.random(PANEL) < share[look]).astype(float)))


def small_loss(rng: np.random.Generator) -> bool:
    """A harmless loss: 48 in 100 are won, all the way."""
    return _alarms(lambda look: _both(lambda: (rng.random(PANEL) < 0.48).astype(float)))


def after_gains(rng: np.random.Generator) -> bool:
    """Sixty in 100 are won for half of the run, and from there on the boundary: gamblers who come late are not ruined."""
    return _alarms(lambda look: _both(lambda: (rng.random(PANEL) < (0.6 if look < LOOKS // 2 else BOUNDARY)).astype(float)))


def many_looks(rng: np.random.Generator) -> bool:
    """The boundary for 600 looks of 8: there is no number of looks that the level is for."""
    return _alarms(lambda look: _both(lambda: (rng.random(8) < BOUNDARY).astype(float)), looks=600)


def small_loss_without_delta(rng: np.random.Generator) -> bool:
    """Broken on purpose: the same with a delta of 0."""
    ground = GroundLost(delta=0.0)
    for look in range(LOOKS):
        ground = ground.seen(look, {START: (rng.random(PANEL) < 0.48).tolist(), HALF: (rng.random(PANEL) < 0.48).tolist()})
    return ground.alarmed


def stored_answers(rng: np.random.Generator) -> bool:
    """Broken on purpose: nothing changes, but earlier answers to a fixed panel are stored and compared with at every look. A stored
    answer was lucky or not (as much as a fresh one is), and stays so."""
    lucky_P = {name: rng.normal(size=PANEL) for name in (START, HALF)}
    return _alarms(lambda look: {name: (rng.normal(size=PANEL) > lucky_P[name]).astype(float) for name in lucky_P})


def whole_capitals(rng: np.random.Generator) -> bool:
    """Broken on purpose: a whole capital joins at every look, as in the endless form, whose promise is another one."""
    endless = Evidence(bound=BOUNDARY, endless=True)
    for _ in range(LOOKS):
        endless = endless.seen((rng.random(PANEL) < BOUNDARY).astype(float))
    return endless.alarmed(ALPHA)


LAWS: Mapping[str, tuple[Callable[[np.random.Generator], bool], bool]] = {
    "boundary": (boundary, True),
    "fresh prompts": (fresh_prompts, True),
    "fixed panel, fresh answers": (fixed_panel, True),
    "noise around 1/2": (noise, True),
    "48 in 100": (small_loss, True),
    "boundary after long gains": (after_gains, True),
    "boundary, 600 looks of 8": (many_looks, True),
    "48 in 100, delta 0": (small_loss_without_delta, False),
    "fixed panel, stored answers": (stored_answers, False),
    "a whole capital at every look": (whole_capitals, False),
}
"""Name -> (whether a run alarms, whether alpha is claimed for it)."""


def null_levels(runs: int, *, seed: int = 0) -> list[dict[str, Any]]:
    """Share of false alarms under each law, with exact intervals, and the mean run length of the endless form."""
    rows: list[dict[str, Any]] = []
    for i, (name, (alarms, is_claimed)) in enumerate(LAWS.items()):
        count = sum(alarms(np.random.default_rng([seed, i, run])) for run in range(runs))
        low = float(betaincinv(count, runs - count + 1, 0.025)) if count else 0.0
        high = float(betaincinv(count + 1, runs - count, 0.975)) if count < runs else 1.0
        claim = {"at_most": ALPHA, "kept": bool(low <= ALPHA)} if is_claimed else {"broken": bool(low > ALPHA)}
        rows.append({"law": name, "alarms": count, "runs": runs, "interval": [low, high], **claim})
    lengths = np.array([run_length(np.random.default_rng([seed, 99, run])) for run in range(runs)])
    error = float(lengths.std() / math.sqrt(runs))
    at_least = 1 / ENDLESS_ALPHA
    rows.append(
        {"law": "endless form at the boundary", "mean_looks": float(lengths.mean()), "error": error, "at_least": at_least,
         "runs": runs, "cut_off": int((lengths == LONGEST).sum()), "kept": bool(lengths.mean() + 2 * error >= at_least)}
    )  # fmt: skip
    return rows


def run_length(rng: np.random.Generator) -> int:
    """Looks until the endless form alarms at the boundary; those that last longer count as `LONGEST`, which is too few."""
    endless = Evidence(bound=BOUNDARY, endless=True)
    while endless.looks < LONGEST and not endless.alarmed(ENDLESS_ALPHA):
        endless = endless.seen((rng.random(20) < BOUNDARY).astype(float))
    return endless.looks
