"""Critiques that stand beside the pairs of a data set: what was said of the two answers, or of one of them.

A row has them in its columns `critique`, `chosen_critique` and `rejected_critique` (or in its ground truth). Where a row has one
answer, `critique` is of that one, and follows it into the pairs that it is in. A critique of both answers calls them {chosen} and
{rejected}, so that it can be told in both orders; one that names neither is told as it is.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import NamedTuple

from assay.records import PreferencePair

CRITIQUE, CHOSEN_CRITIQUE, REJECTED_CRITIQUE = "critique", "chosen_critique", "rejected_critique"
CRITIQUE_FIELDS = (CRITIQUE, CHOSEN_CRITIQUE, REJECTED_CRITIQUE)
CHOSEN, REJECTED = "{chosen}", "{rejected}"
FIRST_NAMES, SECOND_NAMES = ("1", "one", "first", "A"), ("2", "two", "second", "B")
_NOUNS = r"assistant|answer|response|output|model|completion|candidate|ai"
_MARKS = r"[ABMm12]|(?i:one|two)\b"
_NAMED = re.compile(rf"(?i:\b(?:the\s+)?(?:{_NOUNS}))\s*(?:['\"(](?P<quoted>{_MARKS})['\")]|(?P<mark>{_MARKS})(?!\w))")
_ORDERED = re.compile(rf"\b(?i:the\s+(?P<mark>first|second)\s+(?:{_NOUNS}))\b")
_VERDICT = re.compile(r"^[ \t*_#>-]*(?:final[ \t]+)?verdict[ \t*_]*:[ \t*_]*(?P<said>.*?)[ \t*_.]*$", re.IGNORECASE | re.MULTILINE)


class Critiques(NamedTuple):
    """What stands beside a pair: of both answers, of the chosen one, of the rejected one; None for what does not."""

    both: str | None = None
    chosen: str | None = None
    rejected: str | None = None

    @property
    def is_empty(self) -> bool:
        return self == Critiques()


class Said(NamedTuple):
    """A critique without its verdict line, and what that line says; None where there is none."""

    critique: str
    verdict: str | None


class Unclear(Exception):
    """A critique that cannot be told in both orders: the message is the reason."""


def critiques_of(pair: PreferencePair) -> Critiques:
    """The critiques of a pair; blank ones are none."""
    truth = pair.ground_truth or {}
    found = [truth.get(name) for name in CRITIQUE_FIELDS]
    return Critiques(*(text if isinstance(text, str) and text.strip() else None for text in found))


def said_of(text: str) -> Said:
    """A critique apart from its last line "Verdict: ...". What stands behind that line is left out with it."""
    lines = list(_VERDICT.finditer(text))
    if not lines:
        return Said(text.strip(), None)
    return Said(text[: lines[-1].start()].strip(), lines[-1]["said"].strip())


def told_of_two(text: str, chosen: str, rejected: str) -> str:
    """A critique of both answers with their names in an order.

    Raises `Unclear` for names that an order decides, such as Answer A.
    """
    if CHOSEN not in text and REJECTED not in text and (found := _NAMED.search(text) or _ORDERED.search(text)) is not None:
        raise Unclear(f"it says {found[0]!r}, and which answer that is depends on an order: write {CHOSEN} and {REJECTED}")
    return text.replace(CHOSEN, chosen).replace(REJECTED, rejected)


def by_label(text: str, of_chosen: Collection[str]) -> str:
    """A critique that names the answers by place (Assistant 1, the second response, Model m), with {chosen} and {rejected} instead.

    of_chosen: what the chosen one is called: some of 1, one, first, A, m, or 2, two, second, B, M.
    """

    def name(found: re.Match[str]) -> str:
        said = found["mark"] or found.groupdict().get("quoted") or ""
        mark = said if len(said) == 1 else said.lower()
        return CHOSEN if mark in of_chosen else REJECTED

    return _ORDERED.sub(name, _NAMED.sub(name, text))
