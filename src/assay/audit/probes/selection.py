"""Which probes are tried: by name, with a user's own beside them, or those that failed in a report."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from types import FunctionType

from assay.audit.probes.alarm import Probe
from assay.audit.probes.battery import as_probe
from assay.wire import report_from_json


def load_probes(file: Path) -> tuple[Probe, ...]:
    """The probes of a Python file: its own public functions, in order, and every `Probe` that it names.

    The file is run, with all that this allows: give one that you wrote. Raises ValueError when it cannot be run or holds none.
    """
    if not file.is_file():
        raise ValueError(f"--probes {file}: there is no such file")
    spec = importlib.util.spec_from_file_location(f"assay_probes_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise ValueError(f"--probes {file}: it must be a Python file, with a name that ends in .py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(f"--probes {file}: it cannot be run: {error!r}") from error
    named = [value for name, value in vars(module).items() if not name.startswith("_")]
    probes = [value for value in named if isinstance(value, Probe)]
    taken = {probe.edit for probe in probes}
    functions = [value for value in named if isinstance(value, FunctionType) and value.__module__ == module.__name__]
    probes += [as_probe(function) for function in functions if function not in taken]
    if not probes:
        raise ValueError(f"--probes {file}: it defines no function (completion, rng) -> edited answer")
    return tuple(probes)


def chosen(probes: Sequence[Probe], only: Sequence[str]) -> tuple[Probe, ...]:
    """The probes of those names; all without names. Raises ValueError for a name that is none."""
    known = {probe.name: probe for probe in probes}
    wanted = [name.replace("_", " ") for name in only]
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise ValueError(f"there is no probe {', '.join(map(repr, unknown))}: there are {', '.join(known)}")
    return tuple(known[name] for name in wanted) or tuple(probes)


def failed_probes(file: Path) -> tuple[str, ...]:
    """Names of the probes that failed in a report of `assay audit probe`. Raises ValueError for a file that is none."""
    if not file.is_file():
        raise ValueError(f"--augment {file}: give probes, or a report of assay audit probe (eval/probes.json of a run)")
    try:
        report = report_from_json(file.read_text(encoding="utf-8"))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"--augment {file} is not a report of assay audit probe: {error!r}") from error
    return tuple(finding.name for finding in report.findings if finding.failure == "hacking" and finding.level == "fail")
