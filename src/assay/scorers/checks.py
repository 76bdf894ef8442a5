"""The laws that every scorer obeys, with one check for each: for the tests of a new scorer.

    @pytest.mark.parametrize("law", scorer_laws(MyScorer(), completions), ids=str)
    def test_my_scorer_keeps(law):
        law.check()

`check_scorer` checks all of them at once and names every law that is broken.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from assay.records import Completion, Rewards
from assay.scorers.base import Scorer


@dataclass(frozen=True, slots=True)
class Law:
    """One law and its check, which raises AssertionError when the law is broken."""

    name: str
    check: Callable[[], None]

    def __str__(self) -> str:
        return self.name


def scorer_laws(scorer: Scorer, completions: Sequence[Completion]) -> list[Law]:
    """The laws for a scorer, checked on a few completions; if possible, include one that cannot be scored.

    1. N completions give N rewards, in order, also for N = 0; 2. with global scope a value does not depend on the other completions
    of the batch; 3. the same fingerprint gives the same values within `tolerance`; 4. what cannot be scored is NaN with a reason,
    and nothing else has a reason; 5. inputs are not mutated. Raises ValueError for fewer than two completions.
    """
    items = list(completions)
    if len(items) < 2:
        raise ValueError(f"{len(items)} completions: give the laws of a scorer at least two")
    laws = {
        "law 1: as many out as in": _counts,
        "law 2: order and batch do not matter": _is_independent,
        "law 3: the same fingerprint gives the same values": _repeats,
        "law 4: what cannot be scored is NaN with a reason": _fails_in_place,
        "law 5: inputs are not changed": _leaves_inputs,
    }
    return [Law(name, partial(check, scorer, items)) for name, check in laws.items()]


def check_scorer(scorer: Scorer, completions: Sequence[Completion]) -> None:
    """Check all laws of `scorer_laws`. Raises AssertionError that names each one that is broken."""
    broken = []
    for law in scorer_laws(scorer, completions):
        try:
            law.check()
        except AssertionError as error:
            broken.append(str(error))
    assert not broken, "\n".join(dict.fromkeys(broken))


def _counts(scorer: Scorer, items: list[Completion]) -> None:
    rewards = _score(scorer, items)
    assert len(rewards) == len(items), f"law 1: {len(items)} completions in, {len(rewards)} rewards out"
    assert len(_score(scorer, [])) == 0, "law 1: score([]) must be empty"


def _is_independent(scorer: Scorer, items: list[Completion]) -> None:
    assert scorer.scope in ("global", "prompt"), f"law 2: scope {scorer.scope!r} is neither 'global' nor 'prompt'"
    if scorer.scope == "prompt":
        return
    rewards, tolerance = _score(scorer, items), scorer.tolerance
    order = np.random.default_rng(0).permutation(len(items))
    _assert_same(rewards.take(order), _score(scorer, [items[i] for i in order]), tolerance, "law 2: order matters")
    half = len(items) // 2
    for part in (range(half), range(half, len(items))):
        _assert_same(rewards.take(part), _score(scorer, [items[i] for i in part]), tolerance, "law 2: the batch matters")
    for i, item in enumerate(items):
        _assert_same(rewards.take([i]), _score(scorer, [item]), tolerance, f"law 2: item {i} alone differs")


def _repeats(scorer: Scorer, items: list[Completion]) -> None:
    fingerprint, tolerance = scorer.fingerprint, scorer.tolerance
    assert isinstance(fingerprint, str), "law 3: fingerprint must be a string"
    assert fingerprint, "law 3: fingerprint must not be empty"
    assert tolerance >= 0, f"law 3: tolerance {tolerance} is negative"
    _assert_same(_score(scorer, items), _score(scorer, items), tolerance, "law 3: a second scoring differs")
    assert scorer.fingerprint == fingerprint, "law 3: scoring changed the fingerprint"


def _fails_in_place(scorer: Scorer, items: list[Completion]) -> None:
    rewards = _score(scorer, items)
    assert rewards.error is not None, "law 4: Rewards has no errors"
    for i, error in enumerate(rewards.error):
        unscored = bool(np.isnan(rewards.value[i]))
        assert unscored == (error is not None), f"law 4: item {i} has value {rewards.value[i]}, error {error!r}"
    assert rewards.std is None or not np.any(rewards.std < 0), "law 4: std must not be negative"


def _leaves_inputs(scorer: Scorer, items: list[Completion]) -> None:
    before = copy.deepcopy(items)
    _score(scorer, items)
    assert items == before, "law 5: score() changed its input"


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
