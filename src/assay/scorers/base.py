"""The one protocol of everything that gives rewards, and the laws that every implementation keeps."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from threading import Lock
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from assay.records import Completion, PreferencePair, Rewards

Scope = Literal["global", "prompt"]


@runtime_checkable
class Scorer(Protocol):
    """Anything that gives rewards to completions.

    fingerprint: identity of the scoring function; the same fingerprint gives the same values, within `tolerance`.
    scope: "global" when a value depends on its completion alone, "prompt" when it is relative to the prompt's other answers.
    tolerance: how far two scorings of one item may differ (absolute, in units of `value`).
    """

    @property
    def fingerprint(self) -> str: ...
    @property
    def scope(self) -> Scope: ...
    @property
    def tolerance(self) -> float: ...
    def score(self, completions: Sequence[Completion]) -> Rewards:
        """N completions -> N rewards, in order. What cannot be scored is NaN with a reason; nothing is raised for it."""
        ...


@runtime_checkable
class Comparer(Protocol):
    """A scorer that knows P(chosen beats rejected) itself: a calibrated model, a pairwise judge."""

    def compare(self, pairs: Sequence[PreferencePair]) -> np.ndarray:
        """P pairs -> (P,) float64 in [0, 1], NaN where either answer could not be scored."""
        ...


def pair_rewards(scorer: Scorer, pairs: Sequence[PreferencePair]) -> np.ndarray:
    """Rewards of chosen and rejected, from one call of the scorer: (P, 2) float64, NaN where one could not be scored."""
    completions = [completion for pair in pairs for completion in pair.completions()]
    return scorer.score(completions).value.astype(np.float64).reshape(-1, 2)


def margins(scorer: Scorer, pairs: Sequence[PreferencePair]) -> np.ndarray:
    """Reward of chosen minus reward of rejected: (P,) float64, NaN where either could not be scored."""
    rewards_P2 = pair_rewards(scorer, pairs)
    return rewards_P2[:, 0] - rewards_P2[:, 1]


def prefer(scorer: Scorer, pairs: Sequence[PreferencePair], temperature: float = 1.0) -> np.ndarray:
    """P(chosen beats rejected) for P pairs: (P,) float64 in [0, 1], NaN where a pair could not be scored.

    A scorer that has `compare` answers itself; else sigmoid((r_chosen - r_rejected) / temperature), Bradley & Terry (1952).
    """
    if not temperature > 0:
        raise ValueError(f"temperature {temperature} must be positive: it divides the margin")
    if isinstance(scorer, Comparer):
        return scorer.compare(pairs)
    return sigmoid(margins(scorer, pairs) / temperature)


def innermost(scorer: Scorer) -> Scorer:
    """The scorer that scores, whatever is wrapped around it (calibration, cache)."""
    while isinstance(inner := getattr(scorer, "scorer", None), Scorer):
        scorer = inner
    return scorer


def closing_of(scorer: Scorer) -> str:
    """What the chat template of the scorer's model writes after an answer; "" for a scorer that does not say."""
    inner = innermost(scorer)
    members = getattr(inner, "scorers", ())  # of an ensemble: they read alike
    return closing_of(members[0]) if members else str(getattr(inner, "closing", ""))


def closed(text: str, closing: str) -> str:
    """Rendered prompt and answer, ended as the template ends an answer, since there the reward is read.

    A trainer's text ends where generation did: in ChatML at the end token, without the newline behind it, or with no end token when
    the answer was cut or special tokens were skipped. An end token that stands there already is not written again.
    """
    end = closing.rstrip()
    if not end or not text.strip():
        return text
    return text.rstrip().removesuffix(end) + closing if text.rstrip().endswith(end) else text + closing


def turn_of(scorer: Scorer) -> AbstractContextManager[Any]:
    """What threads hold while they ask a scorer: a lock, or nothing where several may ask at once (`takes_threads`)."""
    return nullcontext() if getattr(scorer, "takes_threads", False) else Lock()


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)) without overflow; NaN stays NaN."""
    with np.errstate(over="ignore"):
        return np.where(x >= 0, 1 / (1 + np.exp(-np.abs(x))), np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x))))


def check_scorer(scorer: Scorer, completions: Sequence[Completion]) -> None:
    """Assert the laws of the protocol on `completions` (a handful will do; let one of them be impossible to score, if you can).

    1. as many out as in, order kept, none in none out; 2. with global scope a value does not depend on the rest of the batch;
    3. same fingerprint, same values within `tolerance`; 4. an unscorable item is NaN with a reason, and only such an item has one;
    5. inputs are not mutated. Raises AssertionError that names the law.
    """
    completions = list(completions)
    n = len(completions)
    assert n >= 2, "give check_scorer at least two completions"
    before = copy.deepcopy(completions)
    fingerprint, tolerance = scorer.fingerprint, scorer.tolerance
    assert isinstance(fingerprint, str), "law 3: fingerprint must be a string"
    assert fingerprint, "law 3: fingerprint must not be empty"
    assert tolerance >= 0, f"law 3: tolerance {tolerance} is negative"
    assert scorer.scope in ("global", "prompt"), f"scope {scorer.scope!r} is neither 'global' nor 'prompt'"

    rewards = _score(scorer, completions)
    assert len(rewards) == n, f"law 1: {n} completions in, {len(rewards)} rewards out"
    assert len(_score(scorer, [])) == 0, "law 1: score([]) must be empty"
    assert completions == before, "law 5: score() changed its input"
    assert rewards.error is not None
    for i in range(n):
        unscored = bool(np.isnan(rewards.value[i]))
        error = rewards.error[i]
        assert unscored == (error is not None), f"law 4: item {i} has value {rewards.value[i]}, error {error!r}"
    assert rewards.std is None or np.all(np.isnan(rewards.value) | (rewards.std >= 0)), "std must not be negative"

    _assert_same(rewards, _score(scorer, completions), tolerance, "law 3: a second scoring differs")
    assert scorer.fingerprint == fingerprint, "law 3: scoring changed the fingerprint"
    if scorer.scope == "global":
        order = np.random.default_rng(0).permutation(n)
        _assert_same(rewards.take(order), _score(scorer, [completions[i] for i in order]), tolerance, "law 2: order matters")
        half = n // 2
        for part in (range(half), range(half, n)):
            _assert_same(rewards.take(part), _score(scorer, [completions[i] for i in part]), tolerance, "law 2: the batch matters")
        for i in range(n):
            _assert_same(rewards.take([i]), _score(scorer, [completions[i]]), tolerance, f"law 2: item {i} alone differs")


def _score(scorer: Scorer, completions: list[Completion]) -> Rewards:
    try:
        rewards = scorer.score(completions)
    except Exception as error:
        raise AssertionError(f"law 4: score() raised {error!r} instead of giving NaN with a reason") from error
    assert isinstance(rewards, Rewards), f"law 1: score() returned {type(rewards).__name__}, not Rewards"
    return rewards


def _assert_same(expected: Rewards, actual: Rewards, tolerance: float, law: str) -> None:
    assert len(expected) == len(actual), f"{law}: {len(expected)} rows against {len(actual)}"
    assert np.array_equal(expected.ok, actual.ok), f"{law}: other items could not be scored"
    ok = expected.ok
    if ok.any():
        difference = float(np.max(np.abs(expected.value[ok] - actual.value[ok])))
        assert difference <= tolerance, f"{law}: by {difference:.3g}, tolerance {tolerance:.3g}"
