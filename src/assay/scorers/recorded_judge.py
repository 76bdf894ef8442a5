"""Judges that answer from a record: no model is asked, a verdict that was not given is NaN with its reason."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from assay.data.recorded import NOT_ASKED, RecordedPairs, RecordedRatings
from assay.files import json_digest
from assay.records import Completion, PreferencePair, Rewards
from assay.scorers.base import Scope
from assay.scorers.in_order import of_both_orders, win_shares

Order = Literal["both", "given", "swapped"]
NOT_RECORDED = "this is not among what the judge was asked"


class _Said(NamedTuple):
    """What was said of one pair in both orders, and why not."""

    first_2: tuple[float, float]
    reasons: tuple[str | None, str | None]


class RecordedJudge:
    """One judge of `RecordedPairs` as a scorer that compares (`Comparer`, `ComparesInOrder`).

    A pair is found by its texts, whichever of the two answers it calls chosen; of several records of one pair the mean counts.
    order: "both" is the mean of the verdicts in both orders, or the only one that was asked for; "given" and "swapped" are the
    verdicts in the order of the file and in the other one. Rewards are `win_shares` among the answers of a prompt.
    Raises ValueError for a judge that is not in the record.
    """

    scope: Scope = "prompt"
    tolerance: float = 0.0
    is_thread_safe: Literal[True] = True

    def __init__(self, recorded: RecordedPairs, judge: str, *, order: Order = "both") -> None:
        if judge not in recorded.judges:
            raise ValueError(f"{recorded.source} has no judge {judge!r}: there are {', '.join(recorded.judges)}")
        if order not in ("both", "given", "swapped"):
            raise ValueError(f"an order is both, given or swapped, not {order!r}")
        verdicts = recorded.judges[judge]
        self.name, self.order = f"{recorded.source}: {judge}", order
        self.said: dict[tuple[object, str, str], list[_Said]] = {}
        for pair, first_2, reasons in zip(recorded.pairs, verdicts.first_N2.tolist(), verdicts.reasons, strict=True):
            if pair is not None:
                self.said.setdefault(_key(pair), []).append(_Said(tuple(first_2), reasons))
        said = [[repr(key), [[list(map(str, one.first_2)), one.reasons] for one in found]] for key, found in self.said.items()]
        self.fingerprint = f"recorded:{json_digest([self.name, order, said])}"

    def compare(self, pairs: Sequence[PreferencePair]) -> np.ndarray:
        """P(chosen beats rejected) of P pairs: (P,) float64, NaN where no verdict is recorded (`why_not` says why)."""
        in_order_P2 = self._of_files_order(pairs)
        if self.order != "both":
            return in_order_P2[:, 0 if self.order == "given" else 1]
        asked_once_P = np.isnan(in_order_P2[:, 1]) & np.array([self._is_asked_once(pair) for pair in pairs], dtype=bool)
        return np.where(asked_once_P, in_order_P2[:, 0], of_both_orders(in_order_P2))

    def compare_in_order(self, pairs: Sequence[PreferencePair]) -> np.ndarray:
        """(P, 2) P(chosen beats rejected), with the chosen answer shown first and shown second."""
        found_P2 = self._of_files_order(pairs)
        is_turned_P = np.array([_key(pair) not in self.said for pair in pairs], dtype=bool)
        return np.where(is_turned_P[:, None], found_P2[:, ::-1], found_P2)

    def why_not(self, pairs: Sequence[PreferencePair]) -> list[str | None]:
        """The reason for each pair whose verdict is NaN; None for the others."""
        return [self._why_not(pair) if math.isnan(p) else None for pair, p in zip(pairs, self.compare(pairs), strict=True)]

    def score(self, completions: Sequence[Completion]) -> Rewards:
        """N completions -> how often each beats the other answers of its prompt, as far as that is recorded."""
        return win_shares(self.compare, completions)

    def _of_files_order(self, pairs: Sequence[PreferencePair]) -> np.ndarray:
        """(P, 2) P(chosen beats rejected), shown as the file has them and swapped."""
        found = np.full((len(pairs), 2), np.nan)
        for i, pair in enumerate(pairs):
            said, is_turned = self._said(pair)
            for order in (0, 1):
                given = [one.first_2[order] for one in said if not math.isnan(one.first_2[order])]
                if given:
                    found[i, order] = 1 - sum(given) / len(given) if is_turned else sum(given) / len(given)
        return found

    def _said(self, pair: PreferencePair) -> tuple[list[_Said], bool]:
        """What was said of a pair, and whether its answers stand there the other way round."""
        prompt, chosen, rejected = _key(pair)
        if found := self.said.get((prompt, chosen, rejected)):
            return found, False
        return self.said.get((prompt, rejected, chosen), []), True

    def _is_asked_once(self, pair: PreferencePair) -> bool:
        said, _ = self._said(pair)
        return bool(said) and all(one.reasons[1] == NOT_ASKED for one in said)

    def _why_not(self, pair: PreferencePair) -> str:
        said, _ = self._said(pair)
        places: Mapping[Order, tuple[int, ...]] = {"both": (0, 1), "given": (0,), "swapped": (1,)}
        why = [one.reasons[place] for one in said for place in places[self.order] if one.reasons[place]]
        return str(why[0]) if why else NOT_RECORDED


class RecordedRater:
    """The judge of `RecordedRatings` as a scorer of single answers: the mean of its ratings, their deviation as `std`."""

    scope: Scope = "global"
    tolerance: float = 0.0
    is_thread_safe: Literal[True] = True

    def __init__(self, recorded: RecordedRatings) -> None:
        self.name = f"{recorded.source}: {recorded.judge}"
        self.rated: dict[str, list[np.ndarray]] = {}
        for completion, row in zip(recorded.completions, recorded.ratings_NR, strict=True):
            self.rated.setdefault(completion.key, []).append(row[~np.isnan(row)])
        rated = [[key, [row.tolist() for row in rows]] for key, rows in self.rated.items()]
        self.fingerprint = f"recorded:{json_digest([self.name, rated])}"

    def score(self, completions: Sequence[Completion]) -> Rewards:
        """N completions -> the mean rating of each; NaN where there is none."""
        rows = [np.concatenate(self.rated.get(completion.key, [np.empty(0)])) for completion in completions]
        known = [completion.key in self.rated for completion in completions]
        return Rewards(
            value=np.array([row.mean() if len(row) else math.nan for row in rows], np.float32),
            std=np.array([row.std(ddof=1) if len(row) > 1 else math.nan for row in rows], np.float32),
            error=tuple(
                None if len(row) else "no rating in the reply" if is_known else NOT_RECORDED
                for row, is_known in zip(rows, known, strict=True)
            ),
        )


def _key(pair: PreferencePair) -> tuple[object, str, str]:
    return pair.prompt, pair.chosen, pair.rejected
