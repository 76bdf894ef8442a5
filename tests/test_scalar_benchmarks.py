"""benchmarks/distill.py and benchmarks/grm.py run from end to end on a tiny random base, and their document holds together."""

from __future__ import annotations

import gzip
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmark_documents import document
from tiny import save_tiny_base, toy_pairs

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import distill
import grm


def rows_of(pairs, prompt: str) -> list[dict]:
    return [{"prompt": f"{prompt} {number}", "chosen": one.chosen, "rejected": one.rejected} for number, one in enumerate(pairs)]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("base") / "base"
    save_tiny_base(path, max_positions=1024)
    return str(path)


def test_a_made_teacher_is_right_as_often_as_it_was_told_and_calibrated():
    right = np.random.default_rng(0).uniform(size=40_000) < 0.5
    said = distill.made(right, 0.75, seed=0)
    assert np.mean((said.p_P > 0.5) == right) == pytest.approx(0.75, abs=0.01)
    sure = said.p_P > 0.9
    assert np.mean(right[sure]) == pytest.approx(float(said.p_P[sure].mean()), abs=0.01)
    assert math.isnan(said.seconds)


def test_the_interval_is_of_the_mean_that_is_printed():
    """Pairs are tested by as many seeds as drew them: the interval was of their own means, each pair once."""
    right = np.full((3, 200), np.nan)
    right[:, :100] = 1.0  # tested three times, always right
    right[0, 100:] = 0.0
    found = distill.summary(right, np.arange(200))
    low, high = found["interval"]
    assert found["accuracy"] == 0.75
    assert low < 0.75 < high
    assert low > 0.5  # the mean of the pairs' means
    gain = distill.change(right - right, np.arange(200))
    assert (gain["mean"], gain["interval"]) == (0.0, [None, None])


@pytest.fixture(scope="module")
def eggs(tmp_path_factory) -> str:
    """24 pairs of answers of nine words, and 24 whose worse one is of one word."""
    rows = rows_of(toy_pairs(24), "Tell me about egg")
    rows += [{**row, "prompt": f"{row['prompt']}, please", "rejected": f"Lazy{k}."} for k, row in enumerate(rows)]
    data = tmp_path_factory.mktemp("eggs") / "pairs.jsonl"
    data.write_text("\n".join(json.dumps(row) for row in rows))
    return str(data)


@pytest.mark.slow
def test_students_of_three_labels_are_tested_on_the_same_pairs(base, eggs):
    words = ("--data", eggs, "--base", base, "--depth", "full", "--pairs", "5", "--tested", "12", "--seeds", "2")
    found = document(distill.main, *words)
    assert set(found["accuracy"]) == {"teacher", "gold", "soft", "hard"}
    for one in found["accuracy"].values():
        low, high = one["interval"]
        assert low <= one["accuracy"] <= high
        assert one["accuracy"] == pytest.approx(np.mean(one["by_seed"]), abs=1e-4)
    gold, soft = (found["accuracy"][name]["accuracy"] for name in ("gold", "soft"))
    assert found["soft less gold"]["mean"] == pytest.approx(soft - gold, abs=2e-4)
    assert found["claims"]["2 soft within three points of gold"] == (found["soft less gold"]["mean"] >= -0.03)
    assert (found["teacher_ms_a_pair"], found["pairs_without_a_verdict"]) == (None, 0)


@pytest.mark.slow
def test_a_real_teacher_is_timed_and_what_it_says_nothing_of_is_left_out(base, eggs):
    words = ("--data", eggs, "--base", base, "--depth", "full", "--pairs", "5", "--seeds", "1")
    found = document(distill.main, *words, "--tested", "19", "--teacher", "rule:length?max_words=6&fade=1")
    assert found["pairs_without_a_verdict"] == 24  # both answers are too long, and so alike
    assert found["accuracy"]["teacher"]["accuracy"] == 0.0  # it takes the short one
    assert found["teacher_ms_a_pair"] > 0
    with pytest.raises(ValueError, match="has a verdict on too few pairs"):
        document(distill.main, *words, "--tested", "30", "--teacher", "rule:length?max_words=6&fade=1")


@pytest.mark.slow
def test_a_text_loss_stands_beside_bradley_terry_and_goes_on_where_it_was_stopped(base, tmp_path):
    for number, (name, count) in enumerate((("hh-rlhf-harmless/pairs", 24), ("pandalm/testset-v1", 8), ("rmb/pairs", 8))):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        with gzip.open(tmp_path / f"{name}.jsonl.gz", "wt") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows_of(toy_pairs(count), f"Of the set {number}, egg"))
    sizes = ("--pool", "12", "--pairs", "8", "--tested", "8", "--params", "blocks:1", "--seeds", "1", "--epochs", "1")
    words = ("--folder", str(tmp_path), "--keep", str(tmp_path / "keep"), "--base", base, *sizes)
    found = document(grm.main, *words)
    assert found["pairs"] == {"train": 12, "harmless": 8, "pandalm": 8, "rmb": 8}
    assert list(found["arms"]) == ["bradley-terry", "sft 0.01", "sft:per-token 0.2"]
    for one in found["arms"].values():
        assert one["above_bradley_terry"]["out"]["mean"] == pytest.approx(
            np.mean([one["above_bradley_terry"][name]["mean"] for name in ("pandalm", "rmb")]), abs=1e-4
        )
    assert found["arms"]["bradley-terry"]["above_bradley_terry"]["out"]["interval"] == [None, None]  # was NaN, which is no JSON
    assert len(found["claims"]) == 3
    kept = sorted((tmp_path / "keep").glob("*.0.json"))
    assert len(kept) == 3
    kept[0].unlink()
    assert document(grm.main, *words)["arms"]["sft 0.01"] == found["arms"]["sft 0.01"]
