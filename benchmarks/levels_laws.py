"""The laws that data are drawn by in levels_*.py: pairs whose prompts vary together, with a known truth.

Suffixes: P pairs, C clusters (prompts), R runs.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from levels_frame import Simulate


def each(one: Callable[[np.random.Generator], bool]) -> Simulate:
    """A simulation, run by run."""
    return lambda rng, runs: np.array([one(rng) for _ in range(runs)], dtype=bool)


def prompts(rng: np.random.Generator, num_prompts: int, fewest: int, most: int) -> np.ndarray:
    """(P,) the prompt of each pair; every prompt has `fewest` to `most` pairs."""
    return np.repeat(np.arange(num_prompts), rng.integers(fewest, most + 1, size=num_prompts))


def right(rng: np.random.Generator, share: float, prompts_P: np.ndarray, correlation: float, *, whole: bool = False) -> np.ndarray:
    """(P,) right or wrong, 0 or 1, with chance `share`. correlation: of the pairs of a prompt.

    Their chance is drawn from a beta distribution; with `whole`, that share of the prompts is right or wrong as a whole instead.
    """
    num_prompts = int(prompts_P.max()) + 1
    if whole:
        own_P, of_prompt_C = rng.random(len(prompts_P)) < share, rng.random(num_prompts) < share
        is_whole_C = rng.random(num_prompts) < correlation
        return np.where(is_whole_C[prompts_P], of_prompt_C[prompts_P], own_P).astype(np.float64)
    if correlation == 0:
        return (rng.random(len(prompts_P)) < share).astype(np.float64)
    spread = 1 / correlation - 1
    chance_C = rng.beta(share * spread, (1 - share) * spread, size=num_prompts)
    return (rng.random(len(prompts_P)) < chance_C[prompts_P]).astype(np.float64)


def shared_noise(rng: np.random.Generator, prompts_P: np.ndarray, correlation: float) -> np.ndarray:
    """(P,) standard normal values with that correlation within a prompt."""
    of_prompt_C = rng.normal(size=int(prompts_P.max()) + 1)
    return np.sqrt(correlation) * of_prompt_C[prompts_P] + np.sqrt(1 - correlation) * rng.normal(size=len(prompts_P))


def misses(interval: tuple[float, float], truth: float) -> bool:
    return not interval[0] <= truth <= interval[1]
