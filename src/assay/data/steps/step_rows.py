"""Read and write solutions with a label for each of their steps.

    reader = read_labelled_steps("data.jsonl.gz")        # or .json, .parquet, "hub:org/name@config"
    solutions = list(reader)                             # streams: iterate instead, and nothing is held
    print(reader.summary())                              # 4,104 rows -> 4,030 solutions; 74 set aside: ...

A row's form is recognised by its columns (`sources/stepwise.py` has each form's rule). A row that cannot be used is counted with
its reason, and columns that were not read are named, as `read_pairs` does.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from assay.data.raw.cells import BadRow, text_of, tools_of
from assay.data.raw.columns import NO_NAMES, RowView, Unclear, left_over, refuse_media, renamed, renaming, shown_row, usual
from assay.data.raw.rows import Row, read_rows, stem, unit_of
from assay.data.raw.text_rows import write_lines
from assay.data.sampling import draw_from_file
from assay.data.sources.forms import ID_COLUMNS, TAG_COLUMNS, own_id, tags_of
from assay.data.sources.reading import ReadProblems
from assay.data.sources.step_labels import Solution, StepForm, StepReading, form_and_reading
from assay.data.sources.stepwise import STEP_FORMS
from assay.data.steps.labelled_steps import LabelledSteps
from assay.data.steps.step_rules import join_steps
from assay.data.truths import truth_of
from assay.errors import DataError
from assay.records import Completion

_OWN_USE = {*TAG_COLUMNS, *ID_COLUMNS, "tags"}


@dataclass(slots=True, kw_only=True, eq=False)
class StepReader:
    """The solutions of one file or hub data set, read anew by each iteration; made by `read_labelled_steps`.

    problems: counts of the latest iteration, up to where it got; with a limit, of all that the sample was drawn from. drawn: what
    the limit left, in words.
    """

    path: str | Path
    source: str
    form: str | None
    split: str
    limit: int | None
    strict: bool
    seed: int
    reading: StepReading
    names: Mapping[str, str]
    problems: ReadProblems = field(init=False)
    drawn: str = field(init=False, default="")

    def __post_init__(self) -> None:
        self.problems = self._no_problems()

    def _no_problems(self) -> ReadProblems:
        return ReadProblems(unit=unit_of(self.path), what="solutions", strict_of=self.path if self.strict else None)

    def __iter__(self) -> Iterator[LabelledSteps]:
        self.drawn = ""
        if self.limit is None:
            yield from self._solutions()
            return
        sample, self.drawn = draw_from_file(
            self.path, self._solutions(), self.limit, seed=self.seed, prompt_of=lambda one: one.prompt_key, what="solutions"
        )
        yield from sample.items

    def summary(self) -> str:
        """`problems` in one line, and with a limit what was drawn."""
        return "; ".join(filter(None, (self.problems.summary(), self.drawn)))

    def _solutions(self) -> Iterator[LabelledSteps]:
        self.problems = problems = self._no_problems()
        forms = [form for form in STEP_FORMS if self.form == form.name or (self.form is None and not form.named)]
        if self.reading.said:
            problems.note_file(f"read with {self.reading.said}")
        seen: set[str] = set()
        has_objects = False
        for number, row in read_rows(self.path, self.split, problems.note_file):
            problems.num_rows += 1
            try:
                if isinstance(row, str):
                    raise BadRow(row)
                row = usual(renamed(row, self.names))
                form = _recognised(self.path, row, forms, is_first=not has_objects)
                has_objects = True
                problems.forms[form.name] = problems.forms.get(form.name, 0) + 1
                problems.current_form = form.name
                found = self._of_row(RowView(row), form, number)
            except BadRow as reason:
                problems.add(str(reason), number)
                continue
            except Unclear as unclear:
                shown = row if isinstance(row, str) else shown_row(row)
                raise DataError(f"{self.path}, {problems.unit} {number}: {unclear}.\nThe row: {shown}") from None
            for solution, once in found:
                if isinstance(solution, str):
                    problems.add(solution, number)
                elif not once or once not in seen:
                    seen.update((once,) if once else ())
                    problems.num_pairs += 1
                    yield solution
        if problems.num_rows and not has_objects:
            raise DataError(f"no row of {self.path} is a JSON object: {problems.summary()}; write one object a line")

    def _of_row(self, view: RowView, form: StepForm, number: int) -> list[tuple[LabelledSteps | str, str]]:
        """(solution, or why there is none; key of one that several rows have) for each solution of a row. Raises BadRow."""
        refuse_media(view.row)
        tools, truth = tools_of(view), truth_of(view)
        solutions = form.read(view, self.reading)
        texts = [text for one in solutions for text in (*(turn.content for turn in one.prompt), *map(str, one.steps))]
        for name, example in (view.ignored | left_over(view, texts, texts, _OWN_USE.union(form.told))).items():
            self.problems.ignored.setdefault(name, example)
        for note in view.notes:
            self.problems.note_row(note)
        name = own_id(view.row) or str(number)
        tags = {} if form.name == "assay-steps" else {**tags_of(view.row), "form": form.name}
        source = str(view.row.get("source") or self.source) if form.name == "assay-steps" else self.source
        return [(self._made(one, name, source, tags, tools, truth), one.once) for one in solutions]

    def _made(
        self, one: Solution, name: str, source: str, tags: Mapping[str, str], tools: Any, truth: Mapping[str, Any] | None
    ) -> LabelledSteps | str:
        """The record of a solution, or why there is none."""
        try:
            if not one.steps:
                raise BadRow("no steps")
            texts = [text_of(step, may_be_blank=self.reading.as_published) for step in one.steps]
        except BadRow as reason:
            return "an empty step" if str(reason) == "empty" else str(reason)
        if one.outcome is None and all(label is None for label in one.right) and not self.reading.as_published:
            return "nothing is known of any step, nor of the answer"
        name = one.id or (f"{name}:{one.part}" if one.part else name)
        return LabelledSteps(
            completion=Completion(
                messages=one.prompt,
                steps=tuple(texts) if one.joined else join_steps(texts, self.reading.joint),
                id=name,
                tools=tools,
                ground_truth=one.truth or truth,
            ),
            right=tuple(one.right),
            outcome=one.outcome,
            problem=one.problem,
            source=f"{source}:{one.changes}" if one.changes else source,
            id=name,
            tags={**tags, **one.tags},
        )


def _recognised(path: str | Path, row: Row, forms: Sequence[StepForm], *, is_first: bool) -> StepForm:
    """The first form that the row fits. Raises BadRow when there is none, DataError when it is the first object of the file."""
    is_asked = len(forms) == 1
    found = next((form for form in forms if (form.fits(row) or (is_asked and form.loose))), None)
    if found is not None:
        return found
    if not is_first:
        raise BadRow(f"not in the form {forms[0].name}" if is_asked else "unknown columns")
    steps = next((name for name in ("steps", "completions") if isinstance(row.get(name), list)), None)
    label = next((name for name in ("label", "first_error", "first_error_step", "error_step") if name in row), None)
    if steps and label and not isinstance(row[label], list) and not is_asked:
        raise DataError(
            f"{path}: the column {label!r} is one number for the {steps}, and whether it counts from 0 or from 1 is not known: "
            f"give --form first-error-from-0 or --form first-error-from-1.\nThe row: {shown_row(row)}"
        )
    accepted = "".join(f"\n  {form.name}: {', '.join(form.columns)}" for form in forms)
    raise DataError(
        f"{path} has the columns {', '.join(row)}: no form of labelled steps that is accepted.\nThe row: {shown_row(row)}\n"
        f"Accepted (docs/process-data.md):{accepted}"
    )


def step_form_of(path: str | Path, split: str = "train") -> str | None:
    """The name of the form of labelled steps that the first object of a file has, None where it has none. Raises DataError for a
    file that cannot be read."""
    row = next((row for _, row in read_rows(path, split) if not isinstance(row, str)), None)
    if row is None:
        return None
    return next((form.name for form in STEP_FORMS if not form.named and form.fits(usual(row))), None)


def read_labelled_steps(
    path: str | Path,
    *,
    form: str | None = None,
    split: str = "train",
    limit: int | None = None,
    strict: bool = False,
    seed: int = 0,
    reading: StepReading = StepReading(),  # noqa: B008
    ignore: Sequence[str] = (),
    names: Mapping[str, str] = NO_NAMES,
) -> StepReader:
    """The solutions with labelled steps of a file, folder or glob of files, or hub data set ("hub:org/name@config#split").

    form: a name of `STEP_FORMS` (docs/process-data.md); left out, each row is recognised by its columns; behind a question mark
    settings of the reading, as "prm800k?neutral=wrong" or "?originals=true". reading: what the sets
    leave open. split, limit, strict, seed, ignore and names are those of `read_pairs`.
    Raises DataError for a file that is missing or damaged, columns of no form or of which it is not known how they count, and
    text in columns of which it is not known what they are.
    """
    form, reading = form_and_reading(form, reading)
    known = [one.name for one in STEP_FORMS]
    if form is not None and form not in known:
        raise DataError(f"unknown form {form!r} of labelled steps: use one of {', '.join(known)}, or leave it out")
    if limit is not None and limit < 0:
        raise DataError(f"limit {limit} must not be negative: it is a number of solutions")
    read_rows(path, split)  # a missing file or an unknown kind is refused here, not at the first row
    return StepReader(
        path=path,
        source=stem(path),
        form=form,
        split=split,
        limit=limit,
        strict=strict,
        seed=seed,
        reading=reading,
        names=names or renaming((), ignore),
    )


def write_labelled_steps(path: str | Path, rows: Iterable[LabelledSteps]) -> int:
    """Write solutions as jsonl or jsonl.gz, which `read_labelled_steps` reads back exactly, and `read_completions` scores; how
    many.

    The file appears only when it is complete; the same solutions give the same bytes. Raises DataError for another kind of file.
    """
    return write_lines(path, map(_as_line, rows), what="labelled steps")


def _as_line(row: LabelledSteps) -> bytes:
    content: dict[str, Any] = {
        "prompt": [turn.as_dict() for turn in row.completion.messages],
        "steps": list(row.completion.steps or ()),
        "right": list(row.right),
        "outcome": row.outcome,
        "source": row.source,
        "id": row.id,
        "tags": dict(row.tags),
    }
    content |= {"problem": [turn.as_dict() for turn in row.problem]} if row.problem else {}
    content |= {"tools": list(row.completion.tools)} if row.completion.tools else {}
    truth = row.completion.ground_truth
    content |= {} if truth is None else {"ground_truth": dict(truth)}
    return json.dumps(content, ensure_ascii=False).encode() + b"\n"
