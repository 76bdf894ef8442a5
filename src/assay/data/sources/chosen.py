"""Forms that name the chosen and the rejected answer, or several of each."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from typing import Any

from assay.data.cases import Case, Label, case_of, of_sides, of_two
from assay.data.cells import TURN, BadRow, field_of, list_of, number_of, read_transcript, text_of
from assay.data.rows import Row
from assay.data.sources.forms import Form, row_form

_SCORE_COLUMNS = (("score_chosen", "score_rejected"), ("chosen_score", "rejected_score"), ("chosen_rating", "rejected_rating"))
_STYLES = ("concise", "detailed", "markdown")


def explicit(row: Row) -> Case:
    """TRL explicit prompt, text or messages (UltraFeedback-binarised, RewardBench 1, HHH)."""
    return _labelled(row, row["prompt"], row["chosen"], row["rejected"])


def own(row: Row) -> Case:
    """What `write_pairs` writes; every field is kept as it is."""
    return replace(explicit(row), source=row["source"] or "", id=row["id"] or "")


def implicit(row: Row) -> Case:
    """TRL implicit prompt: whole conversations that begin alike."""
    chosen, rejected = row["chosen"], row["rejected"]
    if isinstance(chosen, str) and isinstance(rejected, str):
        return _labelled(row, *_split_at_difference(chosen, rejected))
    if not isinstance(chosen, list):
        raise BadRow("not text")
    return _labelled(row, chosen[:-1], chosen, rejected)


def _split_at_difference(chosen: str, rejected: str) -> tuple[str, str, str]:
    """The shared beginning, cut back to the last white space so that no word is split, and the two answers after it."""
    sizes = range(1, min(len(chosen), len(rejected)) + 1)
    shared = chosen[: bisect_left(sizes, True, key=lambda size: chosen[:size] != rejected[:size])]
    words = shared.split()
    border = len(shared) if not words or shared[-1].isspace() else len(shared) - len(words[-1])
    if not shared[:border].strip():
        raise BadRow("no shared prompt")
    return shared[:border].rstrip(), chosen[border:].lstrip(), rejected[border:].lstrip()


def anthropic(row: Row) -> Case:
    r"""Anthropic HH: whole dialogues with "\n\nHuman:"."""
    (chosen_prompt, chosen), (rejected_prompt, rejected) = _split_transcript(row["chosen"]), _split_transcript(row["rejected"])
    if chosen_prompt.strip() != rejected_prompt.strip():
        raise BadRow("prompts differ")
    return _labelled(row, read_transcript(chosen_prompt), chosen, rejected)


def _is_transcript(row: Row) -> bool:
    return any(isinstance(row[side], str) and TURN.search(row[side]) for side in ("chosen", "rejected"))


def _split_transcript(dialogue: Any) -> tuple[str, str]:
    prompt, mark, answer = text_of(dialogue).rpartition("\n\nAssistant:")
    if not mark or TURN.search(answer):
        raise BadRow("no answer at the end")
    return prompt, answer.strip()


def _labelled(row: Row, prompt: Any, chosen: Any, rejected: Any) -> Case:
    """A chosen answer with the row's optional columns: preference, margin (or two scores, equal ones are a tie), weight, tags."""
    preference, margin = number_of(row.get("preference"), "preference"), number_of(row.get("margin"), "margin")
    if margin is None:
        margin = next((gap for gap in (_score_gap(row, *columns) for columns in _SCORE_COLUMNS) if gap is not None), None)
        if margin == 0 and preference is None:
            preference = 0.5
    preference = 1.0 if preference is None else preference
    weight, tags = number_of(row.get("weight"), "weight"), row.get("tags")
    tags = {name: value for name, value in tags.items() if isinstance(value, str)} if isinstance(tags, Mapping) else {}
    label = Label(preference, margin, 1.0 if weight is None else weight, tags)
    return case_of(prompt, (chosen, rejected), (preference, 1.0 - preference), pairs=[(0, 1)], labels=[label])


def _score_gap(row: Row, chosen_column: str, rejected_column: str) -> float | None:
    chosen, rejected = number_of(row.get(chosen_column), "score"), number_of(row.get(rejected_column), "score")
    return None if chosen is None or rejected is None else chosen - rejected


def lists(row: Row) -> Case:
    """Lists of texts: every chosen x every rejected (RewardBench 2)."""
    return of_sides(row["prompt"], list_of(row["chosen"]), list_of(row["rejected"]))


def rm_bench(row: Row) -> Case:
    """RM-Bench: 3 x 3 styles, 9 pairs.

    Easy where style favours the chosen one (Liu et al. 2024).
    """
    case = lists(row)
    if (len(row["chosen"]), len(row["rejected"])) != (3, 3):
        raise BadRow("not three chosen and three rejected answers")
    cells = [(i, j, ("hard", "normal", "easy")[(i >= j) + (i > j)]) for i, j in product(range(3), repeat=2)]
    tags = [{"style_chosen": _STYLES[i], "style_rejected": _STYLES[j], "difficulty": name} for i, j, name in cells]
    return replace(case, labels=tuple(label._replace(tags=tag) for label, tag in zip(case.labels, tags, strict=True)))


def _are_lists(row: Row) -> bool:
    sides = (row["chosen"], row["rejected"])
    return all(isinstance(side, list) and side and all(isinstance(text, str) for text in side) for side in sides)


def _is_rm_bench(row: Row) -> bool:
    return _are_lists(row) and len(row["chosen"]) == len(row["rejected"]) == 3 and "num_correct" not in row


def rmb(row: Row) -> Case:
    """RMB pairs."""
    return of_two(row["conversation_input"], field_of(row["chosen"], "answer"), field_of(row["reject"], "answer"), 1.0)


def rmb_best_of_n(row: Row) -> Case:
    """RMB best-of-N: the best x each loser."""
    losers = [field_of(loser, "answer") for loser in list_of(row["loser_list"])]
    case = of_sides(row["conversation_input"], [field_of(row["bon_best"], "answer")], losers)
    return replace(case, labels=tuple(Label(name=str(i)) for i in range(len(losers))))


FORMS: tuple[Form, ...] = (
    row_form("assay", ("prompt", "chosen", "rejected", "preference", "margin", "weight", "source", "id", "tags"), own),
    row_form("rm-bench", ("id", "prompt", "subset", "chosen", "rejected"), rm_bench, _is_rm_bench),
    row_form("lists", ("prompt", "chosen", "rejected"), lists, _are_lists),
    row_form("explicit", ("prompt", "chosen", "rejected"), explicit),
    row_form("rmb", ("conversation_input", "chosen", "reject"), rmb),
    row_form("rmb-best-of-n", ("conversation_input", "bon_best", "loser_list"), rmb_best_of_n),
    row_form("anthropic", ("chosen", "rejected"), anthropic, _is_transcript),
    row_form("implicit", ("chosen", "rejected"), implicit),
)
