"""Its place puts tests/ on the path, so that every test can import `tiny`; and one small finished run for all to look at."""

from __future__ import annotations

import os
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import settings

settings.register_profile("assay", deadline=None)  # a deadline in wall time fails on a busy machine
settings.load_profile("assay")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny matrices: more threads only wait for each other on a busy machine
# Ray's own 15 leaves its workers next to nothing beside other tests: minutes to start.
os.environ.setdefault("RAY_worker_niceness", "0")


class TrainedRun(NamedTuple):
    """A run directory that `assay train` made, to be read only, with what it was made of and what was printed."""

    path: Path
    data: Path
    base: Path
    printed: str


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    """240 learnable pairs, a tiny base, blocks:2, in float32: through the command, as a user would."""
    from assay.cli import main
    from assay.data.pairs import write_pairs
    from tiny import save_tiny_base, toy_pairs

    folder = tmp_path_factory.mktemp("trained")
    base, data, out = save_tiny_base(folder / "tiny-base"), folder / "toy.jsonl", folder / "run"
    write_pairs(data, toy_pairs(240))
    shares = ["--calibration", "0.2", "--test", "0.2"]
    settings = [
        "--params",
        "blocks:2",
        "--depth",
        "full",
        "--learning-rate",
        "1e-3",
        "--batch-tokens",
        "1000",
        "--dtype",
        "float32",
        "--device",
        "cpu",
    ]
    with redirect_stdout(StringIO()) as printed:
        assert main(["train", "--data", str(data), "--base", str(base), "--out", str(out), *shares, *settings]) == 0
    return TrainedRun(out, data, base, printed.getvalue())
