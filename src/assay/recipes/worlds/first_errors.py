"""Where the first errors of a world's solutions lie, so that neither a step's place nor a solution's length tells whether it is
right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Names = Literal["first", "second", "all"]
"""Which half of a world's names is used: tests with other names than in training tell a rule from a list of names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldSettings:
    """How large a world is, and how hard.

    problems: their number; lengths: how long they are, each of equally many. solutions: candidates of a problem. error_rate: the
    probability that a step is the first wrong one where those before it are right, the same at every place. lucky: share of the
    wrong solutions that come to the right answer all the same (relay world). names: a half of the names, or all. seed: of all
    draws.
    """

    problems: int = 1000
    lengths: tuple[int, ...] = (1, 2, 3)
    solutions: int = 4
    error_rate: float = 0.3
    lucky: float = 0.0
    names: Names = "first"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.problems < 1 or self.solutions < 1:
            raise ValueError(f"problems {self.problems} and solutions {self.solutions} must be at least 1")
        if not self.lengths or min(self.lengths) < 1:
            raise ValueError(f"lengths {self.lengths} must each be at least 1")
        if not 0 < self.error_rate < 1:
            raise ValueError(f"error_rate {self.error_rate} must lie between 0 and 1")
        if not 0 <= self.lucky <= 1:
            raise ValueError(f"lucky {self.lucky} must lie in [0, 1]: it is a share")


def first_errors(num_steps: int, num: int, rate: float, rng: np.random.Generator) -> list[int | None]:
    """For `num` solutions of so many steps the index of the first wrong step, None for all right, in random order.

    Of the solutions whose steps before it are right a step is wrong in a share `rate`, at every place: exactly, up to rounding.
    """
    shares = [rate * (1 - rate) ** k for k in range(num_steps)] + [(1 - rate) ** num_steps]
    counts = _rounded([share * num for share in shares], rng)
    places: list[int | None] = [k for k, count in enumerate(counts[:-1]) for _ in range(count)]
    places += [None] * counts[-1]
    return [places[i] for i in rng.permutation(num)]


def labels_up_to(place: int | None, num_steps: int) -> tuple[float | None, ...]:
    """The labels of a solution whose first wrong step is `place`: right before it, unknown behind it; all right where it is
    None."""
    if place is None:
        return (1.0,) * num_steps
    return (*((1.0,) * place), 0.0, *((None,) * (num_steps - place - 1)))


def _rounded(wanted: Sequence[float], rng: np.random.Generator) -> list[int]:
    """Whole numbers of the same sum, each off by less than one; which are rounded up is drawn by what is cut off."""
    counts = [math.floor(one) for one in wanted]
    missing = round(sum(wanted)) - sum(counts)
    rest = np.array([one - count for one, count in zip(wanted, counts, strict=True)])
    if missing:
        for i in rng.choice(len(counts), size=missing, replace=False, p=rest / rest.sum()):
            counts[i] += 1
    return counts


def dealt(kinds: Sequence[str], num: int, rng: np.random.Generator) -> list[str]:
    """`num` kinds in random order, each equally often up to one."""
    return [kinds[i] for i in rng.permutation(np.arange(num) % len(kinds))]
