"""Levels of tests and thresholds: how often each finds what is not there, and how often what is. See levels.py.

Suffixes: P pairs, N answers, C prompts, R runs.
"""

from __future__ import annotations

import math

import numpy as np
from levels_frame import Level, Simulate
from levels_laws import each, prompts, right, shared_noise

from assay.audit.attribution.openers import Edit, Opener, opener_effects
from assay.audit.overoptimization import OVEROPTIMISED, USEFUL, overoptimization
from assay.evaluation.evaluate import evaluate_margins
from assay.records import Completion, PreferencePair, Rewards
from assay.stats.calibration_error import ece, expected_ece
from assay.stats.metrics import mcnemar
from assay.stats.significance import clustered_error, differs_from_rest, false_discovery, sign_flip, smallest_detectable
from assay.stats.two_sample import adjusted, auroc_exchanged, ks_exchanged

ALPHA = 0.05


def equal_models(num_prompts: int, most: int, correlation: float, *, as_independent: bool = False) -> Simulate:
    """Two models that are right equally often: how often `sign_flip` says they differ."""

    def one(rng: np.random.Generator) -> bool:
        prompts_P = prompts(rng, num_prompts, 1, most)
        a_P, b_P = (right(rng, 0.7, prompts_P, correlation) for _ in range(2))
        return sign_flip(b_P - a_P, np.arange(len(a_P)) if as_independent else prompts_P) <= ALPHA

    return each(one)


def equal_models_by_pair(num_pairs: int) -> Simulate:
    def one(rng: np.random.Generator) -> bool:
        a_P, b_P = rng.random((2, num_pairs)) < 0.8
        return mcnemar(a_P.astype(float), b_P.astype(float)) <= ALPHA

    return each(one)


def detectable(num_prompts: int, most: int, correlation: float) -> Simulate:
    """A true difference as large as `smallest_detectable` says of such pairs: how often `sign_flip` finds it."""

    def change(rng: np.random.Generator, better: float) -> tuple[np.ndarray, np.ndarray]:
        prompts_P = prompts(rng, num_prompts, 1, most)
        differ_P = rng.random(len(prompts_P)) < 0.3
        return np.where(differ_P, 2 * right(rng, better, prompts_P, correlation) - 1, 0.0), prompts_P

    def count(rng: np.random.Generator, runs: int) -> np.ndarray:
        sizes = [smallest_detectable(clustered_error(*change(rng, 0.6))) for _ in range(200)]
        better = 0.5 + float(np.mean(sizes)) / 0.6
        return np.array([sign_flip(*change(rng, better)) <= ALPHA for _ in range(runs)])

    return count


def equal_slices(share: float, num_prompts: int, per_prompt: int, correlation: float, num_slices: int) -> Simulate:
    """One accuracy everywhere: how often any slice, whole prompts or pairs in prompts, is found at q <= 5%."""

    def one(rng: np.random.Generator) -> bool:
        prompts_P = np.repeat(np.arange(num_prompts), per_prompt)
        right_P = right(rng, share, prompts_P, correlation)
        by_prompt_P, by_pair_P = (
            rng.integers(num_slices, size=num_prompts)[prompts_P],
            rng.integers(num_slices, size=len(prompts_P)),
        )
        groups = [slice_P == i for slice_P in (by_prompt_P, by_pair_P) for i in range(num_slices)]
        p_H = np.array([differs_from_rest(right_P, group_P, prompts_P) for group_P in groups])
        return bool(np.nanmin(false_discovery(p_H)) <= ALPHA)

    return each(one)


def one_slice(share: float, num_prompts: int, per_prompt: int, correlation: float) -> Simulate:
    def one(rng: np.random.Generator) -> bool:
        prompts_P = np.repeat(np.arange(num_prompts), per_prompt)
        group_P = (rng.random(num_prompts) < 0.3)[prompts_P]
        return differs_from_rest(right(rng, share, prompts_P, correlation), group_P, prompts_P) <= ALPHA

    return each(one)


def calibrated(sure: float, num_prompts: int, fewest: int, most: int, correlation: float, too_sure: float = 0.0) -> Simulate:
    """A model that is right as often as it says (or `too_sure` less often): how often its ECE is above what chance gives."""

    def one(rng: np.random.Generator) -> bool:
        prompts_P = prompts(rng, num_prompts, fewest, most)
        p_C = 0.5 + 0.5 * rng.beta(4 * (2 * sure - 1), 8 * (1 - sure), size=num_prompts)
        p_P = np.clip(p_C[prompts_P] + 0.03 * rng.normal(size=len(prompts_P)), 0.5, 0.9999)
        drawn_P = _uniform(shared_noise(rng, prompts_P, correlation))
        outcome_P = (drawn_P < p_P - too_sure).astype(float)
        chance = expected_ece(p_P, outcome_P, prompts_P, seed=int(rng.integers(1 << 31)), num_samples=300)
        return ece(p_P, outcome_P) > chance.high

    return each(one)


def _uniform(normal_P: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.vectorize(math.erf)(normal_P / math.sqrt(2)))


def unchanged(num_old: int, num_new: int, correlation: float) -> Simulate:
    """New text like the old: how often any of three tests of drift alarms."""

    def one(rng: np.random.Generator) -> bool:
        prompts_N = prompts(rng, num_old + num_new, 1, 4)
        values_N, other_N = shared_noise(rng, prompts_N, correlation), np.exp(shared_noise(rng, prompts_N, correlation))
        is_new_C = np.repeat([False, True], [num_old, num_new])
        assign_SC = np.stack([is_new_C, *(rng.permutation(is_new_C) for _ in range(99))])
        is_new_SN = assign_SC[:, prompts_N].astype(np.float32)
        figures = {"KS": ks_exchanged(values_N, is_new_SN), "KS 2": ks_exchanged(other_N, is_new_SN)}
        tests = adjusted({**figures, "AUROC": auroc_exchanged(other_N, is_new_SN)}, ALPHA)
        return any(test.p <= ALPHA for test in tests)

    return each(one)


def best_of_n(finding: str, num_prompts: int, slope: float) -> Simulate:
    """Gold that rises by `slope` with the proxy and never falls: how often that finding is an alarm."""

    def one(rng: np.random.Generator) -> bool:
        proxy_PN = rng.normal(size=(num_prompts, 4))
        gold_PN = slope * proxy_PN + rng.normal(size=proxy_PN.shape) + rng.normal(size=(num_prompts, 1))
        result = overoptimization(list(proxy_PN), list(gold_PN), title="", seed=int(rng.integers(1 << 31)))
        return any(found.name == finding and found.level == "fail" for found in result.findings)

    return each(one)


def openers(num_prompts: int, law: str) -> Simulate:
    """Four openers that do nothing on average: how often any is found at q <= 5%."""
    texts = [Opener(f"o{k}", 5, 5) for k in range(4)]
    edits = [
        Edit(o, "added", Completion(messages=f"p{i}", response="a"), Completion(messages=f"p{i}", response=f"{o.text} a"))
        for i in range(num_prompts)
        for o in texts
    ]

    class Noise:
        scope, tolerance, fingerprint = "global", 0.0, "noise"

        def __init__(self, rng: np.random.Generator) -> None:
            self.rng = rng

        def score(self, completions: list[Completion]) -> Rewards:
            size = len(completions)
            value = self.rng.normal(size=size) if law == "normal" else 1 - self.rng.exponential(size=size)
            value[[completion.response == "a" for completion in completions]] = 0.0
            return Rewards(value=value)

    return each(lambda rng: any(effect.q <= ALPHA and effect.rise > 0 for effect in opener_effects(Noise(rng), edits, 1.0, seed=0)))


def length_dependence(num_prompts: int, per_prompt: int, correlation: float) -> Simulate:
    """A model as good where the better answer is longer as where it is shorter; prompts differ in which they favour."""
    pairs = [
        PreferencePair(prompt=f"p{i}", chosen="a" * (9 - 3 * (j % 2)), rejected="b" * (6 + 3 * (j % 2)))
        for i in range(num_prompts)
        for j in range(per_prompt)
    ]
    prompts_P, sign_P = np.repeat(np.arange(num_prompts), per_prompt), np.tile([1, -1], num_prompts * per_prompt // 2)

    def one(rng: np.random.Generator) -> bool:
        margins_P = 0.8 + shared_noise(rng, prompts_P, correlation) * sign_P
        findings = evaluate_margins(
            margins_P, pairs, title="", slices=False, num_examples=0, baselines={"bag-of-words": _Nothing()}
        ).findings
        return any(found.failure == "length" and found.level == "warn" for found in findings)

    return each(one)


class _Nothing:
    """A baseline that costs nothing."""

    scope, tolerance, fingerprint = "global", 0.0, "nothing"

    def score(self, completions: list[Completion]) -> Rewards:
        return Rewards(value=np.zeros(len(completions)))


LEVELS: tuple[Level, ...] = (
    *(
        Level(
            name="sign_flip finds a difference of equal models",
            law=f"{n} prompts of 1 to {m} pairs, correlation {c:g}",
            count=equal_models(n, m, c),
            most=ALPHA,
        )
        for n, m, c in ((20, 1, 0.0), (50, 4, 0.3), (161, 10, 0.9))
    ),
    Level(name="mcnemar finds a difference of equal models", law="120 pairs", count=equal_models_by_pair(120), most=ALPHA),
    *(
        Level(
            name="power: sign_flip finds the smallest detectable difference",
            law=f"{n} prompts of 1 to {m} pairs, correlation {c:g}",
            count=detectable(n, m, c),
            least=0.75,
        )
        for n, m, c in ((200, 3, 0.3), (400, 1, 0.0))
    ),
    *(
        Level(
            name="differs_from_rest finds a slice of the same accuracy",
            law=f"accuracy {a:g}, {n} prompts of {m} pairs, correlation {c:g}",
            count=one_slice(a, n, m, c),
            most=ALPHA,
        )
        for a, n, m, c in ((0.6, 100, 4, 0.5), (0.95, 100, 4, 0.5), (0.9, 30, 2, 0.9), (0.8, 60, 10, 0.3))
    ),
    *(
        Level(
            name="any of 20 slices at q <= 5%, one accuracy everywhere",
            law=f"accuracy {a:g}, {n} prompts of {m} pairs, correlation {c:g}",
            count=equal_slices(a, n, m, c, 10),
            most=ALPHA,
        )
        for a, n, m, c in ((0.7, 100, 3, 0.5), (0.95, 161, 2, 0.3))
    ),
    *(
        Level(
            name="expected_ece calls calibrated models over- or underconfident",
            law=f"mean confidence {s:g}, {n} prompts of {f} to {m} pairs, correlation {c:g}",
            count=calibrated(s, n, f, m, c),
            most=ALPHA,
        )
        for s, n, f, m, c in (
            (0.6, 30, 10, 10, 0.9),
            (0.6, 161, 1, 4, 0.5),
            (0.75, 100, 1, 4, 0.9),
            (0.75, 30, 1, 1, 0.0),
            (0.9, 30, 10, 10, 0.9),
            (0.9, 100, 10, 10, 0.5),
            (0.9, 161, 1, 1, 0.0),
            (0.97, 30, 10, 10, 0.9),
            (0.97, 100, 10, 10, 0.3),
            (0.97, 500, 1, 2, 0.5),
        )
    ),
    *(
        Level(
            name="power: expected_ece finds a model that is 10 points too sure",
            law=f"mean confidence 0.8, {n} prompts of 1 to {m} pairs, correlation {c:g}",
            count=calibrated(0.8, n, 1, m, c, 0.1),
            least=least,
        )
        for n, m, c, least in ((161, 1, 0.0, 0.3), (161, 4, 0.0, 0.9), (300, 4, 0.5, 0.9))
    ),
    *(
        Level(
            name="drift tests alarm of unchanged text",
            law=f"{a} and {b} prompts of 1 to 4 answers, correlation {c:g}",
            count=unchanged(a, b, c),
            most=ALPHA,
        )
        for a, b, c in ((60, 40, 0.8), (30, 100, 0.3))
    ),
    *(
        Level(
            name=f"best-of-n: {what}",
            law=f"{n} prompts of 4, gold rises by {s:g} with the proxy",
            count=best_of_n(finding, n, s),
            most=ALPHA,
        )
        for what, finding, n, s in (
            ("overoptimised where gold never falls", OVEROPTIMISED, 25, 0.0),
            ("worse than random where the proxy says nothing", USEFUL, 25, 0.0),
        )
    ),
    *(
        Level(name="openers found that do nothing on average", law=f"{n} prompts, {law} rises", count=openers(n, law), most=ALPHA)
        for n, law in ((20, "normal"), (20, "exponential"))
    ),
    *(
        Level(
            name="length dependence of a model without one",
            law=f"{n} prompts of {m} pairs, correlation {c:g} of which answer is favoured",
            count=length_dependence(n, m, c),
            most=ALPHA,
        )
        for n, m, c in ((60, 4, 0.8), (60, 2, 0.0))
    ),
)

BROKEN = Level(
    name="sign_flip, pairs taken for independent",
    law="50 prompts of 1 to 10 pairs, correlation 0.9",
    count=equal_models(50, 10, 0.9, as_independent=True),
    most=ALPHA,
)
