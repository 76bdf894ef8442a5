"""Forms with two answers and a label that says which one is better."""

from __future__ import annotations

from assay.data.cases import Case, of_two
from assay.data.raw.cells import BadRow, field_of, list_of, look_up, text_of
from assay.data.raw.rows import Row
from assay.data.sources.forms import Form, row_form

_ANNOTATORS = ("annotator1", "annotator2", "annotator3")


def llmbar(row: Row) -> Case:
    """LLMBar: label 1 or 2."""
    return of_two(row["input"], row["output_1"], row["output_2"], look_up(row["label"], {"1": 1.0, "2": 0.0}))


def auto_j(row: Row) -> Case:
    """Auto-J: label 0, 1, or 2 for a tie."""
    first_wins = look_up(row["label"], {"0": 1.0, "1": 0.0, "2": 0.5})
    return of_two(row["prompt"], row["response 1"], row["response 2"], first_wins)


def pandalm(row: Row) -> Case:
    """PandaLM: majority of three annotators, ties."""
    first_wins, num_agreeing = majority(row)
    parts = [text_of(row[column], may_be_blank=True) for column in ("instruction", "input") if row[column] is not None]
    prompt, tags = "\n\n".join(part for part in parts if part.strip()), {"agreement": f"{num_agreeing} of 3"}
    return of_two(prompt, row["response1"], row["response2"], first_wins, tags=tags)


def majority(row: Row) -> tuple[float, int]:
    """What most of PandaLM's three annotators say (0 tie, 1 first, 2 second), as P(the first is better), and how many."""
    votes = [look_up(row[name], {"0": 0.5, "1": 1.0, "2": 0.0}) for name in _ANNOTATORS]
    first_wins = max(votes, key=votes.count)
    if votes.count(first_wins) < 2:
        raise BadRow("no majority")
    return first_wins, votes.count(first_wins)


def vicuna_human(row: Row) -> Case:
    """FairEval's human labels of Vicuna-bench, ties."""
    first_wins = look_up(row["human"], {"CHATGPT": 1.0, "VICUNA13B": 0.0, "TIE": 0.5})
    return of_two(row["question"], row["gpt35"], row["vicuna_13b"], first_wins)


def judge_bench(row: Row) -> Case:
    """JudgeBench: label A>B or B>A."""
    first_wins = look_up(row["label"], {"A>B": 1.0, "B>A": 0.0})
    return of_two(row["question"], row["response_A"], row["response_B"], first_wins)


def ppe_human(row: Row) -> Case:
    """PPE: votes of Chatbot Arena, ties in all their names."""
    first_wins = look_up(row["winner"], {"model_a": 1.0, "model_b": 0.0, "tie": 0.5, "tie (bothbad)": 0.5})
    return of_two(row["prompt"], row["response_1"], row["response_2"], first_wins)


def hhh(row: Row) -> Case:
    """HHH as on the hub: two choices, one of them right."""
    choices, labels = (list_of(field_of(row["targets"], name)) for name in ("choices", "labels"))
    if len(choices) != 2 or labels not in ([1, 0], [0, 1]):
        raise BadRow("not one right and one wrong choice")
    right, wrong = choices if labels[0] else reversed(choices)
    return of_two(row["input"], right, wrong, 1.0)


FORMS: tuple[Form, ...] = (
    row_form("llmbar", ("input", "output_1", "output_2", "label"), llmbar),
    row_form("auto-j", ("prompt", "response 1", "response 2", "label"), auto_j),
    row_form("pandalm", ("instruction", "input", "response1", "response2", *_ANNOTATORS), pandalm, told=("motivation_app",)),
    row_form("vicuna-human", ("question", "gpt35", "vicuna_13b", "human"), vicuna_human),
    row_form("judge-bench", ("question", "response_A", "response_B", "label"), judge_bench),
    row_form("ppe-human", ("prompt", "response_1", "response_2", "winner"), ppe_human),
    row_form("hhh", ("input", "targets"), hhh),
)
