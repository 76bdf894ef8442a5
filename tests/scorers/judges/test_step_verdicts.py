"""Process models that write: verdicts out of transcripts of our own, and what has none is NaN with a reason, never a half."""

from __future__ import annotations

import numpy as np
import pytest

import assay
from assay.generation.generator import Generator
from assay.generation.local_model import load_language_model
from assay.generation.replies import Ask, Reply, Sampling, Unreadable
from assay.models.published.published_steps import FORMATS, StepsAsked
from assay.records import Completion, Message
from assay.scorers.base import ReadsSteps
from assay.scorers.checks import check_scorer
from assay.scorers.judges.options import JudgeOptions
from assay.scorers.judges.step_verdicts import INSTRUCTIONS, StepVerdicts, last_verdict, verdicts_on_steps
from assay.scorers.judges.verdict_tokens import masses_of
from assay.scorers.opened import open_scorer
from fake_chat import Chat, Request, fake_chat, said
from process_models import PARAGRAPHS, QUESTION, STEPS
from tiny import save_tiny_base

YES_NO, WORDS = ("Yes", "No"), ("correct", "incorrect")
SOLUTION = Completion(messages=QUESTION, steps=PARAGRAPHS)

LAST = {
    "plain": ("The sum is right. **Judgement**: $\\boxed{Yes}$", "Yes"),
    "the last one counts": ("At first \\boxed{Yes}. But two and three are five: \\boxed{No}", "No"),
    "spelled in text": ("\\boxed{\\text{ no }}", "No"),
    "an answer in a box is no verdict": ("The result is \\boxed{18}, as it should be. \\boxed{Yes} \\boxed{18}", "Yes"),
    "thoughts do not count": ("<think>Surely \\boxed{No}</think> All is well. \\boxed{Yes}", "Yes"),
    "nor those that the template opened": ("Surely \\boxed{No}</think> All is well. \\boxed{Yes}", "Yes"),
    "nor code": ("\\boxed{Yes}\n```python\nprint('\\\\boxed{No}') # \\boxed{No}\n```\n", "Yes"),
    "nor what is quoted": ('\\boxed{No} although it says "take \\boxed{Yes} as said"', "No"),
}


@pytest.mark.parametrize("case", LAST)
def test_the_last_whole_verdict_outside_of_thoughts_counts(case):
    text, word = LAST[case]
    found = last_verdict(text, YES_NO)
    assert found.word == word
    assert text[found.offset :].lower().startswith(word.lower())


@pytest.mark.parametrize("text", ["It is right. Yes", "\\boxed{Yes", "<think>\\boxed{Yes}</think> Hm.", "\\boxed{maybe}", ""])
def test_no_verdict_is_no_half(text):
    with pytest.raises(Unreadable, match=r"no \\boxed\{Yes\} or \\boxed\{No\} outside of its thoughts"):
        last_verdict(text, YES_NO)


ON_STEPS = {
    "in order": ("Two eggs: \\boxed{correct}. Six: \\boxed{incorrect}", {0: "correct", 1: "incorrect"}),
    "thoughts are the verification": (
        "<think>\nStep 1: fine, \\boxed{correct}\n**Step 2**: no, \\boxed{incorrect}\n</think>\nIs the solution right? No",
        {0: "correct", 1: "incorrect"},
    ),
    "the last one on a step": (
        "Step 1: \\boxed{correct}\nStep 2: \\boxed{incorrect}? No, wait: \\boxed{correct}\nStep 3: \\boxed{correct}",
        {0: "correct", 1: "correct", 2: "correct"},
    ),
    "a step that is left out": ("Step 1: \\boxed{correct}\nStep 3: \\boxed{incorrect}", {0: "correct", 2: "incorrect"}),
    "a step that is taken up again": (
        "Step 1: \\boxed{correct}\nStep 2: \\boxed{correct}\nStep 1: after all, \\boxed{incorrect}",
        {0: "incorrect", 1: "correct"},
    ),
    "no heading inside of a line": (
        "Step 1: as in Step 3 of before, \\boxed{correct}\nStep 2: \\boxed{correct}",
        {0: "correct", 1: "correct"},
    ),
}


@pytest.mark.parametrize("case", ON_STEPS)
def test_verdicts_on_steps(case):
    text, expected = ON_STEPS[case]
    assert {k: verdict.word for k, verdict in verdicts_on_steps(text, WORDS, 3).items()} == expected


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("All is well.", "has no"),
        ("\\boxed{correct} " * 4, "4 verdicts for 3 steps, and does not say which is on which"),
        ("Step 7: \\boxed{correct}", "a verdict on step 7 of 3"),
        ("\\boxed{correct}\nStep 1: fine", "verdicts before its first step alone"),
    ],
)
def test_verdicts_that_cannot_be_assigned_are_refused(text, why):
    with pytest.raises(Unreadable, match=why):
        verdicts_on_steps(text, WORDS, 3)


def asked_at(chat: Chat, form: str, settings: str = "", **options) -> StepVerdicts:
    judge = JudgeOptions(judge_url=chat.url, **options)
    scorer = assay.load(f"theirs/model#{form}{settings}", judge=judge)
    assert isinstance(scorer, StepVerdicts)
    return scorer


def probabilities(word: str, share: float) -> list[tuple[str, dict[str, float]]]:
    """Tokens of "\\boxed{WORD}" whose third one is the word."""
    other = "No" if word == "Yes" else "Yes"
    return [("\\boxed", {}), ("{", {}), (word, {word: float(np.log(share)), other: float(np.log(1 - share))}), ("}", {})]


def test_genprm_is_asked_a_turn_a_paragraph_and_its_probabilities_are_read(tmp_path):
    shares = [0.9, 0.6, 0.8]

    def answer(request: Request):
        k = sum(turn["role"] == "assistant" for turn in request.body["messages"])
        word = "No" if k == 1 else "Yes"
        return said(f"\\boxed{{{word}}}", tokens=probabilities(word, shares[k]))

    with fake_chat(answer, features=("logprobs",)) as chat:
        rewards = asked_at(chat, "genprm").score([SOLUTION])
        turns = [[(turn["role"], turn["content"]) for turn in request.body["messages"]] for request in chat.requests]
    np.testing.assert_allclose(rewards.steps[0], [0.9, 0.4, 0.8], atol=1e-6)
    assert rewards.value[0] == pytest.approx(0.4)
    assert turns[0] == [("system", INSTRUCTIONS["genprm"]), ("user", f"{QUESTION}\n{PARAGRAPHS[0].strip()}")]
    assert turns[2][2:] == [
        ("assistant", "\\boxed{Yes}"),
        ("user", PARAGRAPHS[1].strip()),
        ("assistant", "\\boxed{No}"),
        ("user", PARAGRAPHS[2].strip()),
    ]
    assert rewards.text[0].count("\\boxed") == 3


def test_a_step_without_a_verdict_is_nan_with_a_reason_and_the_others_go_on():
    def answer(request: Request):
        k = sum(turn["role"] == "assistant" for turn in request.body["messages"])
        return said("I cannot say." if k == 1 else "\\boxed{Yes}")

    with fake_chat(answer) as chat:
        rewards = asked_at(chat, "genprm").score([SOLUTION])
    np.testing.assert_array_equal(rewards.steps[0], [1.0, np.nan, 1.0])
    assert np.isnan(rewards.value[0])
    assert rewards.error[0].startswith("step 2: the reply has no \\boxed{Yes} or \\boxed{No} outside of its thoughts")


def test_thinkprm_is_asked_once_and_stops_at_the_first_wrong_step():
    with fake_chat(lambda request: said("<think>\nStep 1: \\boxed{correct}\nStep 2: \\boxed{incorrect}\n")) as chat:
        rewards = asked_at(chat, "thinkprm").score([SOLUTION])
        (request,) = chat.requests
    np.testing.assert_array_equal(rewards.steps[0], [1.0, 0.0, np.nan])
    assert rewards.value[0] == 0.0
    assert rewards.error == (None,)
    assert "Step 2: Three more make 2 + 3 - 0 = 6 eggs,\nor so.\nStep 3:" in request.text
    assert QUESTION in request.text


def test_thinkprm_without_verdicts_on_all_right_steps_has_no_reward():
    with fake_chat(lambda request: said("Step 1: \\boxed{correct}\nStep 2: \\boxed{correct}\n")) as chat:
        rewards = asked_at(chat, "thinkprm").score([SOLUTION])
    np.testing.assert_array_equal(rewards.steps[0], [1.0, 1.0, np.nan])
    assert rewards.error == ("the reply has no verdict on step 3",)


def test_a_reply_that_was_cut_off_has_no_verdict():
    with fake_chat(lambda request: said("\\boxed{Yes} and", finish="length")) as chat:
        rewards = asked_at(chat, "genprm", "?max_length=16").score([SOLUTION])
        assert chat.requests[0].body["max_tokens"] == 16
    assert "the reply was cut off" in rewards.error[0]
    assert np.isnan(rewards.steps[0]).all()


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Step 1: \\boxed{correct}\nStep 2: \\boxed{correct}\nStep 3: it", [1.0, 1.0, np.nan]),
        ("Step 1: \\boxed{correct}\nStep 2: \\boxed{correct} or is it", [1.0, np.nan, np.nan]),
        ("\\boxed{correct} and \\boxed{correct} and", [1.0, np.nan, np.nan]),
        ("Step 1: \\boxed{incorrect}\nStep 2: so", [0.0, np.nan, np.nan]),
    ],
)
def test_a_verification_that_was_cut_off_keeps_the_verdicts_that_it_was_done_with(text, kept):
    """The last step that it came to may still have got another verdict."""
    with fake_chat(lambda request: said(text, finish="length")) as chat:
        rewards = asked_at(chat, "thinkprm").score([SOLUTION])
        assert len(chat.requests) == 1, "it is not asked for again"
    np.testing.assert_array_equal(rewards.steps[0], kept)
    if kept[0] == 0.0:
        assert (rewards.value[0], rewards.error) == (0.0, (None,))
    else:
        lost = int(np.isnan(kept).argmax()) + 1
        assert rewards.error == (f"the reply has no verdict on step {lost} before it was cut off: raise max_length",)
        assert np.isnan(rewards.value[0])


@pytest.mark.parametrize(("form", "verdict"), [("genprm", "\\boxed{Yes}"), ("thinkprm", "Step 1: \\boxed{correct}")])
def test_steps_before_an_empty_one_are_asked_about(form, verdict):
    with fake_chat(lambda request: said(verdict)) as chat:
        rewards = asked_at(chat, form).score([Completion(messages=QUESTION, steps=("Two.\n\n", "\n\n", "Six."))])
        assert all("Six." not in str(request.body) for request in chat.requests)
    np.testing.assert_array_equal(rewards.steps[0], [1.0, np.nan, np.nan])
    assert rewards.error == ("step 2 is empty: leave it out, or join it to its neighbour",)
    assert np.isnan(rewards.value[0])


def test_the_publishers_words_are_given_as_a_file(tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("P: {{ problem }} S: {{ solution }}")
    with fake_chat(lambda request: said("\\boxed{correct}")) as chat:
        asked_at(chat, "thinkprm", f"?template={words}").score([Completion(messages=QUESTION, steps=("Six.",))])
        assert chat.requests[0].text == f"P: {QUESTION} S: Step 1: Six."
    with pytest.raises(ValueError, match="there is no such file"), fake_chat(lambda request: said("")) as chat:
        asked_at(chat, "thinkprm", "?template=nowhere.txt")


UNFIT = {
    "there are no steps: the response is empty": Completion(messages=QUESTION, response=" "),
    "step 1 is empty: leave it out, or join it to its neighbour": Completion(messages=QUESTION, steps=(" ", "Two.")),
    "the steps, joined, are not the response": Completion(messages=QUESTION, response="Six.", steps=("Two.",)),
    "this model's form has one question and no other turn: leave them out": Completion(
        messages=(Message("system", "Count."), Message("user", QUESTION)), steps=STEPS
    ),
    "steps are asked about in messages and response: this completion was rendered already": Completion(text="Six."),
}


@pytest.mark.parametrize("form", ["genprm", "thinkprm"])
def test_a_random_local_model_gives_reasons_and_keeps_the_laws(form, tmp_path):
    """It writes no verdict: no crash, no 0, no half."""
    path = save_tiny_base(tmp_path / "theirs", max_positions=2048)
    scorer = assay.load(f"{path}#{form}?max_length=8", dtype="float32", device="cpu")
    assert isinstance(scorer, ReadsSteps)
    items = [SOLUTION, *UNFIT.values(), Completion(messages=QUESTION, steps=("Six.",))]
    rewards = scorer.score(items)
    assert np.isnan(rewards.value).all()
    assert rewards.error[1:-1] == tuple(UNFIT)
    assert all("cut off" in rewards.error[i] or "the reply has no" in rewards.error[i] for i in (0, -1))
    assert [len(steps) for steps in rewards.steps] == [3, 0, 2, 1, 3, 0, 1]
    check_scorer(scorer, items)


class Scripted:
    """A local model that writes what it is told, and whose two words have fixed probabilities behind any text."""

    model, identity, price, is_thread_safe, repeats = "scripted", "scripted", None, False, True

    def __init__(self, inner, reply: str) -> None:
        self.inner, self.causal, self.reply = inner, inner.causal, reply

    def probe(self):
        return self.inner.probe()

    def use(self, features):
        self.inner.use(features)

    def run(self, asks, desk):
        for i, ask in enumerate(asks):
            desk.may_send(i)
            if ask.sampling.choices:
                self.inner.run([ask], desk._replace(settle=lambda _, reply, left, i=i: desk.settle(i, reply, left)))
            else:
                desk.settle(i, Reply(self.reply, "stop", 1, 1), 1.0)


def test_probabilities_of_a_local_model_are_read_where_the_verdict_stands(tmp_path):
    """Of the two words behind the conversation and what was written up to the word, all spellings together."""
    inner = load_language_model(save_tiny_base(tmp_path / "theirs", max_positions=2048), dtype="float32", device="cpu")
    scorer = StepVerdicts(Generator(Scripted(inner, "Well: \\boxed{Yes}")), FORMATS["genprm"], StepsAsked())
    found = scorer.score([Completion(messages=QUESTION, steps=("Six.",))]).steps[0][0]

    def share_behind(text: str) -> float:
        turns = (Message("system", INSTRUCTIONS["genprm"]), Message("user", f"{QUESTION}\nSix."), Message("assistant", text))
        ask = Ask(messages=turns, sampling=Sampling(choices=YES_NO))
        (one,) = Generator(inner).ask([ask], lambda ask, reply: masses_of(reply, YES_NO).choices[0])
        return float(one.verdict)

    assert found == pytest.approx(share_behind("Well: \\boxed{"), rel=1e-4)
    assert found != pytest.approx(share_behind("Well: \\boxed"), rel=1e-3)


def test_flags_of_a_judge_go_with_a_form_that_writes_and_a_url():
    with pytest.raises(ValueError, match="is no rubric"):
        assay.load("theirs/model#genprm", judge=JudgeOptions(judge_model="other"))
    with fake_chat(lambda request: said("\\boxed{Yes}")) as chat:
        opened = open_scorer("theirs/model#genprm", judge=JudgeOptions(judge_url=chat.url))
        assert opened.name == "model-genprm"
        assert opened.scorer.score([Completion(messages=QUESTION, steps=("Six.",))]).value[0] == 1.0
        assert "bill" in opened.facts
