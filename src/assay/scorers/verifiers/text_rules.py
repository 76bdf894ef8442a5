"""Rules that need no process of their own: the exact text, a choice, the length, IFEval's constraints.

Each takes an answer's text, the ground truth and the rule's settings, and gives a number in [0, 1]. A ground truth that cannot be
read raises Unreadable, which is NaN with the reason; an answer that cannot be read is wrong, 0.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from assay.scorers.verifiers.constraints import BadConstraint, CannotTell, follows, words_of
from assay.scorers.verifiers.final_answer import final_answer, without_thought

Truth = Mapping[str, Any]
Settings = Mapping[str, Any]

# A and I are words too: they are letters where something other than a sentence follows
_LETTER = r"(?:\(([A-Z])\)|([B-HJ-Z])(?![\w'’])|([AI])(?=[).:,;\]*_]|\s*(?:$|\n)|\s+(?:because|since|as)\b))"
_CONCLUDED = re.compile(rf"[\s*_\[$]*{_LETTER}")
_CHOSEN = re.compile(rf"\b(?i:answer|option|choice)\b(?i:[ \t]+(?:is|would be|should be))?[ \t]*:?[ \t*_\[]*{_LETTER}")
_FIRST = re.compile(r"[\s*_]*\(?([A-Z])[).:\]]")
_BARE = re.compile(r"[\s*_$]*\(?([A-Za-z])\)?[\s*_$.]*")
_TEXT_COMMAND = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\{([^{}]*)\}")


class Unreadable(ValueError):
    """A ground truth that cannot be read, or an answer of which nothing can be told: no reward, with this reason."""


def golds_of(truth: Truth) -> list[str]:
    """The right answers: `answer`, text or a number, or a list of those, of which each is right. Raises Unreadable."""
    answer = truth.get("answer")
    found = list(answer) if isinstance(answer, list | tuple) else [answer]
    for one in found:
        if isinstance(one, bool) or not isinstance(one, str | int | float) or not str(one).strip():
            raise Unreadable(
                f"the ground truth has {'no answer' if one is None else f'the answer {one!r:.40}'}: give text or a number"
            )
    if not found:
        raise Unreadable("the ground truth has no answer")
    return [str(one) for one in found]


def exact(text: str, truth: Truth, settings: Settings) -> float:
    """1 where the answer is one of the right ones, white space apart. final: compare what the answer concludes, where it marks it.
    ignore_case: small and capital letters are one."""
    said = without_thought(text)
    if settings.get("final"):
        said = final_answer(text) or said
    return float(_plain(said, settings) in [_plain(gold, settings) for gold in golds_of(truth)])


def _plain(text: str, settings: Settings) -> str:
    joined = " ".join(text.split())
    return joined.casefold() if settings.get("ignore_case") else joined


def choice(text: str, truth: Truth, settings: Settings) -> float:
    """1 where the letter that the answer chooses is the right one: "B", "(B) text", "The answer is B", \\boxed{B}."""
    golds = []
    for gold in golds_of(truth):
        letter = re.fullmatch(r"\s*\(?([A-Za-z])[).:]?\s*", gold)
        if letter is None:
            raise Unreadable(f"the ground truth {gold!r:.40} is no letter of a choice: give one, such as 'B'")
        golds.append(letter[1].upper())
    return float(chosen_letter(text) in golds)


def chosen_letter(text: str) -> str | None:
    """The capital letter that an answer chooses, None where it names none: what it concludes, or what it begins with."""
    said, concluded = without_thought(text), _TEXT_COMMAND.sub(r"\1", final_answer(text) or "")
    if found := _BARE.fullmatch(concluded) or _BARE.fullmatch(said):
        return found[1].upper()
    chosen = [_CONCLUDED.match(concluded), *list(_CHOSEN.finditer(said))[-1:], _FIRST.match(said)]
    return next((letter for found in chosen if found for letter in found.groups() if letter), None)


LIMITS = ("min_words", "max_words", "min_characters", "max_characters")


def length(text: str, truth: Truth, settings: Settings) -> float:
    """1 within the limits, 0 outside of them. fade: a share of a limit over which the value falls to 0 instead of at once.

    Limits are settings, or the ground truth's of the same names, which come first.
    """
    limits = {name: value for name in LIMITS if (value := truth.get(name, settings.get(name))) is not None}
    if not limits:
        raise Unreadable(f"there is no limit: give one of {', '.join(LIMITS)}")
    said = without_thought(text)
    counts = {"words": len(words_of(said)), "characters": len(said.strip())}
    return min(_within(counts[name[4:]], name, limit, float(settings.get("fade", 0.0))) for name, limit in limits.items())


def _within(count: int, name: str, limit: Any, fade: float) -> float:
    if isinstance(limit, bool) or not isinstance(limit, int | float) or limit < 0:
        raise Unreadable(f"the limit {name} is {limit!r:.40}: give a number")
    beyond = limit - count if name.startswith("min") else count - limit
    if beyond <= 0:
        return 1.0
    return max(0.0, 1 - beyond / (fade * limit)) if fade * limit > 0 else 0.0


def constraints(text: str, truth: Truth, settings: Settings) -> float:
    """1 where every instruction is followed; with reward = "share" the share that is. See scorers/verifiers/constraints."""
    kinds, given = truth.get("instruction_id_list"), truth.get("kwargs")
    if not isinstance(kinds, Sequence) or isinstance(kinds, str) or not kinds:
        raise Unreadable("the ground truth has no instruction_id_list: give the names of IFEval's instructions, and their kwargs")
    given = [{}] * len(kinds) if given is None else given
    if not isinstance(given, Sequence) or isinstance(given, str) or len(given) != len(kinds):
        raise Unreadable(f"the ground truth has {len(kinds)} instructions, and kwargs for {_length(given)}: give one mapping each")
    said = without_thought(text)
    try:
        followed = [follows(str(kind), said, _mapping(one)) for kind, one in zip(kinds, given, strict=True)]
    except (BadConstraint, CannotTell) as error:
        raise Unreadable(str(error)) from error
    return sum(followed) / len(followed) if settings.get("reward") == "share" else float(all(followed))


def _length(value: Any) -> object:
    return len(value) if isinstance(value, Sequence) and not isinstance(value, str) else repr(value)[:40]


def _mapping(value: Any) -> Mapping[str, Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            value = None
    if not isinstance(value, Mapping):
        raise Unreadable(f"kwargs of an instruction are {value!r:.40}: give a mapping")
    return value
