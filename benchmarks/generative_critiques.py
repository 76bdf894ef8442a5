"""Real pairs with a critique of both answers: FastChat's GPT-4 reviews, and AlpacaEval's explanations (CC BY-NC: no weights are
published of what is trained on them). Each critique names the answers by place in its own set's way, which `by_label` undoes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from assay.data.critiques import CHOSEN, FIRST_NAMES, REJECTED, SECOND_NAMES, by_label
from assay.data.rows import read_rows
from assay.messages import as_messages
from assay.records import PreferencePair

MOST_ROWS = 200_000


def critiqued_pairs(folder: Path) -> list[PreferencePair]:
    """The pairs of both sets whose critique names both answers; the critique is in their ground truth. Ties are left out."""
    return [*reviews(folder / "vicuna-bench-reviews"), *explanations(folder / "alpacaeval")]


def reviews(folder: Path) -> Iterator[PreferencePair]:
    """GPT-4's reviews: a line of two scores, then what it says of Assistant 1 and Assistant 2."""
    questions = {row["question_id"]: row["text"] for row in _rows(folder / "questions.jsonl.gz")}
    answers = {row["answer_id"]: row["text"] for row in _rows(folder / "answers.jsonl.gz")}
    for number, row in enumerate(_rows(folder / "gpt4_reviews.jsonl.gz")):
        first, second = row["score"]
        if first == second or min(first, second) < 0:
            continue
        critique = by_label(row["text"].partition("\n")[2].strip(), FIRST_NAMES if first > second else SECOND_NAMES)
        both = [answers.get(row["answer1_id"]), answers.get(row["answer2_id"])]
        yield from _pair("vicuna-reviews", number, questions.get(row["question_id"]), both, first > second, critique)


def explanations(folder: Path) -> Iterator[PreferencePair]:
    """AlpacaEval: what the judge says of Model m and Model M, before it ranks them. The first one is the reference's answer."""
    prompts = {row["prompt_id"]: row["instruction"] for row in _rows(folder / "prompts.jsonl.gz")}
    outputs = {(row["model"], row["prompt_id"]): row["output"] for row in _rows(folder / "outputs.jsonl.gz")}
    for number, row in enumerate(_rows(folder / "preferences_with_explanations.jsonl.gz")):
        if row["p_model"] == 0.5:
            continue
        both = [outputs.get((row[name], row["prompt_id"])) for name in ("reference", "model")]
        marks = {place: mark for mark, place in row["referenced_models"].items()}
        best = "output_2" if row["p_model"] > 0.5 else "output_1"
        if next((one["model"] for one in row["ordered_models"] if one["rank"] == 1), None) != marks.get(best, ""):
            continue  # a few rows rank one first and prefer the other, or do not say which is which
        critique = by_label(row["explanation"].strip(), (marks[best],))
        yield from _pair("alpacaeval", number, prompts.get(row["prompt_id"]), both, best == "output_1", critique)


def _pair(
    source: str, number: int, prompt: str | None, both: list[str | None], first_is_better: bool, critique: str
) -> Iterator[PreferencePair]:
    """The pair, or none where a text is missing, both answers are equal, or the critique does not name both."""
    chosen, rejected = both if first_is_better else both[::-1]
    if not prompt or not chosen or not rejected or chosen == rejected or CHOSEN not in critique or REJECTED not in critique:
        return
    yield PreferencePair(
        prompt=as_messages(prompt),
        chosen=chosen,
        rejected=rejected,
        source=source,
        id=f"{source}:{number}",
        ground_truth={"critique": critique},
    )


def _rows(path: Path) -> Iterator[Any]:
    return (row for _, row in islice(read_rows(path), MOST_ROWS) if not isinstance(row, str))
