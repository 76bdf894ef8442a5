"""Verdicts of judges that others recorded, with the pairs or answers they are about.

LLMBar, PandaLM, Vicuna-bench, Prometheus and Auto-J are read.

A verdict that was not given is NaN with a reason. What the publisher counted in its place, where that is known, is kept beside it,
so that published figures can be recomputed and compared with those of what was really said.

Suffixes: N items, R ratings of an item; 2: shown in the order of the file, and swapped.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from assay.data.cases import Case
from assay.data.raw.rows import find_beside, read_rows
from assay.data.raw.text_rows import Row
from assay.data.sources.labelled import llmbar, pandalm, vicuna_human
from assay.errors import DataError
from assay.messages import Message
from assay.records import Completion, PreferencePair

NOT_ASKED = "not asked in this order"
LLMBAR_SETS = ("natural", "mtbench", "llmeval2", "faireval")
_FILTERED = "content management policy"  # the finish reason of Azure's filter
_TWO_SCORES = re.compile(r"(\d+(?:\.\d+)?)[ ,/]+(\d+(?:\.\d+)?)")
_RATING = re.compile(r"Rating:\s*\[\[(\d+(?:\.\d+)?)\]\]")


class Verdict(NamedTuple):
    """P(the first answer is better) as a judge said it: 1, 0, 0.5 for a tie, NaN with the reason where it said none of these.
    counted: what the publisher's figures took it for, NaN where they had none either."""

    first: float
    reason: str | None = None
    counted: float = math.nan


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdicts:
    """What one judge said of N pairs. first_N2: P(the first is better); counted_N2: what was counted; reasons: why NaN."""

    judge: str
    first_N2: np.ndarray
    counted_N2: np.ndarray
    reasons: tuple[tuple[str | None, str | None], ...]

    @property
    def missing(self) -> Mapping[str, int]:
        """How many verdicts were asked for and not given, by reason."""
        found: dict[str, int] = {}
        for reason in (reason for both in self.reasons for reason in both if reason not in (None, NOT_ASKED)):
            found[str(reason)] = found.get(str(reason), 0) + 1
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedPairs:
    """N pairs, what people said of them, and the verdicts of judges by name.

    pairs: `chosen` is the first answer of the file, whichever is better; None where an answer cannot be read. gold_N: people's
    P(the first is better), 0.5 for a tie, NaN where nobody was asked. votes_NR: of each person, where they are recorded.
    """

    source: str
    pairs: tuple[PreferencePair | None, ...]
    gold_N: np.ndarray
    judges: Mapping[str, Verdicts]
    votes_NR: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))

    @property
    def prompts_N(self) -> np.ndarray:
        """The key of each item's prompt: what intervals are clustered by. An item whose answers cannot be read stands alone."""
        return np.array([f"item {i}" if pair is None else pair.prompt_key for i, pair in enumerate(self.pairs)])


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedRatings:
    """N answers, each rated R times by one judge on a scale from `low` to `high`; NaN where there is no rating, with the reason."""

    source: str
    judge: str
    completions: tuple[Completion, ...]
    ratings_NR: np.ndarray
    reasons: tuple[str | None, ...]
    low: float
    high: float


def read_recorded(folder: str | Path) -> RecordedPairs:
    """All pairs of a folder of LLMBar, PandaLM or Vicuna-bench, told by its files. Raises DataError for another folder."""
    folder = Path(folder)
    if find_beside(folder, "judge_outputs"):
        return joined("llmbar", list(read_llmbar(folder).values()))
    if find_beside(folder, "testset-v1"):
        return read_pandalm(folder)
    if find_beside(folder, "gpt4_reviews"):
        return joined("vicuna", list(read_vicuna_reviews(folder).values()))
    known = "judge_outputs (LLMBar), testset-v1 (PandaLM) or gpt4_reviews (Vicuna-bench)"
    raise DataError(f"{folder} holds no recorded verdicts that are known: give a folder with {known}")


def joined(source: str, parts: Sequence[RecordedPairs]) -> RecordedPairs:
    """Several records as one. A judge that was not asked in a part has no verdicts there; people's single votes are left out."""
    names = dict.fromkeys(name for part in parts for name in part.judges)
    judges = {}
    for name in names:
        found = [
            part.judges.get(name) or _verdicts(name, [(Verdict(math.nan, NOT_ASKED),) * 2] * len(part.pairs)) for part in parts
        ]
        judges[name] = Verdicts(
            judge=name,
            first_N2=np.concatenate([verdicts.first_N2 for verdicts in found]),
            counted_N2=np.concatenate([verdicts.counted_N2 for verdicts in found]),
            reasons=tuple(reason for verdicts in found for reason in verdicts.reasons),
        )
    gold_N = np.concatenate([part.gold_N for part in parts])
    return RecordedPairs(source=source, pairs=tuple(pair for part in parts for pair in part.pairs), gold_N=gold_N, judges=judges)


def read_llmbar(folder: str | Path) -> dict[str, RecordedPairs]:
    """LLMBar's judges by set (natural, mtbench, llmeval2, faireval), named EVALUATOR/STRATEGY, every verdict in both orders.

    folder: with judge_outputs and the sets as JSON lines. A null winner is no verdict: the accuracies of judge_statistics count it
    as wrong, the kappas as the second answer. Of the strategies that rate, equal scores are a tie; they are published as a win
    of the answer that was shown second. Zeng et al. (2024), https://github.com/princeton-nlp/LLMBar.
    """
    items = {name: {str(row["id"]): llmbar(row) for row in _rows(folder, name)} for name in LLMBAR_SETS}
    said: dict[str, dict[str, dict[str, tuple[Verdict, Verdict]]]] = {name: {} for name in LLMBAR_SETS}
    for row in _rows(folder, "judge_outputs"):
        name, judge = str(row["id"]).rsplit("-", 1)[0], f"{row['evaluator']}/{row['strategy']}"
        if name not in said or row["id"] not in items[name]:
            raise DataError(f"{folder}: judge_outputs has a verdict on {row['id']}, which is in none of {', '.join(LLMBAR_SETS)}")
        said[name].setdefault(judge, {})[str(row["id"])] = _of_llmbar(row["results"][-1])
    return {name: _recorded(f"llmbar {name}", items[name], said[name]) for name in LLMBAR_SETS}


def _of_llmbar(last: Mapping[str, Any]) -> tuple[Verdict, Verdict]:
    """The verdicts of the last step of a strategy, in the two orders."""
    is_tied = "score_1" in last and last["score_1"][0] == last["score_2"][0]
    found = []
    for order in ("swap = False", "swap = True"):
        winner, (reply, finish) = last[order]["winner"], last[order].get("completion", ("", ""))
        counted = {"1": 1.0, "2": 0.0}.get(str(winner), math.nan)
        why = "filtered by content policy" if finish == _FILTERED else "no verdict in the reply" if reply.strip() else "empty reply"
        found.append(Verdict(0.5, None, counted) if is_tied else Verdict(counted, why if math.isnan(counted) else None, counted))
    return found[0], found[1]


def read_pandalm(folder: str | Path) -> RecordedPairs:
    """PandaLM's two judges, PandaLM-7B and GPT-3.5, each asked in one order, beside three annotators.

    folder: with testset-v1, judge_pandalm-7b and judge_gpt-3.5-turbo. A reply that could not be read ("garbage") is no verdict; the
    published row of GPT-3.5 counts it as a tie. Wang et al. (2024), https://github.com/WeOpenML/PandaLM.
    """
    rows = list(_rows(folder, "testset-v1"))
    meanings = {"0": 0.5, "1": 1.0, "2": 0.0, "Tie": 0.5, "tie": 0.5}
    said: dict[str, dict[str, tuple[Verdict, Verdict]]] = {}
    for judge, file, column in (
        ("PandaLM-7B", "judge_pandalm-7b", "pandalm_result"),
        ("GPT-3.5", "judge_gpt-3.5-turbo", "gpt_result"),
    ):
        of_judge = said.setdefault(judge, {})
        for row in _rows(folder, file):
            first = meanings.get(str(row[column]), math.nan)
            why = f"the reply could not be read ({row[column]})" if math.isnan(first) else None
            of_judge[str(row["idx"])] = (Verdict(first, why, 0.5 if why else first), Verdict(math.nan, NOT_ASKED))
    votes = [[{0: 0.5, 1: 1.0, 2: 0.0}[int(row[f"annotator{i}"])] for i in (1, 2, 3)] for row in rows]
    return _recorded("pandalm", {str(row["idx"]): pandalm(row) for row in rows}, said, votes)


def read_vicuna_reviews(folder: str | Path) -> dict[str, RecordedPairs]:
    """GPT-4's reviews of Vicuna-bench by file, each pair asked once. The verdict is the two scores of the first line, nothing else.

    folder: with questions, answers, gpt4_reviews and, where it is there, human_labels_gpt35_vs_vicuna13b. In 39 of 1,040 reviews
    the first line is no pair of scores, since the reviewer solved the problem first: those are NaN, and the stored scores what was
    counted. Zheng et al. (2023), https://github.com/lm-sys/FastChat; labels of Wang et al. (2023), FairEval.
    """
    questions = {row["question_id"]: str(row["text"]) for row in _rows(folder, "questions")}
    answers = {row["answer_id"]: row for row in _rows(folder, "answers")}
    labels = [vicuna_human(row) for row in _rows(folder, "human_labels_gpt35_vs_vicuna13b", may_lack=True)]
    people = {case.candidates: case.gold[0] for case in labels}
    items: dict[str, dict[str, Case]] = {}
    said: dict[str, dict[str, tuple[Verdict, Verdict]]] = {}
    for row in _rows(folder, "gpt4_reviews"):
        name, number = str(row["review_file"]), str(row["question_id"])
        texts = tuple(str(answers[row[column]]["text"]) for column in ("answer1_id", "answer2_id"))
        gold = people.get(texts, math.nan)
        prompt = (Message("user", questions[row["question_id"]]),)
        items.setdefault(name, {})[number] = Case(prompt=prompt, candidates=texts, gold=(gold, 1 - gold))
        scores, stored = two_scores(str(row["text"])), _first_of(row["score"])
        verdict = (
            Verdict(math.nan, "the first line is not two scores", stored)
            if scores is None
            else Verdict(_first_of(scores), None, stored)
        )
        said.setdefault(name, {})[number] = (verdict, Verdict(math.nan, NOT_ASKED))
    return {name: _recorded(f"vicuna {name}", items[name], {"GPT-4": said[name]}) for name in items}


def two_scores(review: str) -> tuple[float, float] | None:
    """The two scores that a review's first line consists of; None for any other line. What stands later is never searched."""
    found = _TWO_SCORES.fullmatch(review.strip().partition("\n")[0].strip())
    return None if found is None else (float(found[1]), float(found[2]))


def read_feedback(file: str | Path) -> RecordedRatings:
    """Prometheus' absolute grading: three ratings of GPT-4 from 1 to 5 of each answer. Kim et al. (2024).

    The instruction is the whole prompt of the judge, and the answer that it shows is what was rated: it is taken out of it, between
    "###Response to evaluate:" and "###Reference Answer". Raises DataError for an instruction without them.
    """
    rows = [row for _, row in _good_rows(file)]
    completions = [_of_feedback(str(row["instruction"]), file) for row in rows]
    width = max((len(row["gpt4_score"]) for row in rows), default=0)
    ratings = [
        [_within(value, 1, 5) for value in row["gpt4_score"]] + [math.nan] * (width - len(row["gpt4_score"])) for row in rows
    ]
    return _rated(Path(file).name.partition(".")[0], "GPT-4", completions, ratings, 1, 5)


def read_autoj_critiques(file: str | Path) -> RecordedRatings:
    """Auto-J's critiques of single answers, by Auto-J: the rating from 1 to 10 behind "Rating:", the last one of the text.

    file: critique_test; the training file has the judge's whole prompt in place of question and answer. Li et al. (2023).
    """
    rows = [row for _, row in _good_rows(file)]
    completions = [Completion(messages=str(row["prompt"]), response=str(row["response"])) for row in rows]  # type: ignore[arg-type]
    found = [_RATING.findall(str(row["critiques"].get("autoj") or "")) for row in rows]
    return _rated(
        "autoj", "autoj", completions, [[_within(ratings[-1], 1, 10) if ratings else math.nan] for ratings in found], 1, 10
    )


def _rated(
    source: str, judge: str, completions: Sequence[Completion], ratings: Sequence[Sequence[float]], low: float, high: float
) -> RecordedRatings:
    ratings_NR = np.array(ratings, dtype=np.float64).reshape(len(completions), -1)
    reasons = tuple("no rating in the reply" if np.isnan(row).all() else None for row in ratings_NR)
    return RecordedRatings(
        source=source, judge=judge, completions=tuple(completions), ratings_NR=ratings_NR, reasons=reasons, low=low, high=high
    )


def _within(value: Any, low: float, high: float) -> float:
    """A rating, NaN for one that is off the scale: 11 of 10 says nothing."""
    rating = float(value)
    return rating if low <= rating <= high else math.nan


_FEEDBACK = re.compile(
    r"###The instruction to evaluate:\s*(.*?)\s*###Response to evaluate:\s*(.*?)\s*###Reference Answer", re.DOTALL
)


def _of_feedback(instruction: str, file: str | Path) -> Completion:
    parts = _FEEDBACK.search(instruction)
    if parts is None:
        raise DataError(
            f"{file}: an instruction has no '###Response to evaluate:' before '###Reference Answer': {instruction!r:.60}"
        )
    return Completion(messages=parts[1], response=parts[2])  # type: ignore[arg-type]


def _recorded(
    source: str,
    items: Mapping[str, Case],
    said: Mapping[str, Mapping[str, tuple[Verdict, Verdict]]],
    votes: Sequence[Sequence[float]] = (),
) -> RecordedPairs:
    pairs = tuple(None if case.faults else _pair(case, source, number) for number, case in items.items())
    not_asked = (Verdict(math.nan, NOT_ASKED),) * 2
    judges = {name: _verdicts(name, [of_judge.get(number, not_asked) for number in items]) for name, of_judge in said.items()}
    gold_N = np.array([case.gold[0] for case in items.values()], dtype=np.float64)
    votes_NR = np.array(votes, dtype=np.float64).reshape(len(items), -1) if votes else np.empty((len(items), 0))
    return RecordedPairs(source=source, pairs=pairs, gold_N=gold_N, judges=judges, votes_NR=votes_NR)


def _pair(case: Case, source: str, number: str) -> PreferencePair:
    """The pair in the order of the file; its preference is NaN's stand-in 0.5 where nobody was asked (see `gold_N`)."""
    preference = 0.5 if math.isnan(case.gold[0]) else case.gold[0]
    return PreferencePair(
        prompt=case.prompt, chosen=case.candidates[0], rejected=case.candidates[1], preference=preference, source=source, id=number
    )


def _verdicts(judge: str, said: Iterable[tuple[Verdict, Verdict]]) -> Verdicts:
    both = list(said)
    columns: dict[str, Callable[[Verdict], float]] = {"first": lambda one: one.first, "counted": lambda one: one.counted}
    first_N2, counted_N2 = (np.array([[of(one) for one in two] for two in both], dtype=np.float64) for of in columns.values())
    return Verdicts(judge=judge, first_N2=first_N2, counted_N2=counted_N2, reasons=tuple((a.reason, b.reason) for a, b in both))


def _first_of(scores: Sequence[float]) -> float:
    return 0.5 if scores[0] == scores[1] else float(scores[0] > scores[1])


def _rows(folder: str | Path, name: str, *, may_lack: bool = False) -> Iterable[Row]:
    file = find_beside(Path(folder), name)
    if file is None:
        if may_lack:
            return []
        raise DataError(f"{folder} holds no {name}.jsonl (or .jsonl.gz): give the folder of the recorded verdicts")
    return (row for _, row in _good_rows(file))


def _good_rows(file: str | Path) -> Iterable[tuple[int, Row]]:
    """Rows with their numbers. Raises DataError for one that cannot be read: a verdict must not vanish."""
    for number, row in read_rows(file):
        if isinstance(row, str):
            raise DataError(f"{file}, line {number}: {row}")
        yield number, row
