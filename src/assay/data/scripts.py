"""In which script a text is written: Latin, Cyrillic, Han, ... from the names that Unicode gives its letters."""

from __future__ import annotations

import unicodedata
from collections import Counter
from functools import lru_cache

NO_LETTERS = "no letters"
_READ = 2000  # characters of a text that are looked at
_OTHER_NAMES = {"CJK": "Han", "HIRAGANA": "Japanese", "KATAKANA": "Japanese", "KATAKANA-HIRAGANA": "Japanese", "HANGUL": "Korean"}
_JAPANESE_KANA = 0.1  # share of kana from which Han and kana together are Japanese


def script_of(text: str) -> str:
    """The script of most letters of a text (of its first 2,000 characters): "Latin", "Han", "Japanese"; "no letters" of none."""
    counts: Counter[str] = Counter()
    for character, count in Counter(text[:_READ]).items():
        if name := _script(character):
            counts[name] += count
    if not counts:
        return NO_LETTERS
    if counts["Japanese"] > _JAPANESE_KANA * (counts["Japanese"] + counts["Han"]):
        counts["Japanese"] += counts.pop("Han", 0)
    return max(counts, key=lambda name: (counts[name], name))


@lru_cache(maxsize=65536)
def _script(character: str) -> str:
    """The script of a letter, "" for what is none."""
    if not character.isalpha():
        return ""
    name = unicodedata.name(character, "").split(" ", 1)[0]
    return _OTHER_NAMES.get(name, name.capitalize())
