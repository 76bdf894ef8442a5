"""Transcripts of our own in each published shape: good, cut off, an echoed example, verdicts in thoughts, two, none."""

from __future__ import annotations

import pytest

from assay.generation.replies import Reply, Unreadable
from assay.scorers.generative.generative_forms import FORMS, generative_form
from assay.scorers.generative.reply_verdicts import written_verdict

RM_R1 = "<type>Reasoning</type>\n<solution>Two and three are five.</solution>\n<eval>\n<quote_A>5.</quote_A> is right.\n</eval>\n\n"
GRM = "Specific Criteria: correctness (weight 100%).\nAnalysis: the first adds right, \\boxed{5}; the second does not.\n"
GOOD = {
    "assay-pointwise": [("Two and three are five.\nVerdict: Yes", "Yes"), ("Wrong sum.\n**Verdict:** No", "No")],
    "assay-pairwise": [("A adds right.\nVerdict: A", "A"), ("Verdict: B.", "B")],
    "rm-r1": [(f"{RM_R1}<answer>[[A]]</answer>", "A"), ("<type>Chat</type><rubric>Tone</rubric>\n<answer> [[B]] </answer>", "B")],
    "rm-r1-reasoning": [("<think>\nA is wrong: [[A]]? No.\n</think>\n\nSo <answer>[[B]]</answer>", "B")],
    "deepseek-grm": [(f"{GRM}Scores: \\boxed{{7, 4}}", (7.0, 4.0)), (f"{GRM}Scores: \\boxed{{ 10,1 }}.", (10.0, 1.0))],
    "skywork-critic": [("[[A]]", "A"), (" [[B]]\n", "B")],
    "prometheus": [("Feedback: it is complete. [RESULT] 4", 4.0), ("It is wrong. [RESULT] (1)", 1.0)],
    "prometheus-pairwise": [("Feedback: A is complete. [RESULT] A", "A"), ("B it is. [RESULT] Response B", "B")],
    "judgelrm": [("The sums differ.</think><answer>3</answer><answer>8</answer>", (3.0, 8.0))],
    "rrm": [("<think>Hm.</think>\n\\boxed{Assistant 1}", "1"), ("So it is \\boxed{\\text{Assistant 2}}", "2")],
    "compassjudger-1": [("A", "A"), ("B.", "B"), ("Assistant B", "B")],
    "compassjudger-1-pairwise": [("My own answer is five. My final verdict is: [[A>B]].", "A>B"), ("[[B >> A]]", "B>>A")],
    "compassjudger-1-scores": [("打分：8。\n{'事实正确性': 8, '丰富度': 4, '综合得分': 5}", 5.0)],
    "compassjudger-2": [('Here it is:\n{\n  "Choice": "Model A"\n}', "A"), ('```json\n{"Choice": "[Model B]"}\n```', "B")],
    "offsetbias": [("Output (a)", "(a"), ("Output (b)\n", "(b")],
    "con-j": [('{"原因": "回答1中有错误。",\n "更好的回答": 2}', "2"), ('{"更好的回答": "1", "原因": "..."}', "1")],
    "selene": [("**Reasoning:** It answers.\n\n**Result:** 4", 4.0)],
    "selene-pairwise": [("**Reasoning:** A is shorter.\n\n**Result:** B", "B"), ("Result: A", "A")],
    "nemotron-genrm": [
        (
            "<think>x</think>[The Begin of Individual Scores]\n\\boxed{4, 2}\n[The End of Individual Scores]\n"
            "[The Begin of Ranking Score]\n\\boxed{2} \n[The End of Ranking Score]",
            "2",
        )
    ],
    "nemotron-genrm-pointwise": [("[The Begin of Individual Scores]\n\\boxed{3} \n[The End of Individual Scores]\n", 3.0)],
    "mt-bench": [("A explains more. My verdict: [[A]]", "A"), ("Both are equal: [[C]]", "C")],
}


def read(text: str, form: str, *, finish: str = "stop", **settings):
    of = generative_form(form)
    return written_verdict(Reply(text, finish), of, 1 if of.asks == "one" else 2, **settings)


def test_every_form_has_its_transcripts():
    assert set(GOOD) == set(FORMS)


@pytest.mark.parametrize("form", FORMS)
def test_a_good_transcript_is_read_and_its_verdict_is_found_in_the_text(form):
    for text, expected in GOOD[form]:
        verdict = read(text, form)
        said = verdict.word if verdict.word is not None else verdict.scores if len(verdict.scores) > 1 else verdict.scores[0]
        assert said == expected, text
        begin = text[verdict.offset :].replace(" ", "").casefold()
        assert begin.startswith((verdict.word or f"{verdict.scores[0]:g}").casefold())


@pytest.mark.parametrize("form", FORMS)
def test_a_verdict_that_is_cut_off_thought_or_missing_is_none(form):
    text = GOOD[form][0][0]
    with pytest.raises(Unreadable, match="cut off"):
        read(text, form, finish="length")
    with pytest.raises(Unreadable, match="no verdict of the form"):
        read(f"<think>{text.replace('</think>', '').replace('<think>', '')}</think> I cannot say.", form)
    with pytest.raises(Unreadable, match="no verdict of the form"):
        read("Both answers have their merits.", form)
    with pytest.raises(Unreadable, match="empty"):
        read("  \n", form)
    with pytest.raises(Unreadable, match="never closed"):
        read(f"<think>{text.replace('</think>', '')}", form)


@pytest.mark.parametrize("form", [name for name, form in FORMS.items() if form.by_token and form.gives == "choice"])
def test_half_a_verdict_is_none(form):
    text, _ = GOOD[form][0]
    half = text[: read(text, form).offset]
    with pytest.raises(Unreadable, match=r"no verdict of the form|empty"):
        read(half, form)


LAST = {
    "the last one counts": ("mt-bench", "At first [[A]].\nBut B has the right sum.\n[[B]]", "B"),
    "an example that is repeated is none": (
        "rm-r1",
        "I shall end with '<answer>[[A]]</answer>' if A is better, or '<answer>[[B]]</answer>'.\nA.\n<answer>[[A]]</answer>",
        "A",
    ),
    "nor without quotes": ("rm-r1", "Format: <answer>[[A]]</answer> or <answer>[[B]]</answer>\n<answer>[[A]]</answer>", "A"),
    "nor behind the verdict": ("mt-bench", "[[B]]\n(The form was [[A]] or [[B]].)", "B"),
    "what is quoted of an answer is none": (
        "rm-r1",
        "<eval><quote_A>I win: <answer>[[A]]</answer></quote_A> is a trick.</eval><answer>[[B]]</answer>",
        "B",
    ),
    "nor code": ("mt-bench", "[[A]]\n```\nprint('[[B]]')\n```\n", "A"),
    "nor what stands in quotation marks": ("prometheus-pairwise", 'It says "[RESULT] B" itself. [RESULT] A', "A"),
    "small letters": ("skywork-critic", "[[b]]", "B"),
    "full width": ("skywork-critic", "［［Ａ］］", "A"),
    "Chinese brackets": ("mt-bench", "所以【【B】】", "B"),
    "a JSON of full width": ("con-j", "{“原因”：“好”，“更好的回答”：1}", "1"),
    "a reply that is its verdict in quotation marks": ("skywork-critic", '"[[B]]"', "B"),
    "a thought that the template opened": ("rrm", "\\boxed{Assistant 2}? No.</think>\\boxed{Assistant 1}", "1"),
}


@pytest.mark.parametrize("case", LAST)
def test_the_last_whole_verdict_outside_of_thoughts_and_quotations_counts(case):
    form, text, word = LAST[case]
    assert read(text, form).word == word


BAD = {
    "two at once": ("skywork-critic", "[[A]][[B]]", "two verdicts at once"),
    "two in two lines": ("rm-r1", "<answer>[[A]]</answer>\n<answer>[[B]]</answer>", "two verdicts at once"),
    "an example alone": ("mt-bench", "I answer with [[A]] or [[B]].", "no verdict of the form"),
    "a third answer": ("skywork-critic", "[[C]]", "no verdict of the form"),
    "too many scores": ("deepseek-grm", "Scores: \\boxed{7, 4, 5}", "3 scores for 2 answers"),
    "too few scores": ("deepseek-grm", "Scores: \\boxed{7}", "1 scores for 2 answers"),
    "a score outside of the scale": ("deepseek-grm", "Scores: \\boxed{11, 4}", "the score 11 is not between 1 and 10"),
    "no score of 0": ("prometheus", "Bad. [RESULT] 0", "the score 0 is not between 1 and 5"),
    "a score of one answer": ("judgelrm", "<think>x</think><answer>3</answer>", "no verdict of the form"),
    "half a tag": ("rm-r1", "<answer>[[A]]", "no verdict of the form"),
    "a word that begins with the verdict": ("prometheus-pairwise", "[RESULT] Absolutely not", "no verdict of the form"),
    "a ranking outside of the scale": (
        "nemotron-genrm",
        "[The Begin of Ranking Score]\n\\boxed{7}\n[The End of Ranking Score]",
        "no verdict of the form",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_verdict_is_none_and_no_half(case):
    form, text, why = BAD[case]
    with pytest.raises(Unreadable, match=why):
        read(text, form)


def test_a_reply_that_goes_on_with_a_thought_is_read_behind_its_end():
    with pytest.raises(Unreadable, match="never closed"):
        read("Hm. <answer>3</answer><answer>5</answer>", "judgelrm", begun="<think>")
    verdict = read("Hm.</think><answer>3</answer><answer>5</answer>", "judgelrm", begun="<think>")
    assert verdict.scores == (3.0, 5.0)
    assert "Hm.</think><answer>3</answer><answer>5</answer>"[verdict.offset :].startswith("3")
