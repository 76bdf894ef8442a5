"""From a path to a Scorer."""

from __future__ import annotations

import re
from pathlib import Path
from typing import cast

from assay.models.artifact import ENSEMBLE, REWARD_FILE, fingerprint, read_description, verify_digest
from assay.models.device import Dtype, pick_compute
from assay.models.member_files import load_blocks, member_paths
from assay.scorers.base import Scorer
from assay.scorers.cache import Cached
from assay.scorers.calibrate import Calibrated, Calibration
from assay.scorers.ensemble import Combination, Ensemble
from assay.scorers.local import LocalScorer, load_local, saved_combination
from assay.scorers.remote import Remote, RemoteScorer

_URL = re.compile(r"(?:(?P<engine>vllm|sglang|tei|openrlhf)\+)?(?P<scheme>https?):/+(?P<rest>.+)")  # a Path has one slash left


def load(
    spec: str | Path,
    *,
    dtype: Dtype = "auto",
    device: str = "auto",
    max_tokens: int | None = None,
    combination: Combination | None = None,
    cache: str | Path | None = None,
) -> Scorer:
    """The scorer that `spec` names: an artifact directory, a run directory that holds one, or the URL of a service.

    http://HOST:PORT is Assay's own service (see `RemoteScorer`, which says more); vllm+http://, sglang+http://, tei+http:// and
    openrlhf+http:// are engines. What is computed there is settled there: the other arguments are for directories, but for cache.

    `score` gives the raw rewards whether or not the artifact is calibrated; with a calibration, `prefer` uses it.
    dtype, device: "auto" looks at the machine. max_tokens: token budget of one forward. combination: how an ensemble's members
    become one reward, in place of what was saved; the calibration is of the saved way, and is left out then. cache: an SQLite
    file of rewards that are not computed again (see `Cached`).
    Raises ValueError for a path that is neither, ArtifactError for an artifact that is damaged.
    """
    if (url := _URL.fullmatch(str(spec))) is not None:
        if (dtype, device, max_tokens, combination) != ("auto", "auto", None, None):
            raise ValueError(
                f"{spec} is served elsewhere: leave dtype, device, max_tokens and combination out, they are settled there"
            )
        remote = RemoteScorer(f"{url['scheme']}://{url['rest']}", engine=cast(Remote, url["engine"] or "assay"))
        return remote if cache is None else Cached(remote, cache)
    path = artifact_path(spec)
    scorer: Scorer = load_raw(path, dtype=dtype, device=device, max_tokens=max_tokens, combination=combination)
    scorer = Cached(scorer, cache) if cache is not None else scorer  # inside of what compares
    calibration = read_description(path).get("calibration")
    if calibration is None or combination is not None:
        return scorer
    return Calibrated(scorer=scorer, calibration=Calibration.from_json(calibration))


def load_raw(
    path: Path,
    *,
    dtype: Dtype = "auto",
    device: str = "auto",
    max_tokens: int | None = None,
    combination: Combination | None = None,
) -> LocalScorer | Ensemble:
    """The scorer of an artifact directory without its calibration: one model, K heads, or an ensemble."""
    description = read_description(path)
    if description.get("kind") != ENSEMBLE:
        return load_local(path, dtype=dtype, device=device, max_tokens=max_tokens, combination=combination)
    combination = combination or saved_combination(description)
    if description[ENSEMBLE]["form"] == "models":
        verify_digest(path)
        members = (load_local(member, dtype=dtype, device=device, max_tokens=max_tokens) for member in member_paths(path))
        return Ensemble(tuple(members), combination)
    compute = pick_compute(device, dtype)
    loaded = load_blocks(path, dtype=compute.dtype, device=compute.device)
    identity = fingerprint({**description, "calibration": None})
    return LocalScorer(loaded.model, loaded.renderer, identity=identity, max_tokens=max_tokens, combination=combination)


def artifact_path(spec: str | Path) -> Path:
    """The artifact directory that `spec` is, or that the run directory `spec` holds."""
    for path in (Path(spec), Path(spec) / "artifact"):
        if (path / REWARD_FILE).is_file():
            return path
    raise ValueError(f"{spec} is neither an artifact (a directory with {REWARD_FILE}) nor a run directory that holds one")
