"""Assay's own words for every form, and the two forms that are trained here: `own_form("pairwise").prompt(...)`, `.target(...)`.

What is trained and what is asked are these texts, from here alone. No torch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from assay.messages import Message, Messages
from assay.records import Completion
from assay.scorers.generative.generative_forms import GenerativeForm, generative_form
from assay.scorers.judges.wording import answer_text, conversation_text

OWN_WORDS = 1  # raised when a text below changes: fingerprints change with it
_HEADER = re.compile(r"^\[(?:Question|Answer(?: \w+)?|Task)\][ \t]*$", re.MULTILINE)
_VERDICT_LINE = re.compile(r"^[ \t*_#>-]*verdict\b", re.MULTILINE | re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnForm:
    """One of Assay's own forms: what is asked (`prompt`), and what a trained model is to reply (`target`).

    critique: whether a critique stands before the verdict; without one the reply is the verdict's line alone.
    """

    form: GenerativeForm
    critique: bool = True

    @property
    def words(self) -> tuple[str, ...]:
        """The two verdicts: of a good answer or the first one, and of a bad answer or the second one."""
        return self.form.words

    @property
    def lead(self) -> str:
        """How the verdict's line begins: the verdict's own token follows, with a space before it."""
        return self.form.lead

    def prompt(self, *answers: Completion) -> Messages:
        """One answer (pointwise) or two to one prompt, A first (pairwise) -> the messages that are asked.

        Raises ValueError for another number of answers, and for what `why_not` names.
        """
        expected = 1 if self.form.asks == "one" else 2
        if len(answers) != expected:
            raise ValueError(f"#{self.form.name} asks about {expected} answer{'s' * (expected > 1)}, not {len(answers)}")
        if (why := self.why_not(*answers)) is not None:
            raise ValueError(why)
        return (Message("user", own_text(self.form, answers, critique=self.critique)),)

    def target(self, verdict: str, critique: str = "") -> str:
        """The reply that a model is trained to write: the critique, and the verdict in a line of its own.

        Raises ValueError for a verdict that is none of `words`, a critique that is missing, not wanted, or holds a verdict itself.
        """
        if verdict not in self.words:
            raise ValueError(f"verdict {verdict!r} must be one of {', '.join(self.words)}")
        critique = critique.strip()
        if bool(critique) != self.critique:
            what = "a critique is missing" if self.critique else "a critique is not wanted"
            raise ValueError(
                f"{what}: this form {'has one' if self.critique else 'is the verdict alone'} (critique={self.critique})"
            )
        if _VERDICT_LINE.search(critique):
            raise ValueError(
                "the critique holds a line that begins with 'Verdict' itself: cut it there, the verdict is given apart"
            )
        line = f"{self.lead} {verdict}"
        return f"{critique}\n{line}" if critique else line

    def why_not(self, *answers: Completion) -> str | None:
        """Why answers cannot be asked about; None where they can."""
        return why_unaskable(answers)


def own_form(kind: Literal["pointwise", "pairwise"], *, critique: bool = True) -> OwnForm:
    """Assay's form of that kind. Raises ValueError for another name."""
    if kind not in ("pointwise", "pairwise"):
        raise ValueError(f"kind {kind!r} must be pointwise or pairwise")
    return OwnForm(form=generative_form(f"assay-{kind}"), critique=critique)


def own_text(form: GenerativeForm, answers: Sequence[Completion], *, critique: bool) -> str:
    """What is asked in our own words, of any form: the question, the answers under its labels, and how the verdict is written."""
    names = [""] if len(answers) == 1 else [f" {label}" for label in labels_of(form, len(answers))]
    parts = [("Question", question_text(answers[0]))]
    parts += [(f"Answer{name}", answer_text(answer)) for name, answer in zip(names, answers, strict=True)]
    return "\n\n".join(f"[{header}]\n{text}" for header, text in [*parts, ("Task", _task(form, len(answers), critique=critique))])


def labels_of(form: GenerativeForm, count: int) -> tuple[str, ...]:
    """What that many answers are called: by the form's labels, or numbers where it has too few."""
    return form.labels[:count] if count <= len(form.labels) else tuple(str(number) for number in range(1, count + 1))


def question_text(answer: Completion) -> str:
    """The one question of the user, or the conversation before the answer with its roles."""
    only = answer.messages[0] if len(answer.messages) == 1 else None
    is_question = only is not None and only.role == "user" and not only.extras and not answer.tools
    return only.content.strip() if only is not None and is_question else conversation_text(answer)


def why_unaskable(answers: Sequence[Completion]) -> str | None:
    """Why our own words cannot hold these answers: one was rendered already, is empty, or holds a header of the form."""
    for answer in answers:
        if answer.response is None:
            return "a generative model is asked about messages and response: this completion was rendered already"
        if not answer_text(answer):
            return "the response is empty"
        for what, text in (("question", question_text(answer)), ("response", answer_text(answer))):
            if (found := _HEADER.search(text)) is not None:
                return f"the {what} holds the line {found[0].strip()!r}, with which the form itself marks its parts"
    return None


def _task(form: GenerativeForm, count: int, *, critique: bool) -> str:
    written = " or ".join(form.spelled)
    if form.gives == "score":
        low, high = form.scale or (1, 10)
        whom = "the answer" if count == 1 else "each answer, in their order,"
        where = f"{written}, where N is the score" if count == 1 else written
        return f"Score {whom} from {low} to {high} ({high} is best). Explain why, then end with: {where}"
    asked = "Is this a good answer to the question?" if count == 1 else "Which answer to the question is better?"
    if not critique:
        return f"{asked} Reply with one line and nothing else: {written}"
    how = "Check it step by step" if count == 1 else "Compare them step by step"
    return f"{asked} {how}, then end with one line: {written}"
