"""Labels of every form of step-labelled data mean what its set says; what cannot be used is counted; what is written is read
back."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from assay.data.pairs import read_completions
from assay.data.sources.step_labels import BEYOND, FEWER, MORE, StepReading
from assay.data.sources.stepwise import STEP_FORMS
from assay.data.steps.labelled_steps import LabelledSteps
from assay.data.steps.step_rows import StepReader, read_labelled_steps, step_form_of, write_labelled_steps
from assay.errors import DataError
from assay.records import Completion, Message

SHARED = Path(__file__).parents[3] / "shared" / "data"
KEEP = StepReading(as_published=True)
QUESTION = "What is 2 + 3 * 4?"
STEPS = ["3 * 4 = 12.", "2 + 12 = 15.", "So it is 15."]


@pytest.fixture
def read(tmp_path: Path):
    def run(*rows: Any, **options: Any) -> tuple[list[LabelledSteps], StepReader]:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        reader = read_labelled_steps(path, **options)
        return list(reader), reader

    return run


TRL = {"prompt": QUESTION, "completions": STEPS, "labels": [True, False, False]}
PROCESSBENCH = {
    "id": "gsm8k-7", "generator": "Qwen2-7B-Instruct", "problem": QUESTION, "steps": STEPS,
    "final_answer_correct": False, "label": 1,
}  # fmt: skip
SHEPHERD = {
    "input": f"{QUESTION} Step 1: 3 * 4 = 12. ки\nStep 2: 2 + 12 = 15. ки\nStep 3: So it is 15. The answer is: 15 ки",
    "label": f"{QUESTION} Step 1: 3 * 4 = 12. +\nStep 2: 2 + 12 = 15. -\nStep 3: So it is 15. The answer is: 15 -",
    "task": "GSM8K",
}
PRMBENCH = {
    "original_question": QUESTION, "modified_question": QUESTION + " Take care.", "original_process": ["a", "b"],
    "modified_process": STEPS, "modified_steps": [2, 3], "error_steps": [2], "reason": "The sum is wrong here.", "idx": "test_p1_6",
    "question": QUESTION, "classification": "circular", "source_file": "test_p1",
}  # fmt: skip
MR = {
    "uuid": "44d7-15", "question": QUESTION, "ground_truth_solution": "3 * 4 = 12, and 2 + 12 = 14.",
    "ground_truth_answer": 14,
    "model_output_steps": STEPS, "model_output_answer_correctness": "wrong", "model_output_solution_correctness": "wrong",
    "model_output_solution_first_error_step": 2, "model_output_solution_first_error_reason": "The sum is wrong here.",
    "question_type": "original",
}  # fmt: skip
BIG_BENCH = {"input": QUESTION, "steps": STEPS, "target": "14", "answer": "15", "mistake_index": 1}
REASONEVAL = {
    "id": 9, "rid": 4, "question": QUESTION, "ground_truth_answer": "14", "reference_steps": ["a b c", "d e f"],
    "hypothesis_steps": STEPS,
    "error_type": "random number", "tags": 1,
}  # fmt: skip
PRM800K = {
    "labeler": "340d", "timestamp": "2023-01-22T04:34:27", "generation": 9, "is_quality_control_question": False,
    "question": {
        "problem": QUESTION, "ground_truth_solution": "2 + 12 = 14", "ground_truth_answer": "14", "pre_generated_steps": STEPS,
        "pre_generated_answer": "15",
    },
    "label": {
        "steps": [
            {"completions": [{"text": STEPS[0], "rating": 1, "flagged": None}], "human_completion": None, "chosen_completion": 0},
            {
                "completions": [
                    {"text": STEPS[1], "rating": -1, "flagged": None},
                    {"text": "I add 2.", "rating": 0, "flagged": False},
                    {"text": "Not rated at all.", "rating": None, "flagged": False},
                ],
                "human_completion": None, "chosen_completion": None,
            },
        ],
        "total_time": 278270, "finish_reason": "found_error",
    },
}  # fmt: skip
TURNS = [
    {"role": "user", "content": QUESTION},
    {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "calculate", "arguments": '{"text": "3 * 4"}'}}]},
    {"role": "tool", "content": "12"},
    {"role": "assistant", "content": "So it is 15."},
]
VERDICTS = ("+", "-", "-")
RLHFLOW = {
    "conversations": [
        {"role": role, "content": text}
        for step, verdict in zip((f"{QUESTION} Step 1: {STEPS[0]} ки", *STEPS[1:]), VERDICTS, strict=True)
        for role, text in (("user", step), ("assistant", verdict))
    ]
}
OPENR = {"question": QUESTION, "process": "".join(f"{step} \n\n\n\n\n" for step in STEPS), "label": list(VERDICTS)}
VERSAPRM = {
    "id": "7", "cot_id": 2, "question": QUESTION, "category": "math", "src": "ori_mmlu-algebra", "chain_of_thoughts": repr(STEPS),
    "labels": "[1, -1, -1]", "answer": "B", "parsed_answer": "C", "parsed_answer_correctness": False,
}  # fmt: skip
MR_BEN = {
    "Question_UUID": "a-1", "Question": QUESTION, "Options": "A: 14\nB: 15", "Subject": "math", "Sampled_Model": "gpt-4",
    "Ground_Truth_Answer": "A", "Model_Solution_Steps": STEPS, "Model_Solution_Correctness": "incorrect",
    "Model_Solution_First_Error_Step": "2", "Model_Solution_Error_Reason": [{"reason": "The sum is wrong here."}],
}  # fmt: skip
EXPECTED = {
    "rlhflow": (RLHFLOW, (1, 0, 0), None),
    "openr": (OPENR, (1, 0, 0), None),
    "versaprm": (VERSAPRM, (1, 0, None), 0),
    "mr-ben": (MR_BEN, (1, 0, None), None),
    "assay-steps": ({"prompt": QUESTION, "steps": STEPS, "right": [1, 0.25, None]}, (1, 0.25, None), None),
    "processbench": (PROCESSBENCH, (1, 0, None), 0),
    "math-shepherd": (SHEPHERD, (1, 0, 0), 0),
    "prmbench": (PRMBENCH, (1, 0, 1), None),
    "mr-gsm8k": (MR, (1, 0, None), 0),
    "big-bench-mistake": (BIG_BENCH, (1, 0, None), 0),
    "reasoneval": (REASONEVAL, (1, 0, None), None),
    "trl-stepwise": (TRL, (1, 0, 0), None),
    "trajectory": ({"messages": TURNS, "labels": ["+", "-"]}, (1, 0), None),
    "ratings": ({"question": QUESTION, "prompt": QUESTION, "steps": STEPS, "ratings": [0, -1, None]}, (1, 0, None), None),
}


@pytest.mark.parametrize("form", EXPECTED)
def test_a_row_of_each_form_has_the_labels_that_its_set_means(read, form):
    row, right, outcome = EXPECTED[form]
    (solution,), reader = read(row, strict=True)
    assert list(reader.problems.forms) == [form]
    assert (solution.right, solution.outcome) == (right, outcome)
    assert "".join(solution.completion.steps) == solution.completion.response
    if form not in ("trajectory", "math-shepherd", "rlhflow"):
        assert [step.strip() for step in solution.completion.steps] == STEPS
    assert solution.completion.messages[-1].content.startswith(QUESTION)


def test_every_form_has_a_row_here():
    apart = {"prm800k", "gsm8k-solutions", "first-error-from-0", "first-error-from-1"}  # tests of their own
    assert {form.name for form in STEP_FORMS} == EXPECTED.keys() | apart
    assert all(form.what for form in STEP_FORMS)


def test_steps_of_a_list_are_parted_by_a_line_break_and_keep_their_text(read):
    (solution,), _ = read(TRL)
    assert solution.completion.response == "3 * 4 = 12.\n2 + 12 = 15.\nSo it is 15."
    (solution,), _ = read(TRL, reading=StepReading(joint="\n\n"))
    assert solution.completion.steps == ("3 * 4 = 12.\n\n", "2 + 12 = 15.\n\n", "So it is 15.")
    with pytest.raises(ValueError, match="joint ' ки' must be white space"):
        StepReading(joint=" ки")


@pytest.mark.parametrize(("neutral", "label"), [("right", 1.0), ("wrong", 0.0), ("unknown", None)])
def test_prm800k_gives_a_solution_for_each_rated_step_and_names_what_neutral_is(read, neutral, label):
    solutions, reader = read(PRM800K, reading=StepReading(neutral=neutral))
    by_id = {one.id: one for one in solutions}
    assert by_id["1:1-0"].right == (1, 0)
    if label is None:
        assert by_id.keys() == {"1:1-0"}
    else:
        assert by_id["1:1-1"].right == (1, label)
        assert by_id["1:1-1"].completion.steps == (STEPS[0] + "\n", "I add 2.")
    assert {one.source for one in solutions} == {f"rows:neutral={neutral}"}
    assert solutions[0].completion.ground_truth == {"answer": "14"}
    assert "labeler" in reader.summary()


def test_prm800k_of_phase_1_goes_on_with_the_step_that_a_person_wrote(read):
    step = {"completions": [{"text": "Wrong one.", "rating": -1}], "human_completion": {"text": "3 * 4 = 12.", "rating": None}}
    end = {"completions": [{"text": "So 14.", "rating": 1}], "human_completion": None, "chosen_completion": 0}
    label = {"steps": [{**step, "chosen_completion": None}, end], "finish_reason": "solution"}
    (wrong, whole), _ = read({"question": {"problem": QUESTION}, "label": label, "generation": None})
    assert (wrong.right, wrong.outcome, wrong.id) == ((0,), None, "1:0-0")
    assert (whole.right, whole.outcome, whole.id) == ((1, 1), 1, "1")
    assert whole.tags["phase"] == "1"


def test_math_shepherd_without_step_1_ends_its_question_at_the_question_mark_and_stray_marks_of_a_question_are_no_steps(read):
    bare = {key: text.replace("Step 1: ", "") if key != "task" else text for key, text in SHEPHERD.items()}
    (solution,), reader = read(bare)
    assert solution.completion.messages[0].content == QUESTION
    assert solution.completion.steps[0] == "3 * 4 = 12.\n"
    assert "the question ends with its last question mark" in reader.summary()
    stray = {"input": "Mr. ки " + SHEPHERD["input"], "label": "Mr. + " + SHEPHERD["label"], "task": "GSM8K"}
    (solution,), _ = read(stray)
    assert solution.completion.messages[0].content == f"Mr.  {QUESTION}"
    assert solution.right == (1, 0, 0)


def test_a_math_shepherd_row_whose_label_does_not_match_is_set_aside(read):
    solutions, reader = read(SHEPHERD, {**SHEPHERD, "label": "x" + SHEPHERD["label"]}, {"input": "a ки", "label": "a +"})
    assert len(solutions) == 1
    assert set(reader.problems.reasons) == {
        "input and label do not have ки and + or - in the same places",
        "neither 'Step 1:' nor a question mark tells the question from the first step",
    }


def conversation(first: str, *turns: str) -> dict[str, object]:
    texts = (first, *turns)
    return {"conversations": [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]}


def test_turns_that_are_answered_are_steps_and_the_first_holds_the_question_too(read):
    whole = conversation(f"{QUESTION} Step 1: {STEPS[0]}", "+", STEPS[1], "-")
    paragraph = conversation(f"Add these.\n\n3 * 4 + 2.\n\n{STEPS[0]}\n\n", "+", f"{STEPS[1]}\n\n", "-")
    asked = conversation(f"{QUESTION} {STEPS[0]}", "+", STEPS[1], "-")
    solutions, reader = read(whole, paragraph, asked)
    assert [one.completion.messages[0].content for one in solutions] == [QUESTION, "Add these.\n\n3 * 4 + 2.", QUESTION]
    assert [one.right for one in solutions] == [(1, 0)] * 3
    assert [one.completion.steps for one in solutions[1:]] == [(f"{STEPS[0]}\n", STEPS[1])] * 2
    assert solutions[0].completion.steps[0] == f"Step 1: {STEPS[0]}\n"
    for end in ("last blank line", "last question mark"):
        assert f"the question ends with its {end}" in reader.summary()


def test_genprms_rows_are_judged_by_their_last_box_and_the_judges_instruction_is_no_part_of_the_problem(read):
    system = {"role": "system", "content": "You are a teacher."}
    said = ("<analyze>\\boxed{No}? Let me see.</analyze> $\\boxed{Yes}$", "<output> $\\boxed{No}$")
    turns = conversation(f"Question: {QUESTION}\n\n{STEPS[0]}", said[0], STEPS[1], said[1])["conversations"]
    (solution,), _ = read({"conversations": [system, *turns]})
    assert solution.completion.messages == (Message("user", QUESTION),)
    assert solution.right == (1, 0)


def test_an_ordinary_conversation_is_no_row_of_steps(read):
    with pytest.raises(DataError, match="no form of labelled steps"):
        read(conversation("Hello", "Hi, + and - are signs.", "Bye", "+"))


@pytest.mark.parametrize(
    ("row", "right", "outcome"),
    [
        ({**VERSAPRM, "labels": "[1, 1, 1]", "parsed_answer_correctness": True}, (1, 1, 1), 1),
        ({**VERSAPRM, "labels": [-1, 1, 1]}, (0, None, None), 0),
        ({**MR_BEN, "Model_Solution_Correctness": "correct", "Model_Solution_First_Error_Step": "N/A"}, (1, 1, 1), None),
        ({**OPENR, "process": " ".join(STEPS), "label": ["-"]}, (0,), None),
        ({**PROCESSBENCH, "label": -1, "final_answer_correct": True}, (1, 1, 1), 1),
        ({**PROCESSBENCH, "label": 0}, (0, None, None), 0),
        ({**BIG_BENCH, "mistake_index": None, "answer": "14 "}, (1, 1, 1), 1),
        ({**BIG_BENCH, "mistake_index": 0, "answer": "14"}, (0, None, None), 1),
        ({**MR, "model_output_solution_first_error_step": 3, "model_output_answer_correctness": "correct"}, (1, 1, 0), 1),
        (
            {**MR, "model_output_solution_correctness": "correct", "model_output_solution_first_error_step": "N/A"},
            (1, 1, 1),
            0,
        ),
        ({**PRMBENCH, "error_steps": [1, 3]}, (0, 1, 0), None),
        ({**PRMBENCH, "error_steps": [], "classification": "multi_solutions"}, (1, 1, 1), None),
        ({**REASONEVAL, "error_type": "swap steps", "tags": [2, 0]}, (0, None, None), None),
        ({**REASONEVAL, "error_type": "repeat step"}, (1, 1, 1), None),
        ({**REASONEVAL, "error_type": "remove step"}, (1, None, None), None),
        ({**REASONEVAL, "error_type": "swap solutions", "tags": 167}, (None, None, None), 0),
        ({**TRL, "labels": [0.75, "+", None]}, (0.75, 1, None), None),
    ],
)  # fmt: skip
def test_the_rules_at_their_ends(read, row, right, outcome):
    (solution,), _ = read(row, strict=True)
    assert (solution.right, solution.outcome) == (right, outcome)


_NO_QUESTION = "neither 'Step 1:', a blank line nor a question mark tells the question from the first step"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({**PRMBENCH, "error_steps": [2, 4]}, BEYOND),
        ({**PRMBENCH, "error_steps": [0]}, BEYOND),
        ({**PROCESSBENCH, "label": 3}, BEYOND),
        ({**MR, "model_output_solution_first_error_step": 4}, BEYOND),
        ({**BIG_BENCH, "mistake_index": 3}, BEYOND),
        ({**BIG_BENCH, "mistake_index": 1.5}, "mistake_index is no number of a step"),
        ({**TRL, "labels": [True, False]}, FEWER),
        ({**TRL, "labels": [True] * 4}, MORE),
        ({**TRL, "labels": [True, "perhaps", False]}, "unknown label"),
        ({**TRL, "labels": [True, 7, False]}, "a label is no probability"),
        ({**TRL, "completions": [], "labels": []}, "no steps"),
        ({**TRL, "completions": ["a", " ", "b"]}, "an empty step"),
        ({**TRL, "completions": ["a", None, "b"]}, "an empty step"),
        ({**TRL, "completions": ["a", 3, "b"]}, "not text"),
        ({**TRL, "labels": [None, None, None]}, "nothing is known of any step, nor of the answer"),
        ({**TRL, "prompt": " "}, "empty"),
        ({**REASONEVAL, "error_type": "new one"}, "unknown error_type 'new one'"),
        ({**OPENR, "label": ["+"]}, FEWER),
        ({**VERSAPRM, "labels": "[1, -1"}, "a list cannot be read"),
        ({**VERSAPRM, "labels": "[1, 0, 1]"}, "a label is neither 1 nor -1"),
        ({**MR_BEN, "Model_Solution_First_Error_Step": "4"}, BEYOND),
        (conversation("two and two", "+"), _NO_QUESTION),
        (conversation(f"{QUESTION} Step 1: a", "+", "b"), "a step's turn has no verdict behind it"),
    ],
)
def test_a_row_that_cannot_be_used_is_set_aside_with_its_reason(read, row, reason):
    good = EXPECTED["assay-steps"][0]
    solutions, reader = read(good, row)
    assert len(solutions) == 1
    assert reader.problems.reasons == {reason: (1, (2,))}
    assert f"1 set aside: 1 {reason} (line 2)" in reader.summary()
    with pytest.raises(DataError, match=re.escape(f"line 2: {reason}")):
        read(good, row, strict=True)


def test_flaws_that_publishers_count_are_kept_when_asked_for(read):
    reading = StepReading(as_published=True)
    (solution,), _ = read({**PRMBENCH, "error_steps": [2, 9], "modified_process": ["a", "b", " "]}, reading=reading)
    assert solution.right == (1, 0, 1)


def test_the_solutions_that_wrong_ones_were_made_of_come_once(read):
    solutions, _ = read(PRMBENCH, {**PRMBENCH, "classification": "deception"}, REASONEVAL, reading=StepReading(originals=True))
    assert [one.id for one in solutions] == [
        "circular_test_p1_6", "correct_test_p1_6", "deception_test_p1_6", "perturbed:9", "original:4",
    ]  # fmt: skip
    original = solutions[1]
    assert (original.right, original.completion.messages[0].content) == ((1, 1), QUESTION)
    assert (solutions[4].right, solutions[4].outcome) == ((1, 1), 1)


def test_whether_a_number_counts_from_0_or_from_1_is_asked(read):
    row = {"question": QUESTION, "steps": STEPS, "label": 1}
    with pytest.raises(DataError, match="whether it counts from 0 or from 1 is not known: give --form first-error-from-0 or"):
        read(row)
    assert read(row, form="first-error-from-0")[0][0].right == (1, 0, None)
    assert read(row, form="first-error-from-1")[0][0].right == (0, None, None)
    assert read({**row, "label": None}, form="first-error-from-1")[0][0].right == (1, 1, 1)


def test_what_0_is_beside_minus_1_is_asked(read):
    row = {**TRL, "labels": [1, 0, -1]}
    with pytest.raises(DataError, match=r"line 1: a label is -1, .*--form ratings"):
        read(row)
    solutions, _ = read(row, form="ratings", reading=StepReading(neutral="unknown"))
    assert (solutions[0].right, solutions[0].source) == ((1, None, 0), "rows:neutral=unknown")


def test_the_reading_can_stand_behind_the_name_of_the_form(read):
    solutions, reader = read(PRM800K, form="prm800k?neutral=wrong")
    assert {one.id: one.right for one in solutions} == {"1:1-0": (1, 0), "1:1-1": (1, 0)}
    assert {one.source for one in solutions} == {"rows:neutral=wrong"}
    assert "read with neutral=wrong" in reader.summary()
    solutions, _ = read({**PRMBENCH, "error_steps": [9]}, form="?originals=true&as_published=true")
    assert [one.id for one in solutions] == ["circular_test_p1_6", "correct_test_p1_6"]
    for wrong in ("prm800k?neutral=maybe", "prm800k?strict=true", "?originals=1"):
        with pytest.raises(ValueError, match=r"neutral 'maybe' is not known|cannot be set"):
            read(PRM800K, form=wrong)


def test_unknown_columns_unknown_text_and_unknown_forms_are_refused(read):
    with pytest.raises(DataError, match="no form of labelled steps that is accepted"):
        read({"prompt": QUESTION, "answer": "14"})
    with pytest.raises(DataError, match="the column 'remark' holds text"):
        read({**TRL, "remark": "Something that nobody knows what it is."})
    assert len(read({**TRL, "remark": "Something that nobody knows what it is."}, ignore=["remark"])[0]) == 1
    with pytest.raises(DataError, match="unknown form 'steps' of labelled steps"):
        read(TRL, form="steps")


def test_gsm8k_solutions_are_four_of_a_row_with_outcomes_alone(read):
    given = {"is_correct": True, "solution": "3 * 4 = 12\n2 + 12 = 14\nA: 14"}
    names = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
    row = {"question": QUESTION, "ground_truth": "Twelve and two.\nA: 14", **dict.fromkeys(names, given)}
    solutions, _ = read(row)
    assert [(one.right, one.outcome) for one in solutions] == [((None, None, None), 1)] * 4
    assert solutions[0].completion.response == given["solution"]
    assert solutions[0].completion.ground_truth == {"answer": "14"}
    assert len({one.id for one in solutions}) == 4


def test_what_is_written_is_read_back_exactly_and_can_be_scored(tmp_path):
    tools = ({"type": "function", "function": {"name": "add"}},)
    first = LabelledSteps(
        completion=Completion(messages=QUESTION, steps=("a  ", "b\n", "c"), ground_truth={"answer": 14}, tools=tools, id="7"),
        right=(1.0, 0.3, None), outcome=0.0, source="made", id="7", tags={"kind": "x"},
    )  # fmt: skip
    second = replace(first, completion=replace(first.completion, id="8", tools=(), ground_truth=None), id="8", outcome=None)
    for name in ("steps.jsonl", "steps.jsonl.gz"):
        assert write_labelled_steps(tmp_path / name, [first, second]) == 2
        assert list(read_labelled_steps(tmp_path / name)) == [first, second]
        scored = [completion for _, completion in read_completions(tmp_path / name)]
        assert [one.steps for one in scored] == [first.completion.steps] * 2
    with pytest.raises(DataError, match=r"written as \.jsonl"):
        write_labelled_steps(tmp_path / "steps.parquet", [first])
    assert step_form_of(tmp_path / "steps.jsonl") == "assay-steps"


def test_a_limit_draws_whole_prompts(tmp_path):
    rows = [
        LabelledSteps(completion=Completion(messages=f"q{i % 5}", steps=("a", "b"), id=str(i)), right=(1, 0), id=str(i))
        for i in range(20)
    ]
    write_labelled_steps(tmp_path / "steps.jsonl", rows)
    reader = read_labelled_steps(tmp_path / "steps.jsonl", limit=8, seed=3)
    drawn = list(reader)
    assert Counter(one.completion.messages[0] for one in drawn).keys() <= {Message("user", f"q{i}") for i in range(5)}
    assert set(Counter(one.prompt_key for one in drawn).values()) == {4}
    assert "8 of 20 solutions drawn at random, whole prompts, seed 3" in reader.summary()


REAL = [
    ("prmbench/data", {}, 4030, (48185, 8834, 0), {None: 4030}, {BEYOND: 73, "an empty step": 1}),
    ("prmbench/data", {"as_published": True}, 4104, (49900, 8973, 0), {None: 4104}, {}),
    ("mr-gsm8k-wrong/first_error_labels", {}, 590, (1682, 590, 2479), {0: 571, 1: 19}, {}),
    ("big-bench-mistake/dyck_languages", {}, 985, (11993, 649, 11479), {0: 503, 1: 482}, {"an empty step": 1}),
    ("big-bench-mistake/multistep_arithmetic", {}, 300, (855, 238, 413), {0: 255, 1: 45}, {}),
    ("big-bench-mistake/word_sorting", {}, 300, (1317, 266, 1925), {0: 255, 1: 45}, {}),
    ("reasoneval/perturbation", {"as_published": True}, 345, None, {None: 301, 0: 44}, {}),
    ("gsm8k/model_solutions", {}, 2636, (0, 0, 11493), {0: 1747, 1: 889}, {}),
]  # fmt: skip


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real data are not here")
@pytest.mark.parametrize(("name", "options", "num", "labels", "outcomes", "reasons"), REAL)
def test_real_files_have_the_counts_that_were_taken_of_them(name, options, num, labels, outcomes, reasons):
    reader = read_labelled_steps(SHARED / f"{name}.jsonl.gz", reading=StepReading(**options))
    solutions = list(reader)
    counts = Counter(label for one in solutions for label in one.right)
    assert len(solutions) == len({one.id for one in solutions}) == num
    assert all(one.id == one.completion.id for one in solutions)
    assert labels in (None, (counts[1.0], counts[0.0], counts[None]))
    assert Counter(one.outcome for one in solutions) == outcomes
    assert {reason: count for reason, (count, _) in reader.problems.reasons.items()} == reasons


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real data are not here")
def test_163_answers_of_big_bench_mistake_are_right_with_a_wrong_step():
    names = ("dyck_languages", "multistep_arithmetic", "word_sorting")
    solutions = [one for name in names for one in read_labelled_steps(SHARED / f"big-bench-mistake/{name}.jsonl.gz", reading=KEEP)]
    assert sum(one.outcome == 1 and one.first_error is not None for one in solutions) == 163


def test_rewordings_of_a_question_in_prmbench_are_one_problem_and_stay_so_when_written(read, tmp_path):
    rows = [{**PRMBENCH, "question": "Q?", "modified_question": f"{i}: Q?", "idx": f"r{i}"} for i in range(3)]
    solutions, _ = read(*rows)
    assert len({one.completion.messages for one in solutions}) == 3
    assert len({one.prompt_key for one in solutions}) == 1
    write_labelled_steps(tmp_path / "again.jsonl", solutions)
    assert [one.problem for one in read_labelled_steps(tmp_path / "again.jsonl")] == [one.problem for one in solutions]
