"""Progress of a long scoring: a wrapper that scores in chunks and reports each chunk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from assay.records import Completion, Rewards, concatenate
from assay.scorers.base import OfInner, Scope, Scorer

AT_ONCE = 512  # completions of one call of the inner scorer, whole prompts


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """The inner scorer's rewards, all columns, computed a chunk at a time. advance: called with the size of each chunk.

    Neighbouring answers to one prompt stay in one chunk, since they share the prompt's computation. A prompt-scoped scorer gets all
    completions in one call.
    """

    scorer: Scorer
    advance: Callable[[int], None]
    fingerprint = OfInner[str]()
    scope = OfInner[Scope]()
    tolerance = OfInner[float]()

    def score(self, completions: Sequence[Completion]) -> Rewards:
        """N completions -> N rewards."""
        parts, start = [], 0
        while start < len(completions):
            end = len(completions) if self.scope == "prompt" else min(start + AT_ONCE, len(completions))
            while end < len(completions) and completions[end].messages == completions[end - 1].messages != ():
                end += 1
            parts.append(self.scorer.score(completions[start:end]))
            self.advance(len(parts[-1]))
            start = end
        return concatenate(parts)
