"""Whether an answer has a form: a regex of the user's, or tags in an order. Runs in a worker: a regex may run for ever."""

from __future__ import annotations

import re
from typing import Any


def check_format(check: dict[str, Any]) -> dict[str, Any]:
    """1 where `text` matches `pattern` (somewhere, or as a whole where `whole`) and has the `tags`, if they are given; else 0."""
    text, pattern = check["text"], check.get("pattern")
    fits = True
    if pattern is not None:
        try:
            compiled = re.compile(pattern, re.DOTALL)
        except (re.error, RecursionError, OverflowError) as error:
            return {"gold": f"the pattern {pattern!r:.60} cannot be compiled: {error}"}
        fits = (compiled.fullmatch(text.strip()) if check.get("whole") else compiled.search(text)) is not None
    return {"value": float(fits and has_tags(text, check.get("tags") or []))}


def has_tags(text: str, tags: list[str]) -> bool:
    """Whether the text is <a>...</a> <b>...</b> for the tags a, b, in order: each once, closed, with only white space between."""
    rest = text
    for tag in tags:
        opened, closed = f"<{tag}>", f"</{tag}>"
        before, found, rest = rest.partition(opened)
        _, end, rest = rest.partition(closed)
        if not (found and end) or before.strip() or text.count(opened) != 1 or text.count(closed) != 1:
            return False
    return not (tags and rest.strip())
