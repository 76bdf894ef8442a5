"""Solutions with labelled steps for a run: read, split by problem, and rendered into a table on disk, by problem."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from assay.console import console, say
from assay.data.split import Split, refuse_overlap
from assay.data.steps.labelled_steps import LabelledSteps
from assay.data.steps.step_rows import StepReader, read_labelled_steps
from assay.data.tokens.answer_table import AnswerRow, AnswerTable, build_answer_table
from assay.data.tokens.problem_table import ProblemTable, num_items
from assay.errors import DataError
from assay.files import file_sha256
from assay.messages import Messages
from assay.training import distributed
from assay.training.settings import TrainConfig

NUMBERS_OF = Callable[[LabelledSteps], np.ndarray | str]
"""The numbers of a solution, (steps, V), or (V,) where it is read once; or the reason why it is not trained on."""


class Problem(NamedTuple):
    """What a solution solves, as splits ask for it."""

    prompt: Messages
    prompt_key: str


def readers(config: TrainConfig) -> list[StepReader]:
    """The files of a run, to be read."""
    return [_reader(config, name, config.limit) for name in config.data]


def solutions(config: TrainConfig, split: Split) -> Iterator[LabelledSteps]:
    """The solutions of one split, read again; of the test split those of --eval-data where it is given."""
    if split == "test" and config.eval_data is not None:
        yield from _reader(config, config.eval_data, None)
        return
    for reader in readers(config):
        yield from (item for item in reader if split_of(config, item) == split)


def split_of(config: TrainConfig, item: LabelledSteps) -> Split:
    """The split of a solution: that of its problem."""
    return config.run_data.split_of(problem_of(item))


def problem_of(item: LabelledSteps) -> Problem:
    return Problem(item.prompt, item.prompt_key)


def read_solution_table(
    config: TrainConfig, renderer: Any, numbers_of: NUMBERS_OF, *, names: Sequence[str], reads_steps: bool
) -> tuple[ProblemTable, list[dict[str, Any]]]:
    """Read, split and tokenise the solutions once; what was read, set aside and cut is printed, and returned for reward.json.

    numbers_of: of a solution; names: of them. reads_steps: see `build_answer_table`. Raises DataError where nothing is left to
    train on, or --eval-data holds problems that are trained on.
    """
    files, path = readers(config), config.out / "cache" / "answers.arrow"
    with distributed.rank0_first():
        if distributed.rank() != 0:
            return ProblemTable(AnswerTable(path)), []
        unused: dict[str, int] = {}
        with console.status("reading and tokenising"):
            rows = (row for reader in files for row in _rows(config, reader, numbers_of, unused))
            try:
                solved, count = build_answer_table(rows, renderer, path, names=names, fewest=1, reads_steps=reads_steps)
            except DataError as error:
                why = "; ".join(f"{number:,} solutions: {reason}" for reason, number in unused.items())
                read = "\n".join(f"{reader.path}: {reader.summary()}" for reader in files)
                raise DataError(f"{error}\n{read}" + (f"\nnot trained on: {why}" if why else "")) from error
    table, data = ProblemTable(solved), [_said_of(reader) for reader in files]
    for reason, number in unused.items():
        say("not trained on", f"{number:,} solutions: {reason}")
    say("rendered", count.summary())
    sizes = {name: num_items(table, table.rows(name)) for name in ("train", "calibration", "test")}
    say("split", ", ".join(f"{name} {size:,}" for name, size in sizes.items()) + " solutions, by hash of the problem")
    if not sizes["train"]:
        fix = "give more problems, or lower --calibration and --test"
        raise DataError(f"nothing is in the training split of {', '.join(config.data)}: {fix}")
    _refuse_tested_problems(config, table)
    return table, data


def _rows(config: TrainConfig, reader: StepReader, numbers_of: NUMBERS_OF, unused: dict[str, int]) -> Iterator[AnswerRow]:
    for item in reader:
        numbers = numbers_of(item)
        if isinstance(numbers, str):
            unused[numbers] = unused.get(numbers, 0) + 1
            continue
        yield AnswerRow([item.completion], [numbers], int(item.prompt_key[:16], 16), split_of(config, item))


def _reader(config: TrainConfig, name: str, limit: int | None) -> StepReader:
    strict, names = config.machine.strict, config.run_data.names
    return read_labelled_steps(name, form=config.form, limit=limit, strict=strict, seed=config.seed, names=names)


def _said_of(reader: StepReader) -> dict[str, Any]:
    """Print what was read of a file; the same as an entry for reward.json."""
    say("read", f"{reader.path}: {reader.summary()}")
    entry: dict[str, Any] = {"name": reader.source, "num_pairs": reader.problems.num_pairs, "note": reader.summary()}
    return entry | ({"fingerprint": file_sha256(Path(reader.path))[:32]} if Path(reader.path).is_file() else {})


def _refuse_tested_problems(config: TrainConfig, table: ProblemTable) -> None:
    """Raises DataError when --eval-data has problems of the data, or of what the model to start from was trained on."""
    if config.eval_data is None:
        return
    hashes = np.union1d(table.prompt, config.run_data.known_prompts)
    tested = (problem_of(item) for item in _reader(config, config.eval_data, None))
    refuse_overlap(hashes, tested, train_name=", ".join(config.data), eval_name=config.eval_data)
