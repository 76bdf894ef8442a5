"""The words behind `--kind generative:`."""

import pytest

from assay.training.generative.kind_words import BETA, SAMPLES, GenerativeKind, is_written, kind_text, read_kind


def test_no_words_are_a_pairwise_model_in_one_stage():
    kind = read_kind("generative")
    assert kind == GenerativeKind()
    assert kind.stages == ("sft",)
    assert is_written("generative:dpo")
    assert not is_written("pairs")


def test_words_with_and_without_numbers():
    kind = read_kind("generative:pointwise,critique,star=8,keep=3,hint,dpo=0.2,answers=0.1,tokens=96,orders=1,judged=50,good=6.5")
    assert kind == GenerativeKind(
        form="pointwise", critique=True, star=8, keep=3, hint=True, dpo=0.2, answers=0.1, tokens=96, orders=1, judged=50, good=6.5
    )
    assert kind.stages == ("sft", "star", "dpo")
    bare = read_kind("generative:star,dpo")
    assert (bare.star, bare.dpo) == (SAMPLES, BETA)


def test_dpo_alone_samples_too():
    kind = read_kind("generative:dpo")
    assert kind.stages == ("sft", "dpo")
    assert kind.samples == SAMPLES


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("grpo", "is not known"),
        ("pairwise,pointwise", "a second time"),
        ("direct,star", "has no critiques to sample"),
        ("direct,dpo", "has no critiques to sample"),
        ("hint", "goes with star"),
        ("star=1,dpo", "never right and wrong"),
        ("star=0", "at least 1"),
        ("star=x", "at least 1"),
        ("keep", "needs a number"),
        ("critique=yes", "nothing stands behind"),
        ("dpo=x", "must be a number"),
        ("dpo=-1", "above 0"),
        ("orders=3", "1 or 2"),
        ("good=6", "say pointwise,good=6"),
        ("pointwise,good", "needs a number"),
        ("pointwise,good=inf", "a finite number"),
    ],
)
def test_other_words_are_refused_with_their_name(words, says):
    with pytest.raises(ValueError, match=says):
        read_kind(f"generative:{words}")


@pytest.mark.parametrize(
    "words", ["pairwise", "pointwise,direct", "pointwise,good=-1.5", "pairwise,critique,star=4,hint,dpo=0.1,judged=20"]
)
def test_what_is_told_is_read_again(words):
    assert read_kind(f"generative:{kind_text(read_kind(f'generative:{words}'))}") == read_kind(f"generative:{words}")
