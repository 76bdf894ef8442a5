"""Forms with one answer in a row, gold 1 where it is good, else 0; `contrasted` makes pairs of those to one prompt."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import combinations, product
from typing import Any

from assay.data.cases import Case, Label, case_of
from assay.data.raw.cells import BadRow, UnknownLabel, look_up, number_of, stripped, text_of, turns_of
from assay.data.raw.columns import Unclear, column_of, is_blank, plain
from assay.data.raw.rows import Row
from assay.data.sources.forms import Form, named_form, row_form
from assay.data.sources.prompts import asked, has_prompt, prompt_column
from assay.messages import Message, Messages, prompt_key

_GOOD = (
    "true", "1", "1.0", "yes", "good", "desirable", "positive", "thumbs_up", "thumbsup", "up", "like", "liked", "accepted",
    "accept", "chosen", "safe", "correct", "right", "+1", "👍", "preferred", "helpful", "pass",
)  # fmt: skip
_BAD = (
    "false", "0", "0.0", "no", "bad", "undesirable", "negative", "thumbs_down", "thumbsdown", "down", "dislike", "disliked",
    "rejected", "reject", "unsafe", "incorrect", "wrong", "-1", "-1.0", "👎", "dispreferred", "unhelpful", "fail",
)  # fmt: skip
_MEANINGS = dict.fromkeys(_GOOD, 1.0) | dict.fromkeys(_BAD, 0.0)

ATTRIBUTES = (
    "helpfulness", "correctness", "coherence", "complexity", "verbosity", "honesty", "truthfulness", "instruction_following",
    "harmlessness", "safety", "accuracy", "coverage", "clarity", "creativity", "relevance", "factuality", "depth",
    "level_of_detail", "completeness", "conciseness", "style", "readability", "engagement", "fluency", "consistency",
)  # fmt: skip
"""Columns of numbers that rate one side of an answer: kept beside its gold."""


def unpaired(row: Row) -> Case:
    """One answer and whether it is good (KTO, BeaverTails): good x bad answers of a prompt."""
    column, label = column_of(plain(row), "label"), row["label"]
    if is_blank(label):
        raise BadRow("missing label")
    good = _MEANINGS.get(
        str(label).strip().lower().replace(" ", "_").replace("-", "_") if isinstance(label, str) else str(label).lower()
    )
    if good is None:
        good = _MEANINGS.get(str(label).strip())
    if good is None and isinstance(label, int | float):
        raise Unclear(
            f"the label {label!r} in the column {column!r} is neither yes nor no: write true or false in it, or call it a score "
            f"with --columns score={column}"
        )
    if good is None:
        raise UnknownLabel(label)
    prompt, answer = asked_and_answered(row)
    return case_of(prompt, [answer], [good])


def has_label(row: Row) -> bool:
    return _is_answered(row) and column_of(row, "label") is not None


def rated(row: Row) -> Case:
    """One answer and its score (HelpSteer, ratings under their usual names): answers to one prompt are compared, with margins.

    What was rated beside the score is kept as attributes.
    """
    score = number_of(row["score"], "score")
    if score is None:
        raise BadRow("missing score")
    prompt, answer = asked_and_answered(row)
    attributes = {name: number_of(row[name], name) for name in ATTRIBUTES if name in row}
    case = case_of(prompt, [answer], [score])
    known = {name: (math.nan if value is None else value,) for name, value in attributes.items()}
    return replace(case, is_scored=True, attributes=known)


def has_score(row: Row) -> bool:
    column = column_of(row, "score")
    return _is_answered(row) and column is not None and not isinstance(row[column], list | Mapping | bool)


def _is_answered(row: Row) -> bool:
    """Whether a row has a prompt and one answer, or messages that end with it."""
    return has_prompt(row) and (column_of(row, "completion") is not None or prompt_column(row) in _CONVERSATIONS)


_CONVERSATIONS = ("messages", "conversations", "conversation", "dialogue", "chat")


def asked_and_answered(row: Row) -> tuple[Any, Any]:
    """The prompt of a row and its one answer."""
    if column_of(plain(row), "completion") is not None:
        return asked(row), row["completion"]
    turns = turns_of(asked(row))
    if not turns or turns[-1].role != "assistant":
        raise BadRow("no answer at the end")
    return turns[:-1], turns[-1:]


def truthful(row: Row) -> Case:
    """TruthfulQA: true x false answers."""
    return case_of(row["question"], [row["answer"]], [_yes_or_no(row["truthful"])])


def informative(row: Row) -> Case:
    """TruthfulQA: informative x other answers."""
    return case_of(row["question"], [row["answer"]], [_yes_or_no(row["informative"])])


def xstest(row: Row) -> Case:
    """XSTest: compliance x refusal, the better one by the type of prompt.

    A "contrast" prompt is unsafe: to refuse is right. To the others it is to comply. A partial refusal is neither.
    """
    labels = {"1_full_compliance": 1.0, "2_full_refusal": 0.0}
    complies = look_up(row["final_label"], labels, "neither complies nor refuses")
    return case_of(row["prompt"], [row["completion"]], [1 - complies if is_unsafe(row) else complies])


def is_unsafe(row: Row) -> bool:
    return text_of(row["type"]).startswith("contrast")


def _yes_or_no(label: Any) -> float:
    return look_up(label, {"True": 1.0, "False": 0.0})


def contrasted(numbered: Iterable[tuple[int, Case | str]], max_pairs: int, seed: int) -> Iterator[tuple[int, Case | str]]:
    """The cases, those of one judged answer put together: a prompt's good answers against its bad ones, and why one is in no pair.

    Scored answers to one prompt become one case, a list. At most so many pairs of a prompt, drawn by the seed. A repeated answer is
    there once, and one that is judged both ways not at all. These are held in memory: the sets in such forms are small.
    """
    groups: dict[tuple[bool, Messages], dict[Message, list[tuple[int, Case]]]] = {}
    for number, case in numbered:
        if isinstance(case, str) or case.pairs is not None or len(case.candidates) > 1:
            yield number, case
        elif fault := case.fault or ("empty" if case.answers[0].is_blank else ""):
            yield number, fault
        else:
            answers = groups.setdefault((case.is_scored, case.prompt), {})
            answers.setdefault(stripped(case.answers[0]), []).append((number, case))
    for (is_scored, prompt), answers in groups.items():
        yield from (_listed if is_scored else _contrast)(prompt, answers.values(), max_pairs, seed)


def _contrast(
    prompt: Messages, answers: Iterable[list[tuple[int, Case]]], max_pairs: int, seed: int
) -> Iterator[tuple[int, Case | str]]:
    sides: dict[float, list[tuple[int, Case]]] = {1.0: [], 0.0: []}
    for found in _once(answers):
        if isinstance(found[1], str):
            yield found
        else:
            sides[found[1].gold[0]].append((found[0], found[1]))
    pairs = list(product(sides[1.0], sides[0.0]))
    if not pairs:
        yield from ((number, "no counterpart") for side in sides.values() for number, _ in side)
    if len(pairs) > max_pairs:
        pairs = random.Random(f"{seed}:{prompt_key(prompt)}").sample(pairs, max_pairs)
    for (number, good), (other, bad) in pairs:
        yield number, _together([(number, good), (other, bad)], gold=(1.0, 0.0))


def _once(answers: Iterable[list[tuple[int, Case]]]) -> Iterator[tuple[int, Case | str]]:
    """Each answer once, and the reason for what is left out: repeated, or judged in two ways."""
    for same in answers:
        if len({case.gold for _, case in same}) > 1:
            yield from ((number, "label disputed") for number, _ in same)
        else:
            yield same[0]
            yield from ((number, "repeated answer") for number, _ in same[1:])


def _listed(
    prompt: Messages, answers: Iterable[list[tuple[int, Case]]], max_pairs: int, seed: int
) -> Iterator[tuple[int, Case | str]]:
    """The scored answers to one prompt as one case, the best first in each pair."""
    kept: list[tuple[int, Case]] = []
    for number, found in _once(answers):
        if isinstance(found, str):
            yield number, found
        else:
            kept.append((number, found))
    if len(kept) < 2:
        yield from ((number, "no counterpart") for number, _ in kept)
        return
    case = _together(kept, gold=tuple(case.gold[0] for _, case in kept))
    pairs = list(combinations(sorted(range(len(kept)), key=lambda i: -case.gold[i]), 2))
    if len(pairs) > max_pairs:
        pairs = random.Random(f"{seed}:{prompt_key(prompt)}").sample(pairs, max_pairs)
    labels = [_scored_label(case.gold[i], case.gold[j], f"{kept[i][0]}-{kept[j][0]}") for i, j in pairs]
    yield kept[0][0], replace(case, id="", pairs=tuple(pairs), labels=tuple(labels))


def _scored_label(better: float, worse: float, name: str) -> Label:
    return Label(0.5 if better == worse else 1.0, better - worse, name=name)


def _together(numbered: list[tuple[int, Case]], gold: tuple[float, ...]) -> Case:
    """Cases of one answer each as one, named by the numbers of their rows."""
    cases = [case for _, case in numbered]
    names = dict.fromkeys(name for case in cases for name in case.attributes)
    return replace(
        cases[0],
        id="-".join(str(number) for number, _ in numbered),
        candidates=tuple(text for case in cases for text in case.candidates),
        messages=tuple(answer for case in cases for answer in case.answers),
        gold=gold,
        critiques=tuple(case.critiques[0] if case.critiques else "" for case in cases) if any(c.critiques for c in cases) else (),
        attributes={name: tuple(case.attributes.get(name, (math.nan,))[0] for case in cases) for name in names},
    )


FORMS: tuple[Form, ...] = (
    row_form("truthful", ("question", "answer", "truthful"), truthful),
    row_form("informative", ("question", "answer", "informative"), informative),
    row_form("xstest", ("prompt", "completion", "type", "final_label"), xstest),
)
GENERAL: tuple[Form, ...] = (
    named_form("unpaired", ("prompt", "completion", "label"), unpaired, has_label),
    named_form("rated", ("prompt", "completion", "score"), rated, has_score),
)
GOLD: tuple[Form, ...] = (named_form("rated", ("prompt", "completion", "score"), rated, has_score),)
"""Those whose answers have scores."""
