"""What a form of step-labelled data is: a name, the columns it is recognised by, and how a row becomes solutions; and what labels
say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from assay.data.raw.cells import BadRow, list_of, number_of
from assay.data.raw.columns import RowView, Unclear
from assay.data.raw.rows import Row
from assay.messages import Messages

BEYOND = "a step beyond the last is named as wrong"
FEWER, MORE = "fewer labels than steps", "more labels than steps"
Right = list[float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReading:
    """What the sets leave open, said once and kept in the name of the source where it changes a label.

    neutral: what a rating of 0 is where 1 is right and -1 wrong (Lightman et al. and Qwen take it for right, TRL's script for
    wrong). originals: also the solutions that wrong ones were made of, each once, all steps right (PRMBench, ReasonEval).
    as_published: keep rows that their publishers count in spite of a flaw: steps named beyond the last are passed over, blank
    steps stay. joint: what is put between the steps of a list, where no white space parts them.
    """

    neutral: Literal["right", "wrong", "unknown"] = "right"
    originals: bool = False
    as_published: bool = False
    joint: str = "\n"

    def __post_init__(self) -> None:
        if self.neutral not in _NEUTRAL:
            raise ValueError(f"neutral {self.neutral!r} is not known: a rating of 0 is one of {', '.join(_NEUTRAL)}")
        if self.joint.strip():
            raise ValueError(f"joint {self.joint!r} must be white space: it stands between two steps")

    @property
    def said(self) -> str:
        """What is read otherwise than usual, in words; "" where nothing is."""
        told = ((f"neutral={self.neutral}", self.neutral != "right"), ("originals", self.originals))
        return ", ".join(text for text, is_so in (*told, ("as_published", self.as_published)) if is_so)

    def rated(self, rating: Any) -> float | None:
        """What a rating of -1, 0 or 1 says. Raises BadRow for another."""
        if rating is None:
            return None
        if isinstance(rating, bool) or rating not in (-1, 0, 1):
            raise BadRow("a rating is none of -1, 0 and 1")
        return _NEUTRAL[self.neutral] if rating == 0 else float(rating > 0)


def form_and_reading(form: str | None, reading: StepReading) -> tuple[str | None, StepReading]:
    """The form's name, and the reading with what stands behind it: "ratings?neutral=wrong", "prmbench?originals=true", or without a
    name "?originals=true". Raises ValueError for what cannot be set so."""
    name, _, settings = (form or "").partition("?")
    changed: dict[str, Any] = {}
    for part in settings.split("&") if settings else ():
        key, _, value = part.partition("=")
        if key == "neutral":
            changed[key] = value
        elif key in ("originals", "as_published") and value in ("true", "false"):
            changed[key] = value == "true"
        else:
            raise ValueError(
                f"form {form!r}: {part!r} cannot be set; use neutral=right, wrong or unknown, originals=true, as_published=true"
            )
    return name or None, replace(reading, **changed)


_NEUTRAL: Mapping[str, float | None] = {"right": 1.0, "wrong": 0.0, "unknown": None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """One solution of a row. id: its own, in place of the row's; part: what tells it from others of its row. once: rows of one
    such key have the same one. problem: what the prompt rewords. joined: the steps join to the text as they are. changes: what the
    reading decided of the labels, as a part of the source's name."""

    prompt: Messages
    steps: Sequence[Any]
    right: Right
    outcome: float | None = None
    id: str = ""
    part: str = ""
    once: str = ""
    problem: Messages = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    truth: Mapping[str, Any] | None = None
    joined: bool = False
    changes: str = ""


class StepForm(NamedTuple):
    """A form: its name, what it is, the columns that it is recognised by, and `is_it` where others have them too.

    told: further columns of the set, which tell about a row. loose: asked for by name, its columns may be called otherwise;
    named: it is read where it is asked for by name alone.
    """

    name: str
    what: str
    columns: tuple[str, ...]
    read: Callable[[RowView, StepReading], list[Solution]]
    is_it: Callable[[Row], bool]
    told: tuple[str, ...]
    loose: bool
    named: bool

    def fits(self, row: Row) -> bool:
        return row.keys() >= {*self.columns} and self.is_it(row)


def cell(row: RowView, name: str) -> Any:
    """A cell as it lies there: no conversation is looked for in its text. Raises BadRow where the row does not have it."""
    if name not in row.row:
        raise BadRow(f"no column {name!r}")
    row.mark(name)
    return row.row[name]


def first_error(index: int | None, num_steps: int) -> Right:
    """Labels from the index of the first error, counted from 0; None where there is none. Raises BadRow for one beyond the last."""
    if index is None:
        return [1.0] * num_steps
    if not 0 <= index < num_steps:
        raise BadRow(BEYOND)
    return [1.0] * index + [0.0] + [None] * (num_steps - index - 1)


def whole_number(value: Any, name: str) -> int:
    number = number_of(value, name)
    if number is None or number != int(number):
        raise BadRow(f"{name} is no number of a step")
    return int(number)


def yes_or_no(value: Any, name: str) -> float | None:
    """1 or 0 of a column that says whether the final answer is right."""
    if value is None or isinstance(value, bool) or value in (0, 1):
        return None if value is None else float(value)
    if str(value).strip().lower() in ("correct", "right", "true", "yes"):
        return 1.0
    if str(value).strip().lower() in ("wrong", "incorrect", "false", "no"):
        return 0.0
    raise BadRow(f"{name} says neither right nor wrong")


_WORDS: Mapping[str, float] = {
    **dict.fromkeys(("+", "right", "correct", "good", "true", "positive", "yes"), 1.0),
    **dict.fromkeys(("-", "wrong", "incorrect", "bad", "false", "negative", "no"), 0.0),
}


def label_of(value: Any) -> float | None:
    """True and False, a probability, + and -, or a word as the probability that the step is right; null where it is not known."""
    if value is None or value != value:
        return None
    if isinstance(value, str):
        if value.strip().lower() not in _WORDS:
            raise BadRow("unknown label")
        return _WORDS[value.strip().lower()]
    if value == -1:
        raise Unclear(
            "a label is -1, and what 0 is beside it is not known: give --form ratings (1 right, 0 right, -1 wrong), or with "
            "another 0 --form 'ratings?neutral=wrong' or 'ratings?neutral=unknown'"
        )
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise BadRow("a label is no probability")
    return float(value)


def each_label(labels: Any, steps: Sequence[Any], read: Callable[[Any], float | None]) -> Right:
    """One label for each step. Raises BadRow where there are more or fewer."""
    found = list_of(labels)
    if len(found) != len(steps):
        raise BadRow(FEWER if len(found) < len(steps) else MORE)
    return [read(label) for label in found]
