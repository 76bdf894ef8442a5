"""Baselines that use only the length or the words of an answer. A reward model must beat them before its accuracy means anything.

A model that is no better than these has learnt surface features of the data.

Suffixes: P pairs, V words of the vocabulary.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from scipy.sparse import csr_matrix

from assay.data.split import group_keys
from assay.errors import ArtifactError
from assay.files import digest, json_digest, replacing
from assay.records import Completion, PreferencePair, Rewards
from assay.run_files import WORDS_FILE, words_file
from assay.scorers.base import Scope
from assay.stats.linear import bradley_terry_weights, cross_fitted
from assay.stats.metrics import cluster_folds

WORD = re.compile(r"\w+")
MAX_TERMS = 20_000
MAX_PAIRS = 20_000  # training pairs that the baseline of a run is fitted on
MIN_TEXTS = 2  # a word that occurs in one text could only memorise its pair
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
    """The sum over the words of the answer of weight x log(1 + count). Case and order are ignored.

    weights: word -> weight in logits; other words count nothing. Fitted by `fit_bag_of_words`.
    """

    weights: Mapping[str, float]
    fingerprint: str = field(init=False)
    scope: Scope = field(default="global", init=False)
    tolerance: float = field(default=1e-6, init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "fingerprint", f"baseline:words:1:{json_digest(sorted(self.weights.items()))}")

    def score(self, completions: Sequence[Completion]) -> Rewards:
        """Rewards in logits; NaN for completions given as token ids, which have no words."""
        return _scored_by_words(completions, lambda word: self.weights.get(word, 0.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptWords:
    """A bag of words by hashes of its words, as it is kept with an artifact: the words themselves are not told.

    hashes_V: sorted uint64 hashes (`word_hash`); weights_V: (V,) float32 logits. num_pairs: that it was fitted on.
    """

    hashes_V: np.ndarray
    weights_V: np.ndarray
    num_pairs: int
    fingerprint: str = field(init=False)
    scope: Scope = field(default="global", init=False)
    tolerance: float = field(default=1e-6, init=False)

    def __post_init__(self) -> None:
        content = digest(self.hashes_V.tobytes() + self.weights_V.tobytes())
        object.__setattr__(self, "fingerprint", f"baseline:kept-words:1:{content}")

    def score(self, completions: Sequence[Completion]) -> Rewards:
        """Rewards in logits; NaN for completions given as token ids, which have no words."""
        weight_of = dict(zip(self.hashes_V.tolist(), self.weights_V.tolist(), strict=True))
        return _scored_by_words(completions, lambda word: weight_of.get(word_hash(word), 0.0))


def word_hash(word: str) -> int:
    """The first 8 bytes of the BLAKE2b hash of a word, as a number."""
    return int.from_bytes(blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def keep_bag_of_words(artifact: Path, pairs: Sequence[PreferencePair]) -> None:
    """Fit a bag of words on the training pairs and keep it beside an artifact's weights, as an .npz file without pickles."""
    weights = fit_bag_of_words(pairs).weights
    hashes_V = np.array([word_hash(word) for word in weights], dtype=np.uint64)
    order = np.argsort(hashes_V)
    weights_V = np.array(list(weights.values()), dtype=np.float32)[order]
    with replacing(artifact / WORDS_FILE) as work, work.open("wb") as file:
        np.savez_compressed(file, hashes=hashes_V[order], weights=weights_V, num_pairs=np.array(len(pairs)))


def kept_bag_of_words(artifact: Path) -> KeptWords | None:
    """The baseline that was kept beside an artifact (of an ensemble, beside its first member); None when there is none.

    Raises ArtifactError when the file is damaged.
    """
    if (file := words_file(artifact)) is None:
        return None
    try:
        with np.load(file, allow_pickle=False) as kept:
            return KeptWords(hashes_V=kept["hashes"], weights_V=kept["weights"], num_pairs=int(kept["num_pairs"]))
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise ArtifactError(f"{file} cannot be read ({error}): remove it, or train again") from error


def count_words(text: str) -> Counter[str]:
    """How often each word occurs in a text, in lower case."""
    return Counter(WORD.findall(text.lower()))


def term_differences(
    pairs: Sequence[PreferencePair], count: Callable[[str], Counter[str]] = count_words, *, min_texts: int = MIN_TEXTS
) -> tuple[list[str], csr_matrix]:
    """The terms of at least `min_texts` answers, 20,000 at most, and log(1 + count) of chosen less that of rejected: (P, V)."""
    counts = [(count(pair.chosen), count(pair.rejected)) for pair in pairs]
    num_texts = Counter(term for both in counts for answer in both for term in answer)
    ranked = sorted(num_texts.items(), key=lambda item: (-item[1], item[0]))[:MAX_TERMS]
    index = {term: i for i, (term, n) in enumerate(ranked) if n >= min_texts}
    rows, columns, values = [], [], []
    for row, (chosen, rejected) in enumerate(counts):
        for term in (chosen.keys() | rejected.keys()) & index.keys():
            if chosen[term] != rejected[term]:
                rows.append(row)
                columns.append(index[term])
                values.append(math.log1p(chosen[term]) - math.log1p(rejected[term]))
    differences_PV = csr_matrix((values, (rows, columns)), shape=(len(counts), len(index)))
    differences_PV.sort_indices()  # a set's order changes between processes; the order of summation must not
    return list(index), differences_PV


def fit_bag_of_words(pairs: Sequence[PreferencePair]) -> BagOfWordsScorer:
    """The Bradley-Terry model on words that fits the pairs best: logistic regression, no intercept, on differences of log counts.

    Soft labels, ties and weights are used as they are. Nothing is random. Where no pair differs in a word, all weights are 0.
    """
    words, differences_PV = term_differences(pairs)
    weights_V = bradley_terry_weights(differences_PV, *_labels(pairs), l2=L2)
    return BagOfWordsScorer(weights={word: float(weight) for word, weight in zip(words, weights_V, strict=True) if weight != 0})


def bag_of_words_cross_validated(pairs: Sequence[PreferencePair], num_folds: int = 5, seed: int = 0) -> np.ndarray:
    """Margins of bag-of-words models that never saw the pair's prompt or answers: (P,) float64 in logits.

    NaN if all pairs are in one group. seed: of the folds; a fold takes whole groups (`group_keys`). The vocabulary is counted over
    all pairs, without the labels; a word that does not occur in the training folds has weight 0.
    """
    pairs = list(pairs)
    groups_P = np.array(group_keys(pairs))
    num_groups = len(np.unique(groups_P))
    if num_groups < 2:
        return np.full(len(pairs), np.nan)
    _, differences_PV = term_differences(pairs)
    preference_P, weight_P = _labels(pairs)

    def margins(fit_P: np.ndarray, held_P: np.ndarray) -> np.ndarray:
        return differences_PV[held_P] @ bradley_terry_weights(differences_PV[fit_P], preference_P[fit_P], weight_P[fit_P], l2=L2)

    return cross_fitted(margins, cluster_folds(groups_P, min(num_folds, num_groups), seed=seed))


def _scored_by_words(completions: Sequence[Completion], weight_of: Callable[[str], float]) -> Rewards:
    texts = [completion.response if completion.text is None else completion.text for completion in completions]

    def value(text: str) -> float:
        return math.fsum(weight_of(word) * math.log1p(count) for word, count in count_words(text).items())

    return Rewards(
        value=np.array([math.nan if text is None else value(text) for text in texts], dtype=np.float32),
        error=tuple("bag of words needs text, not token ids" if text is None else None for text in texts),
    )


def _length(completion: Completion) -> int:
    if completion.token_ids is not None:
        return len(completion.token_ids)
    return len(completion.response if completion.text is None else completion.text)  # type: ignore[arg-type]


def _labels(pairs: Sequence[PreferencePair]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([pair.preference for pair in pairs]), np.array([pair.weight for pair in pairs])
