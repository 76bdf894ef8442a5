"""Read recorded answers to a prompt, each with its gold: what best-of-n and overoptimisation are measured on.

    recorded = read_candidates("candidates.jsonl")     # or .json, .parquet, hub:org/name, the directory of AlpacaEval
    print(recorded.note)                               # 24 rows -> 768 answers; to 24 prompts

A row that cannot be used is counted with its reason. Candidates that say the same are kept: each was one draw of the policy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from assay.data.cases import Case, case_of
from assay.data.raw.cells import BadRow, list_of, number_of
from assay.data.raw.columns import NO_NAMES
from assay.data.raw.rows import Row, file_of, stem, unit_of
from assay.data.sources import critiqued, judged, published, ranked
from assay.data.sources.chosen import rmb_best_of_n
from assay.data.sources.forms import Beside, Form, Read, cases_of, file_form, row_form
from assay.data.sources.joined import alpaca_eval
from assay.data.sources.judged import truthful
from assay.data.sources.reading import ReadProblems, read_cases
from assay.errors import DataError
from assay.messages import Messages
from assay.records import Completion

GOLD_JUDGE = "weighted_alpaca_eval_gpt4_turbo"
"""Whose preferences are the gold of AlpacaEval: version 2, soft labels against one reference."""

MIN_CANDIDATES = 2


class Candidates(NamedTuple):
    """Recorded answers to one prompt. gold: (N,) float64, what each is really worth, in any unit; NaN where it is not known.
    tools, ground_truth: of the prompt, as a `Completion` has them."""

    prompt: Messages
    answers: tuple[str, ...]
    gold: np.ndarray
    tools: tuple[Mapping[str, Any], ...] = ()
    ground_truth: Mapping[str, Any] | None = None

    def completions(self) -> list[Completion]:
        """The answers as things to score."""
        return [
            Completion(messages=self.prompt, response=answer, tools=self.tools, ground_truth=self.ground_truth)
            for answer in self.answers
        ]


class Recorded(NamedTuple):
    """The candidates of one file. note: what was read and set aside, in one line."""

    groups: tuple[Candidates, ...]
    source: str
    note: str


def read_candidates(path: str | Path, names: Mapping[str, str] = NO_NAMES) -> Recorded:
    """The candidates of a file or hub data set, or of a directory whose files are joined; answers to one prompt are one group.

    Each row is recognised by its columns; names: what they are, as `columns.renaming` gives it. A prompt with a single candidate is
    set aside. Raises DataError for a file that is missing or damaged, for unknown columns, and when nothing is left.
    """
    file = file_of(path, ("preferences",), takes_folders=False)
    problems = ReadProblems(unit=unit_of(file), what="answers")
    found: dict[Messages, list[tuple[int, Case]]] = {}
    for number, case in read_cases(file, GOLD_FORMS, problems, source=stem(path), what="no candidates with gold", names=names):
        fault = case if isinstance(case, str) else case.fault or _unusable(case, found.get(case.prompt, []))
        if isinstance(case, str) or fault:
            problems.add(fault, number)
        else:
            found.setdefault(case.prompt, []).append((number, case))
    groups = []
    for prompt, cases in found.items():
        (number, first), answers = cases[0], tuple(answer for _, case in cases for answer in case.candidates)
        gold = np.array([gold for _, case in cases for gold in case.gold])
        if len(answers) < MIN_CANDIDATES:
            problems.add("only candidate of its prompt", number)
        else:
            groups.append(Candidates(prompt, answers, gold, first.tools, first.ground_truth))
    problems.num_pairs = sum(len(group.answers) for group in groups)
    if not groups:
        raise DataError(f"{path} has no prompt with {MIN_CANDIDATES} candidates: {problems.summary()}")
    return Recorded(tuple(groups), stem(path), f"{problems.summary()}; to {len(groups):,} prompts")


def _unusable(case: Case, before: Sequence[tuple[int, Case]]) -> str:
    """Why a case cannot be put to those of its prompt, "" where it can."""
    if case.prompt[-1].is_blank:
        return "empty"
    if case.messages:
        return "not text"
    if before and (case.tools, case.ground_truth) != (before[0][1].tools, before[0][1].ground_truth):
        return "other tools or ground truth than before for its prompt"
    return ""


def _gold(value: Any) -> float:
    number = float(value) if isinstance(value, bool) else number_of(value, "gold")
    return math.nan if number is None else number


def _list(row: Row) -> Case:
    """One row a prompt: candidates (texts), and as many numbers in gold (null: not known)."""
    texts, golds = list_of(row["candidates"]), list_of(row["gold"])
    if len(texts) != len(golds):
        raise BadRow("candidates and gold differ in number")
    return case_of(row["prompt"], texts, map(_gold, golds))


def _answer(row: Row) -> Case:
    return case_of(row["prompt"], [row["response"]], [_gold(row["gold"])])


def _gsm8k(row: Row) -> Case:
    """Every column that holds a solution and whether it is correct."""
    solutions = [cell for cell in row.values() if isinstance(cell, dict) and cell.keys() >= {"is_correct", "solution"}]
    return case_of(row["question"], [cell["solution"] for cell in solutions], [_gold(cell["is_correct"]) for cell in solutions])


def _one_list_a_prompt(beside: Beside) -> Read:
    """RMB: the best answer is worth 1, the others 0, within a list; of several lists with one prompt the first is kept."""
    seen: set[Messages] = set()

    def read(row: Row) -> Case:
        case = rmb_best_of_n(row)
        if not case.fault and case.prompt in seen:
            raise BadRow("another list of its prompt")
        seen.add(case.prompt)
        return case

    return read


def _against_reference(beside: Beside) -> Read:
    """The model's answer of AlpacaEval, worth the share of `GOLD_JUDGE` in its favour."""
    read_pair = alpaca_eval(beside)

    def read(row: Row) -> Case:
        if row.get("judge", GOLD_JUDGE) != GOLD_JUDGE:
            raise BadRow("another judge")
        (case,) = cases_of({**row, "reference": row["model"]}, read_pair)
        return Case(prompt=case.prompt, candidates=case.candidates[:1], gold=case.gold[:1], faults=case.faults)

    return read


GOLD_FORMS: tuple[Form, ...] = (
    row_form("candidates", ("prompt", "candidates", "gold"), _list),
    row_form("answers", ("prompt", "response", "gold"), _answer),
    *published.GOLD,
    *ranked.GOLD,
    *critiqued.GOLD,
    *judged.GOLD,
    row_form("gsm8k", ("question", "ground_truth"), _gsm8k),
    row_form("truthful", ("question", "answer", "truthful"), truthful),
    file_form("rmb-best-of-n", ("conversation_input", "bon_best", "loser_list"), _one_list_a_prompt),
    file_form("alpaca-eval", ("prompt_id", "model", "reference", "p_model"), _against_reference),
)
"""Every form that `read_candidates` knows."""
