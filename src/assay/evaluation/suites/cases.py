"""The one shape that every suite's rows take, and their rewards: each distinct answer to a prompt is scored once.

Suffixes: N candidates of a case, I comparisons.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from assay.data.cells import BadRow
from assay.records import Completion, Messages, prompt_key
from assay.scorers.base import Scorer

NOT_ASKED = "the model was trained on this prompt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A prompt and its candidate answers, with what is known of each.

    gold: one number for each candidate, in [0, 1]: 1 is right (chosen, correct), 0 is not; (0.5, 0.5) is a tie; or a probability.
    section: the part of the suite that it belongs to; subset: a finer slice, a row of a table.
    pairs: which candidates are compared, as (i, j); when left out, every two of unequal gold.
    cluster: cases of one cluster are resampled together; the prompt's key when left out.
    """

    prompt: Messages
    candidates: tuple[str, ...]
    gold: tuple[float, ...]
    section: str
    subset: str = ""
    id: str = ""
    pairs: tuple[tuple[int, int], ...] | None = None
    cluster: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "cluster", self.cluster or self.prompt_key)
        if len(self.gold) != len(self.candidates) or len(self.candidates) < 2:
            raise BadRow("fewer than two candidates, or not one label for each")

    @property
    def prompt_key(self) -> str:
        """Hash of the prompt's text alone, as a `PreferencePair` has it."""
        return prompt_key(self.prompt)


class Scored(NamedTuple):
    """Rewards of every case, (N,) float64 each, NaN = unscored; how many answers were scored; why some were not -> how many."""

    rewards: list[np.ndarray]
    num_completions: int
    reasons: Mapping[str, int]


_OF_TWO = {1: np.array([[0, 1]]), 0: np.empty((0, 2), dtype=np.int64), -1: np.array([[1, 0]])}


def comparisons(case: Case) -> np.ndarray:
    """Which candidate must be above which: (I, 2) int64, the better one first; ties of gold are left out."""
    if case.pairs is None and len(case.gold) == 2:  # the most frequent case, and a short one
        return _OF_TWO[int(case.gold[0] > case.gold[1]) - int(case.gold[0] < case.gold[1])]
    gold_N = np.asarray(case.gold, dtype=np.float64)
    if case.pairs is None:
        return np.argwhere(gold_N[:, None] > gold_N[None, :])
    pairs_I2 = np.array(case.pairs, dtype=np.int64).reshape(-1, 2)
    first_I, second_I = gold_N[pairs_I2].T
    turned_I2 = np.where((first_I < second_I)[:, None], pairs_I2[:, ::-1], pairs_I2)
    return turned_I2[first_I != second_I]


def score_cases(scorer: Scorer, cases: Sequence[Case], skipped: Collection[int] = ()) -> Scored:
    """All answers of a suite in one call, grouped by prompt, each distinct (prompt, answer) once.

    skipped: numbers of cases that are not to be scored, since the model was trained on their prompts; theirs are NaN.
    """
    places: dict[Messages, dict[str, int]] = {}
    for number, case in enumerate(cases):
        if number not in skipped:
            answers = places.setdefault(case.prompt, {})
            for text in case.candidates:
                answers.setdefault(text, -1)
    completions: list[Completion] = []
    for prompt, answers in places.items():
        for text in answers:
            answers[text] = len(completions)
            completions.append(Completion(messages=prompt, response=text))
    rewards = scorer.score(completions)
    value = rewards.value.astype(np.float64)
    reasons = Counter(error for error in rewards.error or () if error)
    if skipped:
        reasons[NOT_ASKED] = len(skipped)
    rows = [
        np.full(len(case.candidates), np.nan) if i in skipped else value[[places[case.prompt][text] for text in case.candidates]]
        for i, case in enumerate(cases)
    ]
    return Scored(rows, len(completions), reasons)


def lengths(cases: Sequence[Case]) -> list[np.ndarray]:
    """The rewards of the scorer to beat, which prefers the longer answer (characters)."""
    return [np.array([len(text) for text in case.candidates], dtype=np.float64) for case in cases]
