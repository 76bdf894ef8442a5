"""What a scorer says of labelled pairs, from one pass: margins, probabilities, and what each member of an ensemble says.

Suffixes: P pairs, K members, 2 chosen and rejected.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from assay.records import PreferencePair, Rewards, concatenate
from assay.scorers.base import FromMargins, Scorer, TellsMarginStd, capability, own_comparer
from assay.scorers.ensemble import HasMembers, members_of
from assay.scorers.in_order import SaysWhyNot
from assay.scorers.wrappers.counted import AT_ONCE, Counted
from assay.stats.metrics import sigmoid

_SURE = 1e-6  # a probability of 0 or 1 is taken for one that far from it: its margin is finite


class PairScores(NamedTuple):
    """margins (P,): reward of chosen minus that of rejected, NaN where unscored. probabilities (P,): P(chosen beats rejected), and
    origin: where they come from. rewards (P, 2): None where the scorer compares by itself. members (K, P, 2): of an ensemble.
    std (P,): of the margins, of a scorer that knows it.
    uncalibrated (P,): sigmoid of the margins where a calibration gave the probabilities, else None. has_probabilities: whether the
    probabilities are more than the sigmoid of a raw margin. reasons: why answers could not be scored -> how many."""

    margins: np.ndarray
    probabilities: np.ndarray
    origin: str
    rewards: np.ndarray | None = None
    members: np.ndarray | None = None
    uncalibrated: np.ndarray | None = None
    reasons: Mapping[str, int] = {}
    std: np.ndarray | None = None

    @property
    def has_probabilities(self) -> bool:
        return self.uncalibrated is not None or self.rewards is None


def score_pairs(scorer: Scorer, pairs: Sequence[PreferencePair], advance: Callable[[int], None] = lambda n: None) -> PairScores:
    """Ask a scorer for pairs. advance: called with the number of answers that were scored, as they are.

    A scorer that compares by itself (`Comparer`, such as a pairwise judge) is asked for its probabilities and for nothing else; its
    margins are their logits. A calibration is applied to the margins of one pass.
    """
    if (comparer := own_comparer(scorer)) is not None:
        probabilities_P = np.asarray(comparer.compare(pairs), np.float64)
        advance(2 * len(pairs))
        why = Counter(filter(None, comparer.why_not(pairs))) if isinstance(comparer, SaysWhyNot) else Counter[str]()
        return PairScores(logit(probabilities_P), probabilities_P, "the scorer's own comparisons", reasons=why)
    members, reasons, std_P = members_of(scorer), Counter[str](), None
    members_KP2 = None if members is None else _member_rewards(members, pairs, advance)
    if members is not None and members_KP2 is not None:
        rewards_P2 = members.combination(members_KP2.reshape(len(members_KP2), -1))[0].reshape(-1, 2).astype(np.float64)
    elif (unsure := capability(scorer, TellsMarginStd, of_same_rewards=True)) is not None:
        rewards, std_P = _with_std(unsure, pairs, advance)
        rewards_P2 = rewards.value.astype(np.float64).reshape(-1, 2)
        reasons.update(error for error in rewards.error or () if error)
    else:
        rewards = Counted(scorer=scorer, advance=advance).score([one for pair in pairs for one in pair.completions()])
        rewards_P2 = rewards.value.astype(np.float64).reshape(-1, 2)
        reasons.update(error for error in rewards.error or () if error)
    margins_P = rewards_P2[:, 0] - rewards_P2[:, 1]
    raw_P = sigmoid(margins_P)
    if isinstance(scorer, FromMargins):
        return PairScores(margins_P, scorer.probability(margins_P), scorer.origin, rewards_P2, members_KP2, raw_P, reasons, std_P)
    origin = "sigmoid of the margin, not calibrated"
    return PairScores(margins_P, raw_P, origin, rewards_P2, members_KP2, reasons=reasons, std=std_P)


def logit(probabilities_P: np.ndarray) -> np.ndarray:
    """The margins whose sigmoid the probabilities are; NaN stays NaN."""
    held_P = np.clip(probabilities_P, _SURE, 1 - _SURE)
    return np.log(held_P) - np.log1p(-held_P)


def _with_std(
    unsure: TellsMarginStd, pairs: Sequence[PreferencePair], advance: Callable[[int], None]
) -> tuple[Rewards, np.ndarray]:
    """2 P rewards and (P,) std of the margins, some pairs at a time."""
    parts, stds = [Rewards(value=np.empty(0))], [np.empty(0)]
    for start in range(0, len(pairs), AT_ONCE // 2):
        rewards, std_P = unsure.margins_with_std(pairs[start : start + AT_ONCE // 2])
        parts.append(rewards)
        stds.append(std_P)
        advance(len(rewards))
    return concatenate(parts), np.concatenate(stds)


def _member_rewards(members: HasMembers, pairs: Sequence[PreferencePair], advance: Callable[[int], None]) -> np.ndarray:
    """(K, P, 2) rewards of each member, NaN where unscored."""
    parts = []
    for start in range(0, len(pairs), AT_ONCE // 2):
        completions = [completion for pair in pairs[start : start + AT_ONCE // 2] for completion in pair.completions()]
        members_KN = members.score_members(completions)
        parts.append(members_KN.reshape(len(members_KN), -1, 2).astype(np.float64))
        advance(len(completions))
    return np.concatenate(parts, axis=1)
