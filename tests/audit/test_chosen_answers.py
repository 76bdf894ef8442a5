"""Curves over n of ways to choose, by hand; votes over all draws."""

from __future__ import annotations

import gzip
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from assay.audit.chosen_answers import MAJORITY, ORACLE, RANDOM, chosen_answers, draws_of, expected_vote

NAN = math.nan
DATA = Path(os.environ.get("ASSAY_DATA") or Path(__file__).parents[3] / "shared" / "data")
GOLD = [np.array([1.0, 1.0, 0.0]), np.array([0.0, 1.0, 0.0])]
CLASSES = [np.array([0, 0, 1]), np.array([0, 1, 0])]
REWARDS = {"prm": [np.array([0.2, 0.3, 0.9]), np.array([0.1, 0.9, 0.2])]}


def values(found, name):
    return [metric.value for metric in found.figures[name]]


def test_every_way_to_choose_by_hand():
    found = chosen_answers(GOLD, REWARDS, CLASSES, (1, 2, 3, 4))
    assert values(found, RANDOM)[:3] == pytest.approx([0.5, 0.5, 0.5])
    assert values(found, ORACLE)[:3] == pytest.approx([(2 / 3 + 1 / 3) / 2, (1 + 2 / 3) / 2, 1.0])
    # two of three, first prompt: both right 1, else a tie 1/2, 1/2; second: both wrong 0, ties 1/2
    assert values(found, MAJORITY)[:3] == pytest.approx([0.5, (2 / 3 + 1 / 3) / 2, 0.5])
    assert values(found, "best of n: prm")[2] == pytest.approx(0.5), "wrong on the first, right on the second"
    assert values(found, "weighted vote: prm")[2] == pytest.approx(0.5), ".5 against .9, and .3 against .9"
    assert all(math.isnan(values(found, name)[3]) for name in found.figures), "no prompt has four answers"
    table = found.table("choosing")
    assert (table.columns[:2], table.rows[0][0], table.chart) == (("n", RANDOM), 1, "line")
    assert table.note.endswith("2 at 1, 2 at 2, 2 at 3, 0 at 4")


def test_an_answer_without_a_reward_is_in_no_draw_of_its_scorer():
    found = chosen_answers(GOLD, {"prm": [np.array([0.2, 0.3, NAN]), REWARDS["prm"][1]]}, CLASSES, (2, 3))
    two, three = found.figures["best of n: prm"]
    assert (two.value, two.n_scored) == (pytest.approx((1 + 2 / 3) / 2), 2)
    assert (three.value, three.n_scored, three.n) == (1.0, 1, 2)
    assert found.figures[MAJORITY][1].n_scored == 2


def test_log_odds_have_no_weighted_vote():
    found = chosen_answers(GOLD, {"orm": [one - 1 for one in REWARDS["prm"]]}, CLASSES, (2,))
    assert "best of n: orm" in found.figures
    assert "weighted vote: orm" not in found.figures


def test_no_answer_at_all_is_wrong():
    draws = draws_of(2, 2, np.random.default_rng(0))
    assert expected_vote(np.array([-1, -1]), np.ones(2), np.ones(2), draws) == 0.0
    assert expected_vote(np.array([-1, 0]), np.ones(2), np.array([0.0, 1.0]), draws) == 1.0


def test_draws_are_all_choices_or_many_of_them():
    assert len(draws_of(5, 2, np.random.default_rng(0))) == 10
    many = draws_of(30, 15, np.random.default_rng(0))
    assert many.shape == (400, 15)
    assert all(len(set(row)) == 15 for row in many.tolist())
    assert len(draws_of(3, 4, np.random.default_rng(0))) == 0


def test_columns_of_other_lengths_are_refused():
    with pytest.raises(ValueError, match="gold and classes"):
        chosen_answers(GOLD, REWARDS, CLASSES[:1], (1,))
    with pytest.raises(ValueError, match="'prm'"):
        chosen_answers(GOLD, {"prm": REWARDS["prm"][:1]}, CLASSES, (1,))


@pytest.mark.skipif(not (DATA / "gsm8k").is_dir(), reason="the shared data are not here")
def test_gsm8k_best_of_four_at_random_and_at_best():
    writers = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
    with gzip.open(DATA / "gsm8k" / "model_solutions.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    gold = [np.array([float(row[one]["is_correct"]) for one in writers]) for row in rows]
    said = [[row[one]["solution"].rpartition("A:")[2].strip() for one in writers] for row in rows]
    classes = [np.array([list(dict.fromkeys(row)).index(one) for one in row]) for row in said]
    found = chosen_answers(gold, {}, classes, (1, 4))
    assert values(found, RANDOM)[1] == pytest.approx(0.3373, abs=5e-5)
    assert values(found, ORACLE)[1] == pytest.approx(0.6434, abs=5e-5)
    assert values(found, RANDOM)[0] == pytest.approx(values(found, ORACLE)[0])
    assert values(found, RANDOM)[1] < values(found, MAJORITY)[1] < values(found, ORACLE)[1]
