"""The file of whole healthy runs that gives signs a threshold and a rate: one JSON line a run, with the largest value of each sign.

A rate is of runs of the same world, watched in the same way and for as long: windows that differ are refused, other scorers and
longer runs are said.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from assay.errors import DataError
from assay.stats.healthy_runs import Battery, SignThreshold, battery, sign_threshold
from assay.wire import as_float

VERSION = 1
RATE = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Healthy:
    """What healthy runs say. thresholds: of each sign that every run has. together: of all these signs at once, None where the runs
    are too few for the rate, for the reason in `missing`. missing: what has no threshold, and why. looks: of the shortest run."""

    watching: Mapping[str, Any]
    rate: float
    thresholds: Mapping[str, SignThreshold]
    together: Battery | None
    missing: Mapping[str, str]
    num_runs: int
    looks: int
    scorers: frozenset[str]


def keep_healthy(path: Path, record: Mapping[str, Any]) -> None:
    """Add a run to the file: the `record` of a `Watch` that has seen it whole. Raises ValueError for a run without signs, and for a
    file whose runs were watched in another way."""
    if not record["looks"]:
        raise ValueError("the run is too short: it has no look beyond those that signs start from")
    if path.is_file():
        others = _read(path)
        _same_watching(others[0]["watching"], record["watching"], path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"version": VERSION, **record}) + "\n")


def read_healthy(path: Path, watching: Mapping[str, Any] | None = None, *, rate: float = RATE) -> Healthy:
    """The thresholds of a file. watching: the settings of the watch that will use them. rate: at most this share of healthy runs
    passes a sign, and at most this share passes any of those in `together`.

    Raises DataError for a file that is none, ValueError for runs that were watched in another way and for too few of them.
    """
    runs = _read(path)
    for run in runs:
        _same_watching(run["watching"], runs[0]["watching"] if watching is None else watching, path)
    names = list(dict.fromkeys(name for run in runs for name in run["highest"]))
    thresholds, missing = {}, {}
    for name in names:
        maxima_N = np.array([as_float(run["highest"].get(name)) for run in runs])
        absent = int(np.isnan(maxima_N).sum())
        if absent:
            missing[name] = f"not measured in {absent} of {len(runs)} healthy runs"
        else:
            thresholds[name] = sign_threshold(maxima_N, rate=rate)
    try:
        together = _together(tuple(thresholds), runs, rate) if thresholds else None
    except ValueError as error:
        together, missing["all signs together"] = None, str(error)
    return Healthy(
        watching=runs[0]["watching"],
        rate=rate,
        thresholds=thresholds,
        together=together,
        missing=missing,
        num_runs=len(runs),
        looks=min(run["looks"] for run in runs),
        scorers=frozenset(run["scorer"] for run in runs),
    )


def _together(names: tuple[str, ...], runs: Sequence[Mapping[str, Any]], rate: float) -> Battery:
    return battery(names, np.array([[run["highest"][name] for name in names] for run in runs]), rate=rate)


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise DataError(f"{path} is no file: make one of whole healthy runs, as docs/monitors.md says")
    runs = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            run = json.loads(line)
            if run["version"] != VERSION:
                raise DataError(f"{path}, line {number}: version {run['version']}, this Assay reads {VERSION}")
            runs.append({name: run[name] for name in ("watching", "scorer", "looks", "rows", "highest")})
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{path}, line {number} is no healthy run ({error!r}): keep runs with --keep-healthy") from None
    if not runs:
        raise DataError(f"{path} is empty: keep healthy runs in it with --keep-healthy")
    return runs


def _same_watching(there: Mapping[str, Any], here: Mapping[str, Any], path: Path) -> None:
    other = sorted(name for name in {*there, *here} if there.get(name) != here.get(name))
    if other:
        shown = "; ".join(f"{name} {there.get(name)} there, {here.get(name)} here" for name in other)
        raise ValueError(f"the runs of {path} were watched in another way ({shown}): give the same, or measure healthy runs anew")
