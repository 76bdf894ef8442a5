"""A small run of benchmarks/levels.py: claimed levels are kept, and a test that is broken on purpose is caught."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from levels import LEVELS
from levels_frame import Level, held_against
from levels_of_tests import BROKEN

QUICK = (
    "share_interval misses: accuracy 0.97, 50 prompts of 1 to 4 pairs, correlation 0.3",
    "share_interval misses: accuracy 0.9, 50 prompts of 1 to 10 pairs, correlation 0.7",
    "change_interval misses: accuracies 0.7 and 0.75, alike on 0.5 of the pairs, 50 prompts of 1 to 4 pairs, correlation 0.3",
    "sign_flip finds a difference of equal models: 50 prompts of 1 to 4 pairs, correlation 0.3",
    "differs_from_rest finds a slice of the same accuracy: accuracy 0.95, 100 prompts of 4 pairs, correlation 0.5",
    "expected_ece calls calibrated models over- or underconfident: mean confidence 0.9, "
    "30 prompts of 10 to 10 pairs, correlation 0.9",
    "probes: a scorer is accused that no edit moves on average: 7% fall, 59 prompts of 1, scatter 0.7 margins",
    "neutral probes: a scorer is accused that no edit moves on average: 7% fall, 59 prompts of 1, scatter 0.7 margins",
    "power: probes find a rise: 0.5 margins, scatter 0.7, 59 prompts",
    "probes with injections: a scorer is accused that no edit moves on average: verdicts of a judge of pairs, "
    "30 prompts, scatter 0.8 margins",
    "cohens_kappa misses: kappa 0.8, 50 items, 2 categories, weights none",
    "krippendorff_alpha misses: alpha 0.8, 100 items, 3 raters, 5 categories, interval, 30% missing",
    "agreement by prompt misses: kappa 0.5, 25 prompts of 4",
    "process_f1 misses: exact on 0.3 of the wrong and 0.9 of the right, 60 problems of 1 to 4 solutions, correlation 0.3",
    "prm_score misses: 60 problems of 1 to 3 solutions, correlation 0.3, right steps 1.5 higher",
    "auroc_gain_interval tells equal scorers apart: 60 problems of 1 to 3 solutions, correlation 0.3",
    "biases: a judge who errs alike everywhere is accused of any: accuracy 0.9, 200 prompts of 1",
)
BY_NAME = {f"{level.name}: {level.law}": level for level in LEVELS}


@pytest.mark.parametrize("claim", QUICK)
def test_a_claimed_level_is_kept(claim):
    found = held_against(BY_NAME[claim], 100, seed=1)
    assert found.is_kept, found.row()


def test_a_test_that_is_broken_on_purpose_is_caught():
    found = held_against(BROKEN, 200, seed=1)
    assert not found.is_kept
    assert found.runs == 800, "it was tried again before it was called broken"
    assert found.seen > 0.2


def test_a_level_is_held_to_two_errors_above_what_is_claimed_and_a_power_to_two_below():
    def share(of: float):
        return lambda rng, runs: np.arange(runs) < of * runs

    error = math.sqrt(0.05 * 0.95 / 1000)
    assert held_against(Level(name="a", law="b", count=share(0.05 + 1.6 * error), most=0.05), 1000, seed=0).is_kept
    assert not held_against(Level(name="a", law="b", count=share(0.05 + 2.2 * error), most=0.05), 1000, seed=0).is_kept
    assert held_against(Level(name="a", law="b", count=share(0.79), least=0.8), 1000, seed=0).is_kept
    assert not held_against(Level(name="a", law="b", count=share(0.7), least=0.8), 1000, seed=0).is_kept


def test_every_claim_has_a_name_and_a_law_of_its_own():
    assert len(BY_NAME) == len(LEVELS) > 80
