"""What a file of labelled steps is like, in a few lines: what was read, and how the labels lie."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from assay.data.pairs import ALL_FORMS
from assay.data.raw.rows import read_rows
from assay.data.sources.step_labels import StepReading
from assay.data.sources.stepwise import STEP_FORMS
from assay.data.steps.step_rows import read_labelled_steps, step_form_of
from assay.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCheck:
    """Counts of one file of labelled steps. right, wrong, unknown: steps. num_soft: labels between 0 and 1, which count as what is
    nearer. outcomes: (wrong, right, unknown) final answers. lucky: right in the answer, wrong in a step."""

    name: str
    summary: str
    forms: str
    num_solutions: int
    num_prompts: int
    right: int
    wrong: int
    unknown: int
    num_soft: int
    outcomes: tuple[int, int, int]
    lucky: int
    first_error: float

    def lines(self) -> list[str]:
        """For people."""
        steps = self.right + self.wrong + self.unknown
        if not steps:
            return [f"{self.name}: labelled steps; {self.summary}"]
        known = self.right + self.wrong
        soft = f" ({self.num_soft:,} soft)" if self.num_soft else ""
        share = f"; {100 * self.wrong / known:.1f}% of the known are wrong" if known else ""
        wrong, right, unknown = self.outcomes
        errors = f"; first error at {100 * self.first_error:.0f}% of the solution, in the mean" if self.wrong else ""
        lucky = f"; {self.lucky:,} with a right answer have a wrong step" if right else ""
        return [
            f"{self.name}: labelled steps, form {self.forms}; {self.summary}",
            f"{self.num_solutions:,} solutions of {self.num_prompts:,} prompts, {steps / self.num_solutions:.1f} steps each",
            f"steps: {self.right:,} right, {self.wrong:,} wrong, {self.unknown:,} unknown{soft}{share}{errors}",
            f"final answers: {right:,} right, {wrong:,} wrong, {unknown:,} unknown{lucky}",
        ]


def holds_steps(path: str, form: str | None) -> bool:
    """Whether a file is one of labelled steps: by its form's name, or by columns that no form of pairs has."""
    form = (form or "").partition("?")[0]
    if form:
        return form in {one.name for one in STEP_FORMS}
    try:
        if step_form_of(path) is None:
            return False
        row = next(row for _, row in read_rows(path) if not isinstance(row, str))
    except DataError:
        return False  # whoever reads it says why
    return not any(one.has_columns(row) and one.is_it(row) for one in ALL_FORMS)


def check_steps(
    path: str,
    *,
    form: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    reading: StepReading | None = None,
    ignore: Sequence[str] = (),
) -> StepCheck:
    """Read a file of labelled steps and count. Raises DataError as `read_labelled_steps`."""
    reader = read_labelled_steps(path, form=form, limit=limit, seed=seed, reading=reading or StepReading(), ignore=ignore)
    counts: Counter[str] = Counter()
    outcomes: Counter[float | None] = Counter()
    prompts: set[str] = set()
    places: list[float] = []
    for one in reader:
        prompts.add(one.prompt_key)
        outcomes[None if one.outcome is None else float(one.outcome >= 0.5)] += 1
        for label in one.right:
            counts["unknown" if label is None else "right" if label >= 0.5 else "wrong"] += 1
            counts["soft"] += label is not None and 0 < label < 1
        if (first := one.first_error) is not None:
            places.append((first + 1) / len(one.right))
            counts["lucky"] += one.outcome is not None and one.outcome >= 0.5
        counts["solutions"] += 1
    return StepCheck(
        name=reader.source,
        summary=reader.summary(),
        forms=", ".join(f"{name} ({count:,})" for name, count in reader.problems.forms.items()) or "none",
        num_solutions=counts["solutions"],
        num_prompts=len(prompts),
        right=counts["right"],
        wrong=counts["wrong"],
        unknown=counts["unknown"],
        num_soft=counts["soft"],
        outcomes=(outcomes[0.0], outcomes[1.0], outcomes[None]),
        lucky=counts["lucky"],
        first_error=sum(places) / len(places) if places else float("nan"),
    )
