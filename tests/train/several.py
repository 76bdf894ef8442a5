"""Run by torchrun in test_distributed.py: trains each of the given runs in turn, in one process group."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from assay.train import distributed
from assay.train.objective import Objective
from assay.workflows.settings import Machine, Restraint, TrainConfig
from assay.workflows.train import train


def config_from(raw: dict) -> TrainConfig:
    groups = {"machine": Machine, "restraint": Restraint, "objective": Objective}
    values = {name: groups[name](**value) if name in groups else value for name, value in raw.items()}
    return TrainConfig(**{**values, "data": tuple(raw["data"]), "track": tuple(raw.get("track", ())), "out": Path(raw["out"])})


if __name__ == "__main__":
    with distributed.joined("cpu"):
        for raw in json.loads(Path(sys.argv[1]).read_text()):
            train(config_from(raw))
