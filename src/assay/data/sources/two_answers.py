"""Two answers in columns of their own (response_a and response_b ...), and a vote or scores that part them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from assay.data.cases import Case, of_two
from assay.data.raw.cells import BadRow, UnknownLabel, number_of, turns_of
from assay.data.raw.columns import Unclear, is_blank, is_prose, plain
from assay.data.raw.embedded import parsed_text
from assay.data.raw.rows import Row
from assay.data.sources.forms import Form, named_form
from assay.data.sources.prompts import asked, has_prompt

_WHOLE = ("conversation", "conv", "messages", "dialogue", "chat")  # stems whose columns hold the prompt too
_STEMS = (
    "response", "answer", "output", "completion", "generation", "candidate", "summary", "option", *_WHOLE, "reply", "human_ref",
    "model_output", "model_response", "generated_text", "solution", "story", "code", "translation", "text", "message",
    "assistant", "choice",
)  # fmt: skip
_TOKENS = (("a", "b"), ("0", "1"), ("1", "2"), ("first", "second"), ("left", "right"), ("one", "two"))
_AFTER = re.compile(
    rf"(?P<stem>{'|'.join(_STEMS)})s?[ _.\-]?(?P<token>a|b|c|0|1|2|3|first|second|third|left|right|one|two|three)", re.I
)
_BEFORE = re.compile(
    rf"(?:model[ _]?)?(?P<token>a|b|c|1|2|3|first|second|third|left|right)[ _.\-](?P<stem>{'|'.join(_STEMS)})s?", re.I
)
_SCORE = "score|rating|reward|points|quality|rm_score|reward_score|overall_score|overall_rating|votes"

_VOTES = (
    "winner", "winning", "winner_name", "preference", "preferred", "preferred_response", "preferred_answer", "better",
    "better_response", "better_answer", "better_response_id", "best", "best_response", "best_answer", "chosen", "choice",
    "selected", "selection", "label", "labels", "overall_preference", "overall_response", "human_preference", "human_label",
    "human_choice", "gold_label", "gold", "gt", "verdict", "vote", "judgment", "judgement", "decision", "result", "comparison",
    "annotation", "preference_label", "majority", "majority_vote", "outcome",
)  # fmt: skip
"""What a column is called that says which of two answers is better."""

_FIRST_IS_BETTER = re.compile(
    r"(?:is_)?(?:first|a|response_?a|response_?1|answer_?a|left|chosen)_(?:is_)?(?:better|preferred|wins?|won|best|chosen|first)"
    r"|prefers?_(?:first|a)|is_first_(?:better|preferred|chosen)"
)
_SECOND_IS_BETTER = re.compile(
    r"(?:is_)?(?:second|b|response_?b|response_?2|answer_?b|right|chosen)_(?:is_)?(?:better|preferred|wins?|won|best|second)"
    r"|prefers?_(?:second|b)|is_second_(?:better|preferred|chosen)"
)
_TIES = (
    "tie", "ties", "tied", "draw", "equal", "equally_good", "same", "both", "neither", "none", "both_good", "bothgood",
    "tie_bothgood", "no_preference", "nopreference", "about_the_same", "a=b", "b=a", "1=2", "a~b", "equivalent", "no_winner",
    "undecided", "even",
)  # fmt: skip
_BOTH_BAD = ("both_bad", "bothbad", "tie_bothbad", "tie_both_bad", "neither_good", "both_are_bad")
_NAMED = re.compile(
    r"(?:the_)?(?:model|response|answer|output|completion|assistant|option|summary|candidate|text|conversation|human_ref|reply|choice)?_?"
    r"(?P<token>a|b|first|second|1st|2nd|left|right|one|two)"
    r"(?:_(?:one|response|answer|model|output|option|summary|candidate|completion))?"
    r"(?:_(?:is|was|are))?(?:_(?:the|much|slightly|significantly|clearly|far))*(?:_(?:better|best|wins?|won|preferred|winner|chosen))?"
)
_NUMBERED = re.compile(
    r"(?:the_)?(?:model|response|answer|output|completion|assistant|option|summary|candidate|text)_?(?P<number>[012])"
    r"(?:_(?:is|was))?(?:_(?:the|much|slightly|significantly|clearly|far))*(?:_(?:better|best|wins?|won|preferred|winner|chosen))?"
)
_ORDERED = re.compile(r"(?P<one>a|b|1|2|first|second)(?P<sign>>+|<+)(?P<other>a|b|1|2|first|second)")
_LONGEST_VOTE = 80  # characters of a vote in words
_FIRSTS = ("a", "first", "1st", "left", "one")


class Sides(NamedTuple):
    """Names of the two columns, what tells them apart in their names, and whether they hold the prompt too."""

    first: str
    second: str
    tokens: tuple[str, str]
    are_whole: bool


def two_answers(row: Row) -> Case:
    """Two answers and a vote: the name of one, its column, its text or its model, or a tie; scores of both are a margin."""
    sides = sides_of(row)
    if sides is None:
        raise BadRow("unknown columns")
    first, second = row[sides.first], row[sides.second]
    prompt = whole_prompt(first) if sides.are_whole and not isinstance(first, str) else asked(row)
    points = _points(row, sides)
    vote = vote_column(row, sides)
    if vote is None:
        if points is None:
            raise BadRow("missing label")
        first_wins, tag = 0.5 * (1 + (points[0] > points[1]) - (points[0] < points[1])), ""
    else:
        first_wins, tag = voted(row[vote], vote, sides, row)
    margin = None
    if points is not None and (vote is None or first_wins != 0.5):
        margin = points[0] - points[1] if first_wins >= 0.5 else points[1] - points[0]
    return of_two(prompt, first, second, first_wins, margin=margin, tags={"tie": tag} if tag else None)


def has_two_answers(row: Row) -> bool:
    """Whether a row has two answers, and a column that parts them."""
    sides = sides_of(row)
    return (
        sides is not None
        and (sides.are_whole or has_prompt(row))
        and (vote_column(row, sides) is not None or _point_columns(tuple(row), sides) is not None)
    )


def sides_of(row: Row) -> Sides | None:
    """The two columns of answers, None where there are none, or more than two of a kind."""
    return _sides(tuple(row))


@lru_cache(maxsize=256)
def _sides(columns: tuple[str, ...]) -> Sides | None:
    found: dict[str, dict[str, str]] = {}
    for column in columns:
        if (match := _AFTER.fullmatch(column) or _BEFORE.fullmatch(column)) is not None:
            found.setdefault(match["stem"].lower(), {})[match["token"].lower()] = column
    bare = {column.lower(): column for column in columns if column.lower() in ("a", "b", "c", "first", "second", "left", "right")}
    by_stem = [(stem, found[stem]) for stem in _STEMS if stem in found] + [("", bare)]
    for stem, named in by_stem:
        for tokens in _TOKENS:
            if named.keys() == set(tokens):
                return Sides(named[tokens[0]], named[tokens[1]], tokens, stem in _WHOLE)
    return None


def vote_column(row: Row, sides: Sides) -> str | None:
    """The column that says which answer is better: the first of the usual names that holds no text of its own, one with a value
    before an empty one."""
    row = plain(row)
    usual = {name: _snake(name) for name in row if name not in sides[:2]}
    names = [name for name, snake in usual.items() if _says_who(snake) and _is_vote(row[name], row, sides)]
    names.sort(key=lambda name: (is_blank(row[name]), _VOTES.index(usual[name]) if usual[name] in _VOTES else -1))
    return names[0] if names else None


def _snake(name: str) -> str:
    return re.sub(r"[\s\-.]+", "_", name.strip().lower())


def _says_who(name: str) -> bool:
    return name in _VOTES or any(pattern.fullmatch(name) for pattern in (_FIRST_IS_BETTER, _SECOND_IS_BETTER))


def _is_vote(value: Any, row: Row, sides: Sides) -> bool:
    value = _said(value)
    if isinstance(value, list | Mapping):
        return False
    is_text = isinstance(value, str) and is_prose(value) and len(value) > _LONGEST_VOTE
    return not is_text or value in (row[sides.first], row[sides.second])


def _said(value: Any) -> Any:
    """The vote in a list of one, in an object, or in JSON text of one, as tools of annotation write it; else the value."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        value = parsed_text(value)
    if isinstance(value, Mapping):
        value = next((value[name] for name in ("selected", "choices", "value", "label") if name in value), value)
    return _said(value[0]) if isinstance(value, list) and len(value) == 1 else value


def voted(value: Any, column: str, sides: Sides, row: Row) -> tuple[float, str]:
    """(P(the first answer is better), what kind of tie it is where that is said).

    Raises UnknownLabel, and Unclear for a number that could mean either.
    """
    value = _said(value)
    if is_blank(value):
        raise BadRow("missing label")
    if (side := _of_name(column, value)) is not None:
        return side, ""
    if value in (row[sides.first], row[sides.second]) and row[sides.first] != row[sides.second]:
        return float(value == row[sides.first]), ""
    label = re.sub(r"[\s\-]+", "_", re.sub(r"[\[\]()'\"*.:!]", "", str(value).strip().lower()))
    label = label.partition("_than_")[0]
    own_names = tuple(map(_snake, sides[:2]))
    if label in own_names:
        return float(label == own_names[0]), ""
    if label in _BOTH_BAD:
        return 0.5, "both bad"
    if label in _TIES or (label == "c" and "C" in str(value)):  # [[C]] is a judge's tie
        return 0.5, ""
    if label == "c":
        raise Unclear(
            f"the label {value!r} in the column {column!r} may be a tie or a third answer, and two are read: write "
            "tie in it, or leave out the rows that a third answer won"
        )
    if (named := _NAMED.fullmatch(label)) is not None:
        return float(named["token"] in _FIRSTS), ""
    if (numbered := _NUMBERED.fullmatch(label)) is not None:
        number = numbered["number"]
        is_known = sides.tokens[0].isdigit() or number == "0"
        return (_of_number(int(number), column, sides) if is_known else float(number == "1")), ""
    if (order := _ORDERED.fullmatch(label.replace("_", ""))) is not None and order["one"] != order["other"]:
        is_first = (order["one"] in ("a", "1", "first")) == order["sign"].startswith(">")
        return float(is_first), ""
    if (side := _of_model(value, row)) is not None:
        return side, ""
    return _of_number(value, column, sides), ""


def _of_name(column: str, value: Any) -> float | None:
    """Of a yes or no under a name that says which answer it is about."""
    yes = {"true": 1.0, "1": 1.0, "1.0": 1.0, "yes": 1.0, "false": 0.0, "0": 0.0, "0.0": 0.0, "no": 0.0}.get(
        str(value).strip().lower()
    )
    name = _snake(column)
    if yes is None or name in _VOTES:
        return None
    if _FIRST_IS_BETTER.fullmatch(name):
        return yes
    return 1.0 - yes if _SECOND_IS_BETTER.fullmatch(name) else None


def _of_model(value: Any, row: Row) -> float | None:
    """Of the name of the model whose answer is better."""
    for one, other in (("model_a", "model_b"), ("model_1", "model_2"), ("model1", "model2"), ("generator_1", "generator_2")):
        names = (row.get(one), row.get(other))
        if value in names and is_blank(value) is False:
            if names[0] == names[1]:
                raise BadRow("both answers are of the model that won")
            return float(value == names[0])
    return None


def _of_number(value: Any, column: str, sides: Sides) -> float:
    """Of the number in the name of one of two columns. Another number could mean either: it stops the reading."""
    try:
        number = None if isinstance(value, bool) else number_of(value, "label")
    except BadRow:
        raise UnknownLabel(value) from None
    numbered = [float(token) for token in sides.tokens] if sides.tokens[0].isdigit() else []
    if number is not None and number in numbered:
        return float(number == numbered[0])
    if number is not None and numbered and number > max(numbered) and number.is_integer():
        raise UnknownLabel(value)  # as of a tie, whose number nobody knows
    raise Unclear(
        f"the label {value!r} in the column {column!r} does not say which of {sides.first!r} and {sides.second!r} is better: write "
        f"{sides.first}, {sides.second} or tie in it"
    )


def whole_prompt(conversation: Any) -> Any:
    """The turns of a whole conversation before its last answer."""
    turns = turns_of(conversation)
    if not turns or turns[-1].role != "assistant":
        raise BadRow("no answer at the end")
    return turns[:-1]


def _points(row: Row, sides: Sides) -> tuple[float, float] | None:
    """The scores of both answers, None where one of them has none."""
    columns = _point_columns(tuple(row), sides)
    if columns is None:
        return None
    first, second = (number_of(row[column], "score") for column in columns)
    return None if first is None or second is None else (first, second)


@lru_cache(maxsize=256)
def _point_columns(columns: tuple[str, ...], sides: Sides) -> tuple[str, str] | None:
    found: list[dict[str, str]] = []
    for name, token in zip(sides[:2], sides.tokens, strict=True):
        pattern = re.compile(
            rf"(?P<before>{_SCORE})s?[ _.\-]?(?:{token}|{re.escape(name)})"
            rf"|(?:{token}|model_{token}|{re.escape(name)})[ _.\-](?P<after>{_SCORE})s?",
            re.I,
        )
        found.append({(m["before"] or m["after"]).lower(): c for c in columns if (m := pattern.fullmatch(c))})
    shared = [word for word in found[0] if word in found[1]]
    return (found[0][shared[0]], found[1][shared[0]]) if shared else None


FORMS: tuple[Form, ...] = (
    named_form("two-answers", ("prompt", "response_a", "response_b", "winner"), two_answers, has_two_answers),
)
