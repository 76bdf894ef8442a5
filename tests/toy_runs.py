"""Settings of small training runs on a tiny base."""

from __future__ import annotations

from pathlib import Path

from assay.data.pairs import write_pairs
from assay.records import PreferencePair
from assay.training.settings import Machine, TrainConfig
from tiny import save_tiny_base

MACHINE = Machine(dtype="float32", device="cpu")


def config_of(folder: Path, pairs: list[PreferencePair], **settings) -> TrainConfig:
    data = folder / "toy.jsonl"
    write_pairs(data, pairs)
    base = folder / "base"
    if not base.exists():
        save_tiny_base(base)
    defaults = {"params": "head", "epochs": 1, "calibration": 0.2, "test": 0.2, "machine": MACHINE}
    return TrainConfig(**{"data": (str(data),), "base": str(base), "out": folder / "run", **defaults, **settings})
