"""The forms that preference data comes in, one pure function for each: a row -> its pairs.

`FORMS` is the table: it drives recognition, the error for unknown columns, and the page docs/data.md. A function maps
columns to cells; `cells.checked_pair` alone decides whether they make a pair, or why not. Where a row gives several pairs,
each has a suffix as its id, which `pairs.py` puts behind the id of the row.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import combinations, product
from typing import Any, NamedTuple

from assay.data.cells import (
    TURN,
    BadRow,
    Outcome,
    checked_pair,
    field_of,
    list_of,
    number_of,
    preferred_of_two,
    read_transcript,
    text_of,
)
from assay.data.rows import Row
from assay.records import Message, Messages


class Form(NamedTuple):
    """A form of row: recognised by its columns, and by `fits` where other forms have the same columns."""

    name: str
    columns: tuple[str, ...]
    what: str
    pairs: Callable[[Row], Sequence[Outcome]]
    fits: Callable[[Row], bool] = lambda row: True


def recognise(row: Row) -> Form | None:
    """The first form of the table that the row has the columns of."""
    return next((form for form in _with_columns(frozenset(row)) if form.fits(row)), None)


def pairs_of(row: Row, form: Form) -> Sequence[Outcome]:
    """The pairs of a row, and a reason for each pair that could not be made."""
    if not row.keys() >= set(form.columns) or not form.fits(row):
        return [f"not in the form {form.name}"]
    try:
        return form.pairs(row)
    except BadRow as reason:
        return [str(reason)]


# Forms that name the chosen and the rejected answer.


def _explicit(row: Row) -> list[Outcome]:
    return [_labelled(row, row["prompt"], row["chosen"], row["rejected"])]


def _assay(row: Row) -> list[Outcome]:
    pair = _labelled(row, row["prompt"], row["chosen"], row["rejected"])
    return [pair if isinstance(pair, str) else replace(pair, source=row["source"] or "", id=row["id"] or "")]


def _implicit(row: Row) -> list[Outcome]:
    chosen, rejected = row["chosen"], row["rejected"]
    if isinstance(chosen, str) and isinstance(rejected, str):
        return [_labelled(row, *_split_at_difference(chosen, rejected))]
    if not isinstance(chosen, list):
        raise BadRow("not text")
    return [_labelled(row, chosen[:-1], chosen, rejected)]


def _split_at_difference(chosen: str, rejected: str) -> tuple[str, str, str]:
    """The shared beginning, cut back to the last white space so that no word is split, and the two answers after it."""
    sizes = range(1, min(len(chosen), len(rejected)) + 1)
    shared = chosen[: bisect_left(sizes, True, key=lambda size: chosen[:size] != rejected[:size])]
    words = shared.split()
    border = len(shared) if not words or shared[-1].isspace() else len(shared) - len(words[-1])
    if not shared[:border].strip():
        raise BadRow("no shared prompt")
    return shared[:border].rstrip(), chosen[border:].lstrip(), rejected[border:].lstrip()


def _is_transcript(row: Row) -> bool:
    return any(isinstance(row[side], str) and TURN.search(row[side]) for side in ("chosen", "rejected"))


def _anthropic(row: Row) -> list[Outcome]:
    (chosen_prompt, chosen), (rejected_prompt, rejected) = _split_transcript(row["chosen"]), _split_transcript(row["rejected"])
    if chosen_prompt.strip() != rejected_prompt.strip():
        raise BadRow("prompts differ")
    return [_labelled(row, read_transcript(chosen_prompt), chosen, rejected)]


def _split_transcript(dialogue: Any) -> tuple[str, str]:
    prompt, mark, answer = text_of(dialogue).rpartition("\n\nAssistant:")
    if not mark or TURN.search(answer):
        raise BadRow("no answer at the end")
    return prompt, answer.strip()


# Forms with several answers in a row: all pairs of them.


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(text, str) for text in value)


def _lists(row: Row) -> list[Outcome]:
    return [
        checked_pair(row["prompt"], chosen, rejected, id=f"{i}-{j}")
        for (i, chosen), (j, rejected) in product(enumerate(row["chosen"]), enumerate(row["rejected"]))
    ]


_STYLES = ("concise", "detailed", "markdown")


def _rm_bench(row: Row) -> list[Outcome]:
    """Chosen in 3 styles x rejected in 3 styles: easy where style favours the chosen one (Liu et al. 2024, RM-Bench)."""
    outcomes = []
    for i, j in product(range(3), range(3)):
        tags = {
            "style_chosen": _STYLES[i],
            "style_rejected": _STYLES[j],
            "difficulty": "easy" if i > j else "normal" if i == j else "hard",
        }
        outcomes.append(checked_pair(row["prompt"], row["chosen"][i], row["rejected"][j], tags=tags, id=f"{i}-{j}"))
    return outcomes


def _is_rm_bench(row: Row) -> bool:
    return all(_are_texts(row[side]) and len(row[side]) == 3 for side in ("chosen", "rejected")) and "num_correct" not in row


def _ranked(row: Row) -> list[Outcome]:
    ranks = [number_of(rank, "rank") for rank in list_of(row["ranks"])]
    strengths = [None if rank is None else -rank for rank in ranks]
    return _all_pairs(row["prompt"], list_of(row["responses"]), strengths, "missing rank")


def _scored(row: Row) -> list[Outcome]:
    scores = [number_of(score, "score") for score in list_of(row["scores"])]
    return _all_pairs(row["prompt"], list_of(row["responses"]), scores, "missing score", has_margins=True)


def _nectar(row: Row) -> list[Outcome]:
    answers = list_of(row["answers"])
    ranks = [number_of(field_of(answer, "rank"), "rank") for answer in answers]
    strengths = [None if rank is None else -rank for rank in ranks]
    return _all_pairs(row["prompt"], [field_of(answer, "answer") for answer in answers], strengths, "missing rank")


def _open_assistant(row: Row) -> list[Outcome]:
    """Every set of ranked sibling answers in a message tree (rank 0 is the best), after the turns that lead to it."""
    outcomes: list[Outcome] = []
    waiting: list[tuple[Messages, Any]] = [((), row["prompt"])]
    while waiting:
        before, node = waiting.pop()
        role = "user" if field_of(node, "role") == "prompter" else "assistant"
        turns = (*before, Message(role, text_of(field_of(node, "text"))))
        replies = list_of(field_of(node, "replies") or [])
        answers = [reply for reply in replies if field_of(reply, "role") == "assistant"]
        if len(answers) > 1:
            ranks = [number_of(field_of(answer, "rank"), "rank") for answer in answers]
            strengths = [None if rank is None else -rank for rank in ranks]
            prefix = f"{field_of(node, 'message_id')}:"
            outcomes += _all_pairs(
                turns, [field_of(answer, "text") for answer in answers], strengths, "missing rank", prefix=prefix
            )
        waiting.extend((turns, reply) for reply in reversed(replies))
    return outcomes


def _all_pairs(
    prompt: Any, answers: list[Any], strengths: list[float | None], missing: str, *, has_margins: bool = False, prefix: str = ""
) -> list[Outcome]:
    """Every pair of answers, the stronger one chosen, equal ones tied; `missing` for each answer without a strength."""
    if len(answers) != len(strengths):
        raise BadRow("lists of different length")
    outcomes: list[Outcome] = [missing for strength in strengths if strength is None]
    known = [(strength, i) for i, strength in enumerate(strengths) if strength is not None]
    for (strength, i), (other, j) in combinations(sorted(known, key=lambda entry: -entry[0]), 2):
        outcomes.append(
            checked_pair(
                prompt,
                answers[i],
                answers[j],
                preference=0.5 if strength == other else 1.0,
                margin=strength - other if has_margins else None,
                id=f"{prefix}{i}-{j}",
            )
        )
    return outcomes


def _rmb(row: Row) -> list[Outcome]:
    return [checked_pair(row["conversation_input"], field_of(row["chosen"], "answer"), field_of(row["reject"], "answer"))]


def _rmb_best_of_n(row: Row) -> list[Outcome]:
    best = field_of(row["bon_best"], "answer")
    return [
        checked_pair(row["conversation_input"], best, field_of(loser, "answer"), id=str(i))
        for i, loser in enumerate(list_of(row["loser_list"]))
    ]


# Forms with two answers and a label that says which one is better.


def _llmbar(row: Row) -> list[Outcome]:
    first_wins = _look_up(row["label"], {"1": 1.0, "2": 0.0})
    return [preferred_of_two(row["input"], row["output_1"], row["output_2"], first_wins)]


def _auto_j(row: Row) -> list[Outcome]:
    first_wins = _look_up(row["label"], {"0": 1.0, "1": 0.0, "2": 0.5})
    return [preferred_of_two(row["prompt"], row["response 1"], row["response 2"], first_wins)]


def _pandalm(row: Row) -> list[Outcome]:
    """The majority of three annotators (0 tie, 1 first, 2 second); the tag `agreement` says how many of them agree."""
    votes = [_look_up(row[f"annotator{k}"], {"0": 0.5, "1": 1.0, "2": 0.0}) for k in (1, 2, 3)]
    first_wins = max(votes, key=votes.count)
    num_agreeing = votes.count(first_wins)
    if num_agreeing < 2:
        raise BadRow("no majority")
    parts = [text_of(row[column], may_be_blank=True) for column in ("instruction", "input") if row[column] is not None]
    prompt = "\n\n".join(part for part in parts if part.strip())
    tags = {"agreement": f"{num_agreeing} of 3"}
    return [preferred_of_two(prompt, row["response1"], row["response2"], first_wins, tags=tags)]


def _vicuna_human(row: Row) -> list[Outcome]:
    first_wins = _look_up(row["human"], {"CHATGPT": 1.0, "VICUNA13B": 0.0, "TIE": 0.5})
    return [preferred_of_two(row["question"], row["gpt35"], row["vicuna_13b"], first_wins)]


def _look_up(label: Any, meanings: Mapping[str, float]) -> float:
    try:
        return meanings[str(label)]
    except KeyError:
        raise BadRow("unknown label") from None


FORMS: tuple[Form, ...] = (
    Form(
        "assay",
        ("prompt", "chosen", "rejected", "preference", "margin", "weight", "source", "id", "tags"),
        "what `write_pairs` writes; every field is kept as it is",
        _assay,
    ),
    Form("rm-bench", ("id", "prompt", "subset", "chosen", "rejected"), "RM-Bench: 3 x 3 styles, 9 pairs", _rm_bench, _is_rm_bench),
    Form(
        "lists",
        ("prompt", "chosen", "rejected"),
        "lists of texts: every chosen x every rejected (RewardBench 2)",
        _lists,
        lambda row: _are_texts(row["chosen"]) and _are_texts(row["rejected"]),
    ),
    Form(
        "explicit",
        ("prompt", "chosen", "rejected"),
        "TRL explicit prompt, text or messages (UltraFeedback-binarised, RewardBench 1, HHH)",
        _explicit,
    ),
    Form("rmb", ("conversation_input", "chosen", "reject"), "RMB pairs", _rmb),
    Form("rmb-best-of-n", ("conversation_input", "bon_best", "loser_list"), "RMB best-of-N: the best x each loser", _rmb_best_of_n),
    Form("anthropic", ("chosen", "rejected"), 'Anthropic HH: whole dialogues with "\\n\\nHuman:"', _anthropic, _is_transcript),
    Form("implicit", ("chosen", "rejected"), "TRL implicit prompt: whole conversations that begin alike", _implicit),
    Form("ranked", ("prompt", "responses", "ranks"), "a ranked list, the lowest rank is best: all pairs, equal is a tie", _ranked),
    Form("scored", ("prompt", "responses", "scores"), "a scored list: all pairs, with margins", _scored),
    Form("nectar", ("prompt", "answers"), "Nectar: a ranked list of {answer, rank}", _nectar),
    Form("oasst", ("message_tree_id", "prompt"), "OpenAssistant trees: all pairs of ranked sibling replies", _open_assistant),
    Form("llmbar", ("input", "output_1", "output_2", "label"), "LLMBar: label 1 or 2", _llmbar),
    Form("auto-j", ("prompt", "response 1", "response 2", "label"), "Auto-J: label 0, 1, or 2 for a tie", _auto_j),
    Form(
        "pandalm",
        ("instruction", "input", "response1", "response2", "annotator1", "annotator2", "annotator3"),
        "PandaLM: majority of three annotators, ties",
        _pandalm,
    ),
    Form(
        "vicuna-human", ("question", "gpt35", "vicuna_13b", "human"), "FairEval's human labels of Vicuna-bench, ties", _vicuna_human
    ),
)


@lru_cache(maxsize=64)
def _with_columns(columns: frozenset[str]) -> tuple[Form, ...]:
    return tuple(form for form in FORMS if columns.issuperset(form.columns))


_SCORE_COLUMNS = (("score_chosen", "score_rejected"), ("chosen_score", "rejected_score"), ("chosen_rating", "rejected_rating"))


def _labelled(row: Row, prompt: Any, chosen: Any, rejected: Any) -> Outcome:
    """A pair with the row's optional columns: preference, margin (or two scores, equal ones are a tie), weight, tags."""
    preference, margin = number_of(row.get("preference"), "preference"), number_of(row.get("margin"), "margin")
    if margin is None:
        margin = next((gap for gap in (_score_gap(row, *columns) for columns in _SCORE_COLUMNS) if gap is not None), None)
        if margin == 0 and preference is None:
            preference = 0.5
    weight = number_of(row.get("weight"), "weight")
    tags = row.get("tags")
    return checked_pair(
        prompt,
        chosen,
        rejected,
        preference=1.0 if preference is None else preference,
        margin=margin,
        weight=1.0 if weight is None else weight,
        tags={name: value for name, value in tags.items() if isinstance(value, str)} if isinstance(tags, Mapping) else None,
    )


def _score_gap(row: Row, chosen_column: str, rejected_column: str) -> float | None:
    chosen, rejected = number_of(row.get(chosen_column), "score"), number_of(row.get(rejected_column), "score")
    return None if chosen is None or rejected is None else chosen - rejected
