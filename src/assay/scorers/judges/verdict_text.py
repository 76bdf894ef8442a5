"""Verdicts out of text: the last one outside of quotes counts, and it must be one that was offered.

What the judge repeats (the fenced text, quotations, code, its own thoughts) can hold verdicts that somebody else wrote. None of it
is looked at. Nothing is repaired: a reply that ends early or says two things at once has no verdict.
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Sequence
from typing import NamedTuple

from assay.generation.replies import Reply, Unreadable
from assay.generation.spellings import normal

_FENCE_LETTERS = 14
_FENCE = re.compile(r"\[text [a-z]{14}\]")
_THOUGHTS = re.compile(r"<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
_OPEN_THOUGHT = re.compile(r"<think(?:ing)?>", re.IGNORECASE)
_END_OF_THOUGHT = re.compile(r"</think(?:ing)?>", re.IGNORECASE)
_QUOTES = (
    re.compile(r"```.*?(?:```|\Z)", re.DOTALL),
    re.compile(r"^[ \t]*>.*$", re.MULTILINE),
    re.compile(r"`[^`\n]*`"),
    re.compile(r"“[^”]*”"),
    re.compile(r'"(?:[^"\n]|\n(?!\s*\n))*"'),
)
_VERDICT = re.compile(r"^[ \t*_#-]*verdict[ \t]*(?:(?:no\.?|#)?[ \t]*(?P<number>\d+))?[ \t*_]*:", re.MULTILINE | re.IGNORECASE)
_AROUND = " \t\r*_`'\"“”‘’.,;:!()[]{}<>"


class Found(NamedTuple):
    """A verdict in a reply: what was offered, and where it begins in the reply's text."""

    choice: str
    offset: int


def fence_of(text_digest: str) -> str:
    """The line before and behind a text of that digest: 65 bits of it, in letters, which are fewer tokens than digits."""
    number, letters = int(text_digest, 16), []
    for _ in range(_FENCE_LETTERS):
        number, place = divmod(number, 26)
        letters.append(string.ascii_lowercase[place])
    return f"[text {''.join(letters)}]"


def whole_text(reply: Reply, *, fix: str = "raise max_tokens in [judge]") -> str:
    """The text of a reply that came to its end. Raises `Unreadable` for one that is empty, cut off or never stops to think."""
    text = reply.text or ""
    if reply.finish == "length":
        written = f" after {reply.output_tokens} tokens" if reply.output_tokens else ""
        raise Unreadable(f"the reply was cut off{written}: {fix}")
    if not text.strip():
        raise Unreadable("the reply is empty")
    masked = _blank(_THOUGHTS, text)
    if _OPEN_THOUGHT.search(masked):
        raise Unreadable("the reply's <think> is never closed")
    return text


def numbered_verdict(text: str, choices: Sequence[str], number: int | None = None) -> Found:
    """The last verdict line outside of quotes; of several criteria that with the number. A reply that is nothing but a choice
    counts.

    choices: what was offered; empty for any number (a scale). Raises `Unreadable` where there is no such line, or what it says was
    not offered.
    """
    masked = outside_of_quotes(text)
    lines = [line for line in _VERDICT.finditer(masked) if number is None or line["number"] == str(number)]
    if not lines:
        bare = text[len(masked) - len(masked.lstrip()) :] if number is None else ""
        if bare and (alone := _offered(bare, choices)) is not None:
            return Found(alone, text.index(bare) + _leading(bare))
        raise Unreadable("the reply has no verdict" if number is None else f"the reply has no verdict on criterion {number}")
    start = lines[-1].end()
    end = text.find("\n", start)
    said = text[start : len(text) if end < 0 else end]
    choice = _offered(said, choices)
    if choice is None:
        known = f", and must be one of: {' | '.join(choices)}" if choices else ""
        raise Unreadable(f"the verdict is {said.strip()[:60]!r}{known}")
    return Found(choice, start + _leading(said))


def verdicts_in_json(text: str, names: Sequence[Sequence[str]]) -> list[str]:
    """The verdicts of a reply that had to fit a schema: {"1": {"reason": ..., "verdict": ...}, ...}. names: the choices of each
    criterion.

    Raises `Unreadable` for what is no whole JSON of that form.
    """
    try:
        content = json.loads(text)
    except ValueError:
        raise Unreadable("the reply is no whole JSON, which it had to be") from None
    found = []
    for number, choices in enumerate(names, 1):
        entry = content.get(str(number)) if isinstance(content, dict) else None
        said = entry.get("verdict") if isinstance(entry, dict) else None
        choice = _offered(said, choices) if isinstance(said, str) else None
        if choice is None:
            raise Unreadable(f"the verdict on criterion {number} is {said!r:.60}, and must be one of: {' | '.join(choices)}")
        found.append(choice)
    return found


def verdict_at_start(text: str, choices: Sequence[str]) -> Found:
    """The choice that a reply begins with, else its verdict line: for verdicts that are read by their token."""
    masked = outside_of_quotes(text)
    begin = len(masked) - len(masked.lstrip(_AROUND + "\n"))
    first = re.split(r"[\s.,;:!*_`'\"()\[\]]", text[begin:], maxsplit=1)[0]
    named = {normal(choice): choice for choice in choices}
    longest = [choice for choice in choices if normal(text[begin : begin + len(choice)]) == normal(choice) and " " in choice]
    if longest:
        return Found(max(longest, key=len), begin)
    if normal(first) in named:
        return Found(named[normal(first)], begin)
    return numbered_verdict(text, choices)


def outside_of_thoughts(text: str) -> str:
    """The text with blanks in place of thoughts; offsets stay as they are."""
    masked = _blank(_THOUGHTS, text)
    if (ends := list(_END_OF_THOUGHT.finditer(masked))) and not _OPEN_THOUGHT.search(masked):
        masked = _blanked(masked, 0, ends[-1].end())  # a template may have opened the thought in the prompt
    return masked


def outside_of_quotes(text: str) -> str:
    """The text with blanks in place of thoughts, fenced text and quotations; offsets stay as they are."""
    masked = outside_of_thoughts(text)
    marks = list(_FENCE.finditer(masked))
    while marks:
        opening = marks.pop(0)
        closing = next((mark for mark in marks if mark[0] == opening[0]), None)
        masked = _blanked(masked, opening.start(), len(masked) if closing is None else closing.end())
        marks = [mark for mark in marks if closing is not None and mark.start() > closing.start()]
    for pattern in _QUOTES:
        masked = _blank(pattern, masked)
    return masked


def _offered(said: str, choices: Sequence[str]) -> str | None:
    """The choice that the text is, apart from marks around it and "/10" or "out of 10" behind a number; None for anything else."""
    said = said.strip(_AROUND + "\n")
    if not choices:
        return said or None
    named = {normal(choice): choice for choice in choices}
    numbers = [choice for choice in choices if choice.lstrip("-").isdigit()]
    if normal(said) in named:
        return named[normal(said)]
    if numbers and (found := re.fullmatch(rf"(-?\d+)\s*(?:/|out of)\s*{re.escape(max(numbers, key=int))}", said)):
        return named.get(normal(found[1]))
    return None


def _leading(said: str) -> int:
    return len(said) - len(said.lstrip(_AROUND + "\n"))


def _blank(pattern: re.Pattern[str], text: str) -> str:
    return pattern.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)


def _blanked(text: str, start: int, end: int) -> str:
    return text[:start] + re.sub(r"[^\n]", " ", text[start:end]) + text[end:]
