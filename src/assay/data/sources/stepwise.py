"""Published forms of step-labelled data, each with its own rule for what a label says: a small function from a row to solutions.

Where a set names the first error alone, the steps before it are right, and those behind it unknown. Labels count from 0 or from 1
as the set has it; a row that names a step beyond its last is set aside. Hand-written rows of every form are in
tests/data/test_step_rows.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from assay.data.raw.cells import BadRow, list_of, prompt_of, text_of, turns_of
from assay.data.raw.columns import RowView
from assay.data.raw.rows import Row
from assay.data.sources.forms import own_id
from assay.data.sources.marked_steps import (
    FIRST_STEP,
    MR_BEN_COLUMNS,
    MR_BEN_TOLD,
    TAG,
    answered_turns,
    are_answered,
    is_openr,
    mr_ben,
    openr,
    versa_prm,
)
from assay.data.sources.step_labels import (
    BEYOND,
    Right,
    Solution,
    StepForm,
    StepReading,
    cell,
    each_label,
    first_error,
    label_of,
    whole_number,
    yes_or_no,
)
from assay.data.steps.step_rules import split_steps, trajectory_steps
from assay.messages import as_ground_truth

# Forms.


def own(row: RowView, reading: StepReading) -> list[Solution]:
    """Assay: what `write_labelled_steps` writes; `right` has a probability or null for each step, which join to the text as they
    are"""
    steps = list_of(cell(row, "steps"))
    right, outcome = each_label(cell(row, "right"), steps, label_of), row.row.get("outcome")
    row.mark("outcome", "problem", "source", "id", "tags")
    tags, asked = row.row.get("tags") or {}, row.row.get("problem")
    prompt, problem = prompt_of(cell(row, "prompt")), prompt_of(asked) if asked else ()
    return [Solution(prompt=prompt, steps=steps, right=right, outcome=label_of(outcome), problem=problem, tags=tags, joined=True)]


def trl(row: RowView, reading: StepReading) -> list[Solution]:
    """TRL stepwise: a label for each step, true or a probability that it is right; labels behind the first error are kept"""
    steps = list_of(cell(row, "completions"))
    return [Solution(prompt=prompt_of(cell(row, "prompt")), steps=steps, right=each_label(cell(row, "labels"), steps, label_of))]


def trajectory(row: RowView, reading: StepReading) -> list[Solution]:
    """Conversation with tool calls: a label for each turn of the assistant behind the user's last turn"""
    turns = turns_of(cell(row, "messages"))
    try:
        prompt, steps = trajectory_steps(turns)
    except ValueError as reason:
        raise BadRow(str(reason)) from None
    return [Solution(prompt=prompt, steps=steps, right=each_label(cell(row, "labels"), steps, label_of), joined=True)]


def prm800k(row: RowView, reading: StepReading) -> list[Solution]:
    """PRM800K: ratings 1, 0 and -1; a solution for the steps that were chosen, and one for each other rated step with those
    before it"""
    question, label = cell(row, "question"), cell(row, "label")
    if not isinstance(question, Mapping) or not isinstance(label, Mapping):
        raise BadRow("question and label are no objects")
    prompt, truth = prompt_of(question.get("problem")), as_ground_truth(question.get("ground_truth_answer"))
    changes, reason = f"neutral={reading.neutral}", label.get("finish_reason")
    tags = {"phase": "1" if row.row.get("generation") is None else "2"}
    path: list[tuple[Any, float | None]] = []
    found: list[Solution] = []

    def solution(steps: list[tuple[Any, float | None]], name: str, outcome: float | None = None) -> Solution:
        texts, right = [text for text, _ in steps], [one for _, one in steps]
        return Solution(
            prompt=prompt, steps=texts, right=right, outcome=outcome, part=name, tags=tags, truth=truth, changes=changes
        )

    is_whole = True
    for i, step in enumerate(list_of(label.get("steps"))):
        completions = step.get("completions") or []
        chosen, human = step.get("chosen_completion"), step.get("human_completion")
        rated = [(one.get("text"), reading.rated(one.get("rating"))) for one in completions]
        found += [solution([*path, one], f"{i}-{j}") for j, one in enumerate(rated) if j != chosen and one[1] is not None]
        if chosen is not None:
            if not 0 <= chosen < len(rated):
                raise BadRow("the chosen step is not there")
            path.append(rated[chosen])
        elif human:  # the labeller wrote a step that is right, where all of the model's were wrong
            path.append((human.get("text") if isinstance(human, Mapping) else human, 1.0))
        else:
            is_whole = False
            break
    if path and (is_whole or not found):
        found.append(solution(path, "", 1.0 if is_whole and reason == "solution" else None))
    if not found:
        raise BadRow("no step was rated")
    return found


def math_shepherd(row: RowView, reading: StepReading) -> list[Solution]:
    """Math-Shepherd: each step ends in ки, and + or - stands there in the label: whether a roll-out from it came to the answer"""
    marked, label = text_of(cell(row, "input")).replace(TAG, "\ue000"), text_of(cell(row, "label"))
    places = [i for i, letter in enumerate(marked) if letter == "\ue000"]
    if not places or any(i >= len(label) or label[i] not in "+-" for i in places):
        raise BadRow("input and label do not have ки and + or - in the same places")
    begin = FIRST_STEP.search(marked)
    at = begin.start() if begin else marked.rfind("?", 0, places[0]) + 1
    if not at:
        raise BadRow("neither 'Step 1:' nor a question mark tells the question from the first step")
    if not begin:
        row.notes.append("without 'Step 1:': the question ends with its last question mark")
    places = [i for i in places if i > at]
    edges = [at, *[i + 1 for i in places]]
    steps = [marked[a:b].strip() for a, b in zip(edges, places, strict=False)]
    right: Right = [float(label[i] == "+") for i in places]
    prompt = prompt_of(marked[:at].replace("\ue000", "").strip())
    task = row.row.get("task")
    row.mark("task")
    return [
        Solution(prompt=prompt, steps=steps, right=right, outcome=right[-1] if right else None, tags={"task": task} if task else {})
    ]


def process_bench(row: RowView, reading: StepReading) -> list[Solution]:
    """ProcessBench: the label is the first wrong step, counted from 0, and -1 where all are right"""
    steps, label = list_of(cell(row, "steps")), whole_number(cell(row, "label"), "label")
    outcome = yes_or_no(cell(row, "final_answer_correct"), "final_answer_correct")
    tags = {"generator": str(row.row["generator"])} if row.row.get("generator") else {}
    row.mark("generator")
    right = first_error(None if label == -1 else label, len(steps))
    return [Solution(prompt=prompt_of(cell(row, "problem")), steps=steps, right=right, outcome=outcome, tags=tags)]


def prm_bench(row: RowView, reading: StepReading) -> list[Solution]:
    """PRMBench: error_steps, counted from 1, are wrong and every other step is right; redundant steps count as wrong"""
    steps, kind, name = list_of(cell(row, "modified_process")), str(cell(row, "classification")), own_id(row)
    wrong = [whole_number(one, "error_steps") for one in list_of(cell(row, "error_steps"))]
    if not reading.as_published and not all(1 <= one <= len(steps) for one in wrong):
        raise BadRow(BEYOND)
    right: Right = [0.0 if i in wrong else 1.0 for i in range(1, len(steps) + 1)]
    prompt, tags = prompt_of(cell(row, "modified_question")), {"classification": kind}
    asked_first = next((row.row[one] for one in ("question", "original_question") if row.row.get(one)), None)
    problem = () if asked_first is None else prompt_of(asked_first)
    found = [Solution(prompt=prompt, steps=steps, right=right, id=f"{kind}_{name}", problem=problem, tags=tags)]
    if reading.originals and "original_process" in row.row:
        whole = list_of(cell(row, "original_process"))
        asked, key = prompt_of(cell(row, "original_question")), f"correct_{name}"
        tags = {"classification": "correct"}
        found.append(Solution(prompt=asked, steps=whole, right=[1.0] * len(whole), id=key, once=key, problem=problem, tags=tags))
    return found


_MR = "model_output_"


def mr_gsm8k(row: RowView, reading: StepReading) -> list[Solution]:
    """MR-GSM8K: the first wrong step, counted from 1, where the solution is wrong; the final answer may be right all the same"""
    steps = list_of(cell(row, f"{_MR}steps"))
    said = cell(row, f"{_MR}solution_first_error_step")
    is_right = yes_or_no(cell(row, f"{_MR}solution_correctness"), "solution_correctness")
    outcome = yes_or_no(row.row.get(f"{_MR}answer_correctness"), "answer_correctness")
    row.mark(f"{_MR}answer_correctness", "ground_truth_answer", "question_type", "uuid")
    right = first_error(None if is_right else whole_number(said, "first_error_step") - 1, len(steps))
    tags = {"type": str(row.row["question_type"])} if row.row.get("question_type") else {}
    truth, name = as_ground_truth(row.row.get("ground_truth_answer")), str(row.row.get("uuid") or "")
    prompt = prompt_of(cell(row, "question"))
    return [Solution(prompt=prompt, steps=steps, right=right, outcome=outcome, id=name, tags=tags, truth=truth)]


def big_bench_mistake(row: RowView, reading: StepReading) -> list[Solution]:
    """BIG-Bench Mistake: the first wrong step, counted from 0, and null where all are right"""
    steps, index = list_of(cell(row, "steps")), cell(row, "mistake_index")
    target, answer = text_of(cell(row, "target")), text_of(cell(row, "answer"), may_be_blank=True)
    right = first_error(None if index is None else whole_number(index, "mistake_index"), len(steps))
    outcome = float(answer.strip() == target.strip())
    return [
        Solution(prompt=prompt_of(cell(row, "input")), steps=steps, right=right, outcome=outcome, truth={"answer": target.strip()})
    ]


def reason_eval(row: RowView, reading: StepReading) -> list[Solution]:
    """ReasonEval's perturbations, counted from 0: a changed or swapped step is wrong, a repeated one is right (and redundant),
    what follows a removed one is unknown; of a solution to another question nothing is known but that its answer is wrong"""
    steps, kind, tags = list_of(cell(row, "hypothesis_steps")), str(cell(row, "error_type")), cell(row, "tags")
    outcome: float | None = None
    if kind in ("random number", "random operation", "swap steps"):
        right = first_error(min(whole_number(one, "tags") for one in (tags if isinstance(tags, list) else [tags])), len(steps))
    elif kind == "repeat step":
        right = first_error(None, len(steps))
    elif kind == "remove step":
        known = whole_number(tags, "tags")
        right = [1.0] * known + [None] * (len(steps) - known)
    elif kind == "swap solutions":
        right, outcome = [None] * len(steps), 0.0
    else:
        raise BadRow(f"unknown error_type {kind[:30]!r}")
    prompt, truth = prompt_of(cell(row, "question")), as_ground_truth(row.row.get("ground_truth_answer"))
    told = {"error_type": kind, "error_step": str(tags), "rid": str(cell(row, "rid"))}
    name = f"perturbed:{cell(row, 'id')}"
    row.mark("ground_truth_answer")
    found = [Solution(prompt=prompt, steps=steps, right=right, outcome=outcome, id=name, tags=told, truth=truth)]
    if reading.originals:
        whole, key = list_of(cell(row, "reference_steps")), f"original:{told['rid']}"
        tags_of_it = {"error_type": "none", "rid": told["rid"]}
        found.append(
            Solution(
                prompt=prompt, steps=whole, right=[1.0] * len(whole), outcome=1.0, id=key, once=key, tags=tags_of_it, truth=truth
            )
        )
    return found


_GSM8K = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")


def gsm8k_solutions(row: RowView, reading: StepReading) -> list[Solution]:
    """GSM8K's model solutions: a line is a step of which nothing is known, and is_correct says whether the final answer is right"""
    prompt, gold = prompt_of(cell(row, "question")), text_of(cell(row, "ground_truth"))
    truth = {"answer": gold.rpartition("A:")[2].strip()}
    found = []
    for name in _GSM8K:
        given = cell(row, name)
        steps = split_steps(text_of(given.get("solution")), "lines")
        outcome = yes_or_no(given.get("is_correct"), "is_correct")
        none: Right = [None] * len(steps)
        found.append(
            Solution(
                prompt=prompt,
                steps=steps,
                right=none,
                outcome=outcome,
                part=name,
                tags={"generator": name},
                truth=truth,
                joined=True,
            )
        )
    return found


_ASKED = ("prompt", "question", "problem", "input", "instruction")
_STEPS = ("steps", "completions", "solution_steps")


def _named(row: RowView, names: Sequence[str]) -> Any:
    name = next((name for name in names if name in row.row), None)
    if name is None:
        raise BadRow(f"no column {' or '.join(names)}")
    return cell(row, name)


def ratings(row: RowView, reading: StepReading) -> list[Solution]:
    """Ratings 1, 0 and -1 for each step, in a column `ratings` or `labels`"""
    steps = list_of(_named(row, _STEPS))
    right = each_label(_named(row, ("ratings", "labels")), steps, reading.rated)
    prompt = prompt_of(_named(row, _ASKED))
    return [Solution(prompt=prompt, steps=steps, right=right, changes=f"neutral={reading.neutral}")]


def _first_error_form(base: int) -> Callable[[RowView, StepReading], list[Solution]]:
    def read(row: RowView, reading: StepReading) -> list[Solution]:
        steps = list_of(_named(row, _STEPS))
        label = _named(row, ("label", "first_error", "first_error_step", "error_step", "mistake_index"))
        index = None if label is None or label == -1 else whole_number(label, "label") - base
        return [Solution(prompt=prompt_of(_named(row, _ASKED)), steps=steps, right=first_error(index, len(steps)))]

    read.__doc__ = f"The first wrong step, counted from {base}, and null or -1 where all are right: only by name"
    return read


def _always(row: Row) -> bool:
    return True


def _form(
    name: str,
    columns: tuple[str, ...],
    read: Callable[[RowView, StepReading], list[Solution]],
    is_it: Callable[[Row], bool] = _always,
    *,
    told: tuple[str, ...] = (),
    loose: bool = False,
    named: bool = False,
) -> StepForm:
    return StepForm(name, " ".join((read.__doc__ or "").split()).removesuffix("."), columns, read, is_it, told, loose, named)


STEP_FORMS: tuple[StepForm, ...] = (
    _form("assay-steps", ("prompt", "steps", "right"), own),
    _form("processbench", ("problem", "steps", "final_answer_correct", "label"), process_bench),
    _form("prm800k", ("question", "label"), prm800k, lambda row: isinstance(row["label"], Mapping) and "steps" in row["label"]),
    _form("math-shepherd", ("input", "label"), math_shepherd, lambda row: isinstance(row["input"], str) and TAG in row["input"]),
    _form(
        "prmbench",
        ("modified_question", "modified_process", "error_steps", "classification"),
        prm_bench,
        told=("question", "original_question", "original_process", "modified_steps", "original_response"),
    ),
    _form(
        "mr-gsm8k",
        ("question", f"{_MR}steps", f"{_MR}solution_correctness", f"{_MR}solution_first_error_step"),
        mr_gsm8k,
        told=("ground_truth_solution", f"{_MR}solution_first_error_reason", f"{_MR}solution"),
    ),
    _form("big-bench-mistake", ("input", "steps", "target", "answer", "mistake_index"), big_bench_mistake),
    _form(
        "reasoneval", ("id", "rid", "question", "hypothesis_steps", "error_type", "tags"), reason_eval, told=("reference_steps",)
    ),
    _form("gsm8k-solutions", ("question", "ground_truth", *_GSM8K), gsm8k_solutions),
    _form("rlhflow", ("conversations",), answered_turns, are_answered),
    _form("openr", ("question", "process", "label"), openr, is_openr),
    _form("versaprm", ("question", "chain_of_thoughts", "labels"), versa_prm),
    _form("mr-ben", (*MR_BEN_COLUMNS,), mr_ben, told=MR_BEN_TOLD),
    _form("trl-stepwise", ("prompt", "completions", "labels"), trl, lambda row: isinstance(row["labels"], list)),
    _form("trajectory", ("messages", "labels"), trajectory, lambda row: isinstance(row["labels"], list)),
    _form("ratings", ("prompt", "steps", "ratings"), ratings, lambda row: isinstance(row["ratings"], list), loose=True),
    _form("first-error-from-0", ("prompt", "steps", "label"), _first_error_form(0), loose=True, named=True),
    _form("first-error-from-1", ("prompt", "steps", "label"), _first_error_form(1), loose=True, named=True),
)
"""Every form of step-labelled data that is known: the first that a row fits wins."""
