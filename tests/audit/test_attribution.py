"""Attribution: scorers that know nothing but length or words are exposed, and a scorer of something else is not accused."""

from __future__ import annotations

import math

import numpy as np
import pytest

from assay.audit.attribution.features import FEATURES, feature_matrix
from assay.audit.attribution.surface import (
    ALL,
    LENGTH_ALONE,
    SURFACE_PAIRS,
    WORDS,
    _predict_features,
    _ridge_weights,
    attribute_margins,
    coefficients,
    explained,
)
from assay.records import Completion, PreferencePair, Rewards
from assay.scorers.base import margins
from assay.scorers.baselines import BagOfWordsScorer, LengthScorer
from assay.stats.metrics import cluster_folds

WORDS_OF = tuple("the quick brown fox jumps over a lazy dog and tells it no story that is long perhaps".split())  # noqa: SIM905


def random_pairs(num_pairs: int, *, seed: int = 0, answers_a_prompt: int = 2) -> list[PreferencePair]:
    """Answers of random words, length and format, several pairs a prompt; which one is chosen means nothing."""
    rng = np.random.default_rng(seed)

    def answer() -> str:
        words = " ".join(rng.choice(WORDS_OF, int(rng.integers(3, 60))))
        words = f"**{words[:5]}**{words[5:]}" if rng.random() < 0.4 else words
        return words + ("!" if rng.random() < 0.5 else ".")

    return [
        PreferencePair(prompt=f"question {i // answers_a_prompt}", chosen=answer(), rejected=answer(), id=str(i))
        for i in range(num_pairs)
    ]


class BoldScorer:
    """Three for each bold part, and noise that nothing explains."""

    fingerprint, scope, tolerance = "bold", "global", 0.0

    def score(self, completions: list[Completion]) -> Rewards:
        noise = [np.random.default_rng(int(c.key[:8], 16)).normal() for c in completions]
        return Rewards(value=np.array([3 * str(c.response).count("**") / 2 + n for c, n in zip(completions, noise, strict=True)]))


def parts_of(scorer: object, num_pairs: int = 300):
    pairs = random_pairs(num_pairs)
    return attribute_margins(margins(scorer, pairs), pairs)


def value(parts, name: str) -> float:
    return next(metric.value for metric in parts.metrics if metric.name == name)


def levels(parts) -> dict[str, str]:
    return {finding.name: finding.level for finding in parts.findings}


def test_a_length_scorer_is_exposed():
    parts = parts_of(LengthScorer())
    assert value(parts, LENGTH_ALONE) > 0.999
    assert value(parts, ALL) > 0.99
    assert levels(parts) == {"length": "fail", "surface": "warn"}
    assert next(row for row in parts.tables[0].rows if row[0] == "length")[1] == pytest.approx(1.0, abs=0.05)


def test_a_bag_of_words_is_exposed_by_its_words_and_not_called_length():
    parts = parts_of(BagOfWordsScorer(weights={"fox": 2.0, "lazy": -2.0, "dog": 1.0}), 500)
    assert value(parts, WORDS) > 0.9
    assert value(parts, LENGTH_ALONE) < 0.25
    terms = [row[0] for row in parts.tables[1].rows]
    assert terms[0] == "fox"
    assert terms[-1] == "lazy"


def test_a_scorer_of_bold_text_gives_bold_its_coefficient_and_nothing_to_the_others():
    parts = parts_of(BoldScorer(), 600)
    rows = {row[0]: row for row in parts.tables[0].rows}
    assert rows["bold"][2] > 0.3
    covered = [row[2] <= 0 <= row[3] for name, row in rows.items() if name != "bold" and not math.isnan(row[1])]
    assert np.mean(covered) >= 0.8
    assert levels(parts)["length"] == "ok"


def test_noise_explains_nothing_out_of_sample_and_its_interval_holds_zero():
    pairs = random_pairs(300)
    parts = attribute_margins(np.random.default_rng(1).normal(size=300), pairs)
    for name in (ALL, LENGTH_ALONE, WORDS):
        assert value(parts, name) < 0.05
    assert set(levels(parts).values()) == {"ok"}


def test_which_answer_is_called_chosen_does_not_matter():
    pairs = random_pairs(200)
    found = margins(LengthScorer(), pairs) + np.random.default_rng(0).normal(size=200) * 30
    flipped = [
        pair if i % 3 else PreferencePair(prompt=pair.prompt, chosen=pair.rejected, rejected=pair.chosen, id=pair.id)
        for i, pair in enumerate(pairs)
    ]
    first = attribute_margins(found, pairs)
    second = attribute_margins(np.where(np.arange(200) % 3, found, -found), flipped)
    for name in (ALL, LENGTH_ALONE, WORDS):
        assert value(first, name) == pytest.approx(value(second, name), abs=1e-6)


def test_r2_by_hand():
    margin, predicted = np.array([1.0, -2.0, 2.0]), np.array([1.0, -1.0, 0.0])
    part = explained(margin, predicted, np.array([0, 1, 1]), seed=0)
    assert part.value == pytest.approx(1 - 5 / 9)
    assert part.interval.low <= part.value <= part.interval.high
    assert math.isnan(explained(margin, predicted, np.zeros(3), seed=0).interval.low)


def test_coefficients_cover_the_truth_under_clustering():
    """Two answers' differences and errors are shared by the pairs of a prompt; 90% and more of 95% intervals hold the truth."""
    covered, found, rng = 0, [], np.random.default_rng(0)
    for seed in range(60):
        x = np.repeat(rng.normal(size=(80, 2)), 3, axis=0)
        y = x @ [1.0, 0.0] + np.repeat(rng.normal(size=80), 3)
        whole, low, high = coefficients(x, y, np.repeat(np.arange(80), 3), seed=seed)
        covered += low[1] <= 0 <= high[1]
        found.append(whole[0])
    assert covered >= 51
    assert np.mean(found) == pytest.approx(np.sqrt(0.5), abs=0.02), "a half of the margins' mean square is the first feature's"


def test_unscored_pairs_are_counted_and_too_few_are_refused():
    pairs = random_pairs(60)
    found = margins(LengthScorer(), pairs)
    found[:10] = np.nan
    assert (attribute_margins(found, pairs).metrics[0].n_scored, attribute_margins(found, pairs).metrics[0].n) == (50, 60)
    found[:40] = np.nan
    with pytest.raises(ValueError, match="20 of 60 pairs were scored: at least 30"):
        attribute_margins(found, pairs)
    with pytest.raises(ValueError, match="every margin is 0"):
        attribute_margins(np.zeros(60), pairs)
    with pytest.raises(ValueError, match="the pairs have 4 prompts"):
        attribute_margins(np.ones(40), random_pairs(40, answers_a_prompt=10))


EXAMPLES = {
    "bullets": "- one\n* two\n3. three\n4) four",
    "bold": "**yes** and __no__",
    "headings": "# Title\ntext\n## Part",
    "code": "```python\nx\n``` and `y`",
    "emoji": "well 🙂🚀",
    "exclamation marks": "Yes! No!",
    "asks back": "It depends. What do you mean?",
    "flattering opener": "What a great question! Water boils.",
    "eager opener": "Certainly! Here it is.",
    "refusal": "I’m sorry, but I can't help with that.",
    "hedging": "It might rain, perhaps.",
    "first person": "I think that my dog is fine.",
    "digits": "in 1999, 12 of 20",
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_features_are_seen_where_they_are_and_not_in_plain_text(name):
    column = list(FEATURES).index(name)
    seen, plain = feature_matrix([EXAMPLES[name], "Water boils when it is hot enough."])
    assert seen[column] > 0
    assert plain[column] == 0


def test_counts_are_logarithms_and_lengths_are_thousands_of_characters():
    row = dict(zip(FEATURES, feature_matrix(["a! b! c!"])[0], strict=True))
    assert row["exclamation marks"] == pytest.approx(math.log(4))
    assert (row["length"], row["log length"]) == (0.008, pytest.approx(math.log(9)))
    assert feature_matrix([]).shape == (0, len(FEATURES))


def planted(num_pairs: int, seed: int, share: float = 0.6) -> tuple[np.ndarray, np.ndarray]:
    """Heavy-tailed features, two of them nearly one, of which the first explains that share of the margins."""
    rng = np.random.default_rng(seed)
    x_PF = rng.standard_t(3, size=(num_pairs, len(FEATURES)))
    x_PF[:, 1] = 0.8 * x_PF[:, 0] + 0.6 * x_PF[:, 1]
    return x_PF, x_PF[:, 0] + rng.normal(size=num_pairs) * math.sqrt(3.0 * (1 - share) / share)


def r2_of(num_pairs: int, seed: int, share: float = 0.6) -> float:
    x_PF, margins_P = planted(num_pairs, seed, share)
    predicted_P = _predict_features(x_PF, margins_P, cluster_folds(np.arange(num_pairs), 5, seed=seed))
    return explained(margins_P, predicted_P, np.arange(num_pairs), seed).value


@pytest.mark.slow
@pytest.mark.parametrize(("num_pairs", "least"), [(30, 0.0), (60, 0.25), (100, 0.4), (200, 0.43), (1000, 0.55)])
def test_few_pairs_make_the_features_explain_less_and_never_less_than_nothing_by_far(num_pairs, least):
    """The truth is 0.6. Least squares gave -1.29 at 30 pairs and 0.47 at 100."""
    found = [r2_of(num_pairs, seed) for seed in range(40)]
    assert np.median(found) > least
    assert np.quantile(found, 0.1) > -0.2
    assert np.median(found) < 0.65


def test_nothing_to_explain_is_explained_by_nothing_at_few_pairs():
    rng = np.random.default_rng(0)
    for num_pairs in (30, 60, 120):
        x_PF = rng.standard_t(3, size=(num_pairs, len(FEATURES)))
        found = [
            explained(m, _predict_features(x_PF, m, cluster_folds(np.arange(num_pairs), 5, seed=s)), np.arange(num_pairs), s).value
            for s, m in enumerate(rng.normal(size=(10, num_pairs)))
        ]
        assert -0.3 < np.median(found) < 0.05


def test_the_ridge_of_features_is_that_of_the_pairs():
    """Least squares where the penalty is nothing; shrunk towards 0 where noise is all there is."""
    rng = np.random.default_rng(0)
    x_PF = rng.normal(size=(400, 3))
    np.testing.assert_allclose(_ridge_weights(x_PF, x_PF @ [1.0, -2.0, 0.5]), [1.0, -2.0, 0.5], rtol=1e-3)
    assert np.abs(_ridge_weights(x_PF, rng.normal(size=400))).max() < 0.1


def test_the_surface_is_not_judged_on_few_pairs():
    few, enough = parts_of(LengthScorer(), SURFACE_PAIRS - 1), parts_of(LengthScorer(), SURFACE_PAIRS)
    finding = few.findings[1]
    assert (finding.level, math.isnan(finding.value)) == ("warn", True)
    assert f"not decided on {SURFACE_PAIRS - 1} pairs, {SURFACE_PAIRS} are needed" in finding.why
    assert few.findings[0].level == "fail", "length alone is two features: thirty pairs show it"
    assert enough.findings[1].value > 0.9
