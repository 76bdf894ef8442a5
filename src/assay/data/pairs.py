"""Read preference pairs and completions in the usual forms; write pairs in Assay's own.

    reader = read_pairs("pairs.jsonl.gz")        # or .json, .parquet, a directory to join, "hub:org/name@config"
    pairs = list(reader)                         # streams: iterate instead, and nothing is held
    print(reader.summary())                      # 1,157 rows -> 1,154 pairs; 3 set aside: 3 prompts differ (lines 9, 14, 90)

The files are opened by `rows.py`; a row's form is recognised by its columns, `sources/` makes cases of it, `cases.py` pairs of
those. A row that gives no pair is counted with its reason, never dropped in silence.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from assay.data.cases import Case, Outcome, pairs_of
from assay.data.raw.cells import BadRow, answer_of, list_of, prompt_of, text_of, tools_of, turns_of
from assay.data.raw.columns import NO_NAMES, renaming
from assay.data.raw.dataset_info import described
from assay.data.raw.rows import Row, Rows, file_of, read_rows, stem, unit_of
from assay.data.raw.text_rows import write_lines
from assay.data.sampling import draw_from_file
from assay.data.sources import annotated, chosen, critiqued, joined, judged, labelled, published, ranked, two_answers
from assay.data.sources.forms import Form, own_id
from assay.data.sources.judged import contrasted
from assay.data.sources.reading import ReadProblems, read_cases
from assay.data.spread import Spread
from assay.data.truths import truth_of
from assay.errors import DataError
from assay.records import Completion, PreferencePair

_OF_ONE_SET = (
    published.FORMS, annotated.FORMS, chosen.FORMS, ranked.FORMS, labelled.FORMS, judged.FORMS, critiqued.FORMS, joined.FORMS,
)  # fmt: skip
_GENERAL = (two_answers.FORMS, chosen.GENERAL, ranked.GENERAL, judged.GENERAL)
ALL_FORMS: tuple[Form, ...] = tuple(chain(chosen.OWN, *_OF_ONE_SET, *_GENERAL))
"""Every form that `read_pairs` knows: name, columns, and what it is. The first that a row fits wins: those of one set go first."""


@dataclass(slots=True, kw_only=True, eq=False)
class PairReader:
    """The pairs of one file, directory or hub data set, read anew by each iteration; made by `read_pairs`.

    problems: counts of the latest iteration, up to where it got; with a limit, of all that the sample was drawn from. positions: of
    the cases with two answers, (form, 0) -> in how many the first is preferred, (form, 1) -> in how many the second. num_given:
    pairs that were given. drawn: what the limit left, in words.
    """

    path: str | Path
    source: str
    form: str | None
    split: str
    limit: int | None
    strict: bool
    max_pairs_per_prompt: int
    seed: int
    names: Mapping[str, str]
    problems: ReadProblems = field(init=False)
    positions: Counter[tuple[str, int]] = field(init=False, default_factory=Counter)
    drawn: str = field(init=False, default="")
    num_given: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.problems = self._no_problems()

    def _no_problems(self) -> ReadProblems:
        return ReadProblems(unit=unit_of(self.path), strict_of=self.path if self.strict else None)

    def __iter__(self) -> Iterator[PreferencePair]:
        self.drawn, self.num_given = "", 0
        for pair in self._pairs() if self.limit is None else self._sample(self.limit):
            self.num_given += 1
            yield pair

    def summary(self) -> str:
        """`problems` in one line, and with a limit what was drawn."""
        return "; ".join(filter(None, (self.problems.summary(), self.drawn)))

    def _sample(self, limit: int) -> Iterator[PreferencePair]:
        """See `draw_from_file`. What was drawn is also held against the tags that the file is sorted by."""
        spread = Spread()

        def passing() -> Iterator[PreferencePair]:
            for pair in self._pairs():
                spread.add(pair)
                yield pair

        sample, drawn = draw_from_file(
            self.path, passing(), limit, seed=self.seed, prompt_of=lambda pair: pair.prompt_key, what="pairs"
        )
        if drawn:
            for pair in sample.items:
                spread.count("drawn", pair)
            self.drawn = "; ".join((drawn, *spread.lines()))
        yield from sample.items

    def cases(self, *, together: bool = True) -> Iterator[tuple[int, Case | str]]:
        """(number of the row, case): whole lists with ranks, scores and attributes, of which the pairs are made; else the reason.

        together: answers to one prompt that were judged one by one are one case. `problems` counts the rows; what of a case cannot
        be a pair is not counted.
        """
        self.problems = self._no_problems()
        forms = [form for form in ALL_FORMS if self.form in (None, form.name)]
        found = read_cases(self.path, forms, self.problems, split=self.split, source=self.source, names=self.names)
        return contrasted(found, self.max_pairs_per_prompt, self.seed) if together else found

    def besides(self, take: Callable[[Case], bool]) -> Iterator[PreferencePair]:
        """The pairs, where each answer that was judged alone is offered to `take` first; what it takes is in no pair.

        Raises DataError with a limit, which counts pairs.
        """
        if self.limit is not None:
            raise DataError(f"limit {self.limit} counts pairs, and answers that were judged alone are in none: leave it out")
        found, self.num_given = self.cases(together=False), 0
        left = ((number, case) for number, case in found if isinstance(case, str) or not take(case))
        for pair in self._pairs(contrasted(left, self.max_pairs_per_prompt, self.seed)):
            self.num_given += 1
            yield pair

    def _pairs(self, cases: Iterator[tuple[int, Case | str]] | None = None) -> Iterator[PreferencePair]:
        cases, self.positions = cases or self.cases(), Counter()
        problems = self.problems
        for number, case in cases:
            outcomes: list[Outcome] = [case] if isinstance(case, str) else pairs_of(case)
            if not isinstance(case, str) and len(case.candidates) == 2 and case.gold[0] != case.gold[1]:
                self.positions[problems.current_form, int(case.gold[1] > case.gold[0])] += 1
            for outcome in outcomes:
                if isinstance(outcome, str):
                    problems.add(outcome, number)
                else:
                    problems.num_pairs += 1
                    yield outcome


def read_pairs(
    path: str | Path,
    *,
    form: str | None = None,
    split: str = "train",
    limit: int | None = None,
    strict: bool = False,
    max_pairs_per_prompt: int = 16,
    seed: int = 0,
    columns: Mapping[str, str] | Sequence[str] = (),
    ignore: Sequence[str] = (),
    names: Mapping[str, str] = NO_NAMES,
) -> PairReader:
    """The preference pairs of a file, of a folder or glob of files, or of a hub data set ("hub:org/name@config#split").

    form: a name of the forms table (docs/data.md); left out, each row is recognised by its columns.
    columns: what columns are, as {"prompt": "instruction"} or ["prompt=instruction"]; ignore: columns that are left out;
    names: both as `columns.renaming` gives them.
    split: of a folder or hub data set. limit: at most so many pairs, drawn at random over the file, whole prompts (`draw_prompts`).
    strict: the first bad row raises DataError. max_pairs_per_prompt: pointwise labels only: how many good x bad pairs of one prompt
    are drawn. seed: of both draws. Memory is constant, except for json arrays, forms that take a whole file, and the sample.
    Raises DataError for a file that is missing or damaged, for unknown columns, with what was found and what is accepted, and for
    columns of text of which it is not known what they are.
    """
    known = [known.name for known in ALL_FORMS]
    if form is not None and form not in known:
        raise DataError(f"unknown form {form!r}: use one of {', '.join(known)}, or leave it out to go by the columns")
    if limit is not None and limit < 0:
        raise DataError(f"limit {limit} must not be negative: it is a number of pairs")
    if max_pairs_per_prompt < 1:
        raise DataError(f"max_pairs_per_prompt {max_pairs_per_prompt} must be at least 1")
    meant, described_names = described(path)
    file = file_of(meant, joined.DIRECTORY_FILES)
    read_rows(file, split)  # a missing file or an unknown kind is refused here, not at the first pair
    return PairReader(
        path=file,
        source=stem(path if meant == path else meant),
        form=form,
        split=split,
        limit=limit,
        strict=strict,
        max_pairs_per_prompt=max_pairs_per_prompt,
        seed=seed,
        names=names or renaming(columns, ignore) or described_names,
    )


def write_pairs(
    path: str | Path, pairs: Iterable[PreferencePair], *, beside: Callable[[PreferencePair], Mapping[str, Any]] | None = None
) -> int:
    """Write pairs as jsonl or jsonl.gz in Assay's own form, which `read_pairs` reads back exactly; how many there were.

    beside: further columns of a pair's line, which are no part of the pair, such as what its label cost. The file appears only when
    it is complete; the same pairs give the same bytes.
    """
    lines = (_as_line(pair, {} if beside is None else beside(pair)) for pair in pairs)
    return write_lines(path, lines, what="pairs")


def read_completions(path: str | Path, *, split: str = "train") -> Iterator[tuple[int, Completion | str]]:
    """(number, completion) for every row of a file or hub data set to score; in place of a bad row, why, with its line.

    A row holds prompt (text or messages) and response or completion (or steps, whose concatenation is the response); or
    messages that end with the assistant's; or text or token_ids, rendered already. A blank response is a response. The
    row's own id is kept, else its number is the id; of a bad row too (`NoCompletion.id`).
    Raises DataError when the first row has no such columns, with what was found and what is accepted.
    """
    return _completions(read_rows(path, split), path)


class NoCompletion(str):
    """Why a row is no completion, as text, with the row's id."""

    id: str

    def __new__(cls, reason: str, id: str) -> NoCompletion:
        made = super().__new__(cls, reason)
        made.id = id
        return made


def _completions(rows: Rows, path: str | Path) -> Iterator[tuple[int, Completion | str]]:
    unit, is_first = unit_of(path), True
    for number, row in rows:
        if isinstance(row, str):
            yield number, NoCompletion(f"{unit} {number}: {row}", str(number))
            continue
        columns = _completion_columns(row)
        if columns is None and is_first:
            accepted = "; ".join(" + ".join(names) for names in _COMPLETION_COLUMNS)
            raise DataError(f"{path}: there is no completion in the columns {', '.join(row)}. Accepted: {accepted}")
        is_first = False
        try:
            completion: Completion | str = _completion_of(row, columns, own_id(row) or str(number))
        except BadRow as reason:
            completion = NoCompletion(f"{unit} {number}: {reason}", own_id(row) or str(number))
        yield number, completion


_COMPLETION_COLUMNS = (
    ("prompt", "steps"),
    ("prompt", "response"),
    ("prompt", "completion"),
    ("messages",),
    ("text",),
    ("token_ids",),
)


def _what_is_missing(row: Row) -> str:
    """Why the columns of a row make no completion, by name."""
    answers = ("response", "completion", "steps")
    if "prompt" in row:
        return f"there is no response beside prompt (nor {' or '.join(answers[1:])})"
    if given := [name for name in answers if name in row]:
        return f"there is no prompt beside {given[0]}"
    return f"there is no completion in the columns {', '.join(row)}" if row else "the row is empty"


def _completion_columns(row: Row) -> tuple[str, ...] | None:
    """The first form that the row has values for, else the first that it has the columns of."""
    having = [names for names in _COMPLETION_COLUMNS if row.keys() >= set(names)]
    return next((names for names in having if all(row[name] is not None for name in names)), having[0] if having else None)


def _completion_of(row: Row, columns: tuple[str, ...] | None, id: str) -> Completion:
    truth = truth_of(row)
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
    raise BadRow(_what_is_missing(row))


def _as_line(pair: PreferencePair, beside: Mapping[str, Any]) -> bytes:
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
    return json.dumps(content | {**beside}, ensure_ascii=False).encode() + b"\n"
