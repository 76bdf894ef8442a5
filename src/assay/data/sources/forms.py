"""What a form of data is: a name, the columns it is recognised by, and how a row of it becomes a case."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

from assay.data.cases import Case
from assay.data.critiques import CRITIQUE
from assay.data.raw.cells import BadRow, tools_of
from assay.data.raw.rows import Row
from assay.data.truths import truth_of

Read: TypeAlias = Callable[[Row], Case | list[Case]]
"""From a row to its case, or to several. Raises BadRow with the reason where it has none."""

Beside: TypeAlias = Callable[[str, tuple[str, ...]], list[Row]]
"""beside(name, columns): the rows of the file of that name in the same folder, all of which have the columns."""

TAG_COLUMNS = (
    "axis", "subset", "category", "category_path", "scenario", "dataset", "source", "domain", "language", "type", "judge", "lang",
)  # fmt: skip
"""Columns of text that become tags of the pairs: the slices of a report."""

ID_COLUMNS = ("id", "pair_uid", "bon_uid", "uid", "idx")


class Form(NamedTuple):
    """A form of data: its name, what it is, its columns, and `is_it` where other forms have the same columns.

    open: what reads its rows, given the files beside. fits: for forms that know their columns by more than one name, whether a row
    has them. gathers: the rows of the whole file are read together. told: further columns of the set, which tell about a row.
    """

    name: str
    what: str
    columns: tuple[str, ...]
    is_it: Callable[[Row], bool]
    open: Callable[[Beside], Read]
    fits: Callable[[Row], bool] | None = None
    gathers: Callable[[Iterable[tuple[int, Row]]], Iterator[tuple[int, Case | str]]] | None = None
    told: tuple[str, ...] = ()

    def has_columns(self, row: Row) -> bool:
        return self.fits(row) if self.fits else row.keys() >= {*self.columns}


def row_form(
    name: str,
    columns: tuple[str, ...],
    read: Read,
    is_it: Callable[[Row], bool] = lambda row: True,
    *,
    told: tuple[str, ...] = (),
) -> Form:
    """A form of which each row stands for itself; the first line of the docstring of `read` says what it is."""
    return Form(name, _first_line(read), columns, is_it, lambda beside: read, told=told)


def named_form(name: str, columns: tuple[str, ...], read: Read, fits: Callable[[Row], bool]) -> Form:
    """A form whose columns have several usual names, of which `columns` shows the first."""
    return Form(name, _first_line(read), columns, lambda row: True, lambda beside: read, fits)


def gathered_form(
    name: str, columns: tuple[str, ...], gather: Callable[[Iterable[tuple[int, Row]]], Iterator[tuple[int, Case | str]]]
) -> Form:
    """A form whose rows make cases together, when all of them are read."""
    return Form(name, _first_line(gather), columns, lambda row: True, lambda beside: lambda row: [], gathers=gather)


def file_form(name: str, columns: tuple[str, ...], open: Callable[[Beside], Read], *, told: tuple[str, ...] = ()) -> Form:
    """A form of which rows are read with what lies in other files, or was seen before."""
    return Form(name, _first_line(open), columns, lambda row: True, open, told=told)


def _first_line(function: Callable[..., Any]) -> str:
    return (function.__doc__ or "").partition("\n")[0].removesuffix(".")


def tags_of(row: Row) -> dict[str, str]:
    """The tag columns that the row has."""
    return {name: row[name] for name in TAG_COLUMNS if isinstance(row.get(name), str) and row[name]}


def own_id(row: Row) -> str:
    """The row's own name, "" when it has none."""
    return next((str(row[name]) for name in ID_COLUMNS if isinstance(row.get(name), str | int)), "")


def cases_of(row: Row, read: Read) -> list[Case]:
    """What `read` makes of a row, with the row's tools and ground truth. Raises BadRow: the reason, perhaps a missing column."""
    tools, truth = tools_of(row), truth_of(row)
    try:
        found = read(row)
    except KeyError as column:
        raise BadRow(f"no column {column}") from None
    cases = [found] if isinstance(found, Case) else found
    if tools:
        cases = [replace(case, tools=case.tools or tools) for case in cases]
    return cases if truth is None else [_with_truth(case, truth) for case in cases]


def _with_truth(case: Case, truth: Mapping[str, Any]) -> Case:
    """The case with its row's ground truth; a critique in it is of the one answer, where there is one."""
    if len(case.candidates) != 1 or not isinstance(truth.get(CRITIQUE), str):
        return replace(case, ground_truth=truth)
    rest = {name: value for name, value in truth.items() if name != CRITIQUE}
    return replace(case, ground_truth=rest or None, critiques=(str(truth[CRITIQUE]),))
