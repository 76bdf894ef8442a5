"""`assay drift`: keep what a model's own data look like to it, and hold new text against that.

A reference is kept under monitor/ of the artifact, by `assay train` or by `assay drift --fit`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, NamedTuple, cast

import numpy as np
import tyro

from assay.data.pairs import read_completions, read_pairs
from assay.data.split import is_among
from assay.errors import DataError
from assay.models.artifact import ENSEMBLE, MONITOR, PROMPTS_FILE, fingerprint, read_description
from assay.models.device import Dtype
from assay.models.member_files import member_paths
from assay.monitor.drift import NewSet, drift_report
from assay.monitor.reference import (
    MIN_PROMPTS,
    MOST_ROWS,
    HasStates,
    Observed,
    Reference,
    load_reference,
    make_reference,
    observe,
    save_reference,
)
from assay.records import Completion, PreferencePair, Report
from assay.report.html import write_html
from assay.scorers.load import artifact_path, load_raw
from assay.scorers.local import LocalScorer, load_local
from assay.workflows.chunks import CHUNK
from assay.workflows.rundir import prompt_file, split_pairs, write_report
from assay.workflows.settings import ModelPath, TrainConfig
from assay.workflows.show import progress, say
from assay.workflows.steps import slug

FIRST_READ = 20_000  # pairs of a large training set that a reference is drawn from


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftConfig:
    """Is new text still like the training data? Which sign tells?"""

    model: ModelPath
    """Run directory or artifact."""
    data: Annotated[tuple[str, ...], tyro.conf.arg(metavar="SET")]
    """Pairs or completions, each file a set of its own."""
    fit: bool = False
    """Make the reference from --data (the model's own data) and keep it; nothing is held against it."""
    limit: int = 500
    """Use so many rows of each set, drawn by prompt."""
    form: str | None = None
    """Form of the rows; found when left out."""
    seed: int = 0
    device: str = "auto"
    dtype: Dtype = "auto"
    """Number format of the backbone; auto is that of the reference."""

    def __post_init__(self) -> None:
        if not self.data:
            raise ValueError("--data names no set: give at least one file of pairs or completions")
        if self.limit < 1:
            raise ValueError(f"--limit {self.limit} must be at least 1")


class Rows(NamedTuple):
    """A set as it was read: completions, and the pairs where it is labelled (chosen and rejected are then in turn)."""

    completions: list[Completion]
    pairs: list[PreferencePair] | None


def drift(config: DriftConfig) -> Report | None:
    """Hold each set against the reference; the report is kept as eval/drift.json and as drift.html. With `fit`, the
    reference is made from the sets instead, and there is no report.

    Raises ValueError for a model without a reference, or with one of other weights.
    """
    path = artifact_path(config.model)
    if config.fit:
        fit_reference(config, path)
        return None
    reference = load_reference(path / MONITOR)
    fix = "make one: assay drift MODEL --fit --data SET, with the data that it was trained on"
    if reference is None:
        raise ValueError(f"{path} has no reference to hold anything against: {fix}")
    if reference.facts.get("model") != model_print(path):
        raise ValueError(f"the reference of {path} was made with other weights: {fix}")
    dtype = cast(Dtype, reference.facts.get("computed in", "auto")) if config.dtype == "auto" else config.dtype
    scorer, trained_on = state_scorer(path, dtype, config.device), prompt_file(path, PROMPTS_FILE)
    sets = []
    for name in config.data:
        rows = read_set(name, config.limit, form=config.form, seed=config.seed)
        known = sum(is_among(trained_on, pair) for pair in rows.pairs or ()) if trained_on is not None else 0
        if known:
            say("note", f"{known:,} pairs of {name} have prompts that the model was trained on: its accuracy there is flattered")
        sets.append(NewSet(name=slug(name), observed=observed(scorer, rows.completions, slug(name)), pairs=rows.pairs))
    report = drift_report(reference, sets, seed=config.seed, title="Drift")
    report = replace(report, facts={**report.facts, "model": str(read_description(path)["fingerprint"])})
    write_report(config.model, "drift", report)
    page = config.model / "drift.html"
    write_html(page, [report], f"Drift of {config.model.name}")
    say("page", str(page))
    return report


def fit_reference(config: DriftConfig, path: Path) -> Reference:
    """Make the reference of an artifact from sets of its own data, and keep it.

    The bank is of prompts that it was trained on, the held-back rows of others, where the sets have both; else the prompts are
    parted at random.
    """
    completions = [c for name in config.data for c in read_set(name, config.limit, form=config.form, seed=config.seed).completions]
    trained_on = prompt_file(path, PROMPTS_FILE)
    keys = {completion.messages: PreferencePair(prompt=completion.messages, chosen="", rejected="") for completion in completions}
    seen = {messages for messages, pair in keys.items() if trained_on is not None and is_among(trained_on, pair)}
    note = "bank: prompts that it was trained on; held back: others"
    if not MIN_PROMPTS <= len(seen) <= len(keys) - MIN_PROMPTS:
        known = "all prompts were trained on" if seen else "none of the prompts is known to be trained on"
        note = f"{known}: parted at random, so that text that the model has not seen may look a little new" if seen else known
        order = np.random.default_rng(config.seed).permutation(len(keys))
        messages = list(keys)
        seen = {messages[i] for i in order[: len(order) // 2]}
    bank = _drawn([c for c in completions if c.messages in seen], MOST_ROWS, config.seed)
    held = _drawn([c for c in completions if c.messages not in seen], MOST_ROWS, config.seed)
    names = ", ".join(slug(name) for name in config.data)
    return keep_reference(path, bank, held, data=names, note=note, dtype=config.dtype, device=config.device)


def reference_of_run(config: TrainConfig, path: Path, dtype: str) -> None:
    """Keep the reference of a run that was just saved: a bank of its training pairs, held-back rows of its calibration split.

    Says why when there are too few prompts for one.
    """
    each = config.machine.reference // 2
    if not each:
        return
    parts = []
    for split in ("train", "calibration"):
        pairs = itertools.islice(split_pairs(config, split), FIRST_READ)
        parts.append(_drawn([c for pair in pairs for c in pair.completions()], min(each, MOST_ROWS), config.seed))
    fewest = min(len({completion.messages for completion in part}) for part in parts)
    if fewest < MIN_PROMPTS:
        say("no reference", f"{fewest} prompts of the training or the calibration split: {MIN_PROMPTS} are needed for assay drift")
        return
    note = "bank: training split; held back: calibration split"
    try:
        keep_reference(path, *parts, data="its own", note=note, dtype=cast(Dtype, dtype), device=config.machine.device)
    except ValueError as error:  # too few of them could be scored
        say("no reference", str(error))


def keep_reference(
    path: Path, bank: Sequence[Completion], held: Sequence[Completion], *, data: str, note: str, dtype: Dtype, device: str
) -> Reference:
    """Score both samples, and keep the reference under monitor/ of the artifact. Raises as `make_reference`."""
    scorer = state_scorer(path, dtype, device)
    facts = {
        "model": model_print(path),
        "data": data,
        "computed in": str(scorer.model.compute_dtype).removeprefix("torch."),
        "note": note,
    }
    reference = make_reference(observed(scorer, bank, "reference"), observed(scorer, held, "held back"), facts)
    save_reference(path / MONITOR, reference)
    sizes = f"{len(reference.bank):,} answers in the bank, {len(reference.held):,} held back"
    say("reference", f"{sizes} -> {path / MONITOR}")
    return reference


def model_print(path: Path) -> str:
    """Fingerprint of an artifact without its calibration, which leaves rewards and states as they are."""
    return fingerprint({**read_description(path), "calibration": None})


def state_scorer(path: Path, dtype: Dtype, device: str) -> LocalScorer:
    """The scorer whose hidden states are watched; of an ensemble of whole models the first member, without a std."""
    if read_description(path).get(ENSEMBLE, {}).get("form") == "models":
        return load_local(member_paths(path)[0], dtype=dtype, device=device)
    return cast(LocalScorer, load_raw(path, dtype=dtype, device=device))


def observed(scorer: HasStates, completions: Sequence[Completion], label: str) -> Observed:
    """`observe`, a chunk at a time with a progress bar, each text scored once."""
    unique = list({completion.key: completion for completion in completions}.values())
    if not unique:
        raise ValueError(f"{label} holds no answer")
    parts = []
    with progress(label, len(unique), "answers") as advance:
        for start in range(0, len(unique), CHUNK):
            parts.append(observe(scorer, unique[start : start + CHUNK]))
            advance(len(parts[-1]))
    place = {completion.key: i for i, completion in enumerate(unique)}
    whole = Observed(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in Observed.__slots__})
    return whole.take(np.array([place[completion.key] for completion in completions]))


def read_set(name: str, limit: int, *, form: str | None = None, seed: int = 0) -> Rows:
    """At most `limit` pairs of a set, or completions where it holds no pairs, drawn by prompt from the first 20,000."""
    try:
        reader = read_pairs(name, form=form)
        pairs = list(itertools.islice(reader, FIRST_READ))
    except DataError as error:
        try:
            completions = [item for _, item in itertools.islice(read_completions(name), FIRST_READ) if isinstance(item, Completion)]
        except DataError:
            raise error from None
        say("read", f"{name}: {len(completions):,} completions")
        return Rows(_drawn(completions, limit, seed), None)
    say("read", f"{name}: {reader.summary()}")
    order = _order([pair.prompt_key for pair in pairs], seed)[:limit]
    kept = [pairs[i] for i in order]
    return Rows([completion for pair in kept for completion in pair.completions()], kept)


def _drawn(completions: Sequence[Completion], limit: int, seed: int) -> list[Completion]:
    """At most `limit` completions, each text once, whole prompts in a drawn order."""
    unique = list({completion.key: completion for completion in completions}.values())
    return [unique[i] for i in _order([completion.messages or completion.key for completion in unique], seed)[:limit]]


def _order(keys: Sequence[object], seed: int) -> list[int]:
    """Row numbers, prompt by prompt in a drawn order."""
    first: dict[object, int] = {}
    for key in keys:
        first.setdefault(key, len(first))
    place = np.random.default_rng(seed).permutation(len(first))
    return sorted(range(len(keys)), key=lambda i: place[first[keys[i]]])
