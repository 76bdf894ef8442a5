"""A scorer freed of length: the slope by hand, the laws, and that what it takes off is length alone."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from assay.data.probe_edits import edits
from assay.records import Completion, PreferencePair, Rewards, log_length
from assay.scorers.base import margins
from assay.scorers.checks import check_scorer
from assay.scorers.wrappers.debiased import Debiased, fit_edited_slope, fit_length_slope, fit_slope


class Biased:
    """Two for an answer that says good, and `slope` for each unit of log length; an answer that says fail cannot be scored."""

    fingerprint, scope, tolerance = "biased", "global", 1e-6

    def __init__(self, slope: float = 1.5) -> None:
        self.slope = slope

    def score(self, completions) -> Rewards:
        value = [self._value(c.response or "") for c in completions]
        return Rewards(value=value, std=np.ones(len(value)))

    def _value(self, text: str) -> float:
        return math.nan if "fail" in text else 2.0 * ("good" in text) + self.slope * log_length(text)


def pairs(num_pairs: int = 60, *, seed: int = 0) -> list[PreferencePair]:
    """The good answer is twice as long on average: length and label go together."""
    rng = np.random.default_rng(seed)
    return [
        PreferencePair(
            prompt=f"q{i % 30}", chosen="good " + "a" * int(rng.integers(20, 400)), rejected="b" * int(rng.integers(10, 200))
        )
        for i in range(num_pairs)
    ]


def test_the_slope_and_the_gain_are_those_that_were_planted():
    length = fit_length_slope(Biased(1.5), pairs(), split="calibration")
    assert length.slope == pytest.approx(1.5, abs=1e-4)
    assert length.gain == pytest.approx(2.0, abs=1e-4), "what the label gains is not taken for length"
    assert (length.num_pairs, length.num_prompts, length.split) == (60, 30, "calibration")


def test_the_order_of_a_pair_does_not_matter_and_ties_are_left_out():
    swapped = [
        PreferencePair(prompt=p.prompt, chosen=p.rejected, rejected=p.chosen, preference=0.0) if i % 2 else p
        for i, p in enumerate(pairs())
    ]
    tie = PreferencePair(prompt="t", chosen="good", rejected="b" * 900, preference=0.5)
    assert fit_length_slope(Biased(), [*swapped, tie]).slope == pytest.approx(1.5, abs=1e-4)


def test_the_standard_error_by_hand_when_every_pair_has_a_prompt_of_its_own():
    rng = np.random.default_rng(0)
    gap, noise = rng.normal(size=200), rng.normal(size=200)
    length = fit_slope(1.0 + 0.5 * gap + noise, gap, [str(i) for i in range(200)], scorer="s")
    design = np.stack([np.ones(200), gap], axis=1)
    residual = 1.0 + 0.5 * gap + noise - design @ [length.gain, length.slope]
    bread = np.linalg.inv(design.T @ design)
    variance = bread @ (design.T * residual**2) @ design @ bread * 200 / 199
    assert length.slope_se == pytest.approx(math.sqrt(variance[1, 1]), rel=1e-9)
    assert abs(length.slope - 0.5) < 3 * length.slope_se


def test_debiased_margins_are_those_of_the_label_alone():
    scorer = Debiased(scorer=Biased(), length=fit_length_slope(Biased(), pairs()))
    assert margins(scorer, pairs(seed=1)) == pytest.approx(np.full(60, 2.0), abs=1e-3)


def test_the_laws_are_kept():
    scorer = Debiased(scorer=Biased(), length=fit_length_slope(Biased(), pairs()))
    completions = [
        *(Completion(messages="q", response=text) for text in ("good", "", "a" * 1000, "fail")),
        Completion(text="q: rendered"),
        Completion(token_ids=(1, 2)),
    ]
    check_scorer(scorer, completions)
    rewards = scorer.score(completions)
    assert rewards.ok.tolist() == [True, True, True, False, False, False]
    assert "messages + response" in rewards.error[4]
    assert rewards.std is not None
    assert scorer.score([]).value.shape == (0,)


def test_an_equal_slope_gives_the_same_scorer_and_another_scorer_s_slope_is_refused():
    length = fit_length_slope(Biased(), pairs())
    first = Debiased(scorer=Biased(), length=length)
    assert first.fingerprint == Debiased(scorer=Biased(), length=replace(length)).fingerprint
    other = fit_length_slope(Biased(1.0), pairs())
    assert first.fingerprint != Debiased(scorer=Biased(), length=other).fingerprint
    stranger = Biased()
    stranger.fingerprint = "another"
    with pytest.raises(ValueError, match=r"the slope is of 'biased', not of 'another': fit it anew"):
        Debiased(scorer=stranger, length=length)


def test_too_few_pairs_or_equal_lengths_are_refused():
    with pytest.raises(ValueError, match="19 pairs have margins: at least 20"):
        fit_length_slope(Biased(), pairs(19))
    same = [PreferencePair(prompt=f"q{i}", chosen="good a", rejected="bad b!") for i in range(30)]
    with pytest.raises(ValueError, match="that differ in length"):
        fit_length_slope(Biased(), same)


def test_a_part_of_the_slope_is_taken_by_its_strength():
    length = fit_length_slope(Biased(), pairs())
    answers = [Completion(messages="q", response="a" * n) for n in (10, 300)]
    none, half, whole = (Debiased(scorer=Biased(), length=length, strength=s).score(answers).value for s in (0.0, 0.5, 1.0))
    assert none == pytest.approx(Biased().score(answers).value, abs=1e-5)
    assert half == pytest.approx((none + whole) / 2, abs=1e-5)
    prints = {Debiased(scorer=Biased(), length=length, strength=s).fingerprint for s in (0.5, 1.0)}
    assert len(prints) == 2
    with pytest.raises(ValueError, match=r"strength 1.5 lies outside \[0, 1\]"):
        Debiased(scorer=Biased(), length=length, strength=1.5)


@pytest.mark.parametrize("gap", [1, 50])
def test_a_gap_that_is_the_same_in_every_pair_is_refused(gap):
    rng = np.random.default_rng(0)
    lengths = rng.integers(150, 170, 60)
    same = [PreferencePair(prompt=f"q{i}", chosen="a" * (n + gap), rejected="b" * n) for i, n in enumerate(lengths)]
    with pytest.raises(ValueError, match="length and label cannot be told apart; take fit_edited_slope"):
        fit_length_slope(Biased(), same)


class Judge:
    """What an answer is worth, which it says in its number, and `slope` for each unit of log length."""

    scope, tolerance = "global", 1e-6

    def __init__(self, slope: float) -> None:
        self.slope, self.fingerprint = slope, f"judge {slope}"

    def score(self, completions) -> Rewards:
        return Rewards(value=[self._value(c.response or "") for c in completions])

    def _value(self, text: str) -> float:
        noise = np.random.default_rng(len(text)).normal(scale=0.02)
        return 2 * float(text.split("#")[1]) + self.slope * log_length(text) + noise


def better_is_longer(num_pairs: int = 400, *, correlation: float = 0.6, seed: int = 0) -> list[PreferencePair]:
    """Answers whose worth is correlated with their log length; labels follow the worth."""
    rng = np.random.default_rng(seed)
    words = "you can see that it's a thing that isn't so usually although you should try to look".split()  # noqa: SIM905

    def answer() -> tuple[float, str]:
        worth = rng.normal()
        length = correlation * worth + math.sqrt(1 - correlation**2) * rng.normal()
        text = " ".join(rng.choice(words, int(60 * math.exp(0.4 * length)) + 5))
        return worth, f"#{worth:.3f}# you can use it {text}"

    made = []
    for i in range(num_pairs):
        (a, first), (b, second) = answer(), answer()
        better, worse = (first, second) if rng.random() < 1 / (1 + math.exp(-2 * (a - b))) else (second, first)
        made.append(PreferencePair(prompt=f"q{i // 2}", chosen=better, rejected=worse))
    return made


@pytest.mark.parametrize("slope", [0.0, 1.5, -0.7])
def test_the_slope_of_edits_is_what_length_does_also_where_longer_answers_are_better(slope):
    found = fit_edited_slope(Judge(slope), better_is_longer())
    assert abs(found.slope - slope) < 3 * found.slope_se
    assert found.slope_se < 0.05
    by_label = fit_length_slope(Judge(slope), better_is_longer())
    assert by_label.slope > slope + 0.3, "the label is one bit: what longer answers gain by being better is in its slope"
    assert "is in it too" in by_label.note


def test_before_and_after_are_reported_and_a_scorer_that_ignores_length_loses_nothing_by_edits():
    found, by_label = (fit(Judge(0.0), better_is_longer()) for fit in (fit_edited_slope, fit_length_slope))
    assert found.accuracy_before == by_label.accuracy_before
    assert found.accuracy_after == pytest.approx(found.accuracy_before, abs=0.01)
    assert by_label.accuracy_after < by_label.accuracy_before - 0.01


def test_edits_of_one_s_own_and_answers_that_none_applies_to():
    by_filler = fit_edited_slope(Judge(1.0), better_is_longer(100), edits=(edits.filler,))
    assert by_filler.slope == pytest.approx(1.0, abs=0.05)
    foreign = [PreferencePair(prompt=f"q{i}", chosen=f"#1# oui {i}", rejected=f"#0# non {i}") for i in range(40)]
    with pytest.raises(ValueError, match="0 of 80 answers were made longer or shorter by rewording"):
        fit_edited_slope(Judge(1.0), foreign)
