"""The training curve of the report: few points, whatever the number of steps, and nothing that was evaluated is lost."""

from __future__ import annotations

import math

from assay.training.record import DRAWN, curve


def log(num_steps: int, every: int) -> list[dict[str, float]]:
    rows = [{"step": 0, "epoch": 0.0, "heldout_loss": 0.7}]
    for step in range(1, num_steps + 1):
        row = {"step": step, "epoch": step / 10, "loss": float(step)}
        rows.append(row | ({"heldout_loss": 1 / step} if step % every == 0 else {}))
    return rows


def test_steps_between_evaluations_are_averaged():
    table = curve(log(300, 10), "loss")
    assert len(table.rows) == 31
    assert table.rows[0][0] == 0.0
    assert math.isnan(table.rows[0][1])
    assert table.rows[1] == (1.0, 5.5, 0.1), "the mean of the steps 1 to 10"
    assert table.rows[-1] == (30.0, 295.5, 1 / 300)


def test_with_few_evaluations_there_are_points_between_them():
    table = curve(log(300, 150), "loss")
    assert DRAWN / 2 < len(table.rows) <= DRAWN + 3
    assert [row[0] for row in table.rows if not math.isnan(row[2])] == [0.0, 15.0, 30.0]
    assert sum(row[1] for row in table.rows[1:]) / (len(table.rows) - 1) > 140
    assert len(curve(log(12, 12), "loss").rows) == 13, "a short run is drawn whole"
    assert curve([], "loss").rows == ()
