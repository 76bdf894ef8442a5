"""The baselines are lawful scorers; the words one learns what it should and nothing it was not shown."""

import math
import subprocess
import sys
import time

import numpy as np
import pytest

from assay.errors import ArtifactError
from assay.records import Completion, PreferencePair
from assay.run_files import WORDS_FILE
from assay.scorers.base import margins
from assay.scorers.baselines import (
    BagOfWordsScorer,
    LengthScorer,
    bag_of_words_cross_validated,
    fit_bag_of_words,
    keep_bag_of_words,
    kept_bag_of_words,
    word_hash,
)
from assay.scorers.checks import check_scorer

WORDS = [f"word{i}" for i in range(300)]


def word_pairs(num_pairs, num_words=30, signal="please", seed=0):
    """Answers of random words; the chosen one also says the signal word in 9 of 10 pairs, else the rejected one does."""
    rng = np.random.default_rng(seed)
    pairs = []
    for i in range(num_pairs):
        chosen, rejected = " ".join(rng.choice(WORDS, num_words)), " ".join(rng.choice(WORDS, num_words))
        if rng.random() < 0.9:
            chosen += f" {signal}"
        else:
            rejected += f" {signal}"
        pairs.append(PreferencePair(prompt=f"question {i}", chosen=chosen, rejected=rejected))
    return pairs


def test_length_by_hand_and_lawful_in_all_forms():
    completions = [
        Completion(messages="q", response="four"),
        Completion(text="user: q\nassistant: a"),
        Completion(token_ids=(5, 6, 7)),
        Completion(messages="q", response=""),
        Completion(messages="q", steps=("one ", "two")),
    ]
    assert LengthScorer().score(completions).value.tolist() == [4, 20, 3, 0, 7]
    check_scorer(LengthScorer(), completions)


def test_bag_of_words_by_hand_and_lawful():
    scorer = BagOfWordsScorer(weights={"thanks": 2.0, "no": -1.0})
    completions = [
        Completion(messages="q", response="Thanks, thanks!"),
        Completion(text="no."),
        Completion(token_ids=(1, 2)),
        Completion(messages="q", response="unknown words"),
    ]
    rewards = scorer.score(completions)
    assert rewards.value[:2].tolist() == pytest.approx([2 * math.log(3), -math.log(2)])
    assert rewards.value[3] == 0.0
    assert math.isnan(rewards.value[2])
    assert rewards.error == (None, None, "bag of words needs text, not token ids", None)
    check_scorer(scorer, completions)


def test_fingerprint_follows_the_weights_and_not_their_order():
    one = BagOfWordsScorer(weights={"a": 1.0, "b": 2.0})
    assert one.fingerprint == BagOfWordsScorer(weights={"b": 2.0, "a": 1.0}).fingerprint
    assert one.fingerprint != BagOfWordsScorer(weights={"a": 1.0, "b": 2.1}).fingerprint


def test_fitted_scorer_finds_the_signal_word_and_generalises():
    scorer = fit_bag_of_words(word_pairs(400))
    assert max(scorer.weights, key=scorer.weights.__getitem__) == "please"
    fresh = word_pairs(300, seed=1)
    assert np.mean(margins(scorer, fresh) > 0) == pytest.approx(0.9, abs=0.06)
    check_scorer(scorer, [completion for pair in fresh[:3] for completion in pair.completions()])


@pytest.mark.slow
def test_the_same_pairs_give_the_same_fingerprint_in_another_process():
    code = (
        "from assay.records import PreferencePair as P\nfrom assay.scorers.baselines import fit_bag_of_words as f\n"
        "print(f([P(prompt='q', chosen='good one two three', rejected='bad one four ' + 'x '*i) for i in range(9)]).fingerprint)"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": str(i)}, capture_output=True, text=True, check=True
        ).stdout
        for i in range(2)
    }
    assert len(outputs) == 1


def test_swapping_all_answers_turns_every_weight_round():
    pairs = word_pairs(100)
    swapped = [PreferencePair(prompt=p.prompt, chosen=p.rejected, rejected=p.chosen) for p in pairs]
    relabelled = [PreferencePair(prompt=p.prompt, chosen=p.rejected, rejected=p.chosen, preference=0.0) for p in pairs]
    weights, turned, same = (fit_bag_of_words(some).weights for some in (pairs, swapped, relabelled))
    assert turned["please"] == pytest.approx(-weights["please"], rel=1e-3)
    assert same["please"] == pytest.approx(weights["please"], rel=1e-3)


def test_ties_and_weight_zero_teach_nothing():
    tied = [PreferencePair(prompt=p.prompt, chosen=p.chosen, rejected=p.rejected, preference=0.5) for p in word_pairs(50)]
    muted = [PreferencePair(prompt=p.prompt, chosen=p.chosen, rejected=p.rejected, weight=0.0) for p in word_pairs(50)]
    assert all(abs(weight) < 1e-6 for weight in fit_bag_of_words(tied).weights.values())
    assert all(abs(weight) < 1e-6 for weight in fit_bag_of_words(muted).weights.values())


def test_cross_validated_margins_never_saw_the_prompt():
    # each prompt has its own magic word: seen in training it would rank the prompt's other pair perfectly
    rng = np.random.default_rng(0)
    pairs = []
    for i in range(100):
        for _ in range(2):
            filler = " ".join(rng.choice(WORDS, 5))
            pairs.append(PreferencePair(prompt=f"q{i}", chosen=f"magic{i} {filler}", rejected=" ".join(rng.choice(WORDS, 6))))
    margins_P = bag_of_words_cross_validated(pairs)
    assert np.mean(margins_P > 0) == pytest.approx(0.5, abs=0.15)
    assert np.mean(margins(fit_bag_of_words(pairs), pairs) > 0) > 0.95
    np.testing.assert_array_equal(margins_P, bag_of_words_cross_validated(pairs))


def test_cross_validation_keeps_a_real_signal():
    assert np.mean(bag_of_words_cross_validated(word_pairs(400)) > 0) == pytest.approx(0.9, abs=0.06)


def test_identical_texts_one_pair_and_no_words():
    same = [PreferencePair(prompt=f"q{i}", chosen=f"the same{i}", rejected=f"the same{i}") for i in range(4)]
    assert bag_of_words_cross_validated(same).tolist() == [0.0] * 4
    assert fit_bag_of_words(same).weights == {}
    one = [PreferencePair(prompt="q", chosen="a b", rejected="c d")]
    assert np.isnan(bag_of_words_cross_validated(one)).all()
    assert np.isfinite(margins(fit_bag_of_words(one), one)).all()
    blank = [PreferencePair(prompt=f"q{i}", chosen="!" * i, rejected="." * (i + 1)) for i in range(3)]
    assert bag_of_words_cross_validated(blank).tolist() == [0.0] * 3
    hanging_together = [PreferencePair(prompt=f"q{i}", chosen="a shared answer", rejected=f"b{i}") for i in range(3)]
    assert np.isnan(bag_of_words_cross_validated(hanging_together)).all()
    assert len(bag_of_words_cross_validated([])) == 0


def test_two_thousand_pairs_take_little_time():
    pairs = word_pairs(2000, num_words=60)
    start = time.perf_counter()
    margins_P = bag_of_words_cross_validated(pairs)
    assert time.perf_counter() - start < 15
    assert np.mean(margins_P > 0) > 0.8


def test_what_is_kept_scores_as_what_was_fitted_and_tells_no_word(tmp_path):
    pairs = word_pairs(200)
    keep_bag_of_words(tmp_path, pairs)
    kept, fresh = kept_bag_of_words(tmp_path), word_pairs(100, seed=1)
    assert kept.num_pairs == 200
    np.testing.assert_allclose(margins(kept, fresh), margins(fit_bag_of_words(pairs), fresh), atol=1e-5)
    check_scorer(kept, [completion for pair in fresh[:3] for completion in pair.completions()])
    with np.load(tmp_path / WORDS_FILE, allow_pickle=False) as file:
        assert {name: file[name].dtype.kind for name in file.files} == {"hashes": "u", "weights": "f", "num_pairs": "i"}
    assert b"please" not in (tmp_path / WORDS_FILE).read_bytes()
    again = kept_bag_of_words(tmp_path)
    assert again.fingerprint == kept.fingerprint


def test_an_ensemble_is_held_against_the_words_of_its_first_member_and_a_damaged_file_is_named(tmp_path):
    assert kept_bag_of_words(tmp_path) is None
    member = tmp_path / "members" / "0"
    member.mkdir(parents=True)
    keep_bag_of_words(member, word_pairs(30))
    assert kept_bag_of_words(tmp_path).num_pairs == 30
    (member / WORDS_FILE).write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(ArtifactError, match=f"{WORDS_FILE} cannot be read"):
        kept_bag_of_words(tmp_path)


def test_words_are_told_apart_by_their_hash():
    assert len({word_hash(f"word{i}") for i in range(20_000)}) == 20_000
    assert word_hash("\udc80") != word_hash("a"), "a lone surrogate is a word like any other"
    assert 0 <= word_hash("please") < 2**64
