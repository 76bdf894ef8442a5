"""benchmarks/uncertainty.py: its figures on columns whose answer is known."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from uncertainty import Picks, Tested, area_gain


def test_a_std_that_is_large_where_pairs_are_wrong_is_told_from_one_that_says_nothing():
    rng = np.random.default_rng(0)
    num = 400
    wrong = np.arange(num) % 4 == 0
    margins = np.where(wrong, -1.0, 1.0) * rng.uniform(0.9, 1.1, num)  # the margin's size says nothing
    tested = Tested()
    tested._keep(
        label=np.ones(num),
        prompt=np.arange(num),
        single=margins,
        mean=margins,
        members=rng.uniform(1, 2, num),
        laplace=np.where(wrong, 2.0, 1.0) + rng.uniform(0, 0.1, num),
        length=rng.normal(size=num),
        distance=rng.uniform(1, 2, num),
    )
    tested.members.append(np.stack([margins, rng.permutation(margins)]))
    found = tested.figures()
    assert found["accuracy"]["single"] == 0.75
    assert found["laplace: std"]["auroc"][0] == 1.0
    assert found["laplace: std / |margin|"]["auroc less that of the margin"][1] > 0.3
    low, high = found["members: std"]["auroc"][1:]
    assert low < 0.5 < high
    area, chance = found["laplace: std"]["area"]
    assert chance == 0.25
    assert area == pytest.approx(np.mean(np.maximum(0, np.arange(1, num + 1) - 300) / np.arange(1, num + 1)), abs=1e-4)
    assert found["laplace: std"]["area less that of the margin"][2] < 0


def test_the_area_s_difference_is_none_for_the_same_sureness():
    rng = np.random.default_rng(1)
    right, sure = rng.uniform(size=50) < 0.7, rng.normal(size=50)
    assert area_gain(right.astype(float), sure, 3 * sure, np.arange(50), draws=20) == [0.0, 0.0, 0.0]


def test_a_way_that_picks_the_best_gains_on_members_that_pick_the_worst():
    rng = np.random.default_rng(2)
    picks = Picks()
    picks.gold = list(rng.permuted(np.tile([0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0], (30, 1)), axis=1))
    picks.values = {"member 0": [-g for g in picks.gold], "member 1": [-g for g in picks.gold], "mean": list(picks.gold)}
    found = picks.figures(seed=0)
    assert found["mean"]["gold"][-1] == 1.0
    assert found["a member"]["gold"] == [0.375, *found["a member"]["gold"][1:3], 0.0]
    assert found["mean"]["gain"][0] == 1.0
    assert "member 0" not in found
