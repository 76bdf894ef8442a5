"""The prompt of a form: the publisher's text from the model's own files or a file that is given, else our own words, and that is
said.

A template is the text of the user's turn, or of several turns, each behind a line `[system]`, `[user]` or `[assistant]` (what the
reply is begun with). Fields are written as in Python ("{question}", "{answer_a}", under the names that publishers give them) or as
Jinja ("{{ question }}"). The text of another field, such as a rubric, stands behind a line with its name: `[rubric]`. No torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from assay.files import digest, json_digest
from assay.messages import Message, Messages
from assay.records import Completion
from assay.scorers.generative.generative_forms import GenerativeForm
from assay.scorers.generative.own_forms import OWN_WORDS, labels_of, own_text, question_text, why_unaskable
from assay.scorers.judges.wording import answer_text, conversation_text

PROMPT_FILES = ("judge_prompt.txt", "judge_prompt.jinja", "prompt_template.txt", "prompt.txt", "prompt.jinja")
"""Files of a model's directory that are taken for its prompt."""
_TURNS = ("system", "user", "assistant")
_SECTION = re.compile(r"^\[([a-z]\w*)\][ \t]*(?:\n|\Z)", re.MULTILINE)
_FIELD = re.compile(r"\{\{\s*([A-Za-z_]\w*)\s*\}\}|\{([A-Za-z_]\w*)\}")
_JINJA = re.compile(r"\{%|\{\{-?\s*[A-Za-z_]\w*\s*(?:\}\}|-\}\}|[|.\[(])")
_QUESTION = (
    "question",
    "question1",
    "instruction",
    "originstruction",
    "questionbody",
    "query",
    "userinput",
    "input",
    "prompt",
    "problem",
)
_ANSWER = ("answer", "response", "origresponse", "output", "completion", "assistantresponse")


@dataclass(frozen=True, slots=True, kw_only=True)
class FormPrompt:
    """What a form is asked with. text: the template, None for our own words. critique: whether our own words ask for one.
    in_roles: the answers are turns of their own in the model's chat template. origin: where the prompt is from, in words.
    is_published: whether it is the model's own or has a published digest."""

    form: GenerativeForm
    text: str | None = None
    critique: bool = True
    in_roles: bool = False
    origin: str = ""
    is_published: bool = False

    def messages(self, answers: Sequence[Completion]) -> Messages:
        """The turns that ask about these answers; a last one of the assistant is how the reply begins. Raises ValueError for a
        template that cannot be filled."""
        if self.in_roles:
            return (*answers[0].messages, *(Message(f"response_{k}", answer_text(one)) for k, one in enumerate(answers, 1)))
        if self.text is None:
            return (Message("user", own_text(self.form, answers, critique=self.critique)),)
        turns, others = sections_of(self.text)
        fields = {**fields_of(self.form, answers), **others}
        return tuple(Message(role, filled(text, fields).strip()) for role, text in turns)

    def why_not(self, answers: Sequence[Completion]) -> str | None:
        """Why these answers cannot be asked about; None where they can."""
        if self.text is None and not self.in_roles:
            return why_unaskable(answers)
        for answer in answers:
            if answer.response is None:
                return "a generative model is asked about messages and response: this completion was rendered already"
            if not answer_text(answer):
                return "the response is empty"
        return None

    @property
    def fingerprint(self) -> str:
        """Digest of all that decides what is asked."""
        return json_digest([self.form.name, self.text, self.critique, self.in_roles, OWN_WORDS])


def form_prompt(
    form: GenerativeForm, *, template: str | Path | None = None, checkpoint: Path | None = None, critique: bool = True
) -> FormPrompt:
    """The prompt of a form: of the file that is given, else of the model's directory, else our own words.

    Raises ValueError for a file that is not there or no template, and for a template of one of Assay's own forms.
    """
    if template is not None and form.is_own:
        raise ValueError(
            f"template={template}: #{form.name} has words of its own, which its models were trained with: leave it out"
        )
    file = None if template is None else Path(template)
    if file is not None and not file.is_file():
        raise ValueError(f"template={template}: there is no such file")
    if file is None and checkpoint is not None and not form.is_own:
        file = next((checkpoint / name for name in PROMPT_FILES if (checkpoint / name).is_file()), None)
    if file is None and form.roles and _knows_roles(checkpoint):
        own = "the model's own chat template, with the answers as turns response_1 and response_2"
        return FormPrompt(form=form, in_roles=True, origin=own, is_published=True)
    if file is None:
        return FormPrompt(form=form, critique=critique, origin=_of_own_words(form))
    text = file.read_text(encoding="utf-8")
    _try_out(form, text, file)
    known = form.digests.get(prompt_digest(text))
    said = f"the published prompt ({known})" if known else _of_unknown(form, text)
    return FormPrompt(form=form, text=text, origin=f"{file}: {said}", is_published=known is not None)


def prompt_digest(text: str) -> str:
    """Digest of a prompt that does not depend on white space, on how its fields are named, or on how turns are marked; what stands
    in its fields does not count."""
    turns = "".join(turn for _, turn in sections_of(text)[0])
    bare = _FIELD.sub("{}", turns).replace("{{", "{").replace("}}", "}")
    return digest(re.sub(r"\s+", "", bare))


def sections_of(text: str) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """The turns of a template, (role, text) each, and the texts of other fields that stand in it."""
    fields = {found[1] or found[2] for found in _FIELD.finditer(text)}
    marks = [mark for mark in _SECTION.finditer(text) if mark[1] in _TURNS or mark[1] in fields]
    before = text[: marks[0].start()] if marks else text
    turns = [("user", before)] if before.strip() else []
    others: dict[str, str] = {}
    ends = [*(mark.start() for mark in marks), len(text)][1:]
    for mark, end in zip(marks, ends, strict=True):
        content = text[mark.end() : end]
        if mark[1] in _TURNS:
            turns.append((mark[1], content))
        else:
            others[mark[1]] = content.strip()
    return turns, others


def fields_of(form: GenerativeForm, answers: Sequence[Completion]) -> dict[str, Any]:
    """What a template can name: question, answer, answer_a, answer_b, conversation_a, ..., answers, and messages."""
    texts = [answer_text(answer) for answer in answers]
    fields: dict[str, Any] = {
        "question": question_text(answers[0]),
        "answer": texts[0],
        "answers": texts,
        "messages": [turn.as_dict() for turn in answers[0].messages],
    }
    for number, (label, text, answer) in enumerate(zip(labels_of(form, len(answers)), texts, answers, strict=True), 1):
        whole = f"{conversation_text(answer)}\n\nassistant: {text}"
        for name in {label.casefold(), str(number)}:
            fields |= {f"answer_{name}": text, f"conversation_{name}": whole}
    if len(answers) > 1:
        for number, letter in enumerate("ab"[: len(answers)], 1):
            fields |= {f"answer_{letter}": texts[number - 1], f"conversation_{letter}": fields[f"conversation_{number}"]}
    return fields


def filled(text: str, fields: Mapping[str, Any]) -> str:
    """A template with its fields filled in one pass: what is put in is not looked at again. Raises ValueError for one that cannot
    be filled, naming the field."""
    if _JINJA.search(text):
        try:
            return str(_environment().from_string(text).render(fields))
        except jinja2.TemplateError as error:
            raise ValueError(f"the template cannot be filled ({error})") from error
    whole = re.compile(r"\{\{|\}\}|\{[A-Za-z_]\w*\}")

    def put(found: re.Match[str]) -> str:
        if found[0] in ("{{", "}}"):
            return found[0][0]
        name = found[0][1:-1]
        name = name if name in fields else known_field(name) or ""
        if name not in fields:
            fix = f"write its text into the file, behind a line [{found[0][1:-1]}]"
            raise ValueError(f"the template has a field {found[0]}, which is not known: {fix}")
        return _numbered(fields[name]) if name == "answers" else str(fields[name])

    return whole.sub(put, text)


def _numbered(answers: Sequence[str]) -> str:
    """Several answers as DeepSeek-GRM has them."""
    marked = [f"[The Begin of Response {k}]\n{text}\n[The End of Response {k}]" for k, text in enumerate(answers, 1)]
    return "\n".join(marked)


def known_field(name: str) -> str | None:
    """Our name of a field that publishers name in many ways ("response_A", "output_1"); None for another one."""
    bare = name.replace("_", "").casefold()
    if bare in _QUESTION:
        return "question"
    for begin in (*_ANSWER, "conversation"):
        if bare == begin and begin != "conversation":
            return "answer"
        if (which := bare.removeprefix(begin).removesuffix("body")) in ("a", "b", "1", "2") and bare.startswith(begin):
            return f"{'conversation' if begin == 'conversation' else 'answer'}_{which}"
    return "answers" if bare in ("answers", "responses") else None


def _try_out(form: GenerativeForm, text: str, file: Path) -> None:
    """Fill the template once. Raises ValueError where that cannot be done, or an answer would not be shown."""
    marks = ["a question", "the first answer", "the second answer"]
    count = 1 if form.asks == "one" else 2
    answers = [Completion(messages=(Message("user", marks[0]),), response=mark) for mark in marks[1 : 1 + count]]
    try:
        turns = FormPrompt(form=form, text=text).messages(answers)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    whole = "\n".join(turn.content for turn in turns)
    if missing := [mark for mark in marks[1 : 1 + count] if mark not in whole]:
        raise ValueError(
            f"{file}: {missing[0]} is not shown by this template: it needs a field for each answer, such as {{answer_a}}"
        )


def _knows_roles(checkpoint: Path | None) -> bool:
    """Whether the model's chat template has a place for answers as turns; behind an endpoint the publisher's model is taken to."""
    if checkpoint is None:
        return True
    files = [checkpoint / name for name in ("chat_template.jinja", "tokenizer_config.json") if (checkpoint / name).is_file()]
    return any("response_1" in file.read_text(encoding="utf-8") for file in files)


def _of_own_words(form: GenerativeForm) -> str:
    if form.is_own:
        return "Assay's own"
    missing = form.prompt or "the model's chat template has no turns for answers"
    return f"our own words, so that the numbers are not the publisher's; {missing}: give it with template=FILE"


def _of_unknown(form: GenerativeForm, text: str) -> str:
    if not form.digests:
        return f"no digest of the published prompt is known, so that this one ({prompt_digest(text)}) is taken as it is"
    return f"not the published prompt (digest {prompt_digest(text)}), so that the numbers are not the publisher's"


def _environment() -> ImmutableSandboxedEnvironment:
    return ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined)
