"""Cases whose answers repeat the prompt, as transcripts or as prompt and answer in one text: the prompt is cut from them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from assay.data.cases import Case
from assay.data.raw.cells import BadRow, joined
from assay.data.raw.embedded import rendered_in, transcript_in
from assay.messages import Messages

REPEATED = "answers repeated the prompt, which was cut from them"
_FEWEST_WORDS = 3
_ANSWER_HEAD = re.compile(r"\A\s*(?:\[/INST\]|(?:###\s*)?(?:Assistant|ASSISTANT|Response|Answer|A|AI|Bot)\s*:)\s*")


def unwrapped(case: Case, note: Callable[[str], None]) -> Case:
    """The case with a prompt that was written as a transcript, or rendered, as turns, and without the prompt in the answers.

    note: told where answers were cut. Raises BadRow for marks of a chat template that cannot be taken away.
    """
    prompt = _asked(case.prompt)
    changed = case if prompt is case.prompt else replace(case, prompt=prompt)
    texts = [rendered_in(answer) for answer in case.candidates]
    whole = [_parts(text, prompt) for text in texts]
    befores = {part[0] for part in whole if part is not None}
    if len(befores) == 1 and None not in whole:
        note(REPEATED)
        return replace(_with_texts(changed, [part[1] for part in whole if part is not None]), prompt=befores.pop())
    answers = [text for text in texts if isinstance(text, str)]
    if len(answers) < len(texts):
        raise BadRow("marks of a chat template inside of an answer")
    changed = changed if answers == list(case.candidates) else _with_texts(changed, answers)
    text = case.prompt[0].content if len(case.prompt) == 1 else ""
    if len(text.split()) >= _FEWEST_WORDS and len(case.candidates) > 1:
        cut = [_without_prefix(answer, text) for answer in answers]
        if all(answer is not None for answer in cut):  # one answer alone may repeat a question on purpose
            note(REPEATED)
            return _with_texts(changed, [answer or "" for answer in cut])
    return changed


def _asked(prompt: Messages) -> Messages:
    """The turns of a prompt, of which one may hold all the others."""
    if len(prompt) == 1 and prompt[0].role == "user":
        held = _held(rendered_in(prompt[0].content))
        if held is not None and held[-1].role == "user":
            return held
    if any(not isinstance(rendered_in(turn.content), str) for turn in prompt):
        raise BadRow("marks of a chat template inside of the prompt")
    return prompt


def _held(text: str | Messages) -> Messages | None:
    """The turns of a text that was rendered or is a transcript."""
    return transcript_in(text) if isinstance(text, str) else text


def _parts(text: str | Messages, prompt: Messages) -> tuple[Messages, str] | None:
    """The whole prompt and the answer of a transcript that repeats the prompt, None for another text."""
    turns = _held(text)
    if not turns or turns[-1].role != "assistant" or len(turns) < 2:
        return None
    try:
        return joined(prompt, turns[:-1]), turns[-1].content
    except BadRow:
        return None


def _without_prefix(answer: str, prompt: str) -> str | None:
    """What follows the prompt in an answer that begins with it, None where it does not, or where nothing follows."""
    bare, start = answer.lstrip(), prompt.strip()
    if not bare.startswith(start):
        return None
    rest = bare[len(start) :]
    if not rest.strip() or not (rest[0].isspace() or start[-1] in ":>]" or start.endswith("?")):
        return None
    return _ANSWER_HEAD.sub("", rest).strip()


def _with_texts(case: Case, texts: list[str]) -> Case:
    messages = tuple(message._replace(content=text) for message, text in zip(case.messages, texts, strict=bool(case.messages)))
    return replace(case, candidates=tuple(texts), messages=messages)
