"""Verdicts on pairs by the order in which the answers were shown, and rewards inside of a prompt from verdicts on pairs.

Suffixes: P pairs; 2: the chosen answer shown first, and shown second.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Protocol, runtime_checkable

import numpy as np

from assay.records import Completion, PreferencePair, Rewards

NO_OTHER = "there is no other answer to this prompt to compare it with"
NOT_COMPARED = "no verdict on it and another answer of the prompt"


class InOrder(Protocol):
    """What a judge said of a first and a second answer: P(the first is better) as shown in that order, and with the second shown
    first. NaN where it gave no verdict."""

    @property
    def forward(self) -> float: ...
    @property
    def backward(self) -> float: ...


@runtime_checkable
class TellsOrders(Protocol):
    """A judge of pairs that gives what both orders said, each with the reason why not."""

    def comparisons(self, pairs: Sequence[tuple[Completion, Completion]]) -> Sequence[InOrder]: ...


@runtime_checkable
class SaysWhyNot(Protocol):
    """A judge of pairs that gives the reason for each pair on which it has no verdict."""

    def why_not(self, pairs: Sequence[PreferencePair]) -> list[str | None]: ...


@runtime_checkable
class ComparesInOrder(Protocol):
    """A judge of pairs that tells what it said in each order."""

    def compare_in_order(self, pairs: Sequence[PreferencePair]) -> np.ndarray:
        """P pairs -> (P, 2) P(chosen beats rejected): as said with the chosen answer shown first, and with it shown second. NaN
        where the verdict was not given, or was not asked for."""
        ...


def of_both_orders(in_order_P2: np.ndarray) -> np.ndarray:
    """One probability of both orders: (P,), NaN where one was not given. The mean of two probabilities; of two plain verdicts (win,
    tie or loss) that differ a tie, so that a judge who goes by the place decides nothing."""
    in_order_P2 = np.asarray(in_order_P2, dtype=np.float64)
    is_plain_P = np.isin(in_order_P2, (0.0, 0.5, 1.0)).all(axis=1)
    differ_P = in_order_P2[:, 0] != in_order_P2[:, 1]
    return np.where(is_plain_P & differ_P, 0.5, in_order_P2.mean(axis=1))


def win_shares(compare: Callable[[Sequence[PreferencePair]], np.ndarray], completions: Sequence[Completion]) -> Rewards:
    """The rewards of a judge of pairs: how often each answer beats the other ones of its prompt, in [0, 1]; scope "prompt".

    All different answers of a prompt are compared once; equal ones get equal rewards. An answer has the mean over those it has a
    verdict with; NaN where it has none, or is the only one. Source: the Borda count.
    """
    keys = [completion.key for completion in completions]
    groups: dict[object, dict[str, Completion]] = {}
    errors: dict[str, str] = {}
    for key, completion in zip(keys, completions, strict=True):
        if completion.response is None:
            errors[key] = "it is compared as messages and response, and this one was rendered already"
        else:
            groups.setdefault((completion.messages, repr(completion.tools)), {})[key] = completion
    met = [(a, b) for group in groups.values() for a, b in combinations(sorted(group), 2)]
    known = {key: one for group in groups.values() for key, one in group.items()}
    won: dict[str, list[float]] = {key: [] for key in known}
    for (a, b), p in zip(met, compare([pair_of_two(known[a], known[b]) for a, b in met]) if met else (), strict=True):
        won[a].append(float(p))
        won[b].append(1 - float(p))
    alone = {key for group in groups.values() if len(group) == 1 for key in group}
    value, error = [], []
    for key in keys:
        given = [share for share in won.get(key, ()) if not math.isnan(share)]
        value.append(float(np.mean(given)) if given else math.nan)
        error.append(None if given else errors.get(key) or (NO_OTHER if key in alone else NOT_COMPARED))
    return Rewards(value=np.array(value, np.float32), error=tuple(error))


def pair_of_two(a: Completion, b: Completion) -> PreferencePair:
    """Two answers to one prompt, with nothing said of which is better: for a judge to compare."""
    return PreferencePair(
        prompt=a.messages,
        chosen=str(a.response),
        rejected=str(b.response),
        chosen_message=a.response_message,
        rejected_message=b.response_message,
        preference=0.5,
        tools=a.tools,
        ground_truth=a.ground_truth,
    )
