"""From a path to a Scorer."""

from __future__ import annotations

from pathlib import Path

from assay.models.artifact import REWARD_FILE, read_description
from assay.models.device import Dtype
from assay.scorers.base import Scorer
from assay.scorers.cache import Cached
from assay.scorers.calibrate import Calibrated, Calibration
from assay.scorers.local import load_local


def load(
    spec: str | Path,
    *,
    dtype: Dtype = "auto",
    device: str = "auto",
    max_tokens: int | None = None,
    cache: str | Path | None = None,
) -> Scorer:
    """The scorer that `spec` names: an artifact directory, or a run directory that holds one.

    `score` gives the raw rewards whether or not the artifact is calibrated; with a calibration, `prefer` uses it.
    dtype, device: "auto" looks at the machine. max_tokens: token budget of one forward.
    cache: an SQLite file of rewards that are not computed again (see `Cached`).
    Raises ValueError for a path that is neither, ArtifactError for an artifact that is damaged.
    """
    path = artifact_path(spec)
    scorer: Scorer = load_local(path, dtype=dtype, device=device, max_tokens=max_tokens)
    scorer = Cached(scorer, cache) if cache is not None else scorer  # inside of what compares
    calibration = read_description(path).get("calibration")
    return Calibrated(scorer=scorer, calibration=Calibration.from_json(calibration)) if calibration else scorer


def artifact_path(spec: str | Path) -> Path:
    """The artifact directory that `spec` is, or that the run directory `spec` holds."""
    for path in (Path(spec), Path(spec) / "artifact"):
        if (path / REWARD_FILE).is_file():
            return path
    raise ValueError(f"{spec} is neither an artifact (a directory with {REWARD_FILE}) nor a run directory that holds one")
