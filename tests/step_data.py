"""Solutions in steps that one word decides: a step that says water is right, one that says lazy is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from assay.data.steps.labelled_steps import LabelledSteps
from assay.data.steps.step_rows import write_labelled_steps
from assay.records import Completion
from assay.training.settings import Machine, TrainConfig
from tiny import save_tiny_base

MACHINE = Machine(dtype="float32", device="cpu", reference=20)


def toy_solutions(num: int, *, seed: int = 0, num_problems: int | None = None, soft: bool = False) -> list[LabelledSteps]:
    """Two to five steps each; the first wrong one ends what is known. The outcome is right where all are."""
    rng, found = np.random.default_rng(seed), []
    for i in range(num):
        size, problem = int(rng.integers(2, 6)), i % (num_problems or num)
        error = int(rng.integers(size)) if rng.random() < 0.5 else None
        steps, right = [], []
        for k in range(size):
            is_wrong = error is not None and k == error
            steps.append(f"It is {'lazy' if is_wrong else 'water'} over the dog, {k} of two.\n\n")
            sure = 0.9 if soft else 1.0
            right.append(None if error is not None and k > error else 1 - sure if is_wrong else sure)
        completion = Completion(messages=f"Tell me about egg {problem}", steps=tuple(steps), id=str(i))
        found.append(
            LabelledSteps(completion=completion, right=tuple(right), outcome=float(error is None), id=str(i), source="toy")
        )
    return found


def step_config(folder: Path, items: list[LabelledSteps], **settings) -> TrainConfig:
    data, base = folder / "toy.jsonl", folder / "base"
    write_labelled_steps(data, items)
    if not base.exists():
        save_tiny_base(base)
    defaults = {
        "kind": "process",
        "params": "head",
        "depth": "full",
        "epochs": 8,
        "learning_rate": 1e-2,
        "calibration": 0.25,
        "test": 0.25,
        "machine": MACHINE,
    }
    return TrainConfig(**{"data": (str(data),), "base": str(base), "out": folder / "run", **defaults, **settings})
