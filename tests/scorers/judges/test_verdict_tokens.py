"""The expected verdict is read at the verdict's token; what cannot be told apart is refused."""

import math

import pytest

from assay.generation.replies import Reply, TokenChoices, Unreadable
from assay.rubrics.rubric import Criterion
from assay.scorers.judges.pointwise import expected_value
from assay.scorers.judges.verdict_tokens import masses_of
from assay.scorers.judges.wording import options_of


def reply(*tokens, finish="stop"):
    made = tuple(TokenChoices(text, tuple((t, math.log(p)) for t, p in top.items())) for text, top in tokens)
    return Reply("".join(token.token for token in made), finish, tokens=made)


def test_all_spellings_of_a_choice_are_summed_and_the_rest_is_told():
    found = masses_of(reply((" Yes", {" Yes": 0.3, "yes": 0.2, "YES": 0.1, "No": 0.15, "Maybe": 0.2})), ("no", "yes"))
    assert found.choices == pytest.approx((0.2, 0.8))
    assert found.outside == pytest.approx(0.25)


def test_a_reply_that_begins_otherwise_is_read_at_its_first_token():
    """As of a local model: P(No) = .05 + .03, P(Yes) = .02, and 90% are something else."""
    tokens = [("The", {"The": 0.9, "No": 0.05, "no": 0.03, "Yes": 0.019, "It": 0.0001}), (" answer", {" answer": 1.0})]
    found = masses_of(reply(*tokens), ("no", "yes"))
    assert found.choices == pytest.approx((0.08 / 0.099, 0.019 / 0.099))
    assert found.outside == pytest.approx(0.901)


@pytest.mark.parametrize(
    "top",
    [
        {"The": 0.9, "No": 0.06, "It": 0.04},  # yes may have up to .04
        {"The": 0.9, "No": 0.06, "y": 0.02, "It": 0.0001},  # "y" may begin yes
        {"The": 0.9999, "It": 0.0001},
    ],
)
def test_a_choice_that_is_not_seen_may_not_have_much(top):
    with pytest.raises(Unreadable, match="too little is known"):
        masses_of(reply(("The", top), (" answer", {" answer": 1.0})), ("no", "yes"))


def test_a_thought_is_no_place_for_a_verdict():
    with pytest.raises(Unreadable, match="no verdict"):
        masses_of(reply(("<think>", {"<think>": 0.9, "No": 0.05, "Yes": 0.05, "It": 0.0001})), ("no", "yes"))


def test_the_verdict_is_read_where_it_stands_not_where_its_digit_is_first_seen():
    reason = [
        ("It", {"It": 1.0}),
        (" makes", {" makes": 1.0}),
        (" 5", {" 5": 1.0}),
        (" points", {" points": 1.0}),
        (".\n", {".\n": 1.0}),
    ]
    verdict = [("Verdict", {"Verdict": 1.0}), (":", {":": 1.0}), (" 2", {" 2": 0.75, " 5": 0.25})]
    found = masses_of(reply(*reason, *verdict), ("1", "2", "3", "4", "5"))
    assert found.choices == pytest.approx((0, 0.75, 0, 0, 0.25))


def test_an_expected_value_on_a_scale_by_hand():
    scale = Criterion(name="s", kind="scale", text="?", low=1, high=5)
    found = expected_value(scale, options_of(scale, by_token=True), reply(("4", {"4": 0.5, "5": 0.25, "3": 0.25})))
    assert found["value"] == pytest.approx((0.5 * 3 + 0.25 * 4 + 0.25 * 2) / 4)
    negated = Criterion(name="s", text="?", negated=True)
    assert expected_value(negated, options_of(negated, by_token=True), reply(("no", {"no": 0.9, "yes": 0.1})))[
        "value"
    ] == pytest.approx(0.9)


def test_what_does_not_apply_goes_by_a_letter_and_is_no_number():
    criterion = Criterion(name="s", text="?", not_applicable="not applicable")
    options = options_of(criterion, by_token=True)
    assert [option.spelled for option in options] == ["A", "B", "C"]
    assert expected_value(criterion, options, reply(("C", {"C": 0.6, "B": 0.4})))["value"] == "not applicable"
    assert expected_value(criterion, options, reply(("B", {"C": 0.2, "B": 0.6, "A": 0.2})))["value"] == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("given", "choices", "why"),
    [
        (Reply("yes", "stop"), ("no", "yes"), "no probabilities"),
        (reply(("yes", {"yes": 0.5, "no": 0.5})), ("no", "yes"), "equally likely"),
        (reply(("yes", {"yes": 0.0005, "Sure": 0.9})), ("no", "yes"), "0.05% of the probability"),
        (reply(("1", {"1": 0.9, "2": 0.1}), ("0", {"0": 1.0})), ("1", "2", "10"), "several tokens|begin '10'"),
        (reply(("1", {"1": 0.9, "2": 0.1})), ("1", "2", "10"), "may be '1' or begin '10'"),
        (reply(("ful", {"ful": 0.9, "most": 0.1}), ("ly", {"ly": 1.0})), ("mostly", "fully"), "several tokens"),
        (reply(("I", {"I": 0.9}), (" cannot", {" cannot": 1.0})), ("no", "yes"), "has no verdict"),
    ],
)
def test_what_cannot_be_told_is_refused(given, choices, why):
    with pytest.raises(Unreadable, match=why):
        masses_of(given, choices)


def test_a_ten_that_is_one_token_is_read():
    assert masses_of(reply(("10", {"10": 0.6, "1": 0.2, "9": 0.2})), ("1", "9", "10")).choices == pytest.approx((0.2, 0.2, 0.6))


def test_what_has_no_single_token_is_refused_before_anything_is_asked():
    with pytest.raises(ValueError, match="any number"):
        options_of(Criterion(name="s", kind="scale", text="?", low=0, high=1, whole_numbers=False), by_token=True)
