"""What can be seen of an answer without reading it: its length, its format, its tone. The word lists are English.

Suffixes: N answers, F features.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

LENGTH_FEATURES = ("length", "log length")

_WORDS: Mapping[str, str] = {
    "flattering opener": (
        r"\A\W*(?:(?:that(?:'s| is) |what )?(?:an? )?(?:great|good|excellent|wonderful|fantastic|interesting|fascinating"
        r"|brilliant|amazing)"
        r" (?:question|point|idea|choice)|i(?:'m| am) (?:so )?(?:glad|happy|delighted) (?:that )?you asked)"
    ),
    "eager opener": r"\A\W*(?:certainly|absolutely|of course|sure|definitely|i'd be (?:happy|glad) to|happy to help)\b",
    "refusal": (
        r"\bi(?:'m| am) (?:sorry|unable|not able|afraid)\b|\bi (?:cannot|can't|can not|won't|will not|am not going to) "
        r"|\bas an ai\b|\bi must decline\b"
    ),
    "hedging": (
        r"\b(?:may|might|could|perhaps|maybe|possibly|probably|likely|generally|usually|often|sometimes|seems?|appears?|"
        r"i think|i believe|in my opinion|it depends|not sure|there is no)\b"
    ),
    "first person": r"\b(?:i|me|my|mine|myself|i'm|i've|i'd|i'll)\b",
    "second person": r"\b(?:you|your|yours|yourself|you're|you've|you'd|you'll)\b",
    "negation": r"\b(?:no|not|never|none|nothing|cannot|\w+n't)\b",
}
_MARKS: Mapping[str, str] = {
    "bullets": r"(?m)^\s*(?:[-*•]|\d+[.)])\s+\S",
    "bold": r"\*\*[^*\n]+\*\*|__[^_\n]+__",
    "headings": r"(?m)^\s*#{1,6}\s+\S",
    "code": r"```|`[^`\n]+`",
    "emoji": "[\U0001f300-\U0001faff☀-➿]",
    "exclamation marks": "!",
    "digits": r"\d+",
    "quotes": '["“”«»]',
    "paragraphs": r"\n\s*\n",
}
_ASKS_BACK = re.compile(r"\?\W*\Z")


def _counted(pattern: str) -> Callable[[str], float]:
    """log(1 + number of matches): the second bullet says more than the twentieth."""
    compiled = re.compile(pattern)
    return lambda text: math.log1p(len(compiled.findall(text)))


FEATURES: Mapping[str, Callable[[str], float]] = {
    "length": lambda text: len(text) / 1000,
    "log length": lambda text: math.log1p(len(text)),
    **{name: _counted(pattern) for name, pattern in _MARKS.items()},
    "asks back": lambda text: float(bool(_ASKS_BACK.search(text))),
    **{name: _counted(pattern) for name, pattern in _WORDS.items()},
}
"""Name -> feature of a text. length in thousands of characters; "asks back": ends with a question; all others log(1 + count)."""


def feature_matrix(texts: Sequence[str]) -> np.ndarray:
    """(N, F) float64 features of N texts, columns in the order of `FEATURES`. Words are matched in lower case, ’ read as '."""
    rows = []
    for text in texts:
        plain = text.replace("’", "'").lower()
        rows.append([feature(plain) for feature in FEATURES.values()])
    return np.array(rows, dtype=np.float64).reshape(len(texts), len(FEATURES))
