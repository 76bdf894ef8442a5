"""The rewards of a suite's cases: each answer is scored once. Suffix: N candidates of a case."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from assay.data.cases import Case
from assay.evaluation.pair_scores import logit
from assay.messages import Messages
from assay.records import Completion, PreferencePair
from assay.scorers.base import Scorer, keys_of, own_comparer

NOT_ASKED = "the model was trained on this prompt"


class Scored(NamedTuple):
    """Rewards of every case, (N,) float64 each, NaN = unscored; how many answers were scored; why some were not -> how many."""

    rewards: list[np.ndarray]
    num_completions: int
    reasons: Mapping[str, int]


def score_cases(scorer: Scorer, cases: Sequence[Case], skipped: Collection[int] = ()) -> Scored:
    """All answers of a suite in one call, grouped by prompt, each once that the scorer can tell from others.

    A scorer that compares by itself is asked to compare the two answers of a case; their rewards are then its logit and 0. Longer
    lists are scored. skipped: numbers of cases that are not to be scored, since the model was trained on their prompts; theirs are
    NaN.
    """
    keys: dict[int, list[str]] = {}
    by_prompt: dict[Messages, dict[str, Completion]] = {}
    compared = _compared(scorer, cases, skipped)
    for number, case in enumerate(cases):
        if number not in skipped and number not in compared:
            completions = case.completions()
            keys[number] = keys_of(scorer, completions)
            by_prompt.setdefault(case.prompt, {}).update(zip(keys[number], completions, strict=True))
    distinct = {key: completion for answers in by_prompt.values() for key, completion in answers.items()}
    places = {key: place for place, key in enumerate(distinct)}
    rewards = scorer.score(list(distinct.values()))
    value = rewards.value.astype(np.float64)
    reasons = Counter(error for error in rewards.error or () if error)
    if skipped:
        reasons[NOT_ASKED] = len(skipped)
    rows = [np.full(len(case.candidates), np.nan) for case in cases]
    for number, its_keys in keys.items():
        rows[number] = value[[places[key] for key in its_keys]]
    for number, of_two in compared.items():
        rows[number] = of_two
    return Scored(rows, len(distinct) + 2 * len(compared), reasons)


def _compared(scorer: Scorer, cases: Sequence[Case], skipped: Collection[int]) -> dict[int, np.ndarray]:
    """Number of each case of two answers that the scorer compares by itself -> the logit of its preference, and 0."""
    comparer = own_comparer(scorer)
    numbers = [i for i, case in enumerate(cases) if len(case.candidates) == 2 and i not in skipped] if comparer else []
    if comparer is None or not numbers:
        return {}
    margins_P = logit(np.asarray(comparer.compare([_pair(cases[i]) for i in numbers]), np.float64))
    return {i: np.array([margin, margin if np.isnan(margin) else 0.0]) for i, margin in zip(numbers, margins_P, strict=True)}


def _pair(case: Case) -> PreferencePair:
    first, second = case.completions()
    return PreferencePair(
        prompt=case.prompt,
        chosen=case.candidates[0],
        rejected=case.candidates[1],
        chosen_message=first.response_message,
        rejected_message=second.response_message,
        tools=case.tools,
        ground_truth=case.ground_truth,
    )


def lengths(cases: Sequence[Case]) -> list[np.ndarray]:
    """The rewards of the scorer to beat, which prefers the longer answer (characters)."""
    return [np.array([len(text) for text in case.candidates], dtype=np.float64) for case in cases]
