"""Which of the solutions that were found is the answer: the best, the answer that most give, or the one with most reward."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Literal, get_args

import numpy as np

from assay.records import Completion
from assay.rl.search.growing import Candidate
from assay.scorers.verifiers.built_in import built_in_rule
from assay.scorers.verifiers.final_answer import final_answer

Choice = Literal["best", "weighted", "majority"]
CHOICES: tuple[Choice, ...] = get_args(Choice)
NO_ANSWER = -1


def answer_classes(texts: Sequence[str]) -> list[int]:
    """The number of each text's answer, from 0; equal answers have one number, a text without an answer `NO_ANSWER`.

    Equal are those that math-verify holds for one, where it is installed; else, and where an answer is no mathematical expression
    (a name, a letter), those with the same marked answer (a box, a tag, ####, "the answer is"), white space apart. The first text
    with an answer stands for it.
    """
    has_math = find_spec("math_verify") is not None
    marked = [final_answer(text) for text in texts]
    told = [own if own is not None else text if has_math else "" for own, text in zip(marked, texts, strict=True)]
    keys = [" ".join(one.split()) for one in told]
    is_marked = {key: own is not None for key, own in zip(keys, marked, strict=True)}
    known = dict.fromkeys(keys, NO_ANSWER)
    firsts: dict[str, int] = {}  # of expressions
    new = itertools.count()
    for key in filter(None, is_marked):
        equal = _equal(key, list(firsts)) if has_math else []
        if equal is None and not is_marked[key]:
            continue  # it holds no expression
        same = list(firsts.values())[equal.index(True)] if equal and True in equal else None
        known[key] = next(new) if same is None else same
        if same is None and equal is not None:
            firsts[key] = known[key]
    return [known[key] for key in keys]


def _equal(key: str, firsts: Sequence[str]) -> list[bool] | None:
    """Whether an answer is each of those that are known already; None where it holds no expression, or the check failed."""
    checks = [Completion(response=key, ground_truth={"answer": one}) for one in (*firsts, key)]
    rewards = built_in_rule("answer").score(checks)
    if math.isnan(rewards.value[-1]) or rewards.value[-1] < 0.5:
        return None
    return [value > 0.5 for value in rewards.value[:-1]]


def chosen(candidates: Sequence[Candidate], how: Choice, classes: Sequence[int]) -> int | None:
    """The number of the candidate that is the answer; None where there is none.

    best: the highest rank (`Candidate.rank`). majority: of the answer that most candidates give. weighted: of the answer with the
    largest sum of values, which have to be at least 0, as probabilities are. Of equals the first; of an answer its best candidate.
    A candidate without a value is never chosen by "best" and "weighted". Raises ValueError for a negative value under "weighted".
    """
    value_N = np.array([one.value for one in candidates], np.float64)
    scored_N, class_N = ~np.isnan(value_N), np.array(classes, np.int64)
    if how == "best":
        return _first_best(candidates, np.flatnonzero(scored_N)) if scored_N.any() else None
    votes_N = class_N != NO_ANSWER if how == "majority" else (class_N != NO_ANSWER) & scored_N
    if not votes_N.any():
        return None
    if how == "weighted" and (value_N[votes_N] < 0).any():
        worst = float(np.nanmin(value_N))
        raise ValueError(f"a weighted vote adds rewards that are at least 0, and one is {worst:g}: give a scorer of probabilities")
    weights = value_N if how == "weighted" else np.ones(len(class_N))
    sums = np.bincount(class_N[votes_N], weights=weights[votes_N])
    among = np.flatnonzero(votes_N & (class_N == int(np.argmax(sums))))
    scored = among[scored_N[among]]
    return _first_best(candidates, scored) if len(scored) else int(among[0])


def _first_best(candidates: Sequence[Candidate], among: np.ndarray) -> int:
    """The number of the one of the highest rank, the first of equals."""
    return max((int(i) for i in among), key=lambda i: candidates[i].rank)
