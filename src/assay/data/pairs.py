"""Read preference pairs and completions in the forms people have; write pairs in Assay's own.

    reader = read_pairs("pairs.jsonl.gz")        # or .json, .parquet, a directory to join, "hub:org/name@config"
    pairs = list(reader)                         # streams: iterate instead, and nothing is held
    print(reader.summary())                      # 1,157 rows -> 1,154 pairs; 3 set aside: 3 prompts differ (lines 9, 14, 90)

The files are opened by `rows.py`; a row's form is recognised by its columns (`forms.py`, one row at a time; `gather.py`, whole
files) and its cells are checked by `cells.py`. A row that gives no pair is counted with its reason, never dropped in silence.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import IO

from assay.data.cells import BadRow, Outcome, field_of, list_of, prompt_of, text_of, turns_of
from assay.data.forms import FORMS, Form, pairs_of, recognise
from assay.data.gather import DIRECTORY_FILES, FILE_FORMS, FileForm, tags_of
from assay.data.rows import HUB, Row, Rows, find_beside, is_hub, read_rows, stem, unit_of
from assay.errors import DataError
from assay.records import Completion, PreferencePair

ALL_FORMS: tuple[Form | FileForm, ...] = (*FORMS, *FILE_FORMS)
"""Every form that `read_pairs` knows: name, columns, and what it is."""

_ID_COLUMNS = ("id", "pair_uid", "bon_uid", "uid", "idx")
_NUM_LINES_SHOWN = 5


@dataclass(slots=True)
class ReadProblems:
    """What was read so far, and what was set aside: reason -> (how often, numbers of the first rows).

    A row that gives several pairs can be set aside for more than one reason, or in part. what: pairs, or what else is read.
    """

    unit: str = "line"
    what: str = "pairs"
    num_rows: int = 0
    num_pairs: int = 0
    reasons: dict[str, tuple[int, tuple[int, ...]]] = field(default_factory=dict)

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
        parts = [f"{count:,} {reason} ({self._places(count, numbers)})" for reason, (count, numbers) in by_count]
        return f"{text}; {self.num_set_aside:,} set aside: {', '.join(parts)}"

    def _places(self, count: int, numbers: tuple[int, ...]) -> str:
        shown = ", ".join(str(number) for number in numbers)
        more = ", ..." if len(numbers) == _NUM_LINES_SHOWN and count > len(numbers) else ""
        return f"{self.unit}{'s' if len(numbers) > 1 else ''} {shown}{more}"


class PairReader:
    """The pairs of one file, directory or hub data set, read anew by each iteration; made by `read_pairs`.

    problems: counts of the latest iteration, up to where it got.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        form: str | None = None,
        split: str = "train",
        limit: int | None = None,
        strict: bool = False,
        max_pairs_per_prompt: int = 16,
        seed: int = 0,
    ) -> None:
        known = [known.name for known in ALL_FORMS]
        if form is not None and form not in known:
            raise DataError(f"unknown form {form!r}: use one of {', '.join(known)}, or leave it out to go by the columns")
        if limit is not None and limit < 0:
            raise DataError(f"limit {limit} must not be negative: it is a number of pairs")
        if max_pairs_per_prompt < 1:
            raise DataError(f"max_pairs_per_prompt {max_pairs_per_prompt} must be at least 1")
        self.source = stem(path)
        self.path = _file_of(path)
        self.form, self.split, self.limit, self.strict = form, split, limit, strict
        self.max_pairs_per_prompt, self.seed = max_pairs_per_prompt, seed
        read_rows(self.path, split)  # a missing file or an unknown kind is refused here, not at the first pair
        self.problems = ReadProblems(unit=unit_of(self.path))

    def __iter__(self) -> Iterator[PreferencePair]:
        return islice(self._pairs(), self.limit)

    def summary(self) -> str:
        """`problems` in one line."""
        return self.problems.summary()

    def _pairs(self) -> Iterator[PreferencePair]:
        self.problems = problems = ReadProblems(unit=unit_of(self.path))
        given = next((form for form in FORMS if form.name == self.form), None)
        for number, row in self._rows(problems):
            for outcome in _outcomes(row, given, number, self.source):
                if isinstance(outcome, str):
                    self._set_aside(problems, outcome, number)
                else:
                    problems.num_pairs += 1
                    yield outcome

    def _rows(self, problems: ReadProblems) -> Rows:
        """The rows of the file. The first object among them shows whether the whole file must be gathered into pairs."""
        rows = _counted(read_rows(self.path, self.split), problems)
        for number, row in rows:
            if isinstance(row, str):
                yield number, row
                continue
            whole = self._file_form(row)
            rows = chain([(number, row)], rows)
            yield from whole.gather(rows, Path(self.path).parent, self.max_pairs_per_prompt, self.seed) if whole else rows
            return
        if problems.num_rows:
            raise DataError(f"no row of {self.path} is a JSON object: {problems.summary()}")

    def _file_form(self, row: Row) -> FileForm | None:
        """The form of whole file that the first row shows, None for a form of row. Raises DataError when it shows neither."""
        allowed = [form for form in ALL_FORMS if self.form in (None, form.name) and row.keys() >= set(form.columns)]
        if not allowed:
            raise DataError(_unknown_columns(self.path, row, self.form))
        return None if any(isinstance(form, Form) for form in allowed) else next(f for f in allowed if isinstance(f, FileForm))

    def _set_aside(self, problems: ReadProblems, reason: str, number: int) -> None:
        if self.strict:
            raise DataError(f"{self.path}, {problems.unit} {number}: {reason}; without `strict` such rows are counted and left out")
        problems.add(reason, number)


def read_pairs(
    path: str | Path,
    *,
    form: str | None = None,
    split: str = "train",
    limit: int | None = None,
    strict: bool = False,
    max_pairs_per_prompt: int = 16,
    seed: int = 0,
) -> PairReader:
    """The preference pairs of a file, of a directory whose files are joined, or of a hub data set ("hub:org/name@config#split").

    form: a name of the forms table (docs/data.md); left out, each row is recognised by its columns.
    split: of a hub data set. limit: at most so many pairs. strict: the first bad row raises DataError.
    max_pairs_per_prompt, seed: pointwise labels only: how many good x bad pairs of one prompt are drawn.
    Memory is constant, except for json arrays and for forms that take a whole file.
    Raises DataError for a file that is missing or damaged, and for unknown columns, with what was found and what is accepted.
    """
    return PairReader(
        path, form=form, split=split, limit=limit, strict=strict, max_pairs_per_prompt=max_pairs_per_prompt, seed=seed
    )


def write_pairs(path: str | Path, pairs: Iterable[PreferencePair]) -> int:
    """Write pairs as jsonl or jsonl.gz in Assay's own form, which `read_pairs` reads back exactly; how many there were.

    The file appears only when it is complete; the same pairs give the same bytes.
    """
    path = Path(path)
    if not path.name.endswith((".jsonl", ".jsonl.gz")):
        raise DataError(f"{path}: pairs are written as .jsonl or .jsonl.gz")
    part = path.with_name(path.name + ".part")
    num_pairs = 0
    try:
        with ExitStack() as files:
            file: IO[bytes] | gzip.GzipFile = files.enter_context(part.open("wb"))
            if path.name.endswith(".gz"):
                file = files.enter_context(gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0))
            for pair in pairs:
                file.write(_as_line(pair))
                num_pairs += 1
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return num_pairs


def read_completions(path: str | Path, *, split: str = "train") -> Iterator[tuple[int, Completion | str]]:
    """(number, completion) for every row of a file or hub data set to score; in place of a bad row, why, with its line.

    A row holds prompt (text or messages) and response or completion (or steps, whose concatenation is the response); or
    messages that end with the assistant's; or text or token_ids, rendered already. A blank response is a response. The
    row's own id is kept, else its number is the id.
    Raises DataError when the first row has no such columns, with what was found and what is accepted.
    """
    return _completions(read_rows(path, split), path)


def _completions(rows: Rows, path: str | Path) -> Iterator[tuple[int, Completion | str]]:
    unit, is_first = unit_of(path), True
    for number, row in rows:
        if isinstance(row, str):
            yield number, f"{unit} {number}: {row}"
            continue
        columns = _completion_columns(row)
        if columns is None and is_first:
            accepted = "; ".join(" + ".join(names) for names in _COMPLETION_COLUMNS)
            raise DataError(f"{path}: there is no completion in the columns {', '.join(row)}. Accepted: {accepted}")
        is_first = False
        try:
            completion: Completion | str = _completion_of(row, columns, _own_id(row) or str(number))
        except BadRow as reason:
            completion = f"{unit} {number}: {reason}"
        yield number, completion


_COMPLETION_COLUMNS = (
    ("prompt", "steps"),
    ("prompt", "response"),
    ("prompt", "completion"),
    ("messages",),
    ("text",),
    ("token_ids",),
)


def _completion_columns(row: Row) -> tuple[str, ...] | None:
    """The first form that the row has values for, else the first that it has the columns of."""
    having = [names for names in _COMPLETION_COLUMNS if row.keys() >= set(names)]
    return next((names for names in having if all(row[name] is not None for name in names)), having[0] if having else None)


def _completion_of(row: Row, columns: tuple[str, ...] | None, id: str) -> Completion:
    match columns:
        case ("prompt", "steps"):
            steps = tuple(text_of(step, may_be_blank=True) for step in list_of(row["steps"]))
            return Completion(messages=prompt_of(row["prompt"]), steps=steps, id=id)
        case ("prompt", name):
            answer = row[name]
            if isinstance(answer, list) and len(answer) == 1:  # TRL: a completion as one assistant message
                answer = field_of(answer[0], "content")
            return Completion(messages=prompt_of(row["prompt"]), response=text_of(answer, may_be_blank=True), id=id)
        case ("messages",):
            turns = turns_of(row["messages"])
            if not turns or turns[-1].role != "assistant":
                raise BadRow("the last message is not the assistant's")
            return Completion(messages=turns[:-1], response=turns[-1].content, id=id)
        case ("text",):
            return Completion(text=text_of(row["text"]), id=id)
        case ("token_ids",):
            token_ids = list_of(row["token_ids"])
            if not token_ids or not all(type(token) is int and token >= 0 for token in token_ids):
                raise BadRow("token_ids is not a list of token numbers")
            return Completion(token_ids=tuple(token_ids), id=id)
    raise BadRow("unknown columns")


def _outcomes(row: Row | str, given: Form | None, number: int, source: str) -> Iterable[Outcome]:
    """The named pairs of a row, and the reasons for those that could not be made."""
    if isinstance(row, str):
        return [row]
    form = given or recognise(row)
    if form is None:
        return ["unknown columns"]
    outcomes = pairs_of(row, form)
    if form.name == "assay":
        return outcomes
    name, tags = _own_id(row) or str(number), tags_of(row)
    return [outcome if isinstance(outcome, str) else _named(outcome, source, name, tags) for outcome in outcomes]


def _named(pair: PreferencePair, source: str, name: str, tags: Mapping[str, str]) -> PreferencePair:
    return replace(pair, source=source, id=f"{name}:{pair.id}" if pair.id else name, tags={**tags, **pair.tags})


def _own_id(row: Row) -> str:
    """The row's own name, "" when it has none."""
    return next((str(row[name]) for name in _ID_COLUMNS if isinstance(row.get(name), str | int)), "")


def _counted(rows: Rows, problems: ReadProblems) -> Rows:
    for number, row in rows:
        problems.num_rows += 1
        yield number, row


def _file_of(path: str | Path) -> str | Path:
    """The file that holds the pairs: the path itself, or in a directory the one that the others are joined to."""
    if is_hub(path) or not Path(path).is_dir():
        return path
    found = [file for name in DIRECTORY_FILES if (file := find_beside(Path(path), name))]
    if not found:
        raise DataError(
            f"{path} is a directory without {' or '.join(DIRECTORY_FILES)}: name one of its files, "
            f"or {HUB}{path} to load it with `datasets`"
        )
    return found[0]


def _unknown_columns(path: str | Path, row: Row, given: str | None) -> str:
    accepted = "\n".join(f"  {form.name}: {', '.join(form.columns)}" for form in ALL_FORMS if given in (None, form.name))
    return f"{path} has the columns {', '.join(row)}: no form of preference pairs that is accepted. Accepted:\n{accepted}"


def _as_line(pair: PreferencePair) -> bytes:
    """One line of UTF-8 JSON. Raises UnicodeEncodeError, a ValueError, for text with a lone surrogate."""
    content = {
        "prompt": [turn._asdict() for turn in pair.prompt],
        "chosen": pair.chosen,
        "rejected": pair.rejected,
        "preference": pair.preference,
        "margin": pair.margin,
        "weight": pair.weight,
        "source": pair.source,
        "id": pair.id,
        "tags": dict(pair.tags),
    }
    return json.dumps(content, ensure_ascii=False).encode() + b"\n"
