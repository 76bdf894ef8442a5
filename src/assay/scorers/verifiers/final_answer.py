"""Where an answer says what it concludes: in a box, a tag, behind #### or behind the word answer."""

from __future__ import annotations

import re

_BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{")
_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_HASHES = re.compile(r"^[ \t]*####[ \t]*(\S.*)$", re.MULTILINE)
_WORDED = re.compile(
    r"(?:^[ \t>*_#-]*A[ \t]*:|\b(?:final[ \t]+)?answer(?:[ \t]+is)?[ \t]*:|\banswer[ \t]+is\b)[ \t*_]*(?=\S)",
    re.MULTILINE | re.IGNORECASE,
)
_THOUGHT = re.compile(r"</think(?:ing)?>", re.IGNORECASE)
_THINKING = re.compile(r"<think(?:ing)?>", re.IGNORECASE)


def without_thought(text: str) -> str:
    """The text behind the last closed thought; "" where a thought is begun and never closed, since no answer follows it."""
    closed = [found.end() for found in _THOUGHT.finditer(text)]
    rest = text[closed[-1] :] if closed else text
    return "" if _THINKING.search(rest) else rest


def final_answer(text: str) -> str | None:
    r"""What the text concludes, None where nothing marks it.

    The last of \boxed{...}, <answer>...</answer> and "#### ..." counts; without these the last "answer is ...", "Answer: ..." or
    line "A: ...". What stands in a thought does not count.
    """
    text = without_thought(text)
    marked = [(found.end(), found[1]) for pattern in (_TAG, _HASHES) for found in pattern.finditer(text)]
    boxed = [(start, inner) for found in _BOXED.finditer(text) if (inner := _braced(text, start := found.end())) is not None]
    if marked or boxed:
        return max([*marked, *boxed])[1].strip()
    worded = [found.end() for found in _WORDED.finditer(text)]
    return text[worded[-1] :].partition("\n")[0].strip().rstrip("*_").strip() if worded else None


def _braced(text: str, start: int) -> str | None:
    """What stands before the brace that closes the one before `start`; None where none does."""
    depth = 1
    for i in range(start, len(text)):
        if text[i] in "{}" and text[i - 1] != "\\":
            depth += 1 if text[i] == "{" else -1
            if depth == 0:
                return text[start:i]
    return None
