"""The 25 kinds of instructions of IFEval (Zhou et al. 2023, arXiv 2311.07911), checked by code of our own.

Names and arguments are IFEval's `instruction_id_list` and `kwargs`. Where its code differs from what its instruction says, the
instruction counts: keywords are text and no regexes, a section's number follows its name, a postscript begins a line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from assay.scorers.verifiers.languages import KNOWN, language_of

Given = Mapping[str, Any]
"""The arguments of one instruction."""


class BadConstraint(ValueError):
    """An instruction that cannot be checked: of an unknown kind, or without an argument that it needs."""


class CannotTell(ValueError):
    """An answer of which the check cannot tell whether it follows."""


def follows(kind: str, text: str, given: Given) -> bool:
    """Whether a text follows an instruction. An empty text follows none.

    Raises BadConstraint for an unknown kind and for arguments that are missing or of another type, CannotTell where the language of
    the text cannot be told.
    """
    check = KINDS.get(kind)
    if check is None:
        raise BadConstraint(f"{kind!r} is none of IFEval's 25 kinds of instructions")
    is_blank = not text.strip()
    try:
        followed = check("-" if is_blank else text, {name: value for name, value in given.items() if value is not None})
    except KeyError as error:
        raise BadConstraint(f"{kind} needs {error.args[0]!r}") from None
    except CannotTell:
        if is_blank:
            return False
        raise
    return followed and not is_blank


def _number(given: Given, name: str) -> int:
    value = given[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value) or value < 0:
        raise BadConstraint(f"{name} is {value!r:.40}, and must be a whole number")
    return int(value)


def _text(given: Given, name: str) -> str:
    value = given[name]
    if not isinstance(value, str) or not value.strip():
        raise BadConstraint(f"{name} is {value!r:.40}, and must be text")
    return value.strip()


def _texts(given: Given, name: str) -> list[str]:
    values = given[name]
    if (
        isinstance(values, str)
        or not isinstance(values, Sequence)
        or not values
        or not all(isinstance(v, str) and v for v in values)
    ):
        raise BadConstraint(f"{name} is {values!r:.40}, and must be a list of texts")
    return list(values)


def _holds(count: int, given: Given, relation: str, threshold: str) -> bool:
    """Whether a count stands in the relation: "less than" or "at least"."""
    limit, said = _number(given, threshold), given[relation]
    if said not in ("less than", "at least"):
        raise BadConstraint(f"{relation} is {said!r:.40}, and must be 'less than' or 'at least'")
    return count < limit if said == "less than" else count >= limit


def _times(word: str, text: str) -> int:
    return len(re.findall(re.escape(word), text, re.IGNORECASE))


def _has_word(word: str, text: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE) is not None


def words_of(text: str) -> list[str]:
    """The words of a text: runs of letters, digits and underscores."""
    return re.findall(r"\w+", text)


_ABBREVIATIONS = re.compile(
    r"\b(?:[A-Z]|[Mm]rs?|[Mm]s|[Dd]r|[Pp]rof|[Ss]t|[Jj]r|[Ss]r|[Vv]s|e\.g|i\.e|[Ee]tc|[Nn]o|[Ff]ig|[Uu]\.[Ss])\.$"
)


def sentences_of(text: str) -> list[str]:
    """The sentences of a text: ended by . ! ? … and their kin before white space, or by an empty line; not by an abbreviation."""
    found: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text):
        begun: list[str] = []
        for piece in re.split(r"(?<=[.!?…。！？])[\"'”’)\]]*\s+|(?<=[。！？])", paragraph):
            begun.append(piece)
            if not _ABBREVIATIONS.search(piece[-12:]):
                found.append(" ".join(begun))
                begun = []
        found.append(" ".join(begun))
    return [sentence for sentence in found if re.search(r"\w", sentence)]


def _has_title(text: str) -> bool:
    return any(title.strip() for title in re.findall(r"<<([^\n<>]+)>>", text))


def _is_language(text: str, code: str) -> bool:
    if code not in KNOWN:
        raise BadConstraint(f"the language {code!r} is none that can be told: {', '.join(sorted(KNOWN))}")
    found = language_of(text)
    if found is None:
        raise CannotTell("the language of the answer cannot be told: it has too few words")
    return found == code


def _paragraphs(text: str, given: Given) -> bool:
    """Parts between *** dividers; one that is empty, but for the first and the last, is none."""
    parts = re.split(r"\*{3}", text)
    inner = parts[1:-1]
    return all(part.strip() for part in inner) and sum(bool(part.strip()) for part in parts) == _number(given, "num_paragraphs")


def _nth_paragraph(text: str, given: Given) -> bool:
    paragraphs = [part.strip() for part in text.split("\n\n") if part.strip()]
    nth, wanted = _number(given, "nth_paragraph"), _text(given, "first_word").lower()
    if nth < 1:
        raise BadConstraint("nth_paragraph counts from 1")
    if len(paragraphs) != _number(given, "num_paragraphs") or nth > len(paragraphs):
        return False
    first = re.match(r"['\"*_#\s]*([^\s.,?!'\"*_]*)", paragraphs[nth - 1])
    return first is not None and first[1].lower() == wanted


def _postscript(text: str, given: Given) -> bool:
    marker = _text(given, "postscript_marker")
    spelled = r"\s?".join(re.escape(part) for part in re.findall(r"[^.\s]+\.?", marker)).removesuffix(r"\.") + r"\.?"
    return re.search(rf"^[ \t*_#>]*{spelled}", text, re.IGNORECASE | re.MULTILINE) is not None


def _sections(text: str, given: Given) -> bool:
    name = re.escape(_text(given, "section_spliter"))
    return len(re.findall(rf"(?<!\w){name}\s*\d+", text)) >= _number(given, "num_sections")


def _highlights(text: str, given: Given) -> bool:
    marked = [part for part in re.findall(r"\*{1,2}([^\n*]+)\*{1,2}", text) if part.strip()]
    return len(marked) >= _number(given, "num_highlights")


def _bullets(text: str, given: Given) -> bool:
    return len(re.findall(r"^[ \t]*(?:\*(?!\*)|-(?!-))[ \t]*\S", text, re.MULTILINE)) == _number(given, "num_bullets")


def _is_json(text: str) -> bool:
    body = re.sub(r"^```(?:json)?|```$", "", text.strip(), flags=re.IGNORECASE).strip()
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return False
    return True


def _two_responses(text: str) -> bool:
    parts = text.split("******")
    said = [part.strip() for part in parts if part.strip()]
    return all(part.strip() for part in parts[1:-1]) and len(said) == 2 and said[0] != said[1]


def _ends(text: str, given: Given) -> bool:
    return text.strip().strip('"').strip().lower().endswith(_text(given, "end_phrase").lower())


def _letters(text: str, given: Given) -> bool:
    letter = _text(given, "letter").lower()
    if len(letter) != 1:
        raise BadConstraint(f"letter is {letter!r:.40}, and must be one character")
    return _holds(text.lower().count(letter), given, "let_relation", "let_frequency")


def _capitals(text: str, given: Given) -> bool:
    words = [word for word in re.findall(r"[\w'’-]+", text) if word.isupper()]
    return _holds(len(words), given, "capital_relation", "capital_frequency")


_OPTIONS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")

KINDS: Mapping[str, Callable[[str, Given], bool]] = {
    "keywords:existence": lambda text, given: all(_times(word, text) for word in _texts(given, "keywords")),
    "keywords:frequency": lambda text, given: _holds(_times(_text(given, "keyword"), text), given, "relation", "frequency"),
    "keywords:forbidden_words": lambda text, given: not any(_has_word(word, text) for word in _texts(given, "forbidden_words")),
    "keywords:letter_frequency": _letters,
    "language:response_language": lambda text, given: _is_language(text, _text(given, "language")),
    "length_constraints:number_sentences": lambda text, given: _holds(len(sentences_of(text)), given, "relation", "num_sentences"),
    "length_constraints:number_paragraphs": _paragraphs,
    "length_constraints:number_words": lambda text, given: _holds(len(words_of(text)), given, "relation", "num_words"),
    "length_constraints:nth_paragraph_first_word": _nth_paragraph,
    "detectable_content:number_placeholders": lambda text, given: (
        len(re.findall(r"\[[^\[\]\n]*\]", text)) >= _number(given, "num_placeholders")
    ),
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:constrained_response": lambda text, given: any(option in text for option in _OPTIONS),
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:multiple_sections": _sections,
    "detectable_format:json_format": lambda text, given: _is_json(text),
    "detectable_format:title": lambda text, given: _has_title(text),
    "combination:two_responses": lambda text, given: _two_responses(text),
    "combination:repeat_prompt": lambda text, given: text.strip().lower().startswith(_text(given, "prompt_to_repeat").lower()),
    "startend:end_checker": _ends,
    "startend:quotation": lambda text, given: len(text.strip()) > 1 and text.strip()[0] == text.strip()[-1] == '"',
    "change_case:capital_word_frequency": _capitals,
    "change_case:english_capital": lambda text, given: text.isupper() and _is_language(text, "en"),
    "change_case:english_lowercase": lambda text, given: text.islower() and _is_language(text, "en"),
    "punctuation:no_comma": lambda text, given: "," not in text,
}
"""The check of each kind: whether a text follows, given the arguments."""
