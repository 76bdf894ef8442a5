"""Forms that name the chosen and the rejected answer, or several of each."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from typing import Any

from assay.data.cases import Case, Label, case_of, of_sides, of_two
from assay.data.raw.cells import (
    TURN,
    BadRow,
    field_of,
    list_of,
    number_of,
    read_transcript,
    split_answer,
    stripped,
    text_of,
    turns_of,
)
from assay.data.raw.column_names import PROMPT_NAMES
from assay.data.raw.columns import SPLIT, RowView, Unclear, column_of, plain
from assay.data.raw.embedded import conversation_in, transcript_in
from assay.data.raw.rows import Row
from assay.data.sources.forms import Form, named_form, row_form
from assay.data.sources.prompts import asked, has_prompt, prompt_column
from assay.messages import role_in

_SCORE_WORDS = (
    "score", "rating", "reward", "avg_rating", "average_rating", "rating_avg", "mean_rating", "avg_score", "mean_score",
    "overall_score", "overall_rating", "rm_score", "reward_score", "quality", "points", "helpfulness",
)  # fmt: skip
_SCORE_COLUMNS = tuple(
    pair
    for word in _SCORE_WORDS
    for pair in (
        (f"{word}_chosen", f"{word}_rejected"),
        *((f"chosen{sep}{word}", f"rejected{sep}{word}") for sep in "_- ."),
        (f"preferred_{word}", f"dispreferred_{word}"),
        (f"{word}_w", f"{word}_l"),
    )
)
_SCORE_NAMES = frozenset(name for pair in _SCORE_COLUMNS for name in pair)
_STYLES = ("concise", "detailed", "markdown")


def explicit(row: Row) -> Case:
    """A prompt, a chosen and a rejected answer, under these names (RewardBench, HHH)."""
    return _labelled(row, row["prompt"], row["chosen"], row["rejected"])


def own(row: Row) -> Case:
    """What `write_pairs` writes; every field is kept as it is."""
    return replace(explicit(row), source=row["source"] or "", id=row["id"] or "")


def preference(row: Row) -> Case:
    """A prompt, a chosen and a rejected answer (TRL, LLaMA-Factory, axolotl, OpenRLHF, torchtune, argilla and most others)."""
    chosen, rejected = row["chosen"], row["rejected"]
    return _labelled(row, _asked_before(row, chosen, rejected), chosen, rejected)


def _asked_before(row: Row, chosen: Any, rejected: Any) -> Any:
    """The prompt; of a conversation that ends with one of the answers, the turns before it."""
    prompt = asked(row)
    if not isinstance(prompt, list | tuple):
        return prompt
    turns = turns_of(prompt)
    if len(turns) < 2 or turns[-1].role != "assistant":
        return turns
    try:
        answers = [split_answer(cell)[1] for cell in (chosen, rejected)]
    except BadRow:
        return turns
    if stripped(turns[-1]) in map(stripped, answers):
        return turns[:-1]
    if prompt_column(plain(row)) != "prompt":  # the beginning of an answer may end a prompt, and nothing else
        raise BadRow("the messages end with an answer that is neither of the two")
    return turns


def is_preference(row: Row) -> bool:
    """Whether a row has a prompt beside two answers; an empty one counts, unless these are whole conversations."""
    chosen, rejected = column_of(row, "chosen"), column_of(row, "rejected")
    if chosen is None or rejected is None or "human_ref_A" in row:
        return False
    return has_prompt(row) or (any(name in row for name in _PROMPTS) and not (_is_whole(row[chosen]) and _is_whole(row[rejected])))


_PROMPTS = PROMPT_NAMES[: PROMPT_NAMES.index("context")]


def _is_whole(cell: Any) -> bool:
    """Whether an answer's cell is a conversation with its prompt."""
    if isinstance(cell, str):
        try:
            found = conversation_in(cell)
        except BadRow:
            return True
        cell = transcript_in(found) if isinstance(found, str) else found
    return isinstance(cell, list | tuple) and len(cell) > 1 and not isinstance(cell[0], str)


def several(row: Row) -> Case:
    """Lists of answers, on one side or both: every chosen x every rejected."""
    chosen, rejected = row["chosen"], row["rejected"]
    sides = [cell if _are_several(cell) else [cell] for cell in (chosen, rejected)]
    return of_sides(asked(row), *sides)


def are_several(row: Row) -> bool:
    """Whether a chosen or a rejected cell is a list of answers."""
    chosen, rejected = column_of(row, "chosen"), column_of(row, "rejected")
    return (
        chosen is not None
        and rejected is not None
        and has_prompt(row)
        and any(_are_several(row[side]) for side in (chosen, rejected))
    )


def _are_several(cell: Any) -> bool:
    """Answers as texts, as objects that name no role, or as conversations."""
    return (
        isinstance(cell, list)
        and bool(cell)
        and all(isinstance(entry, str | list | tuple) or (isinstance(entry, Mapping) and role_in(entry) is None) for entry in cell)
    )


def answer_and_rejected(row: Row) -> Case:
    """An answer and a rejected one (ms-swift): the answer ends the messages, or stands in a column of its own."""
    rejected = row["rejected"]
    answer = column_of(plain(row), "completion")
    if answer is not None:
        return _labelled(row, asked(row), row[answer], rejected)
    turns = turns_of(asked(row))
    if not turns or turns[-1].role != "assistant":
        raise BadRow("no answer at the end")
    return _labelled(row, turns[:-1], turns[-1:], rejected)


def has_answer_and_rejected(row: Row) -> bool:
    is_answered = column_of(row, "completion") is not None or prompt_column(row) in ("messages", "conversations", "conversation")
    return has_prompt(row) and is_answered and column_of(row, "rejected") is not None and column_of(row, "chosen") is None


def implicit(row: Row) -> Case:
    """Whole conversations that begin alike (TRL's implicit prompt, OpenRLHF, torchtune), as messages or as text."""
    chosen, rejected = (_alone(row[side]) for side in ("chosen", "rejected"))
    if isinstance(chosen, str) and isinstance(rejected, str):
        turns = [transcript_in(text) for text in (chosen, rejected)]
        if None in turns:
            if isinstance(row, RowView):
                row.notes.append(SPLIT)
            return _labelled(row, *_split_at_difference(chosen, rejected))
        chosen, rejected = turns
    if not isinstance(chosen, list | tuple):
        raise BadRow("not text")
    return _labelled(row, chosen[:-1], chosen, rejected)


def _alone(cell: Any) -> Any:
    """The text of a list of one text; every other cell as it is."""
    return cell[0] if isinstance(cell, list) and len(cell) == 1 and isinstance(cell[0], str | tuple) else cell


def is_implicit(row: Row) -> bool:
    return column_of(row, "chosen") is not None and column_of(row, "rejected") is not None


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
    preference, margin = _probability(row.get("preference")), number_of(row.get("margin"), "margin")
    if margin is None and not _SCORE_NAMES.isdisjoint(row):
        margin = next((gap for gap in (_score_gap(row, *columns) for columns in _SCORE_COLUMNS) if gap is not None), None)
        if margin == 0 and preference is None:
            preference = 0.5
    if preference is None and row.get("status") == "tie":  # distilabel
        preference = 0.5
    preference = 1.0 if preference is None else preference
    weight, tags = number_of(row.get("weight"), "weight"), row.get("tags")
    tags = {name: value for name, value in tags.items() if isinstance(value, str)} if isinstance(tags, Mapping) else {}
    label = Label(preference, margin, 1.0 if weight is None else weight, tags)
    return case_of(prompt, (chosen, rejected), (preference, 1.0 - preference), pairs=[(0, 1)], labels=[label])


def _probability(cell: Any) -> float | None:
    """The column `preference`. Raises Unclear for words, which could mean the other answer, or something else.

    Raises BadRow for NaN: unlike a margin, a label that is missing must not count as a plain one.
    """
    if cell != cell:
        raise BadRow("preference is not a number")
    try:
        return number_of(cell, "preference")
    except BadRow:
        if isinstance(cell, str):
            said = (
                "is no probability that the chosen answer is better: write a number in it, or leave it out with --ignore preference"
            )
            raise Unclear(f"the column 'preference' holds {cell[:40]!r}, which {said}") from None
        raise


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


OWN: tuple[Form, ...] = (
    row_form("assay", ("prompt", "chosen", "rejected", "preference", "margin", "weight", "source", "id", "tags"), own),
)
FORMS: tuple[Form, ...] = (
    row_form("rm-bench", ("id", "prompt", "subset", "chosen", "rejected"), rm_bench, _is_rm_bench, told=("error",)),
    row_form("rmb", ("conversation_input", "chosen", "reject"), rmb),
    row_form("rmb-best-of-n", ("conversation_input", "bon_best", "loser_list"), rmb_best_of_n),
)
GENERAL: tuple[Form, ...] = (
    named_form("lists", ("prompt", "chosen", "rejected"), several, are_several),
    named_form("explicit", ("prompt", "chosen", "rejected"), preference, is_preference),
    named_form("answer-and-rejected", ("messages", "rejected_response"), answer_and_rejected, has_answer_and_rejected),
    row_form("anthropic", ("chosen", "rejected"), anthropic, _is_transcript),
    named_form("implicit", ("chosen", "rejected"), implicit, is_implicit),
)
