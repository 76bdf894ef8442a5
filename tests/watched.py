"""Observations made up by a known rule: what a model would make of answers, without a model."""

from __future__ import annotations

import numpy as np

from assay.audit.drift.reference import Observed, Reference, make_reference


def observed(num_prompts: int, *, seed: int, shift: float = 0.0, width: int = 12, answers: int = 2, first: int = 0) -> Observed:
    """Answers whose states share a part by prompt, as real ones do; `shift` moves states, scores and lengths."""
    rng = np.random.default_rng(seed)
    n = num_prompts * answers
    prompt = np.repeat(np.arange(num_prompts), answers)
    states = rng.normal(size=(num_prompts, width))[prompt] + rng.normal(size=(n, width)) + shift
    score = states[:, 0] + rng.normal(size=n)
    length = np.exp(4 + 0.3 * rng.normal(size=n) + 0.2 * shift)
    return Observed(
        score=score,
        length=np.round(length),
        std=np.full(n, np.nan),
        states=states.astype(np.float32),
        prompt=prompt + 10_000 * seed + first,
        key=np.arange(n) + 1_000_000 * seed,
    )


def reference(seed: int = 1, **settings) -> Reference:
    return make_reference(observed(80, seed=seed, **settings), observed(60, seed=seed + 1, **settings), {"model": "m"})
