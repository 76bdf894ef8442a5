"""A scorer with the rewards of one scoring of pairs at hand, for what asks for the same answers again: no text is scored twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from assay.records import Completion, PreferencePair, Rewards
from assay.scorers.base import OfInner, Scope, Scorer, keys_of


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredBefore:
    """The rewards of an earlier scoring, and the inner scorer's of every other completion. It keeps nothing by itself.

    before: rewards by the keys of `keys_of`, as this scorer gave them, so that they are those of `score` within `tolerance`. It
    gives values and reasons alone, no std, steps or text.
    """

    scorer: Scorer
    before: Mapping[str, float]
    fingerprint = OfInner[str]()
    scope = OfInner[Scope]()
    tolerance = OfInner[float]()

    def score(self, completions: Sequence[Completion]) -> Rewards:
        """N completions -> N rewards."""
        keys = keys_of(self.scorer, completions)
        fresh = [i for i, key in enumerate(keys) if key not in self.before]
        value_N = np.array([self.before.get(key, np.nan) for key in keys], np.float32)
        errors: list[str | None] = [None] * len(keys)
        if fresh:
            rewards = self.scorer.score([completions[i] for i in fresh])
            value_N[fresh] = rewards.value
            for i, error in zip(fresh, rewards.error or (), strict=False):
                errors[i] = error
        return Rewards(value=value_N, error=tuple(errors))


def scored_before(scorer: Scorer, pairs: Sequence[PreferencePair], rewards_P2: np.ndarray | None) -> Scorer:
    """The scorer with its rewards (P, 2) of P pairs, chosen and rejected, at hand; what has none of them is asked for again.

    It is the scorer as it is where there are no such rewards (it compares by itself), and where a reward depends on the prompt's
    other answers.
    """
    if rewards_P2 is None or scorer.scope != "global":
        return scorer
    keys = keys_of(scorer, [completion for pair in pairs for completion in pair.completions()])
    values = np.asarray(rewards_P2, np.float64).ravel().tolist()
    return ScoredBefore(scorer=scorer, before={key: value for key, value in zip(keys, values, strict=True) if np.isfinite(value)})
