"""Solutions to one problem share its question in training: the same losses, gradients and rewards as each by itself, of fewer
tokens."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from assay.data.tokens import problem_table
from assay.data.tokens.problem_table import num_items
from assay.training.loop import _backward, step_rows
from assay.training.prepare import prepare
from step_data import step_config, toy_solutions


def gradients(prepared, rows) -> tuple[dict[str, torch.Tensor], np.ndarray]:
    """Of one step over the rows; and the columns of its log."""
    prepared.model.zero_grad(set_to_none=True)
    means_C = _backward(prepared.model, prepared.task, rows).numpy() / len(rows)
    return {name: p.grad.clone() for name, p in prepared.model.named_parameters() if p.grad is not None}, means_C


def by_text(prepared, rows) -> dict[bytes, np.ndarray]:
    """The rewards of each solution of the rows, by its tokens."""
    table = prepared.table
    rewards = np.split(prepared.task.rewards(prepared.model, rows), np.cumsum(table.reads_of_solutions(rows))[:-1])
    tokens = [one.tokens.tobytes() for row in rows for one in table[row]]
    return dict(zip(tokens, rewards, strict=True))


@pytest.mark.parametrize("kind", ["process", "process:balanced", "outcome"])
@pytest.mark.parametrize("params", ["blocks:2", "full"])
def test_sharing_the_question_changes_no_loss_gradient_or_reward(tmp_path, monkeypatch, kind, params):
    items = toy_solutions(40, num_problems=11, soft=True)
    config = step_config(tmp_path, items, kind=kind, params=params, calibration=0.2, test=0.0)
    together = prepare(replace(config, out=tmp_path / "together"))
    monkeypatch.setattr(problem_table, "MOST_TOGETHER", 1)
    apart = prepare(replace(config, out=tmp_path / "apart"))
    assert len(together.train_rows) < len(apart.train_rows) == num_items(together.table, together.train_rows)
    assert together.table.num_solutions.min() < together.table.num_solutions.max()  # problems weigh by their solutions
    found, columns = gradients(together, together.train_rows)
    expected, expected_columns = gradients(apart, apart.train_rows)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-3, msg=name)
    assert np.isfinite(columns).all()
    for name, value in apart.task.evaluate(apart.model, apart.train_rows).items():
        assert together.task.evaluate(together.model, together.train_rows)[name] == pytest.approx(value, rel=1e-4)
    assert expected_columns[0] == pytest.approx(apart.task.evaluate(apart.model, apart.train_rows)["loss"], rel=1e-4)
    rewards, alone = by_text(together, together.train_rows), by_text(apart, apart.train_rows)
    assert rewards.keys() == alone.keys()
    for text, values in alone.items():
        np.testing.assert_allclose(rewards[text], values, atol=1e-5)


def test_the_columns_of_the_log_are_means_over_the_solutions_of_a_row(tmp_path):
    prepared = prepare(step_config(tmp_path, toy_solutions(40, num_problems=11), params="full", test=0.0))
    rows = prepared.train_rows[:3]
    _, columns = gradients(prepared, rows)
    each = [prepared.task.evaluate(prepared.model, rows[i : i + 1]) for i in range(3)]
    for place, name in enumerate(("loss", "accuracy")):
        assert columns[place] == pytest.approx(np.mean([one[name] for one in each]), rel=1e-4)


def test_a_step_takes_whole_rows_that_hold_as_many_solutions_as_were_asked_for(tmp_path, capsys):
    config = step_config(tmp_path, toy_solutions(96, num_problems=24), params="full", batch_pairs=16, calibration=0.2, test=0.0)
    prepared = prepare(config)
    assert set(prepared.table.num_solutions) == {4}
    assert prepared.derived.loop.batch_size == 4
    assert "16 a step, 4 in a row" in capsys.readouterr().err
    seen: Counter[int] = Counter()
    for step in range(prepared.derived.loop.num_steps(len(prepared.train_rows)) // prepared.config.epochs):
        rows = step_rows(prepared.train_rows, prepared.derived.loop, step)
        assert num_items(prepared.table, rows) <= 16
        seen.update(rows.tolist())
    assert seen == Counter(prepared.train_rows.tolist())  # an epoch sees every row once


def test_the_cache_of_the_frozen_layers_holds_a_question_once(tmp_path, monkeypatch):
    config = step_config(tmp_path, toy_solutions(60, num_problems=15), params="blocks:2", calibration=0.2, test=0.0)
    together = prepare(replace(config, out=tmp_path / "together"))
    monkeypatch.setattr(problem_table, "MOST_TOGETHER", 1)
    apart = prepare(replace(config, out=tmp_path / "apart"))
    sizes = [int(one.task.source.cache.offsets[-1]) for one in (together, apart)]
    saved = sum(
        int((group.branch == 0).sum()) * (len(together.table[row]) - 1)
        for row in range(len(together.table))
        for group in together.table.groups(row, share=True)
    )
    assert sizes[0] == sizes[1] - saved < sizes[1]
