"""Recorded candidates in the forms people have; what cannot be used is counted."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from assay.data.candidates import GOLD_JUDGE, read_candidates
from assay.errors import DataError
from assay.messages import Message

SHARED = Path(__file__).parents[3] / "shared" / "data"


def written(path: Path, rows: list) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_plain_rows(tmp_path):
    rows = [
        {"prompt": "Two and two?", "candidates": ["4", "5", "4"], "gold": [1, 0, None]},
        {"prompt": [{"role": "user", "content": "Hello"}], "candidates": ["Hi", ""], "gold": [True, 0.5]},
        {"prompt": "Three?", "candidates": ["3"], "gold": [1]},
        {"prompt": "Four?", "candidates": ["4", "5"], "gold": [1]},
    ]
    recorded = read_candidates(written(tmp_path / "c.jsonl", rows))
    assert [len(group.answers) for group in recorded.groups] == [3, 2]
    assert recorded.groups[0].prompt == (Message("user", "Two and two?"),)
    np.testing.assert_array_equal(recorded.groups[0].gold, [1, 0, np.nan])
    np.testing.assert_array_equal(recorded.groups[1].gold, [1, 0.5])
    assert recorded.groups[0].completions()[1].response == "5"
    assert "5 answers" in recorded.note
    assert "1 only candidate of its prompt (line 3)" in recorded.note
    assert "1 candidates and gold differ in number (line 4)" in recorded.note


def test_tools_and_ground_truth_are_those_of_the_prompt(tmp_path):
    known = {"ground_truth": "4", "tools": [{"name": "f"}]}
    rows = [{"prompt": "a", "response": r, "gold": 1, **known} for r in "xy"]
    rows += [{"prompt": "a", "response": "z", "gold": 0, "ground_truth": "5"}, {"prompt": "b", "response": "x", "gold": 1}]
    recorded = read_candidates(written(tmp_path / "c.jsonl", [*rows, rows[-1]]))
    first, second = recorded.groups
    assert (first.answers, first.ground_truth, first.tools) == (("x", "y"), {"answer": "4"}, ({"name": "f"},))
    assert {(c.ground_truth_digest, len(c.tools)) for c in first.completions()} == {(first.completions()[0].ground_truth_digest, 1)}
    assert (second.ground_truth, second.completions()[0].ground_truth_digest) == (None, "")
    assert "1 other tools or ground truth than before for its prompt (line 3)" in recorded.note


def test_an_answer_that_is_more_than_its_text_is_set_aside_and_not_cut_to_it(tmp_path):
    thought = {"role": "assistant", "content": "4", "reasoning": "2 + 2"}
    rows = [{"prompt": "Two and two?", "candidates": [answer, "5"], "gold": [1, 0]} for answer in ("4", thought)]
    recorded = read_candidates(written(tmp_path / "c.jsonl", rows))
    assert [group.answers for group in recorded.groups] == [("4", "5")]
    assert "1 not text (line 2)" in recorded.note


def test_one_answer_a_row_is_gathered_by_prompt(tmp_path):
    rows = [{"prompt": p, "response": r, "gold": g} for p, r, g in (("a", "x", 1.5), ("b", "y", 2), ("a", "z", -1), ("b", "w", 0))]
    recorded = read_candidates(written(tmp_path / "c.jsonl", rows))
    assert [group.answers for group in recorded.groups] == [("x", "z"), ("y", "w")]
    np.testing.assert_array_equal(recorded.groups[0].gold, [1.5, -1])


def test_scores_under_their_usual_names_are_gold(tmp_path):
    listed = [{"instruction": "Why?", "generations": ["a", "b"], "ratings": [5, "2.5"]}]
    single = [{"question": "Why?", "response": text, "reward": reward} for text, reward in (("a", 5), ("b", 2.5))]
    for name, rows in (("listed", listed), ("single", single)):
        (group,) = read_candidates(written(tmp_path / f"{name}.jsonl", rows)).groups
        assert (group.prompt, group.answers) == ((Message("user", "Why?"),), ("a", "b"))
        np.testing.assert_array_equal(group.gold, [5, 2.5])
    told = [{"q": "Why?", "candidates": ["a", "b"], "gold": [1, 0]}]
    assert len(read_candidates(written(tmp_path / "told.jsonl", told), {"q": "prompt"}).groups) == 1


def test_rmb_gsm8k_and_truthfulqa(tmp_path):
    turn = [{"role": "user", "content": "Hi"}]
    rmb = 2 * [{"conversation_input": turn, "bon_best": {"answer": "best"}, "loser_list": [{"answer": "bad"}, {"answer": "worse"}]}]
    gsm = [{"question": "1 + 1", "ground_truth": "2"} | {n: {"is_correct": n == "b", "solution": n} for n in "abc"}]
    truth = [{"question": "q", "answer": a, "truthful": a == "yes"} for a in ("yes", "no")]
    assert "1 another list of its prompt (line 2)" in read_candidates(written(tmp_path / "two.jsonl", rmb)).note
    for name, rows, gold in (("rmb", rmb, [1, 0, 0]), ("gsm", gsm, [0, 1, 0]), ("truth", truth, [1, 0])):
        np.testing.assert_array_equal(read_candidates(written(tmp_path / f"{name}.jsonl", rows)).groups[0].gold, gold)


def test_alpaca_eval_is_joined_and_other_judges_are_counted(tmp_path):
    written(tmp_path / "prompts.jsonl", [{"prompt_id": 1, "instruction": "Say hello"}])
    written(tmp_path / "outputs.jsonl", [{"model": m, "prompt_id": 1, "output": f"from {m}"} for m in "ab"])
    rows = [{"judge": GOLD_JUDGE, "model": m, "reference": "r", "prompt_id": 1, "p_model": p} for m, p in (("a", 0.9), ("b", 0.1))]
    rows += [{**rows[0], "judge": "other"}, {**rows[0], "model": "c"}]
    written(tmp_path / "preferences.jsonl", rows)
    recorded = read_candidates(tmp_path)
    assert recorded.groups[0].answers == ("from a", "from b")
    np.testing.assert_array_equal(recorded.groups[0].gold, [0.9, 0.1])
    assert "1 another judge" in recorded.note
    assert "1 text missing" in recorded.note


def test_what_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(DataError, match="no candidates with gold"):
        read_candidates(written(tmp_path / "a.jsonl", [{"prompt": "x", "chosen": "y"}]))
    with pytest.raises(DataError, match="no prompt with 2 candidates"):
        read_candidates(written(tmp_path / "b.jsonl", [{"prompt": "x", "candidates": ["y"], "gold": [1]}]))
    with pytest.raises(DataError, match="without preferences"):
        read_candidates(tmp_path)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not here")
@pytest.mark.parametrize(
    ("name", "num_prompts", "num_candidates"),
    [("rmb/best_of_n.jsonl.gz", 1400, 3), ("gsm8k/model_solutions.jsonl.gz", 659, 4)],
)
def test_the_shared_sets_are_read_whole(name, num_prompts, num_candidates):
    with gzip.open(SHARED / name, "rt") as file:
        num_rows = sum(1 for _ in file)
    recorded = read_candidates(SHARED / name)
    assert num_prompts <= len(recorded.groups) <= num_rows
    assert np.median([len(group.answers) for group in recorded.groups]) >= num_candidates
    assert all(group.gold.max() <= 1 for group in recorded.groups)
