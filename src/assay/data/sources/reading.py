"""From a file to the cases of its rows: each row is read in the first form that it fits, and what cannot be used is counted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from assay.data.cases import Case
from assay.data.raw.cells import BadRow
from assay.data.raw.columns import NO_NAMES, RowView, Unclear, left_over, refuse_media, renamed, shown_row, suggestion, usual
from assay.data.raw.rows import Row, joined_rows, read_rows
from assay.data.sources.forms import ID_COLUMNS, TAG_COLUMNS, Form, Read, cases_of, own_id, tags_of
from assay.data.sources.prompts import opened
from assay.data.sources.unwrap import unwrapped
from assay.errors import DataError

OWN_FORM = "assay"
"""What `write_pairs` writes: its rows say themselves what they are called."""

_NUM_LINES_SHOWN = 5


@dataclass(slots=True)
class ReadProblems:
    """What was read so far, and what was set aside: reason -> (how often, numbers of the first rows).

    A row that gives several pairs can be set aside for more than one reason, or in part. what: pairs, or what else is read.
    forms: name of a form -> rows that were recognised as it. ignored: a column that was not read -> an example of it. notes: what a
    person should know of how it was read -> in how many rows, 0 where it is of the whole file. current_form: of the latest row.
    strict_of: the file of which nothing may be set aside, None where it may.
    """

    unit: str = "line"
    what: str = "pairs"
    num_rows: int = 0
    num_pairs: int = 0
    reasons: dict[str, tuple[int, tuple[int, ...]]] = field(default_factory=dict)
    forms: dict[str, int] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)
    current_form: str = ""
    strict_of: str | Path | None = None

    @property
    def num_set_aside(self) -> int:
        return sum(count for count, _ in self.reasons.values())

    def add(self, reason: str, number: int) -> None:
        """Count one more pair or row that was set aside. Raises DataError where nothing may be."""
        if self.strict_of is not None:
            without = "without `strict` such rows are counted and left out"
            raise DataError(f"{self.strict_of}, {self.unit} {number}: {reason}; {without}")
        count, numbers = self.reasons.get(reason, (0, ()))
        self.reasons[reason] = (count + 1, tuple(sorted({*numbers, number}))[:_NUM_LINES_SHOWN])

    def note_file(self, note: str) -> None:
        """Keep a note on the file as a whole."""
        self.notes.setdefault(note, 0)

    def note_row(self, note: str) -> None:
        """Keep a note on one more row."""
        self.notes[note] = self.notes.get(note, 0) + 1

    def summary(self) -> str:
        """One line: rows, pairs, each reason with its count and first rows, the most frequent first; notes; columns not read."""
        text = f"{self.num_rows:,} rows -> {self.num_pairs:,} {self.what}"
        if self.reasons:
            by_count = sorted(self.reasons.items(), key=lambda item: -item[1][0])
            parts = [f"{count:,} {reason} ({self.places(reason)})" for reason, (count, _) in by_count]
            text += f"; {self.num_set_aside:,} set aside: {', '.join(parts)}"
        for note, count in self.notes.items():
            text += f"; {note}" + (f" ({count:,} rows)" if count else "")
        if self.ignored:
            text += f"; columns not read: {', '.join(f'{name} ({example})' for name, example in self.ignored.items())}"
        return text

    def places(self, reason: str) -> str:
        """Where that was: lines 9, 14, 90, ..."""
        count, numbers = self.reasons[reason]
        shown = ", ".join(str(number) for number in numbers)
        more = ", ..." if len(numbers) == _NUM_LINES_SHOWN and count > len(numbers) else ""
        return f"{self.unit}{'s' if len(numbers) > 1 else ''} {shown}{more}"


def read_cases(
    file: str | Path,
    forms: Iterable[Form],
    problems: ReadProblems,
    *,
    source: str,
    split: str = "train",
    what: str = "no form of preference pairs that is accepted",
    names: Mapping[str, str] = NO_NAMES,
) -> Iterator[tuple[int, Case | str]]:
    """(number of the row, case) for every case of a file or hub data set; in place of a row that has none, the reason.

    Each row is read in the first of the forms that it fits, and gives its case a name, and tags. problems: counts the rows. names:
    what columns are, as `columns.renaming` gives it.
    Raises DataError when the first object among the rows has the columns of no form (what: what there is not), when there is
    no object, and for a row of which something must be told first.
    """
    known, opened_forms, gathered = list(forms), dict[str, Read](), dict[str, tuple[Form, list[tuple[int, Row]]]]()
    possible: dict[tuple[str, ...], list[Form]] = {}
    has_objects, from_zero = False, False
    for number, row in read_rows(file, split, problems.note_file):
        problems.num_rows += 1
        try:
            if isinstance(row, str):
                raise BadRow(row)
            if not has_objects:
                _refuse_unknown(file, row, known, names, what)
            has_objects, row = True, usual(renamed(row, names))
            form = _recognised(row, known, _possible(row, known, possible))
            problems.forms[form.name] = problems.forms.get(form.name, 0) + 1
            problems.current_form = form.name
            turn = _lone_turn(row)
            from_zero = from_zero or turn == 0
            if turn is not None and turn > (0 if from_zero else 1):
                raise BadRow("a later turn without the turns before it")
            if form.gathers:
                gathered.setdefault(form.name, (form, []))[1].append((number, row))
                continue
            read = opened_forms.get(form.name) or opened_forms.setdefault(form.name, form.open(partial(joined_rows, _folder(file))))
            found = cases_of(row, read) if form.name == OWN_FORM else _viewed(row, form, read, number, source, problems)
            yield from ((number, case) for case in found)
        except BadRow as reason:
            yield number, str(reason)
        except Unclear as unclear:
            shown = shown_row(row) if not isinstance(row, str) else row
            raise DataError(f"{file}, {problems.unit} {number}: {unclear}.\nThe row: {shown}") from None
    for form, rows in gathered.values():
        for number, case in form.gathers(rows) if form.gathers else ():
            yield number, case if isinstance(case, str) else replace(case, source=source)
    if problems.num_rows and not has_objects:
        raise DataError(f"no row of {file} is a JSON object: {problems.summary()}; write one object a line, or an array as .json")


_TURN_COLUMNS = ("turn", "turn_id", "turn_idx", "turn_index", "turn_number", "turn_num")
_CONVERSATION_COLUMNS = (
    "conversation_id", "conv_id", "conversation_hash", "dialogue_id", "dialog_id", "session_id", "thread_id", "chat_id",
)  # fmt: skip


def _lone_turn(row: Row) -> int | None:
    """The number of a turn of a conversation whose other turns stand in other rows; None for a row that is no such turn."""
    if not any(name in row for name in _CONVERSATION_COLUMNS) or any(isinstance(cell, list | Mapping) for cell in row.values()):
        return None
    turn = next((row[name] for name in _TURN_COLUMNS if name in row), None)
    is_count = not row.get("history") and str(turn).strip().isdigit()
    return int(str(turn)) if is_count else None


def _folder(file: str | Path) -> Path:
    return Path(file).parent


def _viewed(row: Row, form: Form, read: Read, number: int, source: str, problems: ReadProblems) -> list[Case]:
    """The cases of a row of somebody else's, with what stands in further columns; what was not read is kept in `problems`."""
    refuse_media(row)
    view = RowView(row)
    cases = cases_of(view, read)
    system, history = (None if view.has_read(name) else view.get(name) for name in ("system", "history"))
    cases = [opened(unwrapped(case, problems.note_row), system=system, history=history) for case in cases]
    texts = [text for case in cases for text in _texts_of(case)]
    answers = [text for case in cases for text in case.candidates]
    for name, example in (view.ignored | left_over(view, texts, answers, _OWN_USE.union(form.told))).items():
        problems.ignored.setdefault(name, example)
    for note in view.notes:
        problems.note_row(note)
    return [_named(case, row, number, source) for case in cases]


_NEEDED = ("prompt", "chosen", "rejected", "messages")
_OWN_USE = {*TAG_COLUMNS, *ID_COLUMNS, "tags"}


def _texts_of(case: Case) -> Iterator[str]:
    for turn in (*case.prompt, *case.answers):
        yield turn.content
        yield turn.reasoning
        yield from (call.arguments for call in turn.tool_calls)


def _refuse_unknown(file: str | Path, row: Row, known: Sequence[Form], names: Mapping[str, str], what: str) -> None:
    """Raises DataError when the first object of a file lacks a column that was named, or has the columns of no form."""
    missing = [column for column, meaning in names.items() if meaning in _NEEDED and column not in row]
    if missing:
        said = "--columns or dataset_info.json"
        raise DataError(f"{file} has no column {missing[0]!r}, which {said} names: it has {', '.join(row)}")
    called = usual(renamed(row, names))
    is_one = len(known) == 1  # then a row of its columns that is of another form is a bad row
    if not any(form.has_columns(called) and (is_one or form.is_it(called)) for form in known):
        accepted = "".join(f"\n  {form.name}: {', '.join(form.columns)}" for form in known)
        raise DataError(
            f"{file} has the columns {', '.join(row)}: {what}.\nThe row: {shown_row(row)}\n"
            f"Say what the columns are, as in {suggestion(called)}\nAccepted without that:{accepted}"
        )


def _possible(row: Row, known: Sequence[Form], possible: dict[tuple[str, ...], list[Form]]) -> list[Form]:
    """The forms that a row of these columns may have: looked up once for rows that have the same."""
    columns = tuple(row)
    if columns not in possible:
        possible[columns] = [form for form in known if form.fits or form.has_columns(row)]
    return possible[columns]


def _recognised(row: Row, known: Sequence[Form], possible: Sequence[Form]) -> Form:
    """The first form that the row fits. Raises BadRow when there is none."""
    for form in possible:
        if form.has_columns(row) and form.is_it(row):
            return form
    raise BadRow(f"not in the form {known[0].name}" if len(known) == 1 else "unknown columns")


def _named(case: Case, row: Row, number: int, source: str) -> Case:
    """The case with the name and the tags that its row gives it; several cases of a row may be sources of their own."""
    name = own_id(row) or str(number)
    return replace(
        case,
        source=f"{source}:{case.source}" if case.source else source,
        id=f"{name}:{case.id}" if case.id else name,
        tags={**case.tags, **tags_of(row)},
    )
