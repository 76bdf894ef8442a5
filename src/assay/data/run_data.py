"""The data of a training run, read back from its config.json: which files it read, and which pair is in which split."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from assay.data.pairs import PairReader, read_pairs
from assay.data.raw.columns import renaming
from assay.data.split import HasPrompt, Split, is_among, split_of
from assay.data.steps.labelled_steps import LabelledSteps
from assay.data.steps.step_check import holds_steps
from assay.data.steps.step_rows import read_labelled_steps
from assay.records import PreferencePair
from assay.run_files import (
    ADOPTED,
    PROMPTS_FILE,
    UNKNOWN_PAST,
    artifact_path,
    holds_checkpoint,
    prompt_file,
    read_description,
)

NO_PROMPTS = np.empty(0, np.uint64)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunData:
    """Files of pairs and how they are split.

    names: what their columns are, as `columns.renaming` gives it. eval_data: file of pairs that takes the place of a test split.
    known_prompts: sorted hashes of prompts that the model which training starts from has seen; their pairs are in the training
    split.
    """

    files: tuple[str, ...]
    form: str | None
    names: Mapping[str, str]
    strict: bool
    limit: int | None
    seed: int
    calibration: float
    test: float
    eval_data: str | None
    known_prompts: np.ndarray

    def split_of(self, pair: HasPrompt) -> Split:
        """The split of a pair, or of a case."""
        if is_among(self.known_prompts, pair):
            return "train"  # the model to start from has seen this prompt: nothing can be measured on it
        test = 0.0 if self.eval_data is not None else self.test
        return split_of(pair.prompt, seed=self.seed, calibration=self.calibration, test=test)

    @property
    def has_steps(self) -> bool:
        """Whether its files are of labelled steps."""
        return any(holds_steps(path, self.form) for path in self.files)

    def solutions(self, split: Split) -> Iterator[LabelledSteps]:
        """The solutions of one split, read again from files of labelled steps."""
        if split == "test" and self.eval_data is not None:
            yield from read_labelled_steps(self.eval_data, form=self.form, strict=self.strict, names=self.names)
            return
        form, limit, strict, seed, names = self.form, self.limit, self.strict, self.seed, self.names
        for path in self.files:
            reader = read_labelled_steps(path, form=form, limit=limit, strict=strict, seed=seed, names=names)
            yield from (item for item in reader if self.split_of(item) == split)

    def readers(self) -> list[PairReader]:
        """The files, to be read."""
        form, limit, strict, seed, names = self.form, self.limit, self.strict, self.seed, self.names
        return [read_pairs(path, form=form, limit=limit, strict=strict, seed=seed, names=names) for path in self.files]

    def pairs(self, split: Split) -> Iterator[PreferencePair]:
        """The pairs of one split, read again from the files."""
        if split == "test" and self.eval_data is not None:
            yield from read_pairs(self.eval_data, form=self.form, strict=self.strict, names=self.names)
            return
        for reader in self.readers():
            yield from (pair for pair in reader if self.split_of(pair) == split)


def run_data(run: Path) -> RunData:
    """The data that a run directory was trained on. Raises ValueError when `run` is none, or was split by another rule."""
    file = run / "config.json"
    config = json.loads(file.read_text()).get("config") if file.is_file() else None
    if config is None:  # an artifact's config.json is transformers' own
        raise ValueError(f"{run} is no run directory, so its splits are not known: give --data")
    if not config.get("split_by_prompt", True):
        raise ValueError(f"{run} was split by a rule of its own, which config.json cannot repeat: give --data")
    start = config.get("init_from")
    return RunData(
        files=tuple(config["data"]),
        form=config.get("form"),
        names=renaming(config.get("columns", ()), config.get("ignore", ())),
        strict=bool(config.get("machine", config).get("strict", False)),
        limit=config.get("limit"),
        seed=int(config.get("seed", 0)),
        calibration=float(config["calibration"]),
        test=float(config["test"]),
        eval_data=config.get("eval_data"),
        known_prompts=NO_PROMPTS if start is None else known_prompts(Path(start)),
    )


def has_unknown_past(start: Path) -> bool:
    """Whether a model to start from is another's, adopted or not, or goes back to one: what it was trained on is not known."""
    if holds_checkpoint(start):
        return True
    description = read_description(artifact_path(start))
    return ADOPTED in description or bool(description.get(UNKNOWN_PAST))


@lru_cache(maxsize=2)
def known_prompts(start: Path) -> np.ndarray:
    """Sorted hashes of the prompts that the model to start from was trained on; none for another's model, which never says.

    Raises ValueError for a model of Assay's own that does not say.
    """
    if holds_checkpoint(start):
        return NO_PROMPTS
    artifact = artifact_path(start)
    prompts = prompt_file(artifact)
    if prompts is None and has_unknown_past(start):
        return NO_PROMPTS
    if prompts is None:
        raise ValueError(
            f"{artifact} does not say which prompts it was trained on ({PROMPTS_FILE} is missing): training cannot start from it"
        )
    return prompts
