"""A judge of pairs under the probes: every answer is compared with the preferred one of its prompt.

An edit of that answer then stands against the answer itself: a judge that it does not move sees a tie, and P - 1/2 is the rise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from assay.messages import Messages
from assay.records import Completion, PreferencePair, Rewards
from assay.scorers.base import Comparer, Scope, Scorer, own_comparer
from assay.scorers.in_order import pair_of_two

NO_REFERENCE = "there is no answer to this prompt to compare it with"


@dataclass(frozen=True, slots=True, kw_only=True)
class BesideReference:
    """Rewards by a judge of pairs: P(an answer beats the reference of its prompt), and 1/2 for the reference itself.

    references: by prompt. Without a verdict, and for a prompt without a reference, the reward is NaN with the reason.
    """

    judge: Scorer
    comparer: Comparer
    references: Mapping[Messages, Completion]
    scope: Scope = "global"

    @property
    def fingerprint(self) -> str:
        return self.judge.fingerprint

    @property
    def tolerance(self) -> float:
        return self.judge.tolerance

    def score(self, completions: Sequence[Completion]) -> Rewards:
        value_N, errors = np.full(len(completions), np.nan), [NO_REFERENCE] * len(completions)
        asked: list[tuple[int, PreferencePair]] = []
        for i, completion in enumerate(completions):
            reference = self.references.get(completion.messages)
            if reference is None:
                continue
            if (completion.response, completion.response_message) == (reference.response, reference.response_message):
                value_N[i] = 0.5
            else:
                asked.append((i, pair_of_two(completion, reference)))
        if asked:
            places = [i for i, _ in asked]
            value_N[places] = self.comparer.compare([pair for _, pair in asked])
            for i in places:
                errors[i] = "the judge gave no verdict on it and the reference"
        return Rewards(
            value=value_N.astype(np.float32), error=tuple(e if np.isnan(v) else None for e, v in zip(errors, value_N, strict=True))
        )


def with_rewards(scorer: Scorer, references: Mapping[Messages, Completion]) -> Scorer:
    """The scorer itself; one that compares by itself beside the references."""
    comparer = own_comparer(scorer)
    return scorer if comparer is None else BesideReference(judge=scorer, comparer=comparer, references=references)
