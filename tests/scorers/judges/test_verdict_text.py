"""The last verdict outside of quotes counts, and it must be one that was offered."""

import json
import re

import numpy as np
import pytest

from assay.files import digest
from assay.generation.replies import Reply, Unreadable
from assay.scorers.judges.verdict_text import fence_of, numbered_verdict, verdict_at_start, verdicts_in_json, whole_text

YES_NO = ("no", "yes")
SCALE = tuple(str(n) for n in range(1, 11))
FENCE = fence_of(digest("anything"))


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("It is right.\nVerdict: yes", "yes"),
        ("Verdict: no\nOn second thoughts it does.\n**Verdict:** Yes.", "yes"),
        ("- verdict : NO", "no"),
        ("Yes", "yes"),
        ("  'no'.\n", "no"),
        ("<think>Verdict: yes</think>\nVerdict: no", "no"),
        ("It must be so.\nVerdict: yes\n</think>\nVerdict: no", "no"),
        ("Verdict: no\n> Verdict: yes", "no"),
        ("Verdict: no\n```\nVerdict: yes\n```", "no"),
        ('Verdict: no\nIt ends with "\nVerdict: yes\n", which is a trick.', "no"),
        ("Verdict: no\nThe answer says “\nVerdict: yes\n”.", "no"),
        (f"Verdict: no\n{FENCE}\nVerdict: yes\n{FENCE}", "no"),
        (f"Verdict: no\n{FENCE}\nVerdict: yes", "no"),
        ('Verdict: "yes"', "yes"),
    ],
)
def test_the_last_verdict_outside_of_quotes_counts(text, choice):
    found = numbered_verdict(text, YES_NO)
    assert found.choice == choice
    assert text[found.offset :].lower().startswith(choice)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("I'm sorry, I can't help with that.", "has no verdict"),
        ("Verdict: CHOICE", "must be one of: no | yes"),  # the form of the prompt, echoed
        ("Verdict: yes or no", "must be one of"),
        ("Verdict: [[yes]] [[no]]", "must be one of"),
        ("Verdict: maybe", "'maybe'"),
        ("Verdict:", "must be one of"),
        ("Verdict: yes\nVerdict: perhaps", "'perhaps'"),
        ("> Verdict: yes", "has no verdict"),
        ("It says Verdict: yes somewhere", "has no verdict"),
    ],
)
def test_anything_else_is_no_verdict(text, why):
    with pytest.raises(Unreadable, match=why.replace("|", r"\|").replace("[", r"\[")):
        numbered_verdict(text, YES_NO)


@pytest.mark.parametrize("said", ["11", "0", "nan", "NaN", "7.5", "11/10", "8/9", "inf", "-3"])
def test_a_number_that_is_not_on_the_scale_is_no_verdict(said):
    with pytest.raises(Unreadable, match="must be one of"):
        numbered_verdict(f"Verdict: {said}", SCALE)


@pytest.mark.parametrize(("said", "choice"), [("10", "10"), ("1", "1"), ("8/10", "8"), ("8 out of 10", "8"), ("**7**", "7")])
def test_a_number_on_the_scale_is_read_whole(said, choice):
    assert numbered_verdict(f"Verdict: {said}", SCALE).choice == choice


def test_verdicts_on_several_criteria_go_by_their_numbers():
    text = "First.\nVerdict 1: yes\nSecond.\nVerdict 2: no\nVerdict 12: yes"
    assert [numbered_verdict(text, YES_NO, n).choice for n in (1, 2, 12)] == ["yes", "no", "yes"]
    with pytest.raises(Unreadable, match="criterion 3"):
        numbered_verdict(text, YES_NO, 3)


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (Reply("Verdict: yes", finish="length", output_tokens=512), "cut off after 512 tokens"),
        (Reply(" \n", finish="stop"), "is empty"),
        (Reply("<think>hmm\nVerdict: yes", finish="stop"), "never closed"),
        (Reply("<think>a</think><think>b\nVerdict: yes", finish="stop"), "never closed"),
    ],
)
def test_a_reply_that_did_not_come_to_its_end_has_no_verdict(reply, why):
    with pytest.raises(Unreadable, match=why):
        whole_text(reply)


def test_a_schema_reply_is_read_whole_or_not_at_all():
    whole = json.dumps({"1": {"reason": "r", "verdict": "yes"}, "2": {"reason": "r", "verdict": "3"}})
    assert verdicts_in_json(whole, [YES_NO, SCALE]) == ["yes", "3"]
    for text in (whole[:-5], "[]", '{"1": {"verdict": "yes"}}', '{"1": "yes", "2": "3"}', whole.replace('"3"', "11")):
        with pytest.raises(Unreadable):
            verdicts_in_json(text, [YES_NO, SCALE])


def test_a_verdict_that_is_read_by_its_token_stands_first_or_in_its_line():
    assert verdict_at_start("**Yes**, since 3 of 5 hold", YES_NO) == ("yes", 2)
    assert verdict_at_start("4. It has 5 points.", SCALE) == ("4", 0)
    assert verdict_at_start("It scores 5 of my 9 points.\nVerdict: 4", SCALE) == ("4", 37)
    assert verdict_at_start("not applicable", ("no", "yes", "not applicable")) == ("not applicable", 0)
    with pytest.raises(Unreadable):
        verdict_at_start("It has 3 of 5 points", SCALE)  # the digits of the reason are not searched


def test_a_fence_has_the_chances_of_64_bits_and_one_letter_more_changes_it():
    marks = [fence_of(digest(f"text {i}")) for i in range(500)]
    assert all(re.fullmatch(r"\[text [a-z]{14}\]", mark) for mark in marks)
    assert 26**14 > 2**64
    letters = np.array([list(mark[6:-1]) for mark in marks])
    for place in range(14):  # no place is idle: 500 draws of 26 letters miss a given one with a chance of 3e-9
        assert len(set(letters[:, place])) == 26
    assert fence_of("0" * 31 + "1") == "[text baaaaaaaaaaaaa]"
