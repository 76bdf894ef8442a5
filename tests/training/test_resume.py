"""A run that is killed with SIGKILL and taken up again ends where the uninterrupted run ends, bit by bit."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from assay.cli import main
from assay.data.pairs import write_pairs
from assay.training.checkpoint import latest_checkpoint
from tiny import save_tiny_base, toy_pairs

pytestmark = pytest.mark.slow


class Runs(NamedTuple):
    """killed: as SIGKILL left it. resumed: the same, taken up again. whole: never interrupted."""

    killed: Path
    resumed: Path
    whole: Path
    arguments: list[str]


def command(arguments: list[str], out: Path, *more: str) -> subprocess.Popen[str]:
    whole = [sys.executable, "-m", "assay.cli", "train", *arguments, "--out", str(out), *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(whole, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)


def kill_after_two_checkpoints(process: subprocess.Popen[str], checkpoints: Path) -> None:
    deadline = time.monotonic() + 90
    while len(list(checkpoints.glob("step-*"))) < 2:
        assert process.poll() is None, "the run ended before its second checkpoint"
        assert time.monotonic() < deadline, "no second checkpoint within 90 s"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Runs:
    folder = tmp_path_factory.mktemp("resume")
    write_pairs(folder / "toy.jsonl", toy_pairs(200))
    arguments = ["--data", str(folder / "toy.jsonl"), "--base", str(save_tiny_base(folder / "base"))]
    arguments += ["--params", "blocks:2", "--epochs", "5", "--batch-pairs", "8", "--checkpoint-every", "4"]
    arguments += ["--dtype", "float32", "--device", "cpu", "--batch-tokens", "400"]
    interrupted = command(arguments, folder / "resumed")
    kill_after_two_checkpoints(interrupted, folder / "resumed" / "checkpoints")
    shutil.copytree(folder / "resumed", folder / "killed")
    both = [command(arguments, folder / "resumed", "--resume"), command(arguments, folder / "whole")]
    for process in both:
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors
    return Runs(folder / "killed", folder / "resumed", folder / "whole", arguments)


def log(run: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def test_the_run_was_killed_halfway(runs):
    resumed = latest_checkpoint(runs.killed / "checkpoints")
    assert resumed is not None
    assert 4 < resumed.step < log(runs.whole)[-1]["step"]
    assert not (runs.killed / "artifact").exists()


def test_every_weight_equals_the_uninterrupted_run_s_bit_by_bit(runs):
    resumed, whole = (load_file(run / "artifact" / "model.safetensors") for run in (runs.resumed, runs.whole))
    assert resumed.keys() == whole.keys()
    for name, value in whole.items():
        assert value.dtype == resumed[name].dtype
        assert torch.equal(value, resumed[name]), name
    prints = [json.loads((run / "artifact" / "reward.json").read_text())["fingerprint"] for run in (runs.resumed, runs.whole)]
    assert prints[0] == prints[1]


def test_the_log_equals_the_uninterrupted_run_s_row_by_row(runs):
    assert log(runs.resumed) == log(runs.whole)
    steps = [row["step"] for row in log(runs.resumed)]
    assert steps == list(range(len(steps)))
    assert len(steps) > 80


def test_no_file_of_a_run_is_a_pickle(runs):
    suffixes = {file.suffix for file in runs.resumed.rglob("*") if file.is_file()}
    allowed = {".safetensors", ".json", ".jsonl", ".arrow", ".bin", ".npy", ".npz", ".md", ".html", ".jinja"}
    assert suffixes <= allowed
    for file in runs.resumed.rglob("*"):
        if file.is_file() and file.suffix in (".bin", ".npy"):
            head = file.read_bytes()[:8]
            assert not head.startswith((b"PK", b"\x80")), f"{file} begins like a pickle or a torch file"
        if file.suffix == ".npz":
            with np.load(file, allow_pickle=False) as arrays:
                assert arrays.files
                assert all(arrays[name].dtype != object for name in arrays.files)
    state = {file.suffix for file in (runs.resumed / "checkpoints").rglob("*") if file.is_file()}
    assert state == {".safetensors", ".json"}


@pytest.mark.parametrize(
    "change",
    [
        ["--learning-rate", "3e-4"],
        ["--seed", "1"],
        ["--params", "blocks:1"],
        ["--batch-tokens", "300"],
        ["--limit", "150"],
        ["--base"],
    ],
    ids=lambda change: change[0],
)
def test_resuming_with_other_settings_data_or_base_is_refused(runs, tmp_path, change, capsys):
    shutil.copytree(runs.killed, tmp_path / "run")
    if change == ["--base"]:
        change = ["--base", str(save_tiny_base(tmp_path / "base", seed=1))]
    assert main(["train", *runs.arguments, "--out", str(tmp_path / "run"), "--resume", *change]) == 3
    printed = " ".join(capsys.readouterr().err.split())
    assert "failed" in printed
    assert "other data, base or settings: use another --out, or no --resume" in printed
    assert not (tmp_path / "run" / "artifact").exists()
    assert latest_checkpoint(tmp_path / "run" / "checkpoints") is not None


def test_a_damaged_newest_checkpoint_is_told_and_the_one_before_is_taken_up(runs, tmp_path, capsys):
    shutil.copytree(runs.killed, tmp_path / "run")
    newest = max((tmp_path / "run" / "checkpoints").glob("step-*"))
    os.truncate(newest / "optimizer.safetensors", 1000)
    assert main(["train", *runs.arguments, "--out", str(tmp_path / "run"), "--resume"]) == 0
    printed = " ".join(capsys.readouterr().err.split())
    assert f"passed over {newest.name}: optimizer.safetensors altered or cut short" in printed
    assert [row["step"] for row in log(tmp_path / "run")] == [row["step"] for row in log(runs.whole)]


def test_only_damaged_checkpoints_are_a_failure_that_says_what_to_do(runs, tmp_path, capsys):
    shutil.copytree(runs.killed, tmp_path / "run")
    for checkpoint in (tmp_path / "run" / "checkpoints").glob("step-*"):
        (checkpoint / "model.safetensors").unlink()
    assert main(["train", *runs.arguments, "--out", str(tmp_path / "run"), "--resume"]) == 3
    assert "delete them to train from the beginning" in " ".join(capsys.readouterr().err.split())
