"""The verdict of a reply: the last whole one outside of thoughts, quotations and code counts, and it must be one that was offered.

An example that is repeated ("[[A]] or [[B]]") is no verdict, and neither are two verdicts side by side. Nothing is repaired.
Letters and digits of full width are read as what they are, and small letters as capital ones.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from assay.generation.replies import Reply, Unreadable
from assay.generation.spellings import normal
from assay.scorers.generative.generative_forms import GenerativeForm
from assay.scorers.judges.verdict_text import outside_of_quotes, outside_of_thoughts, whole_text

_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_OR = re.compile(r"(?:^|[^\w\n])(?:or|oder|ou|或)(?:$|[^\w\n])|[/|]", re.IGNORECASE)
_MARKS = " \t\n*_`'\"“”‘’.,;:，。：；"
_QUOTED = {"'": "'", '"': '"', "‘": "’", "“": "”", "「": "」", "`": "`"}
_WIDE = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: 0x20, 0x3010: ord("["), 0x3011: ord("]")}
_LARGEST_GAP = 60  # characters between the two verdicts of an example


class WrittenVerdict(NamedTuple):
    """What a reply says: one of the form's words, or a score for each answer; offset: where it begins in the reply's text."""

    word: str | None
    scores: tuple[float, ...]
    offset: int


def written_verdict(reply: Reply, form: GenerativeForm, num_answers: int = 1, *, begun: str = "") -> WrittenVerdict:
    """The verdict of a whole reply. begun: what the reply goes on with, such as "<think>"; offsets are those of the reply alone.

    Raises `Unreadable` with the reason where there is none.
    """
    whole = whole_text(reply._replace(text=begun + (reply.text or "")), fix="give it more room with max_tokens")
    found = _verdict(whole, form, num_answers)
    if found.offset < len(begun):
        raise Unreadable("the reply has no verdict of its own: it is the text that it was begun with")
    return found._replace(offset=found.offset - len(begun))


def _verdict(text: str, form: GenerativeForm, num_answers: int) -> WrittenVerdict:
    places = _places(text, form)
    if not places:
        raise Unreadable(f"the reply has no verdict of the form {' or '.join(form.spelled)} outside of thoughts and quotations")
    last = places[-1]
    if len(places) > 1 and _says(places[-2], form) != _says(last, form) and not text[places[-2].end() : last.start()].strip(_MARKS):
        raise Unreadable(f"the reply gives two verdicts at once, {places[-2]['said']!r} and {last['said']!r}")
    if form.gives == "score":
        return WrittenVerdict(None, _scores(last["said"], form, num_answers), last.start("said"))
    return WrittenVerdict(_word(last["said"], form), (), last.start("said"))


def _places(text: str, form: GenerativeForm) -> list[re.Match[str]]:
    """Whole verdicts that are neither quoted nor examples, in order."""
    masked = outside_of_thoughts(text) if form.quotes_verdict else outside_of_quotes(text)
    for hidden in form.hides:
        masked = re.sub(hidden, lambda found: " " * len(found[0]), masked, flags=re.DOTALL | re.IGNORECASE)
    pattern = re.compile(form.verdict, re.IGNORECASE | re.MULTILINE)
    found = [place for place in pattern.finditer(masked.translate(_WIDE)) if not _is_quoted(masked, place)]
    if not found and pattern.fullmatch(text.strip(_MARKS).translate(_WIDE)):  # a reply that is nothing but its verdict, quoted
        return list(pattern.finditer(text.translate(_WIDE)))[:1]
    kept: list[re.Match[str]] = []
    for place in found:
        if kept and _is_example(masked[kept[-1].end() : place.start()], kept[-1], place, form):
            kept.pop()
            continue
        kept.append(place)
    return kept


def _is_example(between: str, one: re.Match[str], other: re.Match[str], form: GenerativeForm) -> bool:
    """Whether two verdicts are the two of a repeated example, as in: [[A]] if A is better, or [[B]]."""
    near = len(between) <= _LARGEST_GAP and "\n\n" not in between
    return near and _says(one, form) != _says(other, form) and _OR.search(between) is not None


def _is_quoted(text: str, place: re.Match[str]) -> bool:
    before, behind = text[: place.start()][-1:], text[place.end() :][:1]
    return bool(before) and _QUOTED.get(before) == behind


def _says(place: re.Match[str], form: GenerativeForm) -> str:
    return _bare(place["said"]) if form.gives == "choice" else " ".join(_NUMBER.findall(place["said"]))


def _word(said: str, form: GenerativeForm) -> str:
    named: Mapping[str, str] = {_bare(word): word for word in form.words}
    if _bare(said) not in named:
        raise Unreadable(f"the verdict is {said[:40]!r}, and must be one of {', '.join(form.words)}")
    return named[_bare(said)]


def _bare(said: str) -> str:
    """A word without case and white space."""
    return normal(re.sub(r"\s+", "", said))


def _scores(said: str, form: GenerativeForm, num_answers: int) -> tuple[float, ...]:
    scores = tuple(float(number) for number in _NUMBER.findall(said))
    if len(scores) != num_answers:
        raise Unreadable(f"the verdict {said[:40]!r} has {len(scores)} scores for {num_answers} answers")
    low, high = form.scale or (0, 0)
    if outside := [score for score in scores if not low <= score <= high]:
        raise Unreadable(f"the score {outside[0]:g} is not between {low} and {high}")
    return scores
