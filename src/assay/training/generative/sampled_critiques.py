"""Rejection sampling: critiques that the model itself writes, sorted by whether their verdict is right (STaR).

Source: Zelikman et al. (2022).
Every reply goes through the ledger, so that a run that goes on samples nothing twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from assay.console import progress
from assay.generation.generator import Generator
from assay.generation.replies import Reply, Unreadable
from assay.messages import Message, Messages
from assay.scorers.generative.own_forms import OwnForm
from assay.scorers.generative.reply_verdicts import written_verdict
from assay.training.generative.examples import Contrast, Writer, Written
from assay.training.generative.questions import LeftOut, PairQuestion

CUT_OFF = "cut off: the limit of tokens was reached inside of the critique"
NO_VERDICT = "without a verdict"
NO_CRITIQUE = "a verdict without a critique"
OWN_VERDICT = "two verdicts"
_AT_ONCE = 32  # questions between two moves of the progress bar


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """Replies of Q questions, as `OwnForm.target` writes them, each once. right, wrong: by the verdict. unread: why others count
    for neither. hinted: questions whose right replies came with a hint. num_sampled: replies in all, without hints."""

    questions: tuple[PairQuestion, ...]
    right: tuple[tuple[str, ...], ...]
    wrong: tuple[tuple[str, ...], ...]
    unread: Counter[str]
    num_right: int
    num_sampled: int
    num_hinted: int = 0

    def facts(self) -> dict[str, Any]:
        """Counts for the card and the report."""
        mixed = sum(bool(right) and bool(wrong) for right, wrong in zip(self.right, self.wrong, strict=True))
        return {
            "questions": len(self.questions),
            "critiques sampled": self.num_sampled,
            "with the right verdict": self.num_right,
            "unread": dict(self.unread),
            "questions right and wrong": mixed,
            "questions with a right one by a hint alone": self.num_hinted,
        }

    def summary(self) -> str:
        """One line for people."""
        read = self.num_sampled - sum(self.unread.values())
        unread = "".join(f", {count:,} {why}" for why, count in self.unread.most_common())
        hinted = f"; {self.num_hinted:,} questions got a right one by a hint alone" if self.num_hinted else ""
        return f"{self.num_sampled:,} sampled, {self.num_right:,} of {read:,} verdicts right{unread}{hinted}"


def sample_critiques(
    generator: Generator,
    questions: Sequence[PairQuestion],
    own: OwnForm,
    *,
    samples: int,
    max_tokens: int,
    seed: int,
    hint: bool,
) -> Sampled:
    """`samples` replies to each question at temperature 1. hint: questions without a right one are asked again with the verdict
    told (STaR's rationalisation); what comes of it is learnt without the hint."""
    replies = _replies(generator, [one.messages for one in questions], samples, max_tokens, seed, "sampling")
    unread: Counter[str] = Counter()
    sorted_ = [_sorted(found, one, own, unread) for found, one in zip(replies, questions, strict=True)]
    num_right = sum(len(right) for right, _ in sorted_)
    right, num_hinted = [tuple(dict.fromkeys(each)) for each, _ in sorted_], 0
    missed = [i for i, each in enumerate(right) if not each] if hint else []
    if missed:
        asked = [hinted(questions[i].messages, questions[i].right, own) for i in missed]
        for i, found in zip(missed, _replies(generator, asked, samples, max_tokens, seed, "with hints"), strict=True):
            right[i] = tuple(dict.fromkeys(_sorted(found, questions[i], own, Counter())[0]))
            num_hinted += bool(right[i])
    return Sampled(
        questions=tuple(questions),
        right=tuple(right),
        wrong=tuple(tuple(dict.fromkeys(wrong)) for _, wrong in sorted_),
        unread=unread,
        num_right=num_right,
        num_sampled=samples * len(questions),
        num_hinted=num_hinted,
    )


def hinted(messages: Messages, right: str, own: OwnForm) -> Messages:
    """The question with its verdict told."""
    last = messages[-1]
    told = f"{last.content}\n\n[Hint]\nThe right verdict is {right}. Do not mention this hint. End with: {own.lead} {right}"
    return (*messages[:-1], Message(last.role, told))


def kept_replies(sampled: Sampled, keep: int) -> list[Written]:
    """At most `keep` replies of each question with the right verdict, the first that were sampled."""
    return [
        Written(question, reply) for question, right in zip(sampled.questions, sampled.right, strict=True) for reply in right[:keep]
    ]


def contrasts_of(sampled: Sampled, writer: Writer, keep: int, left_out: LeftOut) -> list[Contrast]:
    """Right against wrong replies of one question, at most `keep` a question; none where all are right, or all wrong."""
    found = []
    for question, right, wrong in zip(sampled.questions, sampled.right, sampled.wrong, strict=True):
        prompt = writer.prompt(question.messages)
        if not right or not wrong or prompt is None:
            left_out.add("questions all right" if right else "questions all wrong" if wrong else "questions without a verdict")
            continue
        for better, worse in list(zip(right, wrong, strict=False))[:keep]:
            found.append(Contrast(prompt, writer.reply(better), writer.reply(worse)))
    return found


def _replies(
    generator: Generator, prompts: Sequence[Messages], samples: int, max_tokens: int, seed: int, label: str
) -> list[list[Reply]]:
    found: list[list[Reply]] = []
    with progress(label, len(prompts), "questions") as advance:
        for start in range(0, len(prompts), _AT_ONCE):
            part = prompts[start : start + _AT_ONCE]
            found += generator.sample(part, n=samples, temperature=1.0, seed=seed, max_tokens=max_tokens)
            advance(len(part))
    return found


def _sorted(replies: Sequence[Reply], question: PairQuestion, own: OwnForm, unread: Counter[str]) -> tuple[list[str], list[str]]:
    """The replies with the right and with the wrong verdict, as the form writes them."""
    right, wrong = list[str](), list[str]()
    for reply in replies:
        try:
            verdict = written_verdict(reply, own.form)
        except Unreadable as reason:
            cut, two = reply.finish == "length", "two verdicts" in str(reason)
            unread[CUT_OFF if cut else OWN_VERDICT if two else NO_VERDICT] += 1
            continue
        critique = _before_its_line(str(reply.text), verdict.offset)
        if not critique:
            unread[NO_CRITIQUE] += 1
            continue
        try:
            told = own.target(str(verdict.word), critique)
        except ValueError:
            unread[OWN_VERDICT] += 1
            continue
        (right if verdict.word == question.right else wrong).append(told)
    return right, wrong


def _before_its_line(text: str, offset: int) -> str:
    """What stands before the line of a verdict."""
    return text[: text.rfind("\n", 0, offset) + 1].strip()
