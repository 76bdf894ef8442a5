"""From the name of a suite, or a file of one's own, to its cases: files of a data folder first, the hub where it is published."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from assay.data.cases import Case
from assay.data.pairs import read_pairs
from assay.data.raw.rows import HUB, Rows, find_beside, is_hub, read_rows, stem
from assay.data.sources.forms import TAG_COLUMNS
from assay.errors import DataError
from assay.evaluation.suites.catalog import OWN_LISTS, OWN_PAIRS, SUITES, Suite
from assay.records import PreferencePair

FOLDER = "ASSAY_DATA"
_LIST_COLUMNS = {"prompt", "candidates", "correct"}


class LoadedSuite(NamedTuple):
    """A suite's cases; reason -> how many rows or answers were set aside for it; where they came from; which files were missing.

    num_found: how many cases there were before a limit.
    """

    suite: Suite
    cases: tuple[Case, ...]
    set_aside: Mapping[str, int]
    source: str
    missing: tuple[str, ...] = ()
    num_found: int = 0


def load_suite(spec: str, folder: str | Path | None = None, limit: int | None = None) -> LoadedSuite:
    """The cases of a suite of the catalog, or of a file: pairs in any form of `read_pairs`, or rows of prompt, candidates, correct.

    folder: holds the suites' files (docs/suites.md); the environment's ASSAY_DATA when left out. A suite that has none there is
    loaded from the hub with `datasets`, if it is published there. limit: at most so many cases, spread evenly.
    Raises ValueError for an unknown name, a suite that is nowhere, and rows none of which is a case.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit {limit} must be at least 1: it is a number of cases")
    folder = folder or os.environ.get(FOLDER)
    if spec in SUITES:
        loaded = _published(SUITES[spec], Path(folder) if folder else None)
    elif is_hub(spec) or Path(spec).is_file():
        loaded = _own(spec)
    else:
        raise ValueError(f"{spec!r} is neither a suite nor a file: use one of {', '.join(SUITES)}, or a file of pairs or of lists")
    if not loaded.cases:
        reasons = ", ".join(f"{n:,} {reason}" for reason, n in Counter(loaded.set_aside).most_common(5)) or "no rows"
        raise DataError(f"{spec}: no row of {loaded.source} is a case ({reasons})")
    loaded = loaded._replace(num_found=len(loaded.cases))
    if limit is not None and limit < len(loaded.cases):
        kept = np.linspace(0, len(loaded.cases) - 1, limit).round().astype(int)
        loaded = loaded._replace(cases=tuple(loaded.cases[i] for i in kept))
    return loaded


def _published(suite: Suite, folder: Path | None) -> LoadedSuite:
    files = {label: find_beside((folder / name).parent, Path(name).name) for label, name in suite.files.items()} if folder else {}
    found = {label: file for label, file in files.items() if file is not None}
    if found:
        missing = tuple(label for label in suite.files if label not in found)
        tables = {label: read_rows(file) for label, file in found.items()}
        return _gathered(suite, tables, f"{len(found)} of {len(suite.files)} files of {Path(folder or '').name}", missing)
    names = ", ".join(f"{name}.jsonl.gz" for name in suite.files.values())
    if suite.hub:
        tables = {label: read_rows(HUB + name) for label, name in suite.hub.items()}
        try:
            return _gathered(suite, tables, " ".join(suite.hub.values()))
        except DataError as error:
            raise DataError(f"{error}. Or put {names} into a folder, and name it with --suite-folder or {FOLDER}") from error
    where = f"in {folder}" if folder else f"anywhere: no data folder was named (--suite-folder or {FOLDER})"
    raise ValueError(f"the suite {suite.name} is not {where}. It is read from the files {names}, of which there is none")


def _gathered(suite: Suite, tables: Mapping[str, Rows], source: str, missing: tuple[str, ...] = ()) -> LoadedSuite:
    try:
        cases, reasons = _parted(suite.read(tables))
    except KeyError as name:
        raise DataError(f"the suite {suite.name}: {source} has no {name}, which it cannot do without") from name
    return LoadedSuite(suite, cases, reasons, source, missing)


def _own(path: str) -> LoadedSuite:
    rows = read_rows(path)
    start = []
    for numbered in rows:
        start.append(numbered)
        if not isinstance(numbered[1], str):
            break
    name = Path(stem(path)).name
    if start and not isinstance(start[-1][1], str) and start[-1][1].keys() >= _LIST_COLUMNS:
        return _gathered(OWN_LISTS._replace(name=name), {"lists": chain(start, rows)}, name)
    reader = read_pairs(path)
    cases = tuple(_case_of(pair) for pair in reader)
    reasons = {reason: count for reason, (count, _) in reader.problems.reasons.items()}
    return LoadedSuite(OWN_PAIRS._replace(name=name), cases, reasons, name)


def _case_of(pair: PreferencePair) -> Case:
    """A pair as a case of two; the first of its tags is its slice."""
    subset = next((pair.tags[column] for column in TAG_COLUMNS if column in pair.tags), "")
    return Case(
        prompt=pair.prompt,
        candidates=(pair.chosen, pair.rejected),
        messages=tuple(completion.answer for completion in pair.completions()),
        gold=(pair.preference, 1.0 - pair.preference),
        section="pairs",
        subset=subset,
        id=pair.id,
        tools=pair.tools,
        ground_truth=pair.ground_truth,
    )


def _parted(outcomes: Iterable[Case | str]) -> tuple[tuple[Case, ...], Mapping[str, int]]:
    cases: list[Case] = []
    reasons: Counter[str] = Counter()
    for outcome in outcomes:
        if isinstance(outcome, str):
            reasons[outcome] += 1
        else:
            cases.append(outcome)
    return tuple(cases), dict(reasons)
