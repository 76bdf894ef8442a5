"""The reward token by token: after which tokens of an answer the reward changes. Only for scorers that give rewards of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from assay.records import Completion, PreferencePair, Table
from assay.scorers.base import Scorer, capability


class TokenRewards(Protocol):
    """The T tokens of an answer, as text, and the reward (T,) that it would have if it stopped at each."""

    @property
    def tokens(self) -> tuple[str, ...]: ...
    @property
    def rewards(self) -> np.ndarray: ...


@runtime_checkable
class HasTrace(Protocol):
    """A scorer that gives the reward of an answer token by token."""

    def trace(self, completion: Completion) -> TokenRewards: ...


def traces(scorer: Scorer, pairs: Sequence[PreferencePair], margins_P: np.ndarray) -> list[dict[str, Any]]:
    """Examples with the reward token by token: both answers of the pair whose margin is of median size, and the higher-rewarded one
    of the pair with the largest margin. None for scorers that have no trace, and where no pair has a margin."""
    has_trace, scored = capability(scorer, HasTrace, of_same_rewards=True), np.flatnonzero(np.isfinite(margins_P))
    if has_trace is None or not len(scored):
        return []
    by_size = scored[np.argsort(np.abs(margins_P[scored]), kind="stable")]
    usual, largest = pairs[by_size[len(by_size) // 2]], by_size[-1]
    best = pairs[largest].completions()[0 if margins_P[largest] > 0 else 1]
    examples = [("a pair of median margin", completion) for completion in usual.completions()] + [("the largest margin", best)]
    return [_traced(has_trace, kind, completion) for kind, completion in examples]


def trace_table(example: dict[str, Any]) -> Table:
    """A traced example as a line: the reward after each token."""
    rows = tuple((f"{i} {token}", reward) for i, (token, reward) in enumerate(example["trace"], 1))
    note = "the answer of the largest margin: its reward if it stopped at each token"
    return Table(title="reward by token", columns=("token", "reward"), rows=rows, chart="line", note=note)


def _traced(scorer: HasTrace, kind: str, completion: Completion) -> dict[str, Any]:
    trace = scorer.trace(completion)
    return {
        "kind": f"reward by token: {kind}",
        "prompt": [message.as_dict() for message in completion.messages],
        "id": completion.id,
        "reward": float(trace.rewards[-1]),
        "trace": [[token, float(reward)] for token, reward in zip(trace.tokens, trace.rewards, strict=True)],
    }
