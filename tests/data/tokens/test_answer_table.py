"""The table of answer lists: what goes in comes out, what cannot is counted."""

from __future__ import annotations

import numpy as np
import pytest

from assay.data.tokens.answer_table import CHUNK_ROWS, REPEATED, AnswerRow, AnswerTable, TwoOfEach, build_answer_table
from assay.errors import DataError
from assay.records import Completion, as_messages, prompt_key
from tiny import tiny_renderer


def row(prompt: str, *answers: str, values=None, split: str = "train") -> AnswerRow:
    completions = [Completion(messages=prompt, response=answer) for answer in answers]
    numbers = np.array([[float(i), np.nan] for i in range(len(answers))]) if values is None else np.array(values)
    return AnswerRow(completions, numbers, int(prompt_key(as_messages(prompt))[:16], 16), split)


def test_what_goes_in_comes_out(tmp_path):
    renderer = tiny_renderer()
    rows = [
        row(f"q{i}", *(f"answer {i} {k}" for k in range(1 + i % 3)), split="test" if i % 5 == 0 else "train")
        for i in range(CHUNK_ROWS + 7)
    ]
    table, count = build_answer_table(iter(rows), renderer, tmp_path / "answers.arrow", names=("a", "b"), fewest=1)
    assert (count.num_rows, count.num_answers) == (len(rows), sum(len(one.completions) for one in rows))
    assert table.names == ("a", "b")
    assert table.rows("test").tolist() == list(range(0, len(rows), 5))
    assert table.rows("calibration").tolist() == []
    for number in (0, 1, 2, CHUNK_ROWS - 1, CHUNK_ROWS, CHUNK_ROWS + 6):
        rendered = renderer.render(rows[number].completions)
        answers = table[number]
        assert [answer.tokens.tolist() for answer in answers] == [item.tokens.tolist() for item in rendered]
        assert [answer.reward_positions.tolist() for answer in answers] == [item.reward_positions.tolist() for item in rendered]
        np.testing.assert_array_equal(table.values[table.places(np.array([number]))], rows[number].values)
        (group,) = table.groups(number, share=True)
        assert len(group.reward_positions) == len(rendered) == len(table.groups(number, share=False))
    assert AnswerTable(tmp_path / "answers.arrow").fingerprint == table.fingerprint
    assert table.places(np.array([2, 1])).tolist() == [3, 4, 5, 1, 2]
    two = TwoOfEach(table, np.array([2, 5]), np.array([0, 1]), np.array([2, 0]))
    (group,) = two.groups(0, share=True)
    assert len(group.reward_positions) == 2
    assert two.prompt.tolist() == table.prompt[[2, 5]].tolist()


def test_answers_and_lists_set_aside_are_counted(tmp_path):
    rows = [row("q", "a", " ", "a", "b"), row("r", "a", ""), row("s", "a", "b" * 200, "c")]
    renderer = tiny_renderer(max_length=40, overlong="set_aside")
    table, count = build_answer_table(rows, renderer, tmp_path / "a.arrow", names=("x", "y"), fewest=2)
    assert table.num_reward_positions.tolist() == [2, 2]
    assert table.values[:, 0].tolist() == [0, 3, 0, 2]
    assert count.set_aside == {"the response is empty": 2, REPEATED: 1, "longer than max_length": 1}
    assert count.too_few == 1
    assert "1 lists set aside: too few answers are left" in count.summary()
    with pytest.raises(DataError, match="no list of answers is left to train on"):
        build_answer_table([row("r", "a", "")], tiny_renderer(), tmp_path / "none.arrow", names=("x", "y"), fewest=2)
    assert not (tmp_path / "none.arrow").exists()


def test_a_damaged_table_is_refused(tmp_path):
    build_answer_table([row("q", "a", "b")], tiny_renderer(), tmp_path / "a.arrow", names=("x", "y"), fewest=2)
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(DataError, match="is not a table of answers"):
        AnswerTable(tmp_path / "a.arrow")


def test_every_step_has_its_own_numbers_and_those_behind_the_limit_are_left_out(tmp_path):
    solutions = [
        ("It is two.\n\n", "It is four.\n\n", "It is five."),
        ("One step.",),
        ("It is two.\n\n", "a b c d e f " * 9, "It."),
    ]
    completions = [Completion(messages="q", steps=steps) for steps in solutions]
    right = [np.array([[1.0], [0.5], [np.nan]]), np.array([[0.0]]), np.array([[1.0], [0.25], [0.75]])]
    rows = [AnswerRow(completions[:2], right[:2], 7, "train"), AnswerRow(completions[2:], right[2:], 8, "test")]
    renderer = tiny_renderer(max_length=80, overlong="keep_start")
    path = tmp_path / "steps.arrow"
    table, count = build_answer_table(rows, renderer, path, names=("right",), fewest=1, reads_steps=True)
    assert table.num_reward_positions.tolist() == [4, 1]
    np.testing.assert_array_equal(table.values[:, 0], [1.0, 0.5, np.nan, 0.0, 1.0])
    rendered = renderer.render(completions)
    assert [answer.reward_positions.tolist() for answer in table[0]] == [item.reward_positions.tolist() for item in rendered[:2]]
    assert table[1][0].reward_positions.tolist() == rendered[2].reward_positions[:1].tolist()
    (shared,) = table.groups(0, share=True)
    assert shared.tokens[shared.reward_positions].tolist() == [
        token for item in rendered[:2] for token in item.tokens[item.reward_positions].tolist()
    ]
    assert count.num_lost == 2
    assert "1 answers cut at the end to fit, which leaves 2 steps out" in count.summary()
    assert AnswerTable(path).fingerprint == table.fingerprint
