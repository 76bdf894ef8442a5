"""A reward model with the std of its rewards: a wrapper that asks a posterior over the model's head.

Suffixes: N completions, P pairs, 2 chosen and rejected, D size of a state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from assay.files import json_digest
from assay.records import Completion, PreferencePair, Rewards
from assay.scorers.base import HasStates, OfInner, Scope, Scorer, capability
from assay.stats.head_posterior import HeadPosterior


class HeadStd:
    """The inner scorer's values, with `std`: of a reward less that of one fixed answer, `reference`, to the same prompt.

    Pairs tell differences alone, so that a reward as such has no std. Reference answers are scored with the others, one a prompt,
    behind their prompt's tokens. A std depends on its completion alone; that of a text that is already rendered, whose prompt is
    not told, is NaN (no std where all are such), as is that of a prompt behind which the reference cannot be scored. Raises
    ValueError for a scorer without states. identity: of posterior and reference, for the fingerprint.
    """

    scope = OfInner[Scope]()
    tolerance = OfInner[float]()

    def __init__(self, scorer: Scorer, posterior: HeadPosterior, *, reference: str, identity: str) -> None:
        self.scorer, self.posterior, self.reference, self.identity = scorer, posterior, reference, identity
        if (states := capability(scorer, HasStates, of_same_rewards=True)) is None:
            raise ValueError("a scorer without hidden states has no std by a posterior of its head: load the artifact itself")
        self._states = states

    @property
    def fingerprint(self) -> str:
        return json_digest([self.scorer.fingerprint, self.identity])

    def score(self, completions: Sequence[Completion]) -> Rewards:
        """N completions -> N rewards with std."""
        prompts = [_prompt(one) for one in completions]
        asked = {key: one for key, one in zip(prompts, completions, strict=True) if key is not None}
        references = [
            replace(one, response=self.reference, steps=None, response_message=None, ground_truth=None) for one in asked.values()
        ]
        place: dict[str | None, int] = {key: len(completions) + number for number, key in enumerate(asked)}
        both, states_MD = self._states.score_with_states([*completions, *references])
        num, found_N = len(completions), np.array([place.get(key, -1) for key in prompts], np.int64)
        std_N, told_N = np.full(num, np.nan), found_N >= 0
        if not told_N.any():
            return both
        std_N[told_N] = self.posterior.std(states_MD[:num][told_N].astype(np.float64) - states_MD[found_N[told_N]])
        return replace(both.take(np.arange(num)), std=std_N)

    def margins_with_std(self, pairs: Sequence[PreferencePair]) -> tuple[Rewards, np.ndarray]:
        """2 P rewards, chosen and rejected in turn, and (P,) float64 std of the margins; NaN where either has no reward."""
        rewards, states_MD = self._states.score_with_states([one for pair in pairs for one in pair.completions()])
        states_MD = states_MD.astype(np.float64)
        return rewards, self.posterior.std(states_MD[0::2] - states_MD[1::2])


def _prompt(completion: Completion) -> str | None:
    """What tells the prompts of completions apart; None of a text, whose prompt is not told."""
    return None if completion.response is None else replace(completion, response="", steps=None, response_message=None).key
