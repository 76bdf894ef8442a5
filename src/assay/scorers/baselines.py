"""Scorers that know nothing: what a reward model has to beat before its accuracy means anything.

A model that is no better than the length of the answer, or than which words stand in it, has learnt the data's habits.

Suffixes: P pairs, V words of the vocabulary.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import minimize
from scipy.sparse import csr_matrix

from assay.data.split import group_keys
from assay.metrics import cluster_folds
from assay.records import Completion, PreferencePair, Rewards
from assay.scorers.base import Scope, sigmoid

WORD = re.compile(r"\w+")
MAX_WORDS = 20_000
MIN_TEXTS = 2  # a word of one text only can do no more than memorise its pair
L2 = 30.0  # best of 1, 3, 10, 30, 100 on HH-RLHF harmless, within a point of the best on RMB


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthScorer:
    """Longer is better: the number of characters of the response, of the text, or the number of token ids."""

    fingerprint: str = field(default="baseline:length:1", init=False)
    scope: Scope = field(default="global", init=False)
    tolerance: float = field(default=0.0, init=False)

    def score(self, completions: Sequence[Completion]) -> Rewards:
        """Lengths as rewards, in characters, or in tokens for completions given as token ids."""
        return Rewards(value=np.array([_length(completion) for completion in completions], dtype=np.float32))


@dataclass(frozen=True, slots=True, kw_only=True)
class BagOfWordsScorer:
    """Which words stand in the answer: the sum over its words of weight x log(1 + count), case apart, order ignored.

    weights: word -> weight in logits; a word without one counts nothing. Fitted by `fit_bag_of_words`.
    """

    weights: Mapping[str, float]
    fingerprint: str = field(init=False)
    scope: Scope = field(default="global", init=False)
    tolerance: float = field(default=1e-6, init=False)

    def __post_init__(self) -> None:
        content = json.dumps(sorted(self.weights.items()))
        object.__setattr__(self, "fingerprint", "baseline:words:1:" + hashlib.sha256(content.encode()).hexdigest()[:32])

    def score(self, completions: Sequence[Completion]) -> Rewards:
        """Rewards in logits; NaN for completions given as token ids, which have no words."""
        texts = [completion.response if completion.text is None else completion.text for completion in completions]
        return Rewards(
            value=np.array([math.nan if text is None else self._value(text) for text in texts], dtype=np.float32),
            error=tuple("bag of words needs text, not token ids" if text is None else None for text in texts),
        )

    def _value(self, text: str) -> float:
        counts = Counter(WORD.findall(text.lower()))
        return math.fsum(self.weights.get(word, 0.0) * math.log1p(count) for word, count in counts.items())


def fit_bag_of_words(pairs: Sequence[PreferencePair]) -> BagOfWordsScorer:
    """The Bradley-Terry model on words that fits the pairs best: logistic regression, no intercept, on differences of log counts.

    Soft labels, ties and weights enter as they are. Nothing is drawn at random. Pairs that differ in no word give weight 0 to all.
    """
    words, differences_PV = _word_differences(pairs)
    weights_V = _fit_weights(differences_PV, *_labels(pairs))
    return BagOfWordsScorer(weights={word: float(weight) for word, weight in zip(words, weights_V, strict=True) if weight != 0})


def bag_of_words_cross_validated(pairs: Sequence[PreferencePair], num_folds: int = 5, seed: int = 0) -> np.ndarray:
    """Margins of bag-of-words models that never saw the pair's prompt or answers: (P,) float64 in logits.

    NaN if all pairs hang together. seed: draws the folds, whole groups (`group_keys`) at a time. The vocabulary is counted over all
    pairs, labels unseen; a word that the training folds lack has weight 0, as it would otherwise.
    """
    pairs = list(pairs)
    margins_P = np.full(len(pairs), np.nan)
    groups_P = np.array(group_keys(pairs))
    num_groups = len(np.unique(groups_P))
    if num_groups < 2:
        return margins_P
    _, differences_PV = _word_differences(pairs)
    preference_P, weight_P = _labels(pairs)
    folds_P = cluster_folds(groups_P, min(num_folds, num_groups), seed=seed)
    for fold in np.unique(folds_P):
        held_P = folds_P == fold
        weights_V = _fit_weights(differences_PV[~held_P], preference_P[~held_P], weight_P[~held_P])
        margins_P[held_P] = differences_PV[held_P] @ weights_V
    return margins_P


def _length(completion: Completion) -> int:
    if completion.token_ids is not None:
        return len(completion.token_ids)
    return len(completion.response if completion.text is None else completion.text)  # type: ignore[arg-type]


def _labels(pairs: Sequence[PreferencePair]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([pair.preference for pair in pairs]), np.array([pair.weight for pair in pairs])


def _word_differences(pairs: Sequence[PreferencePair]) -> tuple[list[str], csr_matrix]:
    """The vocabulary, and log(1 + count) in chosen minus the same in rejected: (P, V)."""
    counts = [(Counter(WORD.findall(p.chosen.lower())), Counter(WORD.findall(p.rejected.lower()))) for p in pairs]
    num_texts: Counter[str] = Counter()
    for chosen, rejected in counts:
        num_texts.update(chosen.keys())
        num_texts.update(rejected.keys())
    words = [word for word, n in sorted(num_texts.items(), key=lambda item: (-item[1], item[0]))[:MAX_WORDS] if n >= MIN_TEXTS]
    index = {word: i for i, word in enumerate(words)}
    rows: list[int] = []
    columns: list[int] = []
    values: list[float] = []
    for row, (chosen, rejected) in enumerate(counts):
        for word in chosen.keys() | rejected.keys():
            column = index.get(word)
            if column is not None and chosen[word] != rejected[word]:
                rows.append(row)
                columns.append(column)
                values.append(math.log1p(chosen[word]) - math.log1p(rejected[word]))
    differences_PV = csr_matrix((values, (rows, columns)), shape=(len(counts), len(words)))
    differences_PV.sort_indices()  # a set's order changes between processes; the order of summation must not
    return words, differences_PV


def _fit_weights(differences_PV: csr_matrix, preference_P: np.ndarray, weight_P: np.ndarray, l2: float = L2) -> np.ndarray:
    """Minimise the weighted cross-entropy of sigmoid(differences @ w) against the labels, plus l2 / 2 x |w|^2: (V,)."""
    if not differences_PV.nnz:
        return np.zeros(differences_PV.shape[1])

    def loss(w_V: np.ndarray) -> tuple[float, np.ndarray]:
        margins_P = differences_PV @ w_V
        losses_P = np.logaddexp(0.0, margins_P) - preference_P * margins_P
        gradient_V = differences_PV.T @ (weight_P * (sigmoid(margins_P) - preference_P)) + l2 * w_V
        return float(weight_P @ losses_P + l2 / 2 * (w_V @ w_V)), gradient_V

    start_V = np.zeros(differences_PV.shape[1])
    return np.asarray(minimize(loss, start_V, jac=True, method="L-BFGS-B", options={"maxiter": 300}).x)
