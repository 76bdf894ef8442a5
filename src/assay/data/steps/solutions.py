"""Solutions that are to be labelled: labelled steps of any form, or prompts with a response, which is cut into steps by a rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from assay.data.pairs import read_completions
from assay.data.raw.rows import stem
from assay.data.sources.step_labels import StepReading
from assay.data.steps.labelled_steps import LabelledSteps
from assay.data.steps.step_rows import read_labelled_steps, step_form_of
from assay.data.steps.step_rules import StepRule, with_steps


def read_solutions(
    path: str | Path, *, rule: StepRule, form: str | None = None, limit: int | None = None, ignore: Sequence[str] = ()
) -> tuple[list[LabelledSteps], str]:
    """The solutions of a file with their steps, and in a line what was read. Labels that the file has are kept.

    form: of labelled steps; left out, a file of no such form is read as completions. limit: the first so many. Raises DataError as
    `read_labelled_steps` and `read_completions` do.
    """
    if (form or "").partition("?")[0] or step_form_of(path) is not None:
        reader = read_labelled_steps(path, form=form, ignore=ignore, reading=StepReading(as_published=True))
        found = list(islice(reader, limit))
        return found, reader.summary()
    found, left_out, num_rows = [], Counter[str](), 0
    for number, item in read_completions(path):
        num_rows += 1
        try:
            if isinstance(item, str):
                raise ValueError(item.partition(": ")[2] or item)
            cut = with_steps(item, rule)
        except ValueError as reason:
            left_out[str(reason)] += 1
            continue
        steps = cut.steps or ()
        found.append(LabelledSteps(completion=cut, right=(None,) * len(steps), source=stem(path), id=item.id or str(number)))
        if limit is not None and len(found) >= limit:
            break
    named = ", ".join(f"{count:,} {reason}" for reason, count in left_out.most_common())
    return found, f"{num_rows:,} rows -> {len(found):,} solutions, cut by {rule}" + (f"; set aside: {named}" if named else "")
