"""Two processes take the same steps as one, whatever their shares and wherever the parameters lie; a lost process ends the run."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from several import config_from

from assay.cli import main
from assay.data.pairs import write_pairs
from assay.data.steps.step_rows import write_labelled_steps
from assay.training.checkpoint import latest_checkpoint
from assay.training.run import train
from step_data import toy_solutions
from tiny import save_tiny_base, toy_pairs

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
# 13 pairs a step: the two processes' shares differ, in pairs and in micro-batches.
SHARED: dict[str, Any] = {"epochs": 2, "batch_pairs": 13, "calibration": 0.2, "test": 0.2, "learning_rate": 1e-3}
MODES: dict[str, dict[str, Any]] = {
    "full": {"params": "full"},
    "full-text": {"params": "full", "objective": {"text_loss": "sft"}},
    "full-sharded": {"params": "full", "machine": {"shard": True}},
    "blocks": {"params": "blocks:2", "depth": "auto"},
    "blocks-sharded": {
        "params": "blocks:2",
        "regularization": {"early_stopping": 2},
        "machine": {"shard": True, "track": ("tensorboard",)},
    },
    "lora-sharded": {"params": "lora:2", "machine": {"shard": True, "gradient_checkpointing": True}},
    "head": {"params": "head"},
    "head-mean": {"params": "head:mean"},
    "process": {"kind": "process", "params": "blocks:2", "depth": "full", "batch_pairs": 12},
    "outcome-sharded": {"kind": "outcome", "params": "full", "batch_pairs": 12, "machine": {"shard": True}},
}


def torchrun(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *arguments]
    path = os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("distributed")
    write_pairs(folder / "toy.jsonl", toy_pairs(150))
    write_labelled_steps(folder / "steps.jsonl", toy_solutions(200, num_problems=60))  # three or four to a problem
    save_tiny_base(folder / "base")
    return folder


def settings(folder: Path, mode: str, out: str) -> dict[str, Any]:
    machine = {"dtype": "float32", "device": "cpu", "batch_tokens": 200, **MODES[mode].get("machine", {})}
    data = folder / ("steps.jsonl" if "kind" in MODES[mode] else "toy.jsonl")
    where = {"data": [str(data)], "base": str(folder / "base"), "out": str(folder / f"{out}-{mode}")}
    return {**SHARED, **MODES[mode], **where, "machine": machine}


@pytest.fixture(scope="module")
def two(folder: Path) -> Path:
    """The runs of all modes by two processes, in one launch."""
    runs = [settings(folder, mode, "two") for mode in MODES]
    (folder / "runs.json").write_text(json.dumps(runs))
    process = torchrun(str(HERE / "several.py"), str(folder / "runs.json"))
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors[-3000:]
    return folder


def log(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("mode", MODES)
def test_two_processes_take_the_steps_of_one(two: Path, mode: str):
    raw = settings(two, mode, "one")
    raw["machine"].pop("shard", None)
    train(config_from(raw))
    one, both = log(two / f"one-{mode}"), log(two / f"two-{mode}")
    assert [row["step"] for row in both] == [row["step"] for row in one]
    assert len(one) > 12
    for mine, theirs in zip(one, both, strict=True):
        for name in mine.keys() - {"seconds"}:
            assert theirs[name] == pytest.approx(mine[name], abs=2e-4, rel=2e-3), (mine["step"], name)
    weights, expected = (load_file(two / f"{who}-{mode}" / "artifact" / "model.safetensors") for who in ("two", "one"))
    assert weights.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(weights[name], value, atol=1e-3, rtol=1e-2, msg=name)
    said, reference = (json.loads((two / f"{who}-{mode}" / "artifact" / "reward.json").read_text()) for who in ("two", "one"))
    assert said["depth"] == reference["depth"]
    assert said["splits"] == reference["splits"]


def test_one_process_writes_for_all(two: Path):
    for mode in MODES:
        steps = [row["step"] for row in log(two / f"two-{mode}")]
        assert steps == sorted(set(steps)), mode  # no row twice
    events = list((two / "two-blocks-sharded").rglob("events.out.tfevents*"))
    assert events


def test_a_checkpoint_holds_whole_tensors_however_they_lay(two: Path):
    resumed = latest_checkpoint(two / "two-full-sharded" / "checkpoints")
    alone = latest_checkpoint(two / "two-full" / "checkpoints")
    assert resumed is not None
    assert alone is not None
    shapes = [
        {name: tuple(value.shape) for name, value in load_file(found.path / "optimizer.safetensors").items()}
        for found in (resumed, alone)
    ]
    assert shapes[0] == shapes[1]


def children(parent: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the processes in /proc")
def test_a_process_that_dies_ends_the_run_of_all(folder: Path):
    out = folder / "killed"
    arguments = ["--data", str(folder / "toy.jsonl"), "--base", str(folder / "base"), "--out", str(out), "--params", "full"]
    process = torchrun("-m", "assay.cli", "train", *arguments, "--epochs", "2000", "--dtype", "float32", "--device", "cpu")
    try:
        deadline = time.monotonic() + 120
        while not (out / "metrics.jsonl").is_file() or len(log(out)) < 3:
            assert process.poll() is None, "the run ended by itself"
            assert time.monotonic() < deadline, "no step within 120 s"
            time.sleep(0.05)
        os.kill(children(process.pid)[-1], signal.SIGKILL)
        _, errors = process.communicate(timeout=60)
        assert process.returncode != 0
        assert "exitcode  : -9" in errors
        assert not (out / "artifact").exists()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def test_what_cannot_be_spread_is_refused(folder: Path, monkeypatch, capsys):
    arguments = ["train", "--data", str(folder / "toy.jsonl"), "--base", str(folder / "base"), "--out", str(folder / "refused")]
    assert main([*arguments, "--shard"]) == 2
    assert "start them with torchrun -m assay.cli train" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(ValueError, match="--params head trains none"):
        config_from(settings(folder, "head", "x") | {"machine": {"shard": True}})
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "one")
    assert main(["report", str(folder)]) == 2
    assert "torchrun is for assay train" in " ".join(capsys.readouterr().err.split())
