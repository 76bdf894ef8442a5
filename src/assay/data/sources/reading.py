"""From a file to the cases of its rows: each row is read in the first form that it fits, and what cannot be used is counted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from assay.data.cases import Case
from assay.data.cells import BadRow
from assay.data.rows import Row, joined_rows, read_rows
from assay.data.sources.forms import Form, Read, cases_of, own_id, tags_of
from assay.errors import DataError

OWN_FORM = "assay"
"""What `write_pairs` writes: its rows say themselves what they are called."""

_NUM_LINES_SHOWN = 5


@dataclass(slots=True)
class ReadProblems:
    """What was read so far, and what was set aside: reason -> (how often, numbers of the first rows).

    A row that gives several pairs can be set aside for more than one reason, or in part. what: pairs, or what else is read.
    forms: name of a form -> rows that were recognised as it.
    """

    unit: str = "line"
    what: str = "pairs"
    num_rows: int = 0
    num_pairs: int = 0
    reasons: dict[str, tuple[int, tuple[int, ...]]] = field(default_factory=dict)
    forms: dict[str, int] = field(default_factory=dict)

    @property
    def num_set_aside(self) -> int:
        return sum(count for count, _ in self.reasons.values())

    def add(self, reason: str, number: int) -> None:
        """Count one more pair or row that was set aside."""
        count, numbers = self.reasons.get(reason, (0, ()))
        self.reasons[reason] = (count + 1, tuple(sorted({*numbers, number}))[:_NUM_LINES_SHOWN])

    def summary(self) -> str:
        """One line: rows, pairs, and each reason with its count and first rows, the most frequent reason first."""
        text = f"{self.num_rows:,} rows -> {self.num_pairs:,} {self.what}"
        if not self.reasons:
            return text
        by_count = sorted(self.reasons.items(), key=lambda item: -item[1][0])
        parts = [f"{count:,} {reason} ({self.places(reason)})" for reason, (count, _) in by_count]
        return f"{text}; {self.num_set_aside:,} set aside: {', '.join(parts)}"

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
) -> Iterator[tuple[int, Case | str]]:
    """(number of the row, case) for every case of a file or hub data set; in place of a row that has none, the reason.

    Each row is read in the first of the forms that it fits, and gives its case a name, and tags. problems: counts the rows.
    Raises DataError when the first object among the rows has the columns of no form (what: what there is not), or when there is
    no object.
    """
    known, opened, has_objects = list(forms), dict[str, Read](), False
    for number, row in read_rows(file, split):
        problems.num_rows += 1
        try:
            if isinstance(row, str):
                raise BadRow(row)
            if not has_objects and not any(form.has_columns(row) for form in known):
                accepted = "".join(f"\n  {form.name}: {', '.join(form.columns)}" for form in known)
                raise DataError(f"{file} has the columns {', '.join(row)}: {what}. Accepted:{accepted}")
            has_objects = True
            form = _recognised(row, known)
            problems.forms[form.name] = problems.forms.get(form.name, 0) + 1
            read = opened.get(form.name) or opened.setdefault(form.name, form.open(partial(joined_rows, Path(file).parent)))
            for case in cases_of(row, read):
                yield number, case if form.name == OWN_FORM else _named(case, row, number, source)
        except BadRow as reason:
            yield number, str(reason)
    if problems.num_rows and not has_objects:
        raise DataError(f"no row of {file} is a JSON object: {problems.summary()}")


def _recognised(row: Row, known: Sequence[Form]) -> Form:
    """The first form that the row fits. Raises BadRow when there is none."""
    for form in known:
        if form.has_columns(row) and form.is_it(row):
            return form
    raise BadRow(f"not in the form {known[0].name}" if len(known) == 1 else "unknown columns")


def _named(case: Case, row: Row, number: int, source: str) -> Case:
    """The case with the name and the tags that its row gives it in every form."""
    name = own_id(row) or str(number)
    return replace(case, source=source, id=f"{name}:{case.id}" if case.id else name, tags={**case.tags, **tags_of(row)})
