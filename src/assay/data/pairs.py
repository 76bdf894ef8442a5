"""Read preference pairs and completions in the usual forms; write pairs in Assay's own.

    reader = read_pairs("pairs.jsonl.gz")        # or .json, .parquet, a directory to join, "hub:org/name@config"
    pairs = list(reader)                         # streams: iterate instead, and nothing is held
    print(reader.summary())                      # 1,157 rows -> 1,154 pairs; 3 set aside: 3 prompts differ (lines 9, 14, 90)

The files are opened by `rows.py`; a row's form is recognised by its columns, `sources/` makes cases of it, `cases.py` pairs of
those. A row that gives no pair is counted with its reason, never dropped in silence.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any

from assay.data.cases import Outcome, pairs_of
from assay.data.cells import BadRow, answer_of, ground_truth_of, list_of, prompt_of, text_of, tools_of, turns_of
from assay.data.rows import Row, Rows, file_of, read_rows, stem, unit_of
from assay.data.sources import chosen, joined, judged, labelled, ranked
from assay.data.sources.forms import Form, own_id
from assay.data.sources.judged import contrasted
from assay.data.sources.reading import ReadProblems, read_cases
from assay.errors import DataError
from assay.files import replacing
from assay.records import Completion, PreferencePair

ALL_FORMS: tuple[Form, ...] = (*chosen.FORMS, *ranked.FORMS, *labelled.FORMS, *judged.FORMS, *joined.FORMS)
"""Every form that `read_pairs` knows: name, columns, and what it is. The first that a row fits wins."""


@dataclass(slots=True, kw_only=True, eq=False)
class PairReader:
    """The pairs of one file, directory or hub data set, read anew by each iteration; made by `read_pairs`.

    problems: counts of the latest iteration, up to where it got.
    """

    path: str | Path
    source: str
    form: str | None
    split: str
    limit: int | None
    strict: bool
    max_pairs_per_prompt: int
    seed: int
    problems: ReadProblems = field(init=False)

    def __post_init__(self) -> None:
        self.problems = ReadProblems(unit=unit_of(self.path))

    def __iter__(self) -> Iterator[PreferencePair]:
        return islice(self._pairs(), self.limit)

    def summary(self) -> str:
        """`problems` in one line."""
        return self.problems.summary()

    def _pairs(self) -> Iterator[PreferencePair]:
        self.problems = problems = ReadProblems(unit=unit_of(self.path))
        forms = [form for form in ALL_FORMS if self.form in (None, form.name)]
        cases = read_cases(self.path, forms, problems, split=self.split, source=self.source)
        for number, case in contrasted(cases, self.max_pairs_per_prompt, self.seed):
            outcomes: list[Outcome] = [case] if isinstance(case, str) else pairs_of(case)
            for outcome in outcomes:
                if isinstance(outcome, str):
                    self._set_aside(problems, outcome, number)
                else:
                    problems.num_pairs += 1
                    yield outcome

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
    known = [known.name for known in ALL_FORMS]
    if form is not None and form not in known:
        raise DataError(f"unknown form {form!r}: use one of {', '.join(known)}, or leave it out to go by the columns")
    if limit is not None and limit < 0:
        raise DataError(f"limit {limit} must not be negative: it is a number of pairs")
    if max_pairs_per_prompt < 1:
        raise DataError(f"max_pairs_per_prompt {max_pairs_per_prompt} must be at least 1")
    file = file_of(path, joined.DIRECTORY_FILES)
    read_rows(file, split)  # a missing file or an unknown kind is refused here, not at the first pair
    return PairReader(
        path=file,
        source=stem(path),
        form=form,
        split=split,
        limit=limit,
        strict=strict,
        max_pairs_per_prompt=max_pairs_per_prompt,
        seed=seed,
    )


def write_pairs(path: str | Path, pairs: Iterable[PreferencePair]) -> int:
    """Write pairs as jsonl or jsonl.gz in Assay's own form, which `read_pairs` reads back exactly; how many there were.

    The file appears only when it is complete; the same pairs give the same bytes.
    """
    path = Path(path)
    if not path.name.endswith((".jsonl", ".jsonl.gz")):
        raise DataError(f"{path}: pairs are written as .jsonl or .jsonl.gz")
    num_pairs = 0
    with replacing(path) as work, ExitStack() as files:
        file: IO[bytes] | gzip.GzipFile = files.enter_context(work.open("wb"))
        if path.name.endswith(".gz"):
            file = files.enter_context(gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0))
        for pair in pairs:
            file.write(_as_line(pair))
            num_pairs += 1
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
            completion: Completion | str = _completion_of(row, columns, own_id(row) or str(number))
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
    truth = ground_truth_of(row)
    match columns:
        case ("prompt", "steps"):
            steps = tuple(text_of(step, may_be_blank=True) for step in list_of(row["steps"]))
            return Completion(messages=prompt_of(row["prompt"]), steps=steps, id=id, tools=tools_of(row), ground_truth=truth)
        case ("prompt", name):
            prompt, answer = prompt_of(row["prompt"]), answer_of(row[name], may_be_blank=True)
            return Completion(messages=prompt, response_message=answer, id=id, tools=tools_of(row), ground_truth=truth)
        case ("messages",):
            turns = turns_of(row["messages"])
            if not turns or turns[-1].role != "assistant":
                raise BadRow("the last message is not the assistant's")
            return Completion(messages=turns[:-1], response_message=turns[-1], id=id, tools=tools_of(row), ground_truth=truth)
        case ("text",):
            return Completion(text=text_of(row["text"]), id=id, ground_truth=truth)
        case ("token_ids",):
            token_ids = list_of(row["token_ids"])
            if not token_ids or not all(type(token) is int and token >= 0 for token in token_ids):
                raise BadRow("token_ids is not a list of token numbers")
            return Completion(token_ids=tuple(token_ids), id=id, ground_truth=truth)
    raise BadRow("unknown columns")


def _as_line(pair: PreferencePair) -> bytes:
    """One line of UTF-8 JSON. Raises UnicodeEncodeError, a ValueError, for text with a lone surrogate."""
    chosen, rejected = pair.completions()
    content: dict[str, Any] = {
        "prompt": [turn.as_dict() for turn in pair.prompt],
        "chosen": chosen.answer.as_answer(),
        "rejected": rejected.answer.as_answer(),
        "preference": pair.preference,
        "margin": pair.margin,
        "weight": pair.weight,
        "source": pair.source,
        "id": pair.id,
        "tags": dict(pair.tags),
    }
    content |= {"tools": list(pair.tools)} if pair.tools else {}
    content |= {} if pair.ground_truth is None else {"ground_truth": dict(pair.ground_truth)}
    return json.dumps(content, ensure_ascii=False).encode() + b"\n"
