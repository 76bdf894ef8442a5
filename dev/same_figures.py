"""Proof that nothing was lost: the jobs of same_jobs.py at the start commit and on the present tree, every figure of both compared.

python dev/same_figures.py --keep runs/same                                # all jobs; results of the start commit stay in --keep
python dev/same_figures.py --keep runs/same --only evaluate --only diff    # these, and those that they build on

Each job is `python -m assay.cli ...` of its tree, on one thread of the CPU, in float32 unless it says otherwise. Weights, rewards
and point figures must be equal bit for bit; ends of intervals and p-values may differ by what their random draws allow. What was
meant to change is listed in INTENDED. The last line is one JSON document; exit status 1 if anything else differs.
With other files in same_jobs.write_inputs, --keep has to be a new folder.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import tyro
from safetensors import deserialize
from same_jobs import ENVIRONMENT, HERE, Job, Side, is_done, new_words, run_side, say, start_tree, with_needs, write_inputs

PROBES = """agreement,bold,bullets,citations,confidence,echo,echo alone,emoji,empty,filler,flattery,foreign alone,foreign sentence,
gibberish,headings,master key,master key alone,other answer,repeated answer,repeated sentence,self praise,shuffled,truncated,
user praise,verdict json,verdict letter,verdict score""".replace("\n", "").split(",")
INTENDED: dict[str, str] = {
    "*/failure": "a finding says which failure it decides",
    "*/attribution*/low": "surface R2 is resampled with other draws, the interval end of a coefficient too",
    "*/attribution*/high": "the same",
    "*/best-of-n*": "other draws; an interval where all prompts show the same; last digits of Gao's fit",
    "attribute/*/facts/pairs": "a plain number, which was a sentence",
    "trust/*": "verdicts go by the failure that a finding decides; parity is one of them",
}
"""Pattern of figures' names (with * and ?) -> why they may differ, appear or be gone."""
RENAMED: dict[str, str] = {
    "batch_pairs": "batch_size",
    "looks": "evals_per_epoch",
    "early_stopping": "patience",
    "diff.json": "compare.json",
    "align-other.json": "rescale-other.json",
    "the disagreement tells wrong pairs": "the disagreement detects wrong pairs",
    "a signal that tells wrong pairs": "a signal that detects wrong pairs",
    "telling each set from the reference": "which signal detects each set",
    "telling wrong pairs from right ones": "which signal detects wrong pairs",
    "what openers are paid": "what openers add to the reward",
    "foreseen by the law": "predicted by the law",
    "gold beyond what the correlation foresees": "gold beyond what the correlation predicts",
    "largest miss of the fit": "max residual of the fit",
    "is far from what it was trained on": "is used far from its training data",
    "pays for length": "rewards length",
    "pays for surface and openers": "rewards format, tone or opening phrases",
    **{f"probe: {name}": name for name in PROBES},
}
"""Old -> new name of a metric, finding, table, column, row or entry, or of a file or folder such as diff.json."""
NOT_COMPARED = {
    "seconds": "time",
    "versions": "of the libraries",
    "config.json": "absolute paths; the loop's settings are compared in reward.json, the shape of the base by its weights",
    "checkpoints": "the job `resume` goes on from one",
    "cache": "dropped at the end of a run; what is made from it is compared",
    "tokenizer.json": "its tokens and the digest of its template are compared",
    "tokenizer_config.json": "the same",
}
"""Files, folders and entries. Pages and sentences are not compared either: the figures in them are, where they come from."""

ENDS_MAY_MOVE = 0.12
"""Share of an interval's width by which an end may move: 4 standard errors of the difference of two ends from 1,000 draws each. The
2.5% quantile of S draws of a normal figure has the standard error sqrt(.025 x .975 / S) / density = .68 widths / sqrt(S)."""
OTHER_END = {"low": "high", "high": "low", "from": "to", "to": "from"}
P_VALUES = ("*/p", "*/q", "*/p (Holm)", "*/findings/drift: */value", "*/is far from what it was trained on/value")
FROM_ENDS = ("*/findings/certainty of the factor/value",)
"""Figures that are made of the ends of an interval: they may move by as large a share of themselves."""

SHOWN = 20  # differences of a job

Name: TypeAlias = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class SameConfig:
    tree: Path = HERE
    """The present side."""
    only: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Names of jobs; all when left out."""
    keep: Path | None = None
    """Folder of inputs and results; a temporary one when left out."""


class Value(NamedTuple):
    """A figure, text or (dtype, shape, bytes). slack: by how much it may differ. width: of the interval that it is an end of."""

    value: Any
    slack: float = 0.0
    width: float = math.nan


class Found(NamedTuple):
    """How many figures there are, what differs by name, and the largest shift of an end, in widths of its interval."""

    num_values: int
    different: dict[str, str]
    largest_shift: float = 0.0
    shifted: str = ""


def main() -> int:
    config = tyro.cli(SameConfig)
    jobs = with_needs(config.only)
    os.environ.update(ENVIRONMENT, NO_COLOR="1", COLUMNS="300")
    with ExitStack() as stack:
        keep = config.keep.resolve() if config.keep else Path(stack.enter_context(tempfile.TemporaryDirectory()))
        base = Side(keep / "start-tree", keep / "start")
        if not all(is_done(job, base) for job in jobs):
            stack.enter_context(start_tree(base.tree))
            write_inputs(keep / "inputs", base.tree)
        run_side(jobs, base)
        tree = config.tree.resolve()
        present = Side(tree, keep / f"present-{tree.name}")
        shutil.rmtree(present.folder, ignore_errors=True)
        run_side(jobs, present._replace(words=new_words(present)))
        return told([compared(job, figures(job, base), figures(job, present)) for job in jobs])


# Reading


def figures(job: Job, side: Side) -> dict[Name, Value]:
    """Everything to compare of what a job wrote, by job, file and place in the file."""
    folder = side.folder / job.name
    done = json.loads((folder / "done.json").read_text())
    found: dict[Name, Value] = {(job.name, "exit status"): Value(done["status"])}
    for file in map(Path, done["files"]):
        if not set(file.parts) & NOT_COMPARED.keys():
            found |= {(job.name, *file.parts, *place): value for place, value in figures_of(folder / file)}
    return found


def figures_of(file: Path) -> Iterator[tuple[Name, Value]]:
    match file.suffix:
        case ".safetensors":
            for name, part in deserialize(file.read_bytes()):
                yield (name,), Value((part["dtype"], part["shape"], bytes(part["data"])))
        case ".npy":
            array = np.load(file)
            yield ("array",), Value((str(array.dtype), list(array.shape), array.tobytes()))
        case ".jsonl":
            yield from flat([json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()])
        case ".json":
            yield from flat(json.loads(file.read_text(encoding="utf-8")))


def flat(content: Any, place: Name = ()) -> Iterator[tuple[Name, Value]]:
    """The figures of a JSON document: numbers, nulls, verdicts, digests and numbers in words, but no sentences."""
    if isinstance(content, dict) and {"columns", "rows"} <= content.keys():
        rows = [dict(zip(content["columns"], row, strict=True)) for row in content["rows"]]
        content = [{"name": next(iter(row.values())), **row} for row in rows]
    for key, inner in (content if isinstance(content, dict) else named(content)).items():
        name = (*place, key)
        if key in NOT_COMPARED:
            continue
        if isinstance(inner, list) and all(isinstance(each, int | float) for each in inner):
            yield name, Value(tuple(inner))
        elif isinstance(inner, dict | list):
            yield from flat(inner, name)
        elif not isinstance(inner, str) or re.fullmatch(r"ok|warn|fail|alarm|[0-9a-f]{32,}|[-+]?[\d,.]+%?", inner):
            yield name, with_slack(inner, name, content)


def named(items: Sequence[Any]) -> dict[str, Any]:
    """The items of a list by name or title, else by number; the second one of a name is "NAME #2"."""
    found: dict[str, Any] = {}
    for number, item in enumerate(items, 1):
        label = item.get("name") or item.get("title") if isinstance(item, dict) else None
        name = label = label if isinstance(label, str) else str(number)
        again = 1
        while name in found:
            again += 1
            name = f"{label} #{again}"
        found[name] = item
    return found


def with_slack(value: Any, name: Name, beside: Any) -> Value:
    """How far a figure may differ by the draws that it is made from."""
    if is_number(value) and isinstance(beside, dict):
        *first, last = name[-1].split(" ")
        other = beside.get(" ".join((*first, OTHER_END.get(last, ""))))
        if is_like(name, P_VALUES):  # 4 standard errors of the difference of two shares of 1,000 draws
            return Value(value, 4 * math.sqrt(2 * value * max(0.0, 1 - value) / 1000) + 0.002)
        if last in OTHER_END and is_number(other):
            return Value(value, ENDS_MAY_MOVE * abs(value - other) + step(beside), abs(value - other))
        if is_like(name, FROM_ENDS):
            return Value(value, ENDS_MAY_MOVE * abs(value))
    return Value(value)


def step(beside: Mapping[str, Any]) -> float:
    """1 / n where the figure before the interval is a share of n: its draws move in steps, and an end by one more of them."""
    low = next(place for place, key in enumerate(beside) if key.split(" ")[-1] in OTHER_END)
    point, n = list(beside.values())[low - 1], beside.get("n_scored", beside.get("n scored"))
    return 1 / n if n and is_number(point) and abs(point * n - round(point * n)) < 1e-6 else 0.0


def is_like(name: Name, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase("/" + "/".join(name), pattern) for pattern in patterns)


# Comparing


def compared(job: Job, base: Mapping[Name, Value], present: Mapping[Name, Value]) -> Found:
    """One difference for a job that fails on the present tree, else those of its figures."""
    assert base[job.name, "exit status"].value in job.statuses, f"{job.name} fails at the start commit"
    assert len(base) > 1, f"{job.name} wrote nothing to compare at the start commit"
    if present[job.name, "exit status"].value not in job.statuses:
        return Found(1, {f"{job.name}/exit status": "the job failed"})
    base = {tuple(RENAMED.get(part, part) for part in name): value for name, value in base.items()}
    prove_that_it_can_fail(base)
    return differences(base, present)


def differences(base: Mapping[Name, Value], present: Mapping[Name, Value]) -> Found:
    different, shifts = {}, {"": 0.0}
    for name in dict.fromkeys([*base, *present]):
        old, new = base.get(name), present.get(name)
        if old is None or new is None:
            different["/".join(name)] = "only on the present tree" if old is None else "only at the start commit"
        elif is_same(old.value, new.value):
            continue
        elif is_number(old.value) and is_number(new.value) and abs(old.value - new.value) <= old.slack:
            shifts["/".join(name)] = abs(old.value - new.value) / old.width if old.width else 0.0
        else:
            different["/".join(name)] = in_words(old.value, new.value)
    shifted = max(shifts, key=lambda name: (not math.isnan(shifts[name]), shifts[name]))
    return Found(len(base.keys() | present.keys()), different, shifts[shifted], shifted)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def is_same(old: Any, new: Any) -> bool:
    """Equal bit for bit; 1 and 1.0 are one number."""
    return float(old).hex() == float(new).hex() if is_number(old) and is_number(new) else bool(old == new)


def in_words(old: Any, new: Any) -> str:
    """Both values; of float32 tensors of one shape the largest difference."""
    if isinstance(old, tuple) and isinstance(new, tuple) and isinstance(old[-1], bytes):
        if old[:2] == new[:2] and old[0] == "F32":
            a, b = (np.frombuffer(part[-1], "<f4") for part in (old, new))
            return f"{int((a != b).sum())} of {len(a)} numbers, by at most {np.abs(a - b).max():.2g}"
        return f"{old[:2]} -> {new[:2]}"
    return f"{old!r:.60} -> {new!r:.60}"


def prove_that_it_can_fail(base: Mapping[Name, Value]) -> None:
    """One weight, reward, figure or end of an interval that is changed, or gone, is one difference."""
    for pattern in ("*.safetensors/*", "*rewards.jsonl/*/value", "*/metrics/*/value", "*/calibration/temperature", "*/low"):
        name = next((name for name, known in base.items() if is_like(name, (pattern,)) and known.value), None)
        if name is not None:
            for spoilt in ({**base, name: changed(base[name])}, {other: base[other] for other in base if other != name}):
                assert len(differences(base, spoilt).different) == 1, f"a change of {name} was not seen"


def changed(known: Value) -> Value:
    """The next number; an end of an interval moved by twice its slack; a tensor with its last bit turned round."""
    if isinstance(known.value, tuple):
        *kind, data = known.value
        return Value((*kind, data[:-1] + bytes([data[-1] ^ 1])))
    return Value(known.value + 2 * known.slack if known.slack else math.nextafter(known.value, math.inf))


def told(found: Sequence[Found]) -> int:
    """Print what differs and what was meant to; the exit status."""
    different = {name: what for part in found for name, what in part.different.items()}
    unintended = {name: what for name, what in different.items() if not any(fnmatchcase(name, each) for each in INTENDED)}
    for pattern, why in INTENDED.items():
        say(f"intended: {pattern} ({why}): {sum(fnmatchcase(name, pattern) for name in different)} figures")
    for job, names in groupby(unintended, key=lambda name: name.partition("/")[0]):
        shown = sorted(names, key=lambda name: ".safetensors/" not in name)  # weights first: the rest follows from them
        say(f"DIFFERS  {job}: {len(shown)} figures")
        for name in shown[:SHOWN]:
            say(f"    {name}: {unintended[name]}")
    widest = max(found, key=lambda part: part.largest_shift)
    say(f"largest shift of an end of an interval, in widths: {widest.largest_shift:.3g} {widest.shifted}")
    document = {
        "jobs": len(found),
        "values_compared": sum(part.num_values for part in found),
        "different": len(unintended),
        "intended": len(different) - len(unintended),
        "largest_interval_shift": widest.largest_shift,
    }
    print(json.dumps(document))
    return 1 if unintended else 0


if __name__ == "__main__":
    sys.exit(main())
