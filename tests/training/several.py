"""Run by torchrun in test_distributed.py: trains each of the given runs in turn, in one process group."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from assay.training import distributed
from assay.training.objective import Objective
from assay.training.run import train
from assay.training.settings import Machine, Regularization, TrainConfig


def config_from(raw: dict) -> TrainConfig:
    groups = {"machine": Machine, "regularization": Regularization, "objective": Objective}
    values = {name: groups[name](**value) if name in groups else value for name, value in raw.items()}
    return TrainConfig(**{**values, "data": tuple(raw["data"]), "out": Path(raw["out"])})


if __name__ == "__main__":
    with distributed.process_group("cpu"):
        for raw in json.loads(Path(sys.argv[1]).read_text()):
            train(config_from(raw))
