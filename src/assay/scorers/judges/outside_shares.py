"""How much of a judge's probability lies outside of the verdicts, over all verdicts that were read by their tokens."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from statistics import median

from assay.generation.replies import Answered

MOST_OUTSIDE = 0.5  # the median from which on a judge is said to hardly answer in verdicts


class OutsideShares:
    """Collects the shares as verdicts come in."""

    def __init__(self) -> None:
        self.shares = array("d")

    def take(self, answered: Iterable[Answered]) -> None:
        """The shares of verdicts by tokens, `{..., "outside"}` or one such entry a criterion; others have none."""
        for one in answered:
            if one.error is None and isinstance(one.verdict, dict):
                entries = [one.verdict, *(entry for entry in one.verdict.values() if isinstance(entry, dict))]
                self.shares.extend(entry["outside"] for entry in entries if "outside" in entry)

    def summary(self, *, fix: str = "--judge-reading text") -> str | None:
        """The median share, with a warning where it is above one half; None where no verdict was read by its tokens. fix: how a
        judge is let write."""
        if not self.shares:
            return None
        share, count = median(self.shares), len(self.shares)
        text = f"{100 * share:.0f}% of the probability lies outside of the verdicts (median of {count:,})"
        if share <= MOST_OUTSIDE:
            return text
        return (
            f"{text}: this judge hardly answers in verdicts, and what is read is the small rest: name a model that follows "
            f"instructions, or let it write ({fix})"
        )
