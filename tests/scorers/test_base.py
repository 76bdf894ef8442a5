"""`check_scorer` catches every kind of broken scorer and names the law; `margins`, `prefer` and `sigmoid` by hand."""

import math

import numpy as np
import pytest

from assay.records import Completion, PreferencePair, Rewards
from assay.scorers.base import Comparer, ReadsGroundTruth, Scorer, closed, closing_of, keys_of, margins, prefer, reads_ground_truth
from assay.scorers.checks import check_scorer
from assay.stats.metrics import sigmoid

COMPLETIONS = [Completion(messages="question", response=text) for text in ("one", "three", "", "eleven", "a b", "of")]


class Lawful:
    """Length of the answer; an empty one cannot be scored."""

    fingerprint, scope, tolerance = "lawful", "global", 0.0

    def score(self, completions):
        return Rewards(value=[len(c.response) or math.nan for c in completions])


class TooMany(Lawful):
    def score(self, completions):
        return Rewards(value=[1.0] * (len(completions) + 1))


class OneForNone(Lawful):
    def score(self, completions):
        return super().score(completions) if completions else Rewards(value=[0.0])


class NotRewards(Lawful):
    def score(self, completions):
        return [1.0] * len(completions)


class Sorted(Lawful):
    def score(self, completions):
        return Rewards(value=sorted(len(c.response) for c in completions))


class BatchNormed(Lawful):
    def score(self, completions):
        value = np.array([len(c.response) for c in completions], dtype=float)
        return Rewards(value=value - (value.mean() if len(value) else 0))


class PositionDependent(Lawful):
    def score(self, completions):
        return Rewards(value=np.arange(len(completions)))


class Alone(Lawful):
    def score(self, completions):
        return Rewards(value=[len(c.response) + 0.5 * (len(completions) == 1) for c in completions])


class Random(Lawful):
    def __init__(self):
        self.rng = np.random.default_rng(0)

    def score(self, completions):
        return Rewards(value=self.rng.normal(size=len(completions)))


class ChangesIdentity(Lawful):
    def __init__(self):
        self.calls = 0

    @property
    def fingerprint(self):
        return f"call {self.calls}"

    def score(self, completions):
        self.calls += 1
        return super().score(completions)


class Nameless(Lawful):
    fingerprint = ""


class NegativeTolerance(Lawful):
    tolerance = -1.0


class OddScope(Lawful):
    scope = "galaxy"


class RaisesForBad(Lawful):
    def score(self, completions):
        return Rewards(value=[1 / len(c.response) for c in completions])


class ZeroForBad(Lawful):
    """The classic: a failed item gets 0, with its reason beside it."""

    def score(self, completions):
        return Rewards(value=[len(c.response) for c in completions], error=[None if c.response else "empty" for c in completions])


class SometimesUnscored(Lawful):
    def __init__(self):
        self.calls = 0

    def score(self, completions):
        self.calls += 1
        return Rewards(value=[math.nan if self.calls > 3 else 1.0] * len(completions))


class Mutates(Lawful):
    def score(self, completions):
        rewards = super().score(completions)
        completions[:] = completions[::-1]
        return rewards


class NegativeStd(Lawful):
    def score(self, completions):
        return Rewards(value=[1.0] * len(completions), std=[-1.0] * len(completions))


class PromptScoped(BatchNormed):
    scope = "prompt"


BROKEN = [
    (TooMany, "law 1: 6 completions in, 7 rewards out"),
    (OneForNone, "law 1: score"),
    (NotRewards, "law 1: .* returned list"),
    (Sorted, "law 2"),
    (BatchNormed, "law 2"),
    (PositionDependent, "law 2: order matters"),
    (Alone, "law 2: item 0 alone differs"),
    (Random, "law 3: a second scoring differs"),
    (ChangesIdentity, "law 3: scoring changed the fingerprint"),
    (Nameless, "law 3: fingerprint"),
    (NegativeTolerance, "law 3: tolerance -1.0"),
    (OddScope, "galaxy"),
    (RaisesForBad, "law 4: score.. raised ZeroDivisionError"),
    (ZeroForBad, "law 4: item 2 has value 0.0, error 'empty'"),
    (SometimesUnscored, "other items could not be scored"),
    (Mutates, "law 5"),
    (NegativeStd, "std must not be negative"),
]


@pytest.mark.parametrize(("broken", "law"), BROKEN, ids=[broken.__name__ for broken, _ in BROKEN])
def test_every_kind_of_broken_scorer_is_caught(broken, law):
    with pytest.raises(AssertionError, match=law):
        check_scorer(broken(), COMPLETIONS)


@pytest.mark.parametrize("lawful", [Lawful(), PromptScoped()])
def test_lawful_scorers_pass(lawful):
    before = list(COMPLETIONS)
    assert isinstance(lawful, Scorer)
    check_scorer(lawful, COMPLETIONS)
    assert before == COMPLETIONS


def test_noise_within_the_stated_tolerance_passes_and_beyond_it_does_not():
    class Noisy(Random):
        tolerance = 0.2

        def score(self, completions):
            return Rewards(value=[len(c.response) + self.rng.uniform(-self.size, self.size) for c in completions])

    noisy = Noisy()
    noisy.size = 0.1
    check_scorer(noisy, COMPLETIONS)
    noisy.size = 1.0
    with pytest.raises(AssertionError, match=r"tolerance 0\.2"):
        check_scorer(noisy, COMPLETIONS)


def test_one_completion_is_not_enough_to_check_on():
    with pytest.raises(ValueError, match="at least two"):
        check_scorer(Lawful(), COMPLETIONS[:1])


PAIRS = [PreferencePair(prompt="q", chosen=c, rejected=r) for c, r in (("four", "xx"), ("a", "bcd"), ("", "b"), ("yy", "zz"))]


def test_margins_and_prefer_by_hand():
    assert not isinstance(Lawful(), Comparer)
    np.testing.assert_array_equal(margins(Lawful(), PAIRS), [2.0, -2.0, math.nan, 0.0])
    expected = [1 / (1 + math.exp(-1)), 1 / (1 + math.exp(1)), math.nan, 0.5]
    np.testing.assert_allclose(prefer(Lawful(), PAIRS, temperature=2.0), expected)
    assert prefer(Lawful(), []).shape == (0,)


def test_prefer_asks_a_comparer_itself():
    class Own(Lawful):
        def compare(self, pairs):
            return np.full(len(pairs), 0.7)

    assert prefer(Own(), PAIRS).tolist() == [0.7] * 4


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_temperature_must_be_positive(temperature):
    with pytest.raises(ValueError, match="temperature"):
        prefer(Lawful(), PAIRS, temperature=temperature)


def test_sigmoid_neither_overflows_nor_loses_nan():
    with np.errstate(all="raise", under="ignore"):
        p = sigmoid(np.array([-1e4, -1.0, 0.0, 1.0, 1e4, math.nan]))
    np.testing.assert_allclose(p, [0.0, 1 / (1 + math.e), 0.5, math.e / (1 + math.e), 1.0, math.nan])


def test_closed_by_hand():
    closing = "<|im_end|>\n"
    assert closed("a cat", closing) == "a cat<|im_end|>\n"
    assert closed("a cat<|im_end|>", closing) == "a cat<|im_end|>\n"
    assert closed("a cat<|im_end|>\n", closing) == "a cat<|im_end|>\n"
    assert closed("1 <", closing) == "1 <<|im_end|>\n", "no part of an end token is taken for one"
    assert closed("a cat", "") == "a cat"
    assert closed("", closing) == "", "what is empty stays so, and has no reward"


class Around(Lawful):
    def __init__(self, scorer):
        self.scorer = scorer


class Several(Lawful):
    def __init__(self, *scorers):
        self.scorers = scorers


class Rule(Lawful):
    reads_ground_truth = True


def test_who_reads_the_ground_truth_is_told_through_every_wrapper():
    assert isinstance(Rule(), ReadsGroundTruth)
    for scorer in (Rule(), Around(Rule()), Around(Several(Lawful(), Around(Rule())))):
        assert reads_ground_truth(scorer)
    for scorer in (Lawful(), Around(Lawful()), Several(Lawful(), Lawful())):
        assert not reads_ground_truth(scorer)


def test_keys_have_the_ground_truth_for_those_who_read_it():
    same = [Completion(messages="q", response="a", ground_truth=truth) for truth in (None, {"answer": "a"}, {"answer": "b"})]
    assert keys_of(Around(Lawful()), same) == [same[0].key] * 3
    keys = keys_of(Around(Rule()), same)
    assert keys[0] == same[0].key
    assert len(set(keys)) == 3


def test_the_closing_is_that_of_the_model_inside():
    class Closing(Lawful):
        closing = "</a>\n"

    assert closing_of(Around(Several(Around(Closing()), Closing()))) == "</a>\n"
    assert closing_of(Lawful()) == ""
