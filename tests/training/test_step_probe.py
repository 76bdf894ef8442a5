"""The depth probe of labelled steps: what it compares may not be told apart by where it stands."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from assay.training.rows.step_probe import pairs_of_steps


def table_of(labels: list[list[float]], problems: list[int]) -> SimpleNamespace:
    """As much of a table of solutions as pairs are drawn from."""
    sizes = np.array([len(one) for one in labels])
    first = np.cumsum(sizes) - sizes
    return SimpleNamespace(
        values=np.concatenate(labels)[:, None],
        num_reward_positions=sizes,
        prompt=np.array(problems, np.uint64),
        places=lambda rows: np.concatenate([np.arange(first[row], first[row] + sizes[row]) for row in rows]),
    )


def test_a_right_and_a_wrong_step_are_compared_at_the_same_place_though_labels_end_at_the_first_error():
    rng, labels = np.random.default_rng(0), []
    for _ in range(200):
        size, error = int(rng.integers(1, 6)), int(rng.integers(0, 8))
        labels.append([1.0] * min(size, error) + [0.0] * (error < size) + [np.nan] * (size - error - 1))
    table = table_of(labels, [i // 4 for i in range(200)])
    pairs = pairs_of_steps(table, np.arange(200), seed=0)
    assert len(pairs) > 50
    for right_row, right, wrong_row, wrong in pairs:
        assert right == wrong
        assert (labels[right_row][right], labels[wrong_row][wrong]) == (1.0, 0.0)
    reads = [read for pair in pairs for read in (pair[:2], pair[2:])]
    assert len(set(reads)) == len(reads)  # each in one pair


def test_steps_of_one_problem_are_compared_before_those_of_two():
    table = table_of([[1.0], [0.0], [1.0], [0.0]], [7, 7, 8, 8])
    pairs = pairs_of_steps(table, np.arange(4), seed=0)
    assert sorted(pairs) == [(0, 0, 1, 0), (2, 0, 3, 0)]
    apart = table_of([[1.0], [0.0]], [7, 8])
    assert pairs_of_steps(apart, np.arange(2), seed=0) == [(0, 0, 1, 0)]
    assert pairs_of_steps(table_of([[1.0, 1.0], [0.0, np.nan]], [7, 8]), np.arange(1), seed=0) == []
