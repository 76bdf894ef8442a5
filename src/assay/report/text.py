"""Texts and numbers in the form in which a page or a card may show them: nothing hidden, nothing that is not a number as 0."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable
from numbers import Integral, Real
from typing import TypeGuard

# Control characters, bidi overrides and isolates, non-characters, lone surrogates: what cannot be seen, reorders a page, or cannot
# be encoded.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufffe\uffff\ud800-\udfff]")


LARGEST = 1e100
NUM_DIGITS = 12  # of a count that is written out
MOST_PLACES = 7  # decimals


def visible(text: object) -> str:
    """The text with each character that would hide, reorder or fail to encode as its code point, ⟦U+202E⟧; line ends become \\n."""
    plain = str(text).replace("\r\n", "\n").replace("\r", "\n")
    return _UNSAFE.sub(lambda match: f"⟦U+{ord(match[0]):04X}⟧", plain)


def escape(text: object) -> str:
    """`visible` text, safe as HTML content and inside a double-quoted attribute."""
    return html.escape(visible(text), quote=True)


def shorten(text: object, limit: int) -> str:
    """The text on one line in at most `limit` characters, with an ellipsis where it was cut."""
    line = " ".join(visible(text).split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def is_real(cell: object) -> TypeGuard[float]:
    """Whether a cell is a number (Python's or numpy's, NaN included); a bool is not."""
    return isinstance(cell, Real) and not isinstance(cell, bool)


def is_finite(cell: object) -> TypeGuard[float]:
    """Whether a cell is a number that can be drawn: neither NaN nor infinite, nor beyond what a scale can hold."""
    return is_real(cell) and (abs(int(cell)) < LARGEST if isinstance(cell, Integral) else abs(float(cell)) < LARGEST)


def places(values: Iterable[object]) -> int:
    """Decimals that give the largest of the numbers about three significant digits, so that a column lines up."""
    finite = [value for value in values if is_finite(value)]
    largest = max((abs(float(value)) for value in finite), default=0.0)
    if largest >= 1000 or (largest > 1 and all(float(value).is_integer() for value in finite)):
        return 0
    if largest >= 10:
        return 1 if largest >= 100 else 2
    return 3 if largest >= 0.1 or largest == 0 else min(MOST_PLACES, 2 - math.floor(math.log10(largest)))


def number(value: float, decimals: int | None = None) -> str:
    """A number as text: thousands separated, "n/a" for NaN, and never 0 for what is not 0.

    decimals: as many as `places` gives a whole column, or a figure and its interval; what is next to nothing beside the others is
    <0.001 (or below their last decimal). Without, as many as the number itself needs.
    """
    if isinstance(value, Integral):
        digits = str(abs(int(value)))
        if len(digits) > NUM_DIGITS:
            return f"{'-' if value < 0 else ''}{digits[0]}.{digits[1:3]}e+{len(digits) - 1}"
        return f"{int(value):,}"
    if math.isnan(value):
        return "n/a"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    value = float(value)
    text = f"{value:,.{places([value]) if decimals is None else decimals}f}"
    if decimals is None and "." in text:
        text = text.rstrip("0").rstrip(".")
    is_rounded_off = value != 0 and not text.strip("-0.,")
    if is_rounded_off and decimals is not None and decimals < MOST_PLACES and abs(value) < 10 ** -(last := max(3, decimals)):
        return f"<{10**-last:.{last}f}" if value > 0 else f">-{10**-last:.{last}f}"
    if abs(value) >= 1e9 or is_rounded_off:
        return f"{value:.3g}"
    return text.lstrip("-") if value == 0 else text
