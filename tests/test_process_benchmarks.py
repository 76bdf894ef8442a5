"""The benchmarks of process models run from end to end on a tiny random base, and their document holds together."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from benchmark_documents import document
from tiny import save_tiny_base

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import process_real
import process_relay
import process_search

DATA = Path(os.environ.get("ASSAY_DATA") or Path(__file__).parents[2] / "shared" / "data")
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("sft", [(), ("--sft",)])
def test_the_relay_world_gives_every_way_to_choose_beside_random_and_oracle(tmp_path, sft):
    save_tiny_base(tmp_path / "base", max_positions=2048)
    words = ["--quick", "--base", str(tmp_path / "base"), "--depth", "full", "--params", "full", *sft]
    found = document(process_relay.main, *words)
    assert ("the first two in each seed" in found["claims"]) == bool(sft)
    if sft:
        assert found["base"] == "sft"
        assert found["sft"]["loss"][0] > 0
    shares = found["all seeds"]
    ways = ["process, min", "process, product", "process, last", "process, mean", "outcome"]
    for way in ways:
        value, low, high = shares[f"best of n: {way}"]
        assert low <= value <= high
        assert 0 <= value <= shares["oracle"][0]
    assert set(found["seeds"]["0"]["step AUROC by kind"]) == {"wrong receiver", "skipped pass", "other chain"}
    by_size = found["seeds"]["0"]["best of n"]
    assert by_size["best of n: outcome"][0][0] == pytest.approx(by_size["a random answer"][0][0])  # n = 1
    for way, rows in by_size.items():
        assert rows[-1][0] == pytest.approx(shares[way][0], abs=1e-3), way


@pytest.mark.skipif(not (DATA / "prmbench").is_dir(), reason="the shared data are not here")
def test_real_steps_give_every_figure_beside_what_looks_at_nothing_and_the_recorded_models(tmp_path):
    save_tiny_base(tmp_path / "base", max_positions=2048)
    words = ["--base", str(tmp_path / "base"), "--folder", str(DATA), "--limit", "40", "--depth", "full", "--params", "full"]
    found = document(process_real.main, *words)
    (seed,) = found["seeds"]
    for name in ("prmbench", "big-bench-mistake", "mr-gsm8k-wrong"):
        one = seed[name]
        assert one["steps"] > 0
        assert set(one["PRMScore of"]) == {"all right", "all wrong", "the second half is wrong"}
        assert set(one["step AUROC of"]) == {"position", "length"}
    recorded = seed["mr-gsm8k-wrong"]["recorded"]
    assert len(recorded) == 8  # Math-Shepherd and seven of ReasonEval
    assert recorded["math-shepherd_mistral-7b"]["step AUROC"][0] > 0.7
    assert found["claims"]["below Math-Shepherd on MR-GSM8K"]


def test_a_search_by_scorers_of_a_known_auroc_stands_beside_whole_solutions_of_as_many_tokens():
    found = document(process_search.main, "--quick")
    beam = found["found"]["step AUROC 0.8"]["beam"]
    assert beam["n"] == [1, 4]
    assert all(whole >= 0.95 * led for led, whole in zip(beam["tokens"], beam["their tokens"], strict=True))
    assert beam["whole solutions"][0] >= 1
    for way in ("led by its steps", "best of whole by outcome", "best of whole by reward", "majority of whole", "random whole"):
        for value, low, high in beam[way]:
            assert low <= value <= high
    for led, best in zip(beam["led by its steps"], beam["best that it found"], strict=True):
        assert led[0] <= best[0]
    assert set(found["claims"]) > {"beam above the majority at n = 16"}
