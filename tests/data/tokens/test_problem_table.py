"""Solutions to one problem lie in one row: nothing is lost or mixed up, and their question stands there once."""

from __future__ import annotations

import numpy as np
import pytest

from assay.data.tokens import problem_table
from assay.data.tokens.answer_table import AnswerRow, AnswerTable, build_answer_table
from assay.data.tokens.problem_table import MOST_TOGETHER, ProblemTable, num_items, up_to
from assay.records import Completion
from tiny import tiny_renderer

QUESTION = "Tell me about water and the dog, and say it is water over the dog, please"


def solutions(tmp_path, problems: list[int], *, steps: int = 2) -> AnswerTable:
    """A solution to each of the problems in this order, whose steps are worth 100 i, 100 i + 1, ..; problem 0 is tested on."""
    rows = [
        AnswerRow(
            [Completion(messages=f"{QUESTION} {problem}", steps=tuple(f"water {i} {k}\n\n" for k in range(1 + i % steps)))],
            [np.array([[100.0 * i + k] for k in range(1 + i % steps)])],
            problem,
            "train" if problem else "test",
        )
        for i, problem in enumerate(problems)
    ]
    path = tmp_path / "answers.arrow"
    return build_answer_table(rows, tiny_renderer(), path, names=("worth",), fewest=1, reads_steps=steps > 1)[0]


def test_each_solution_is_in_the_row_of_its_problem_with_its_own_numbers(tmp_path):
    single = solutions(tmp_path, [5, 0, 5, 7, 0, 5])
    table = ProblemTable(single)
    assert table.prompt.tolist() == [5, 0, 7]
    assert table.num_solutions.tolist() == [3, 2, 1]
    assert (table.rows("train").tolist(), table.rows("test").tolist(), table.rows("calibration").tolist()) == ([0, 2], [1], [])
    assert table.reads_of_solutions(np.array([1, 0])).tolist() == [2, 1, 1, 1, 2]
    assert table.values[table.places(np.array([2, 0])), 0].tolist() == [300, 301, 0, 200, 500, 501]
    for row, inside in enumerate(([0, 2, 5], [1, 4], [3])):
        expected = [single[i][0] for i in inside]
        for found, wanted in zip(table[row], expected, strict=True):
            np.testing.assert_array_equal(found.tokens, wanted.tokens)
            np.testing.assert_array_equal(found.reward_positions, wanted.reward_positions)
        (group,) = table.groups(row, share=True)
        assert len(group.reward_positions) == table.num_reward_positions[row] == sum(len(one.reward_positions) for one in expected)
        assert len(table.groups(row, share=False)) == len(inside)
    assert (num_items(table, table.rows("train")), num_items(single, single.rows("train"))) == (4, 4)


def test_the_question_stands_once_in_a_row(tmp_path):
    table = ProblemTable(solutions(tmp_path, [1] * 4, steps=1))
    lengths = [len(one.tokens) for one in table[0]]
    (group,) = table.groups(0, share=True)
    shared = int((group.branch == 0).sum())
    assert shared > len(QUESTION.split())
    assert len(group.tokens) == sum(lengths) - 3 * shared


def test_a_row_is_no_larger_than_a_forward_bears(tmp_path, monkeypatch):
    single = solutions(tmp_path, [1] * (2 * MOST_TOGETHER + 1), steps=1)
    assert ProblemTable(single).num_solutions.tolist() == [MOST_TOGETHER, MOST_TOGETHER, 1]
    (group,) = ProblemTable(single).groups(0, share=True)
    monkeypatch.setattr(problem_table, "MOST_TOKENS", len(group.tokens) - 1)
    assert ProblemTable(single).num_solutions[0] == MOST_TOGETHER - 1
    monkeypatch.setattr(problem_table, "MOST_TOKENS", len(group.tokens))
    assert ProblemTable(single).num_solutions[0] == MOST_TOGETHER
    monkeypatch.setattr(problem_table, "MOST_TOKENS", 1)
    assert ProblemTable(single).num_solutions.tolist() == [1] * len(single)


def test_rows_are_taken_as_long_as_their_solutions_are_few_enough(tmp_path):
    table = ProblemTable(solutions(tmp_path, [1, 1, 1, 2, 2, 3]))
    rows = np.array([1, 0, 2])
    for most, taken in ((1, [1]), (2, [1]), (5, [1, 0]), (6, [1, 0, 2]), (99, [1, 0, 2])):
        assert up_to(table, rows, most).tolist() == taken
    assert up_to(table, rows[:0], 5).tolist() == []
    assert up_to(table.solutions, np.arange(6), 4).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("most", [1, 2, 8])
def test_what_lies_together_is_part_of_the_fingerprint(tmp_path, monkeypatch, most):
    single = solutions(tmp_path, [1, 2] * 4)
    monkeypatch.setattr(problem_table, "MOST_TOGETHER", most)
    first = ProblemTable(single)
    assert first.fingerprint == ProblemTable(AnswerTable(single.path)).fingerprint
    monkeypatch.setattr(problem_table, "MOST_TOGETHER", 3)
    assert first.fingerprint != ProblemTable(single).fingerprint
