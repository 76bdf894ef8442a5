"""Published critiques of single answers: what is read of a judge's prompt, which score counts, where the critique goes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from assay.data.candidates import read_candidates
from assay.data.critiques import Critiques, critiques_of
from assay.data.pairs import read_pairs

QUESTION = "How many eggs are in it?\n***\n[Response] is a word of the question."


def rows_in(path: Path, rows: list[dict]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def autoj(answer: str, said: str, score: float | None) -> dict:
    prompt = f"Grade.\n[BEGIN DATA]\n***\n[Query]: {QUESTION}\n***\n[Response]: {answer}\n***\n[END DATA]\n\nGive a [[rating]]."
    return {"usrmsg": prompt, "target_output": said, "pred_score": score, "scenario": "counting"}


def absolute(answer: str, scores: list, texts: list[str]) -> dict:
    prompt = f"###The instruction to evaluate:\nHow many?\n\n###Response to evaluate:\n{answer}\n\n###Score Rubrics:\n[Right?]"
    return {"idx": 3, "instruction": prompt, "gpt4_score": scores, "gpt4_feedback": texts}


def test_auto_j_s_prompt_is_taken_apart_and_the_rating_taken_off(tmp_path):
    file = rows_in(
        tmp_path / "x.jsonl",
        [
            autoj("Two.\n***\nOr three.", "It says [[2]] things.\n\nRating: [[4]]", 4.0),
            autoj("Five.", "It counts all.\n\nRating: [[7.5]]", 7.5),
        ],
    )
    (pair,) = read_pairs(file)
    assert pair.prompt[-1].content == QUESTION
    assert (pair.chosen, pair.rejected, pair.margin) == ("Five.", "Two.\n***\nOr three.", 3.5)
    assert critiques_of(pair) == Critiques(None, "It counts all.", "It says [[2]] things.")
    assert dict(pair.tags) == {"scenario": "counting"}


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (autoj("Five.", "It counts all.", 7.0), "no rating at the end"),
        (autoj("Five.", "It counts all. Rating: [[6]]", 7.0), "not pred_score"),
        (autoj("Five.", "It counts all. Rating: [[11]]", 11.0), "off the scale of 1 to 10"),
        ({**autoj("Five.", "Good. Rating: [[6]]", 6.0), "usrmsg": "Grade it."}, "no [Query] and [Response]"),
        (absolute("Five.", [5, 4], ["Right."]), "differ in number"),
        (absolute("Five.", [5, 6], ["Right.", "Right."]), "off the scale of 1 to 5"),
        (absolute("Five.", [5, None], ["Right.", "Right."]), "missing score"),
    ],
)
def test_what_cannot_be_read_is_set_aside_with_its_reason(row, why, tmp_path):
    reader = read_pairs(rows_in(tmp_path / "x.jsonl", [row]))
    assert list(reader) == []
    (reason,) = reader.problems.reasons
    assert why in reason


def test_of_several_scores_the_mean_counts_and_the_feedback_nearest_to_it(tmp_path):
    file = rows_in(
        tmp_path / "x.jsonl",
        [
            absolute("Five.", [5, 3, 4], ["All right.", "Partly.", "Feedback: Nearly. [RESULT] 4"]),
            absolute("Two.", [1, 2], ["Wrong.", "Mostly wrong."]),  # both are as near: the first
        ],
    )
    (pair,) = read_pairs(file)
    assert (pair.chosen, pair.margin) == ("Five.", 2.5)
    assert critiques_of(pair) == Critiques(None, "Nearly.", "Wrong.")


def test_the_feedback_collection_has_its_columns(tmp_path):
    def row(answer, score, said):
        return {
            "orig_instruction": "How many?",
            "orig_response": answer,
            "orig_score": score,
            "orig_feedback": said,
            "output": "x y",
        }

    (pair,) = read_pairs(rows_in(tmp_path / "x.jsonl", [row("Two.", "2", "Wrong."), row("Five.", "5", "Right.")]))
    assert (pair.chosen, pair.margin, critiques_of(pair)) == ("Five.", 3.0, Critiques(None, "Right.", "Wrong."))


def test_a_critique_beside_one_answer_is_of_that_one_in_all_its_pairs(tmp_path):
    """It was taken for one of both answers, and only the first row's was kept."""
    rows = [{"prompt": "q?", "response": f"answer {n}", "score": n, "critique": f"said of {n}"} for n in (1, 2, 3)]
    file = rows_in(tmp_path / "x.jsonl", rows)
    found = {(pair.chosen[-1], pair.rejected[-1]): critiques_of(pair) for pair in read_pairs(file)}
    assert found == {
        (better, worse): Critiques(None, f"said of {better}", f"said of {worse}")
        for better, worse in (("3", "2"), ("3", "1"), ("2", "1"))
    }
    (group,) = read_candidates(file).groups
    assert list(group.gold) == [1, 2, 3]


def test_another_name_of_critiques_is_told(tmp_path):
    rows = [{"instruction": "q?", "response": f"answer {n}", "score": n, "feedback": f"said of {n}"} for n in (1, 2)]
    (pair,) = read_pairs(rows_in(tmp_path / "x.jsonl", rows), columns=["critique=feedback"])
    assert critiques_of(pair) == Critiques(None, "said of 2", "said of 1")


def test_pairs_of_labels_keep_what_was_said_and_a_blank_one_is_none(tmp_path):
    rows = [
        {"prompt": "q?", "completion": "a", "label": True, "critique": "fine"},
        {"prompt": "q?", "completion": "b", "label": False},
    ]
    (pair,) = read_pairs(rows_in(tmp_path / "x.jsonl", rows))
    assert critiques_of(pair) == Critiques(None, "fine", None)


DATA = Path(os.environ.get("ASSAY_DATA") or Path(__file__).parents[3] / "shared" / "data")


@pytest.mark.skipif(not (DATA / "autoj").is_dir(), reason="the shared data are not here")
@pytest.mark.parametrize(
    ("file", "rows", "alone"),
    [
        ("autoj/critique_train", 960, 959),
        ("feedback-absolute/mt_bench_eval", 320, 320),
        ("feedback-absolute/vicuna_eval", 320, 320),
    ],
)
def test_every_published_critique_is_read(file, rows, alone):
    reader = read_pairs(DATA / f"{file}.jsonl.gz")
    cases = [case for _, case in reader.cases(together=False) if not isinstance(case, str)]
    assert len(cases) == rows
    assert sum(not case.fault and not case.answers[0].is_blank for case in cases) == alone  # one answer of Auto-J's is empty
    assert all(case.critiques[0] and "[[" not in case.critiques[0][-12:] for case in cases)
