"""benchmarks/gpu.py in a tiny setting on a CPU: every part finds its figures or says why not, and a slow part is cut and said."""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.py"


def found(*words: str) -> dict:
    """The document of a run; the table stands before it on standard error."""
    command = [sys.executable, str(SCRIPT), "--size", "tiny", "--device", "cpu", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_parity_and_training_find_their_figures():
    parts = found("--only", "parity", "train-full", "--seconds", "100")["parts"]
    assert parts["parity"]["float32_difference"] < 1e-3, parts["parity"]
    assert parts["train-full"]["pairs_per_second"] > 0, parts["train-full"]
    assert not any(key in part for part in parts.values() for key in ("failed", "cut"))


@pytest.mark.slow
def test_a_policy_is_trained_beside_trls():
    parts = found("--only", "policy", "policy-trl", "--seconds", "110")
    ours, theirs = parts["parts"]["policy"], parts["parts"]["policy-trl"]
    assert ours["tokens_per_second"] > 0, ours
    assert theirs["tokens_per_second"] > 0, theirs
    shares = [one for name, one in ours.items() if name.startswith("share_")]
    assert 0.8 < sum(shares) <= 1.01
    assert parts["ratios"]["policy over TRL, tokens per second"] > 0


def test_a_part_that_is_too_slow_is_cut_and_said(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    gpu = importlib.import_module("gpu")
    asked = argparse.Namespace(size="tiny", device="cpu")
    figures = gpu.run_part(gpu.PARTS[0], asked, tmp_path / "work", 0.05)  # torch alone takes longer to load
    assert figures["cut"] == "after 0 s"
    assert "cut: after 0 s" in gpu.table({"device": figures})
    assert found("--only", "score", "--seconds", "1")["parts"] == {"score": {"not_run": "the time for all parts was over"}}


def test_a_ratio_is_said_where_both_sides_were_measured(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    gpu = importlib.import_module("gpu")
    ours, theirs = {"pairs_per_second": 30.0, "peak_gb": 10.0}, {"pairs_per_second": 20.0}
    assert gpu.ratios({"train-full": ours, "train-trl": theirs}) == {"full over TRL, pairs per second": 1.5}
