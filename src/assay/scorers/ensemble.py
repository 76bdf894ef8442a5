"""Several reward models as one: the mean as the reward, less a penalty for the members' disagreement (their std).

Shapes: K members, N completions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self, runtime_checkable

import numpy as np

from assay.files import digest
from assay.records import Completion, Rewards
from assay.scorers.base import Scope, Scorer, capability

How = Literal["mean", "min", "robust"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Combination:
    """How K rewards become one.

    mean: mean - penalty x std (Coste et al. 2024, "Reward Model Ensembles Help Mitigate Overoptimization", with the standard
    deviation in place of the variance, so that penalty has no unit). min: the lowest of the K rewards, their worst-case
    optimization (WCO). robust: -beta log mean exp(-r / beta), the worst mean over weights of the members at a cost of beta times
    their KL divergence from equal ones (arXiv 2606.09073): the mean for large beta, the lowest for small, mean - variance / (2
    beta) in between (that variance is of K). beta > 0 has the unit of the rewards. What is added to all rewards of a prompt moves
    its values by as much, and no margin. Members are to be centred: a saved ensemble's are, on their mean rewards; where the
    answers of a prompt are at hand, `rl.shaping.robust` centres each member in its prompt. In all three, std is the sample
    standard deviation (K - 1).
    """

    how: How = "mean"
    penalty: float = 1.0
    beta: float = 1.0

    def __post_init__(self) -> None:
        if self.how not in ("mean", "min", "robust"):
            raise ValueError(f"members are combined by mean, min or robust, not {self.how!r}")
        if not 0 <= self.penalty < math.inf:
            raise ValueError(f"penalty {self.penalty} must be 0 or more")
        if not 0 < self.beta < math.inf:
            raise ValueError(f"beta {self.beta} of robust must be above 0: it is the temperature of its mean")
        if self.how != "robust" and self.beta != 1.0:
            raise ValueError(f"beta {self.beta} is of robust, and says nothing to {self.how}: leave it out, or combine by robust")

    @property
    def words(self) -> str:
        """For reports."""
        mean = "mean" if self.penalty == 0 else f"mean - {self.penalty:g} std"
        return {"mean": mean, "min": "min", "robust": f"robust, beta {self.beta:g}"}[self.how]

    @property
    def entry(self) -> dict[str, Any]:
        """For reward.json. beta stands there where it says something: it is part of the fingerprint."""
        return {"combine": self.how, "penalty": self.penalty, **({"beta": self.beta} if self.how == "robust" else {})}

    @classmethod
    def from_entry(cls, entry: Mapping[str, Any]) -> Self:
        return cls(how=entry["combine"], penalty=entry["penalty"], beta=entry.get("beta", 1.0))

    def __call__(self, members_KN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(value (N,), std (N,)), float32; NaN where any member is NaN. Raises ValueError for fewer than two members."""
        if len(members_KN) < 2:
            raise ValueError(f"an ensemble has at least two members, this one has {len(members_KN)}")
        members_KN = np.asarray(members_KN, np.float64)
        std_N = members_KN.std(axis=0, ddof=1)
        if self.how == "robust":
            value_N = robust_mean(members_KN, self.beta)
        else:
            value_N = members_KN.min(axis=0) if self.how == "min" else members_KN.mean(axis=0) - self.penalty * std_N
        return value_N.astype(np.float32), std_N.astype(np.float32)

    def tolerance(self, of_member: float) -> float:
        """How far the value may move when each member moves by at most `of_member`: a std of K >= 2 by at most 1.5 times that, the
        lowest and a robust mean by no more than the members."""
        return of_member * (1 + 1.5 * self.penalty) if self.how == "mean" else of_member


def robust_mean(members_KN: np.ndarray, beta: float) -> np.ndarray:
    """(...) float64: -beta log mean exp(-r / beta) over K members of any shape; NaN where any member is NaN. The lowest is taken
    out of the exponents, so that no beta is too small for them."""
    members_KN = np.asarray(members_KN, np.float64)
    lowest_N = members_KN.min(axis=0)
    with np.errstate(invalid="ignore"):  # NaN members, and infinite ones less themselves
        above_KN = (members_KN - lowest_N) / beta
    return lowest_N - beta * np.log(np.exp(-above_KN).mean(axis=0))  # type: ignore[no-any-return]


PLAIN = Combination(penalty=0.0)
"""The mean without a penalty: the reward that plain transformers computes from K heads on one backbone."""


@runtime_checkable
class HasMembers(Protocol):
    """A scorer made of members, which also gives the rewards of each member."""

    @property
    def combination(self) -> Combination: ...
    @property
    def num_members(self) -> int: ...
    def score_members(self, completions: Sequence[Completion]) -> np.ndarray:
        """N completions -> (K, N) float32; NaN where a member could not score."""
        ...


def members_of(scorer: Scorer) -> HasMembers | None:
    """The scorer itself if it is an ensemble, or the ensemble inside it if no wrapper changes its rewards; else None."""
    found = capability(scorer, HasMembers, of_same_rewards=True)
    return found if found is not None and found.num_members > 1 else None


class Ensemble:
    """Any scorers as one, with `value` by the combination and always `std`. Where a member has no reward, the value is NaN.

    Raises ValueError for fewer than two members, for the same member twice (std would be too small), for a prompt-scoped member.
    """

    scope: Scope = "global"

    def __init__(self, scorers: Sequence[Scorer], combination: Combination | None = None) -> None:
        self.scorers, self.combination = tuple(scorers), combination or Combination()
        if len(self.scorers) < 2:
            raise ValueError(f"an ensemble has at least two members, got {len(self.scorers)}")
        prints = [scorer.fingerprint for scorer in self.scorers]
        if len(set(prints)) < len(prints):
            raise ValueError("two members of the ensemble are the same model: their agreement would say nothing")
        if any(scorer.scope != "global" for scorer in self.scorers):
            raise ValueError("a prompt-scoped scorer cannot be a member: its values depend on the prompt's other answers")
        self.tolerance = self.combination.tolerance(max(scorer.tolerance for scorer in self.scorers))

    @property
    def num_members(self) -> int:
        return len(self.scorers)

    @property
    def fingerprint(self) -> str:
        parts = (*(scorer.fingerprint for scorer in self.scorers), *self.combination.entry.values())
        return digest(repr(parts))

    def score(self, completions: Sequence[Completion]) -> Rewards:
        rewards = [scorer.score(completions) for scorer in self.scorers]
        errors = [
            next((f"member {k}: {part.error[i]}" for k, part in enumerate(rewards) if part.error and part.error[i]), None)
            for i in range(len(completions))
        ]
        value, std = self.combination(np.stack([part.value for part in rewards]))
        return Rewards(value=value, std=std, steps=_mean_steps(rewards), text=_texts(rewards), error=tuple(errors))

    def score_members(self, completions: Sequence[Completion]) -> np.ndarray:
        return np.stack([scorer.score(completions).value for scorer in self.scorers])


def _mean_steps(rewards: Sequence[Rewards]) -> tuple[np.ndarray, ...] | None:
    """Mean over the members of the reward of each step; no steps where a member has none, or the numbers of steps differ."""
    if any(part.steps is None for part in rewards):
        return None
    found = []
    for steps_K in zip(*(part.steps for part in rewards if part.steps is not None), strict=True):
        agree = len({len(steps) for steps in steps_K}) == 1
        found.append(np.mean(steps_K, axis=0) if agree else np.empty(0, np.float32))
    return tuple(found)


def _texts(rewards: Sequence[Rewards]) -> tuple[str | None, ...] | None:
    """The members' texts for each completion, one after another, each with the member's number."""
    if all(part.text is None for part in rewards):
        return None
    texts = []
    for i in range(len(rewards[0])):
        said = [f"member {k}: {part.text[i]}" for k, part in enumerate(rewards) if part.text is not None and part.text[i]]
        texts.append("\n\n".join(said) or None)
    return tuple(texts)


class Member:
    """One member of a scorer of members, as a scorer of its own.

    All members score a completion in one forward. Their rewards are kept in `known`, by content, which the other members share.
    """

    scope: Scope = "global"

    def __init__(
        self, members: HasMembers, place: int, known: dict[str, np.ndarray], *, fingerprint: str, tolerance: float
    ) -> None:
        self.members, self.place, self.known = members, place, known
        self.fingerprint, self.tolerance = f"{fingerprint}/{place}", tolerance

    def score(self, completions: Sequence[Completion]) -> Rewards:
        keys = [completion.key for completion in completions]
        fresh = {key: one for key, one in zip(keys, completions, strict=True) if key not in self.known}
        if fresh:
            self.known.update(zip(fresh, self.members.score_members(list(fresh.values())).T, strict=True))
        value_N = np.array([self.known[key][self.place] for key in keys], np.float32)
        why = "this member could not score it"
        return Rewards(value=value_N, error=tuple(why if bad else None for bad in np.isnan(value_N)))


def members_as_scorers(scorer: HasMembers, num_members: int, *, fingerprint: str, tolerance: float) -> list[Member]:
    """Each member of a scorer as a scorer of its own. They share every forward: K cost little more than one."""
    known: dict[str, np.ndarray] = {}
    return [Member(scorer, k, known, fingerprint=fingerprint, tolerance=tolerance) for k in range(num_members)]
