"""Two models on the same pairs: what changed from A to B, and whether that is a regression."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, cast

import numpy as np
import tyro

from assay.data.pairs import read_pairs
from assay.data.split import prompt_hashes, refuse_overlap
from assay.evaluation.compare import Side, compare_margins
from assay.models.artifact import PROMPTS_FILE, read_description
from assay.models.device import Dtype, pick_compute
from assay.records import Finding, PreferencePair, Report
from assay.report.html import write_html
from assay.scorers.calibrate import Calibrated
from assay.scorers.load import artifact_path, load
from assay.workflows.rundir import prompt_file, write_report
from assay.workflows.show import say
from assay.workflows.steps import CALIBRATION_PROMPTS_FILE, score_margins, slug

DATA_SET = "data set"


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffConfig:
    """Compare two models on the same pairs; exit status 5 if B is worse."""

    a: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="A")]
    """Run directory or artifact: the model that is in use."""
    b: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="B")]
    """Run directory or artifact: the one that is to replace it."""
    data: tuple[str, ...]
    """Pairs, prompts that neither was trained on; several sets are pooled, and each is a slice."""
    out: Path | None = None
    """Directory of report.html and eval/diff.json; beside B when left out."""
    fdr: float = 0.05
    """B is worse if its accuracy is lower with p <= this over all pairs, or q <= this in a slice."""
    drop: float = 0.0
    """And lower by this or more: 0.01 is one point."""
    limit: int | None = None
    """Use the first pairs of each set only."""
    form: str | None = None
    """Form of the rows; recognised by the columns when left out."""
    seed: int = 0
    """Of the intervals."""
    device: str = "auto"
    """Where to score, such as cpu or cuda."""
    dtype: Dtype = "auto"
    """Number format of both backbones; auto probes the machine once."""


def diff(config: DiffConfig) -> Report:
    """Score all pairs with A, then with B; the report of `compare_margins` is kept as JSON and as a page.

    Raises ValueError when there are no pairs or a flag makes no sense, DataError when a model was trained on prompts of the pairs.
    """
    for name, value in (("fdr", config.fdr), ("drop", config.drop)):
        if not 0 <= value <= 1:
            raise ValueError(f"--{name} {value:g} lies outside [0, 1]: it is a share, such as 0.05")
    paths = artifact_path(config.a), artifact_path(config.b)
    pairs, names = _pairs(config), " and ".join(Path(data).name for data in config.data)
    for path in paths:
        _refuse_training_prompts(path, pairs, names)
    compute = pick_compute(config.device, config.dtype)  # once: a probe for each model could choose two formats
    dtype = cast(Dtype, str(compute.dtype).removeprefix("torch."))
    a, b = (
        _side(path, pairs, dtype, str(compute.device), label) for path, label in zip(paths, ("scoring A", "scoring B"), strict=True)
    )
    label_a, label_b = _label(paths[0]), _label(paths[1])
    report = compare_margins(
        a, b, pairs, title=f"{label_b} (B) against {label_a} (A)", fdr=config.fdr, drop=config.drop, seed=config.seed
    )
    prints = [str(read_description(path)["fingerprint"]) for path in paths]
    facts = {"A": f"{label_a}, {prints[0]}", "B": f"{label_b}, {prints[1]}", "data": names, "computed in": dtype}
    report = replace(report, facts={**facts, **report.facts}, findings=(*report.findings, *_seen_in_calibration(paths, pairs)))
    out = config.out or config.b.parent / slug(f"diff-{label_a}-{label_b}")
    write_report(out, "diff", report)
    write_html(out / "report.html", [report], report.title)
    say("report", str(out / "report.html"))
    return report


def _pairs(config: DiffConfig) -> list[PreferencePair]:
    """The pairs of all sets; of several, each pair is tagged with its set."""
    pairs: list[PreferencePair] = []
    for data in config.data:
        reader = read_pairs(data, form=config.form, limit=config.limit, seed=config.seed)
        read = list(reader)
        say("read", f"{data}: {reader.summary()}")
        if not read:
            raise ValueError(f"there are no pairs in {data}: leave it out, or give a file that has some")
        several = len(config.data) > 1
        pairs += [replace(pair, tags={**pair.tags, DATA_SET: slug(data)}) for pair in read] if several else read
    if not pairs:
        raise ValueError("--data names no file: give at least one file of preference pairs")
    return pairs


def _refuse_training_prompts(path: Path, pairs: list[PreferencePair], names: str) -> None:
    trained_on = prompt_file(path, PROMPTS_FILE)
    if trained_on is None:
        say("note", f"{path} does not say what it was trained on: an overlap with {names} would not be seen")
    else:
        refuse_overlap(trained_on, pairs, train_name=f"the training set of {path}", eval_name=names)


def _side(path: Path, pairs: list[PreferencePair], dtype: Dtype, device: str, label: str) -> Side:
    scorer = load(path, dtype=dtype, device=device)
    margins_P = score_margins(scorer, pairs, label)
    return Side(margins_P, scorer.calibration.probability(margins_P) if isinstance(scorer, Calibrated) else None)


def _seen_in_calibration(paths: tuple[Path, Path], pairs: list[PreferencePair]) -> tuple[Finding, ...]:
    """A warning for each model whose calibration saw prompts of these pairs."""
    findings, hashes = [], prompt_hashes(pairs)
    for path, which in zip(paths, "AB", strict=True):
        known = prompt_file(path, CALIBRATION_PROMPTS_FILE)
        shared = 0 if known is None else len(np.intersect1d(known, hashes))
        if shared:
            why = f"{which} was calibrated on prompts of these pairs: its Brier score and ECE are flattered"
            findings.append(Finding("warn", "prompts that it was calibrated on", float(shared), 0.0, why))
    return tuple(findings)


def _label(path: Path) -> str:
    """The name of a model: that of its directory, or of the run around it."""
    resolved = path.resolve()
    return resolved.parent.name if resolved.name == "artifact" else resolved.name
