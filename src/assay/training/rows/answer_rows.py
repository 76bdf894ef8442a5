"""Lists of answers for a run: read as cases, split by prompt, drawn, and rendered into a table on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from assay.console import console, say
from assay.data.cases import Case
from assay.data.pairs import PairReader
from assay.data.sampling import draw_prompts
from assay.data.set_aside import why_no_pairs
from assay.data.split import Split
from assay.data.tokens.answer_table import AnswerRow, AnswerTable, build_answer_table
from assay.errors import DataError
from assay.records import Completion
from assay.training import distributed
from assay.training.rows.pair_rows import refuse_tested_prompts, say_read
from assay.training.settings import TrainConfig


class Reading(NamedTuple):
    """How the cases of a file become rows of a table.

    of_case: the completions of a case and their numbers (answers, V), or the reason why there are none. names: of the V numbers.
    fewest: answers that a row must have. what: rows are called so. is_single: an answer alone is a row; else those to one prompt
    that were judged one by one are put together.
    """

    of_case: Callable[[Case], tuple[list[Completion], np.ndarray] | str]
    names: Sequence[str]
    fewest: int
    what: str
    is_single: bool


def read_answer_table(config: TrainConfig, renderer: Any, reading: Reading) -> tuple[AnswerTable, list[dict[str, Any]]]:
    """Read, split and tokenise the data once; what was read, set aside and cut is printed, and returned for reward.json."""
    readers, path = config.run_data.readers(), config.out / "cache" / "answers.arrow"
    with distributed.rank0_first():
        if distributed.rank() != 0:
            return AnswerTable(path), []
        with console.status("reading and tokenising"):
            rows = (row for reader in readers for row in _rows(config, reader, reading))
            try:
                table, count = build_answer_table(rows, renderer, path, names=reading.names, fewest=reading.fewest)
            except DataError as error:
                raise DataError(f"{error}\n{why_no_pairs(readers)}") from error
    data = say_read(config, readers)
    say("rendered", count.summary())
    sizes = {name: len(table.rows(name)) for name in ("train", "calibration", "test")}
    say("split", ", ".join(f"{name} {size:,}" for name, size in sizes.items()) + f" {reading.what}, by hash of the prompt")
    if not sizes["train"]:
        raise DataError(
            f"nothing is in the training split of {', '.join(config.data)}: give more prompts, or lower --calibration and --test"
        )
    refuse_tested_prompts(config, table)
    return table, data


def answers_in(config: TrainConfig, split: Split, reading: Reading) -> Iterator[Completion]:
    """The answers of one split, read again."""
    rows = (row for reader in config.run_data.readers() for row in _rows(config, reader, reading))
    return (completion for row in rows if row.split == split for completion in row.completions)


def rows_in(config: TrainConfig, split: Split, reading: Reading) -> Iterator[AnswerRow]:
    """The rows of one split, read again."""
    return (row for reader in config.run_data.readers() for row in _rows(config, reader, reading) if row.split == split)


def _rows(config: TrainConfig, reader: PairReader, reading: Reading) -> Iterator[AnswerRow]:
    """The rows of one file, with a limit a random sample of whole prompts."""
    rows = _all_rows(config, reader, reading)
    reader.drawn, reader.num_given = "", 0
    if config.limit is not None:
        sample = draw_prompts(rows, config.limit, seed=config.seed, prompt_of=lambda row: str(row.prompt))
        if not sample.is_all:
            drawn = f"{len(sample.items):,} of {sample.num_seen:,} {reading.what} drawn at random"
            reader.drawn = f"{drawn}, whole prompts, seed {config.seed}"
        rows = iter(sample.items)
    for row in rows:
        reader.num_given += 1
        yield row


def _all_rows(config: TrainConfig, reader: PairReader, reading: Reading) -> Iterator[AnswerRow]:
    for number, case in reader.cases(together=not reading.is_single):
        found = case if isinstance(case, str) else reading.of_case(case)
        if isinstance(found, str):
            reader.problems.add(found, number)
        elif not isinstance(case, str):
            reader.problems.num_pairs += 1
            yield AnswerRow(*found, int(case.prompt_key[:16], 16), config.run_data.split_of(case))
        reader.problems.what = reading.what
