"""Whether a mathematical answer is the right one, by math-verify (Kydlíček et al., huggingface/Math-Verify). Runs in a worker."""

from __future__ import annotations

import logging
import re
from typing import Any

from math_verify import parse, verify

from assay.scorers.verifiers.final_answer import final_answer, without_thought

logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that its timeouts are off: the pool has one

_DELIMITED = re.compile(r"\$|\\\(|\\\[|\\boxed|\\begin")
_SYMBOLS = re.compile(r"[\\^{}_A-Za-z]")
_PROSE = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")  # a word that is no command of LaTeX


def check_answer(check: dict[str, Any]) -> dict[str, Any]:
    """1 where the answer `text` agrees with one of `golds`, else 0; {"gold": why} where none of the golds can be read."""
    golds = [found for gold in check["golds"] if (found := _parsed(final_answer(gold) or gold))]
    if not golds:
        return {"gold": f"the ground truth {check['golds'][0]!r:.60} is no mathematical expression"}
    given = _parsed(final_answer(check["text"]) or without_thought(check["text"]))
    right = bool(given) and any(verify(gold, given, timeout_seconds=None, raise_on_error=True) for gold in golds)
    return {"value": float(right)}


def _parsed(text: str) -> list[Any]:
    """What math-verify reads in a text; empty where that is no expression. It reads symbols and tuples between $ signs alone."""
    bare = f"${text}$" if not _DELIMITED.search(text) and not _PROSE.search(text) else None
    for form in (bare, text) if bare and _SYMBOLS.search(text) else (text, bare):
        found = [] if form is None else parse(form, parsing_timeout=None, raise_on_error=True)  # type: ignore[arg-type]
        if any(not isinstance(one, str) for one in found):
            return list(found)
    return []
