"""The one shape that the rows of every published set take: a prompt, its candidate answers, what each is worth; and its pairs.

A form of `data/sources` makes a `Case` of a row's cells, as leniently as suites need it: answers may be blank or equal. `pairs_of`
makes preference pairs of it, and is strict. Suffixes: N candidates of a case, I comparisons.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations, product
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from assay.data.critiques import CHOSEN_CRITIQUE, REJECTED_CRITIQUE
from assay.data.raw.cells import BadRow, joined, prompt_of, split_answer, stripped
from assay.messages import Message, Messages, prompt_key
from assay.records import Completion, PreferencePair

Outcome: TypeAlias = PreferencePair | str
"""A pair, or the reason why there is none."""


class Label(NamedTuple):
    """What a `PreferencePair` of two candidates says beside their texts. name: unique within its case."""

    preference: float = 1.0
    margin: float | None = None
    weight: float = 1.0
    tags: Mapping[str, str] = {}
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A prompt and its candidate answers, with what is known of each.

    gold: one number for each candidate, in any unit: 1 is right (chosen, correct), 0 is not; (0.5, 0.5) is a tie; a probability;
    a score; NaN is not known.
    pairs: which candidates are compared, as (i, j); when left out, every two of unequal gold.
    labels: one for each of the pairs, of which i is then the chosen one; when left out, the one of more gold is.
    faults: number of a candidate -> why it cannot be used.
    section: the part of a suite that it belongs to; subset: a finer slice, a row of a table.
    cluster: cases of one cluster are resampled together; within a suite the prompt's key when left out.
    messages: the candidates as the assistant's messages, where one of them has tool calls or reasoning beside its text.
    attributes: name -> one number for each candidate, NaN where it is not known: what was rated beside the gold.
    is_scored: gold are points on a scale, whose differences are margins; False for labels and ranks.
    critiques: what was said of each candidate alone, "" where nothing was; they become a pair's chosen_critique, rejected_critique.
    source, id, tags, tools, ground_truth: those of its pairs and completions.
    """

    prompt: Messages
    candidates: tuple[str, ...]
    gold: tuple[float, ...]
    section: str = ""
    subset: str = ""
    id: str = ""
    pairs: tuple[tuple[int, int], ...] | None = None
    labels: tuple[Label, ...] = ()
    faults: Mapping[int, str] = field(default_factory=dict, hash=False)
    cluster: str = ""
    source: str = ""
    tags: Mapping[str, str] = field(default_factory=dict, hash=False)
    tools: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)
    ground_truth: Mapping[str, Any] | None = field(default=None, hash=False)
    messages: tuple[Message, ...] = ()
    attributes: Mapping[str, tuple[float, ...]] = field(default_factory=dict, hash=False)
    is_scored: bool = False
    critiques: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.section and not self.cluster:
            object.__setattr__(self, "cluster", self.prompt_key)
        if len(self.gold) != len(self.candidates):
            raise BadRow("not one label for each candidate")
        if any(len(values) != len(self.candidates) for values in self.attributes.values()):
            raise BadRow("not one number of each attribute for each candidate")
        if len(self.critiques) not in (0, len(self.candidates)):
            raise BadRow("not one critique for each candidate")

    @property
    def prompt_key(self) -> str:
        """Hash of the prompt's text alone, as a `PreferencePair` has it."""
        return prompt_key(self.prompt)

    @property
    def fault(self) -> str:
        """Why not all of the candidates can be used, "" where they can."""
        return next(iter(self.faults.values()), "")

    @property
    def answers(self) -> tuple[Message, ...]:
        """The candidates as the assistant's messages."""
        return self.messages or tuple(Message("assistant", text) for text in self.candidates)

    def completions(self) -> list[Completion]:
        """The candidates as things to score."""
        return [
            Completion(messages=self.prompt, response_message=answer, tools=self.tools, ground_truth=self.ground_truth)
            for answer in self.answers
        ]


_OF_TWO = {1: np.array([[0, 1]]), 0: np.empty((0, 2), dtype=np.int64), -1: np.array([[1, 0]])}


def comparisons(case: Case) -> np.ndarray:
    """Which candidate must be above which: (I, 2) int64, the better one first; ties of gold are left out."""
    if len(case.gold) == 2 and (case.pairs is None or len(case.pairs) == 1):  # the most frequent case, and a short one
        return _OF_TWO[int(case.gold[0] > case.gold[1]) - int(case.gold[0] < case.gold[1])]
    gold_N = np.asarray(case.gold, dtype=np.float64)
    if case.pairs is None:
        return np.argwhere(gold_N[:, None] > gold_N[None, :])
    pairs_I2 = np.array(case.pairs, dtype=np.int64).reshape(-1, 2)
    first_I, second_I = gold_N[pairs_I2].T
    turned_I2 = np.where((first_I < second_I)[:, None], pairs_I2[:, ::-1], pairs_I2)
    return turned_I2[first_I != second_I]


_MISSING_AS_TEXT = {
    "nan",
    "NaN",
    "NAN",
    "null",
    "NULL",
    "None",
    "<NA>",
    "N/A",
    "n/a",
    "#N/A",
}  # as pandas, Python and Excel write it


def pairs_of(case: Case) -> list[Outcome]:
    """The preference pairs of a case, and in place of each that cannot be made, or of a candidate in none, the reason."""
    pairs: Iterable[Sequence[int]] = case.pairs or () if case.labels else comparisons(case).tolist()
    is_one = len(case.candidates) == 2
    labelled = list(zip(pairs, case.labels or [Label(name="" if is_one else f"{i}-{j}") for i, j in pairs], strict=True))
    compared = {number for pair, _ in labelled for number in pair}
    alone: list[Outcome] = [fault for number, fault in case.faults.items() if number not in compared]
    return alone + [case.faults.get(i) or case.faults.get(j) or _pair(case, i, j, label) for (i, j), label in labelled]


def _pair(case: Case, i: int, j: int, label: Label) -> Outcome:
    chosen, rejected = case.answers[i], case.answers[j]
    if case.prompt[-1].is_blank or chosen.is_blank or rejected.is_blank:
        return "empty"
    if any(text.strip() in _MISSING_AS_TEXT for text in (chosen.content, rejected.content, case.prompt[-1].content)):
        return "a missing value written as text"
    if stripped(chosen) == stripped(rejected):
        return "identical pair"
    if label.margin is not None and label.margin < 0:
        return "margin is negative"
    if not 0.0 <= label.preference <= 1.0:
        return "preference is not a probability"
    if label.weight < 0:
        return "weight is negative"
    return PreferencePair(
        prompt=case.prompt,
        chosen=chosen.content,
        rejected=rejected.content,
        chosen_message=chosen if case.messages else None,
        rejected_message=rejected if case.messages else None,
        preference=label.preference,
        margin=label.margin,
        weight=label.weight,
        source=case.source,
        id=f"{case.id}:{label.name}" if case.id and label.name else case.id or label.name,
        tags={**case.tags, **label.tags},
        tools=case.tools,
        ground_truth=_with_critiques(case, i, j),
    )


def _with_critiques(case: Case, i: int, j: int) -> Mapping[str, Any] | None:
    """The ground truth of a pair, with what was said of its answers."""
    sides = ((CHOSEN_CRITIQUE, i), (REJECTED_CRITIQUE, j)) if case.critiques else ()
    said = {name: case.critiques[number] for name, number in sides if case.critiques[number].strip()}
    return {**(case.ground_truth or {}), **said} if said else case.ground_truth


# From cells to cases.


def case_of(
    prompt: Any,
    candidates: Iterable[Any],
    gold: Iterable[float],
    *,
    pairs: Iterable[tuple[int, int]] | None = None,
    labels: Iterable[Label] = (),
) -> Case:
    """A case from cells. What cannot be read is a fault of its candidate, or of all when it is the prompt.

    A prompt is text or messages, of which the last may be blank. A candidate is text, an assistant message, or a conversation that
    repeats the prompt.
    """
    full, answers, faults = _read_answers(prompt, candidates)
    if not answers:
        raise BadRow("no candidates")
    return Case(
        prompt=full,
        candidates=tuple(answer.content for answer in answers),
        gold=tuple(gold),
        pairs=None if pairs is None else tuple(pairs),
        labels=tuple(labels),
        faults=faults,
        messages=tuple(answers) if any(answer != Message("assistant", answer.content) for answer in answers) else (),
    )


def _read_answers(prompt: Any, cells: Iterable[Any]) -> tuple[Messages, list[Message], dict[int, str]]:
    """The whole prompt, the answers, and why one of them cannot be used; a fault of the prompt is that of every answer."""
    asked: Messages = ()
    full: Messages = ()
    unread = ""
    try:
        asked = prompt_of(prompt, may_end_blank=True)
    except BadRow as reason:
        unread = str(reason)
    answers, faults = [], {}
    for number, cell in enumerate(cells):
        answer = Message("assistant", "")
        try:
            if unread:
                raise BadRow(unread)
            before, answer = split_answer(cell)
            repeated = joined(asked, before)
            full = full or repeated
            if repeated != full:
                raise BadRow("prompts differ")
        except BadRow as reason:
            faults[number] = str(reason)
        answers.append(answer)
    return full, answers, faults


def of_two(
    prompt: Any, first: Any, second: Any, first_wins: float, *, margin: float | None = None, tags: Mapping[str, str] | None = None
) -> Case:
    """Two answers, of which the likelier one is chosen; first_wins: probability that the first is better."""
    gold = (first_wins, 1.0 - first_wins)
    order = (0, 1) if first_wins >= 0.5 else (1, 0)
    label = Label(gold[order[0]], margin, tags=tags or {})
    return case_of(prompt, (first, second), gold, pairs=(order,), labels=(label,))


def of_sides(prompt: Any, chosen: Sequence[Any], rejected: Sequence[Any]) -> Case:
    """Right answers, then wrong ones: each right one is compared with each wrong one."""
    pairs = product(range(len(chosen)), range(len(chosen), len(chosen) + len(rejected)))
    gold = [1.0] * len(chosen) + [0.0] * len(rejected)
    labels = (Label(name=f"{i}-{j}") for i, j in product(range(len(chosen)), range(len(rejected))))
    return case_of(prompt, [*chosen, *rejected], gold, pairs=pairs, labels=labels)


def of_ranking(
    prompt: Any, answers: Sequence[Any], worth: Sequence[float | None], missing: str, *, has_margins: bool = False
) -> Case:
    """A ranked or scored list: every two answers, the one worth more is chosen, equal ones are a tie; missing: one without."""
    if len(answers) != len(worth):
        raise BadRow("lists of different length")
    gold = [math.nan if value is None else value for value in worth]
    pairs = list(combinations(sorted((i for i, value in enumerate(worth) if value is not None), key=lambda i: -gold[i]), 2))
    labels = [
        Label(0.5 if gold[i] == gold[j] else 1.0, gold[i] - gold[j] if has_margins else None, name=f"{i}-{j}") for i, j in pairs
    ]
    case = case_of(prompt, answers, gold, pairs=pairs, labels=labels)
    faults = {**case.faults, **{i: missing for i, value in enumerate(worth) if value is None}}
    return replace(case, faults=faults, is_scored=has_margins)
