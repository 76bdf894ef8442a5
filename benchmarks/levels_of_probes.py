"""Levels of the battery of probes: how often a scorer that no edit moves on average is accused of anything. See levels.py.

The family that 5% is claimed for: at least 10 prompts; rises whose mean over prompts is zero and whose falls are not larger than
the largest that any probe of the battery shows, or two median margins; of neutral edits, which are tested both ways, neither are
the rises. Skewness has no bound in it: falls of 2 to 10% of the prompts, and log-normal tails, are drawn here.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from levels_frame import Level, Simulate
from levels_laws import each, misses

from assay.audit.probes.alarm import ALPHA, MAX_RISE, Kind, Probe, Rises, change_test, largest_fall, largest_rise, rise_test
from assay.stats.significance import holm

NUM_PROBES, NUM_WITH_INJECTIONS = 27, 31
Draw = Callable[[np.random.Generator, int], np.ndarray]


def rare(share: float, noise: float = 0.0) -> Draw:
    """A share of the prompts falls, the others rise a little: mean 0, variance 1."""

    def draw(rng: np.random.Generator, size: int) -> np.ndarray:
        rise, fall = math.sqrt(share / (1 - share)), -math.sqrt((1 - share) / share)
        values = np.where(rng.random(size) < share, fall, rise)
        return math.sqrt(1 - noise**2) * values + noise * rng.normal(size=size)

    return draw


def log_normal(sigma: float) -> Draw:
    mean = math.exp(sigma**2 / 2)
    spread = mean * math.sqrt(math.expm1(sigma**2))
    return lambda rng, size: (mean - rng.lognormal(0, sigma, size=size)) / spread


def thirds(rng: np.random.Generator, size: int) -> np.ndarray:
    """What a judge of pairs gives: the edit loses, ties or wins against the answer itself; mean 0, variance 1."""
    return rng.choice([-1.0, 0.0, 1.0], size=size) * math.sqrt(1.5)


LAWS: dict[str, Draw] = {
    "verdicts of a judge of pairs": thirds,
    "normal": lambda rng, size: rng.normal(size=size),
    "t of 3 degrees": lambda rng, size: rng.standard_t(3, size=size) / math.sqrt(3),
    "exponential falls": lambda rng, size: 1 - rng.exponential(size=size),
    "gamma falls, skewness 4": lambda rng, size: (0.25 - rng.gamma(0.25, size=size)) / 0.5,
    "log-normal falls, skewness 6": log_normal(1.0),
    "2% fall, noise": rare(0.02, 0.5),
    "5% fall": rare(0.05),
    "5% fall, noise": rare(0.05, 0.5),
    "7% fall": rare(0.07),
    "10% fall": rare(0.1),
}


def accused(
    law: str,
    num_prompts: int,
    per_prompt: int = 1,
    scale: float = 0.7,
    *,
    only_first: bool = False,
    kind: Kind = "worthless",
    num_probes: int = NUM_PROBES,
) -> Simulate:
    """A battery of probes whose mean rises are zero; only_first: one of this law among normal ones, and whether that is.

    kind: of all probes; a negative scale turns falls into rises.
    """

    def one(rng: np.random.Generator) -> bool:
        cluster_N = np.repeat(np.arange(num_prompts), per_prompt)
        laws = [law, *(["normal"] * (num_probes - 1))] if only_first else [law] * num_probes
        found = fails([scale * LAWS[name](rng, len(cluster_N)) for name in laws], cluster_N, kind)
        return bool(found[0]) if only_first else bool(found.any())

    return each(one)


def caught(rise: float, noise: float, num_prompts: int, kind: Kind = "worthless") -> Simulate:
    """One probe of 27 raises the reward by `rise` margins on average, with normal scatter: whether it is found."""

    def one(rng: np.random.Generator) -> bool:
        measured = [noise * rng.normal(size=num_prompts) + rise * (number == 0) for number in range(NUM_PROBES)]
        return bool(fails(measured, np.arange(num_prompts), kind)[0])

    return each(one)


def fails(rises: list[np.ndarray], cluster_N: np.ndarray, kind: Kind = "worthless") -> np.ndarray:
    """(M,) bool: the verdict "fail" of each probe, by the rule of `verdicts_of`.

    A plain t under 1.5 cannot be the first rejection of 27, whatever its skewness; such probes are not tested, to save time.
    """
    probe = Probe("edit", kind, lambda completion, rng: None)
    measured = [Rises(probe, rise_N, cluster_N, [], [], [], 0, False) for rise_N in rises]
    fall, rise = (largest(measured, [cluster_N] * len(measured)) for largest in (largest_fall, largest_rise))
    means_MC = np.stack([np.bincount(cluster_N, weights=rise_N) for rise_N in rises]) / np.bincount(cluster_N)
    mean_M, error_M = means_MC.mean(axis=1), means_MC.std(axis=1, ddof=1) / math.sqrt(means_MC.shape[1])
    p_M = np.ones(len(rises))
    moved_M = np.abs(mean_M) if kind == "style" else mean_M
    for m in np.flatnonzero(moved_M > 1.5 * error_M):
        if kind == "style":
            p_M[m] = change_test(rises[m], cluster_N, largest_fall=fall, largest_rise=rise).p
        else:
            p_M[m] = rise_test(rises[m], cluster_N, largest_fall=fall).p
    return (holm(p_M) < ALPHA) & (moved_M > MAX_RISE)


def interval(law: str, num_prompts: int) -> Simulate:
    def one(rng: np.random.Generator) -> bool:
        test = rise_test(LAWS[law](rng, num_prompts), np.arange(num_prompts))
        return misses((test.low, test.high), 0.0)

    return each(one)


LEVELS: tuple[Level, ...] = (
    *(
        Level(
            name="probes: a scorer is accused that no edit moves on average",
            law=f"{law}, {n} prompts of {m}, scatter {scale:g} margins",
            count=accused(law, n, m, scale),
            most=ALPHA,
        )
        for law, n, m, scale in (
            ("normal", 30, 1, 0.7),
            ("t of 3 degrees", 59, 1, 0.7),
            ("exponential falls", 10, 1, 0.7),
            ("exponential falls", 59, 2, 2.0),
            ("gamma falls, skewness 4", 30, 1, 0.7),
            ("log-normal falls, skewness 6", 59, 1, 0.7),
            ("log-normal falls, skewness 6", 100, 2, 2.0),
            ("2% fall, noise", 59, 1, 2.0),
            ("5% fall", 10, 1, 0.7),
            ("5% fall", 59, 1, 2.0),
            ("5% fall, noise", 100, 1, 0.7),
            ("7% fall", 59, 1, 0.7),
            ("10% fall", 20, 1, 0.7),
            ("10% fall", 59, 1, 2.0),
            ("10% fall", 200, 1, 0.7),
        )
    ),
    *(
        Level(
            name="probes with injections: a scorer is accused that no edit moves on average",
            law=f"{law}, {n} prompts, scatter {scale:g} margins",
            count=accused(law, n, 1, scale, num_probes=NUM_WITH_INJECTIONS),
            most=ALPHA,
        )
        for law, n, scale in (
            ("verdicts of a judge of pairs", 30, 0.8),
            ("verdicts of a judge of pairs", 100, 0.4),
            ("7% fall", 59, 0.7),
        )
    ),
    *(
        Level(
            name="probes: one skewed probe among normal ones is accused",
            law=f"{law}, {n} prompts, scatter {scale:g} margins",
            count=accused(law, n, 1, scale, only_first=True),
            most=ALPHA,
        )
        for law, n, scale in (("5% fall", 59, 0.7), ("10% fall", 20, 0.7), ("log-normal falls, skewness 6", 59, 2.0))
    ),
    *(
        Level(
            name="neutral probes: a scorer is accused that no edit moves on average",
            law=f"{law}{' turned round' if scale < 0 else ''}, {n} prompts of {m}, scatter {abs(scale):g} margins",
            count=accused(law, n, m, scale, kind="style"),
            most=ALPHA,
        )
        for law, n, m, scale in (
            ("normal", 30, 1, 0.7),
            ("exponential falls", 59, 2, 2.0),
            ("exponential falls", 59, 2, -2.0),
            ("log-normal falls, skewness 6", 59, 1, 0.7),
            ("log-normal falls, skewness 6", 59, 1, -0.7),
            ("5% fall", 59, 1, 2.0),
            ("5% fall", 59, 1, -2.0),
            ("7% fall", 59, 1, 0.7),
            ("10% fall", 59, 1, -2.0),
        )
    ),
    *(
        Level(
            name="power: neutral probes find a change",
            law=f"{rise:g} margins, scatter {noise:g}, {n} prompts",
            count=caught(rise, noise, n, "style"),
            least=least,
        )
        for rise, noise, n, least in ((-0.5, 0.7, 59, 0.7), (0.5, 0.7, 59, 0.7), (-0.25, 0.7, 200, 0.85))
    ),
    *(
        Level(
            name="power: probes find a rise",
            law=f"{rise:g} margins, scatter {noise:g}, {n} prompts",
            count=caught(rise, noise, n),
            least=least,
        )
        for rise, noise, n, least in (
            (0.25, 0.7, 200, 0.9),
            (0.5, 0.7, 59, 0.75),
            (0.5, 0.3, 59, 0.95),
            (1.0, 0.7, 59, 0.95),
            (1.0, 0.7, 24, 0.4),
            (0.5, 1.5, 400, 0.9),
        )
    ),
    *(
        Level(name="interval of a mean rise misses", law=f"{law}, {n} prompts", count=interval(law, n), most=most)
        for law, n, most in (("normal", 20, 0.06), ("exponential falls", 59, 0.07), ("log-normal falls, skewness 6", 59, 0.12))
    ),
)
