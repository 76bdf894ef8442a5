"""From a name on the command line to a scorer, with its directory, its own data and the prompts that it was trained on.

    runs/mine   artifact/   their-model/   org/name   http://HOST:PORT   vllm+http://HOST:PORT   rule:answer   rule:module:function
    rubric.toml

Every command that measures starts here. Only `overlap` and `refuse_seen` check which prompts a model was trained on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from assay.console import say
from assay.data.pairs import read_pairs
from assay.data.raw.columns import NO_NAMES
from assay.data.raw.rows import slug
from assay.data.run_data import RunData, run_data
from assay.data.sampling import draw_pairs
from assay.data.set_aside import why_no_pairs
from assay.data.split import HasPrompt, Split, is_among, prompt_hashes, refuse_overlap
from assay.errors import DataError
from assay.models.published.published_steps import StepsAsked, as_text, form_of_files
from assay.records import Dtype, Finding, PreferencePair
from assay.rubrics.shipped import find_rubric, why_no_rubric
from assay.run_files import (
    ADOPTED,
    CALIBRATION_PROMPTS_FILE,
    UNKNOWN_PAST,
    artifact_path,
    holds_artifact,
    model_name,
    prompt_file,
    read_description,
)
from assay.scorers.base import HasAssumptions, HasBill, Scorer, TellsOutside, capability
from assay.scorers.form_specs import form_asked, refuse_form, written_form
from assay.scorers.generative.critics import GenerativeAsked, generative_text
from assay.scorers.generative.generative_forms import generative_form_of
from assay.scorers.generative.open_generative import is_generative, open_trained, trained_asked
from assay.scorers.http.engine_api import printable_url
from assay.scorers.judges.open_judge import is_judge
from assay.scorers.judges.options import JudgeOptions
from assay.scorers.load import (
    RECORDED,
    checkpoint_path,
    is_directory,
    is_recorded,
    is_rule,
    load,
    with_calibration,
    with_posterior,
)
from assay.scorers.rules import RULE, load_rule
from assay.scorers.verifiers.confined import RunCode

DATA_SET = "data set"  # tag of a pair of several sets
OVERLAP, CALIBRATED_HERE = "prompts that it was trained on", "prompts that it was calibrated on"


class Provenance(NamedTuple):
    """Sorted hashes (uint64) of the prompts that a scorer was trained and calibrated on; None where that is not known."""

    trained_on: np.ndarray | None
    calibrated_on: np.ndarray | None


class Overlap(NamedTuple):
    """is_seen (N,): whether the scorer was trained on the item's prompt. findings: what a report says about it. fact: the same in
    one sentence, also when it is not known."""

    is_seen: np.ndarray
    findings: tuple[Finding, ...]
    fact: str


class NamedPairs(NamedTuple):
    """Pairs, the name of their set, and the name under which their figures are kept. is_own: a split of the run's own data."""

    pairs: list[PreferencePair]
    name: str
    kept_as: str
    is_own: bool


def read_named(
    data: Sequence[str],
    *,
    form: str | None = None,
    strict: bool = False,
    limit: int | None = None,
    seed: int = 0,
    names: Mapping[str, str] = NO_NAMES,
) -> NamedPairs:
    """The pairs of one set or of several. Of several, each pair is tagged with its set, so that each set is a slice.

    limit: pairs of each set. names: what columns are, as `columns.renaming` gives it. Raises ValueError when a set holds no pairs.
    """
    pairs: list[PreferencePair] = []
    for name in data:
        reader = read_pairs(name, form=form, strict=strict, limit=limit, seed=seed, names=names)
        read = list(reader)
        say("read", f"{name}: {reader.summary()}")
        if not read:
            raise DataError(f"there are no pairs in {name}: leave it out, or give a file that has some\n{why_no_pairs([reader])}")
        pairs += [replace(pair, tags={**pair.tags, DATA_SET: slug(name)}) for pair in read] if len(data) > 1 else read
    return NamedPairs(pairs, " and ".join(Path(name).name for name in data), "-".join(slug(name) for name in data), False)


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A scorer by its name. Nothing is loaded until `scorer` or `raw` is read.

    spec: the name as given; label: the same without a token. name: for titles and files. artifact: its directory, None for a URL,
    a rule or another's checkpoint. checkpoint: the directory of that one. home: the directory that was given, where reports are
    kept without --out; None where there is no artifact. judge, ledger: of a rubric, see `load`. loaded: the artifact's scorer
    without its calibration where it is loaded already. format: of another's process model, see `load`.
    """

    spec: str
    name: str
    artifact: Path | None
    home: Path | None
    device: str = "auto"
    dtype: Dtype = "auto"
    max_tokens: int | None = None
    cache: Path | None = None
    checkpoint: Path | None = None
    judge: JudgeOptions | None = None
    ledger: Path | None = None
    run_code: RunCode = "never"
    loaded: Scorer | None = None
    format: str | None = None

    @property
    def label(self) -> str:
        return printable_url(self.spec)

    @cached_property
    def scorer(self) -> Scorer:
        """The scorer, calibrated where a calibration was saved."""
        if self.loaded is not None and self.artifact is not None:
            return with_calibration(with_posterior(self.loaded, self.artifact), self.artifact)
        if self.checkpoint is not None:
            return load(
                self.checkpoint,
                dtype=self.dtype,
                device=self.device,
                max_tokens=self.max_tokens,
                cache=self.cache,
                ledger=self.ledger,
                format=self.format,
            )
        if is_judge(self.spec) or self.judge is not None:
            return load(
                self.spec,
                dtype=self.dtype,
                device=self.device,
                max_tokens=self.max_tokens,
                cache=self.cache,
                judge=self.judge,
                ledger=self.ledger,
                run_code=self.run_code,
                format=self.format,
            )
        if self.artifact is None:
            return load(self.spec, cache=self.cache, run_code=self.run_code)
        return load(
            self.spec,
            dtype=self.dtype,
            device=self.device,
            max_tokens=self.max_tokens,
            cache=self.cache,
            ledger=self.ledger,
            format=self.format,
        )

    @cached_property
    def raw(self) -> Scorer:
        """The scorer without its calibration."""
        if self.loaded is not None:
            return self.loaded
        if self.artifact is None:
            return self.scorer
        if is_generative(read_description(self.artifact)):
            asked = form_asked(self.spec, self.format)[1]
            plan = (self.dtype, self.device, self.max_tokens)
            return open_trained(self.artifact, asked, dtype=plan[0], device=plan[1], max_tokens=plan[2], ledger=self.ledger)
        from assay.scorers.local import load_raw  # imports torch

        return load_raw(self.artifact, dtype=self.dtype, device=self.device, max_tokens=self.max_tokens)

    @property
    def fingerprint(self) -> str:
        """The fingerprint in reports: the artifact's, which does not depend on the number format; else the scorer's."""
        return self.scorer.fingerprint if self.artifact is None else str(read_description(self.artifact)["fingerprint"])

    @property
    def has_unknown_past(self) -> bool:
        """Whether it was trained on from another's model, of whose training prompts nothing is known."""
        is_read = self.artifact is not None and holds_artifact(str(self.artifact))
        return is_read and bool(read_description(str(self.artifact)).get(UNKNOWN_PAST))

    @property
    def assumed(self) -> Mapping[str, str]:
        """What had to be assumed of another's model, adopted or not: what -> how it is read. Empty for Assay's own."""
        if self.artifact is not None:
            return dict(read_description(self.artifact).get(ADOPTED, {}).get("assumed", {}))
        reader = capability(self.scorer, HasAssumptions) if self.checkpoint is not None else None
        return {} if reader is None else reader.assumed

    @property
    def facts(self) -> dict[str, str]:
        """What every report says of the scorer: its fingerprint, and how another's model is read."""
        read_as = "; ".join(f"{what}: {how}" for what, how in self.assumed.items())
        asked = capability(self.scorer, HasBill)
        bill = {} if asked is None else {"bill": asked.bill()}
        outside = {} if (said := self._outside()) is None else {"outside of the verdicts": said}
        return {"model": self.fingerprint, **({"read as": read_as} if read_as else {}), **bill, **outside}

    def say_bill(self) -> None:
        """Print what the calls of a judge came to, and how far it answers in verdicts; nothing for other scorers."""
        if (asked := capability(self.scorer, HasBill)) is not None:
            say("bill", asked.bill())
        if (said := self._outside()) is not None:
            say("verdicts", said)

    def _outside(self) -> str | None:
        told = capability(self.scorer, TellsOutside)
        return None if told is None else told.outside()

    @property
    def provenance(self) -> Provenance:
        if is_rule(self.spec):
            return Provenance(np.empty(0, np.uint64), np.empty(0, np.uint64))  # a rule is written, not trained
        if self.artifact is None:
            return Provenance(None, None)
        return Provenance(prompt_file(self.artifact), prompt_file(self.artifact, CALIBRATION_PROMPTS_FILE))

    def need_artifact(self, what: str) -> Path:
        """The artifact's directory. Raises ValueError where there is none. what: what needs the directory, for the message."""
        if self.checkpoint is not None:
            adopt = f"assay model adopt {self.spec} --out DIRECTORY"
            raise ValueError(f"{what} needs an artifact, and {self.label} is another's checkpoint: make one of it with {adopt}")
        if self.artifact is None:
            raise ValueError(f"{what} needs the model's own files, and {self.label} is not a run or an artifact on this machine")
        return self.artifact

    @property
    def own_data(self) -> RunData:
        """The data that the run was trained on. Raises ValueError for a URL or a rule: --data is needed."""
        if self.home is None:
            raise ValueError(f"{self.label} has no data of its own: give --data")
        return run_data(self.home)

    def own_pairs(self, split: Split, limit: int | None = None) -> NamedPairs:
        """The pairs of a split of the run's own data; with a limit whole prompts, drawn by the run's seed. Raises ValueError when
        there are none."""
        own = self.own_data
        pairs = list(own.pairs(split))
        if limit is not None and limit < len(pairs):
            drawn = draw_pairs(pairs, limit, seed=own.seed)
            say("read", f"{len(drawn):,} of the {len(pairs):,} pairs of the {split} split, drawn at random, whole prompts")
            pairs = drawn
        if not pairs:
            raise ValueError(f"there are no pairs in the {split} split of {self.label}: give --data")
        in_file = own.eval_data if split == "test" else None
        name, kept_as = (Path(in_file).name, slug(in_file)) if in_file else (f"the {split} split", split)
        return NamedPairs(pairs, name, kept_as, True)

    def report_home(self, out: Path | None) -> Path:
        """The directory that reports are kept in. Raises ValueError when there is neither --out nor a run directory."""
        home = out or self.home
        if home is None:
            raise ValueError(f"{self.label} has no directory to keep reports in: give --out DIRECTORY")
        return home


def open_scorer(
    spec: str | Path,
    *,
    device: str = "auto",
    dtype: Dtype = "auto",
    max_tokens: int | None = None,
    cache: Path | None = None,
    judge: JudgeOptions | None = None,
    ledger: Path | None = None,
    run_code: RunCode = "never",
    format: str | None = None,
) -> Opened:
    """What `spec` names; see `load` for its forms and arguments. Raises ValueError when it names nothing."""
    here = partial(Opened, spec=str(spec), device=device, dtype=dtype, max_tokens=max_tokens, cache=cache)  # what computes here
    if is_judge(spec):
        find_rubric(spec)  # what is wrong with it is reported before any data are read
        return here(name=slug(Path(spec).stem), artifact=None, home=None, judge=judge, ledger=ledger, run_code=run_code)
    at_endpoint = judge is not None and judge.judge_url is not None and is_directory(spec)
    if at_endpoint and (writes := written_form(spec, format)) is not None:
        name = slug(f"{writes[0].rstrip('/').split('/')[-1]}-{writes[1].name}")
        return here(name=name, artifact=None, home=None, judge=judge, ledger=ledger, format=format)
    if judge is not None and judge != JudgeOptions():
        raise ValueError(why_no_rubric(printable_url(str(spec))))
    if is_rule(spec):
        load_rule(str(spec), run_code=run_code)  # a wrong name is reported before any data are read
    if not is_directory(spec):
        label = _label_of(str(spec))
        return Opened(spec=str(spec), name=slug(label), artifact=None, home=None, cache=cache, run_code=run_code)
    spec, asked = form_asked(spec, format)
    if (checkpoint := checkpoint_path(spec)) is not None:
        form = None if asked is None or not asked.form else asked.form
        name = slug(str(spec).rstrip("/").split("/")[-1] + (f"-{form}" if form else ""))
        text = _form_text(checkpoint, str(spec), asked)
        return here(name=name, artifact=None, home=None, checkpoint=checkpoint, ledger=ledger, format=text)
    artifact = artifact_path(spec)
    if is_generative(read_description(artifact)):
        trained_asked(artifact, asked)
    else:
        refuse_form(spec, asked)
    return here(name=model_name(artifact), artifact=artifact, home=Path(spec), ledger=ledger, format=format)


def _form_text(checkpoint: Path, spec: str, asked: StepsAsked | GenerativeAsked | None) -> str | None:
    """What stands behind # for another's checkpoint, its form found: what is to be asked for is asked at once."""
    if isinstance(asked, GenerativeAsked) or (asked is None and generative_form_of(spec) is not None):
        known = generative_form_of(spec) if asked is None or not asked.form else None
        how = asked if isinstance(asked, GenerativeAsked) else GenerativeAsked()
        return generative_text(how if known is None else how._replace(form=known.name))
    form = None if asked is None or not asked.form else asked.form
    if form is None and (found := form_of_files(checkpoint, spec)) is not None:
        form = found.name
    return None if form is None and asked is None else as_text((asked or StepsAsked())._replace(form=form or ""))


def _label_of(spec: str) -> str:
    """What stands for a scorer that is no directory in titles and names of files."""
    if is_rule(spec):
        return re.sub(r"[^\w.-]+", "-", spec.removeprefix(RULE).replace(":", "."))  # a ? of settings would be a glob
    if is_recorded(spec):
        folder, _, judge = spec.removeprefix(RECORDED).partition("#")
        return f"{Path(folder).name}-{judge.replace('/', '-')}"
    return printable_url(spec).split("://", 1)[-1].partition("#")[0]


def overlap(opened: Opened, items: Sequence[HasPrompt], data: str, *, why: str = "figures on them are flattered") -> Overlap:
    """Which of N items have prompts that the scorer was trained on. When that is not known, none count, and a note is printed.

    data: the name of the items. why: what such prompts do to the figures. The findings also name prompts that it was calibrated on.
    """
    trained_on, calibrated_on = opened.provenance
    if trained_on is None:
        fact = f"{opened.label} does not say what it was trained on: an overlap with {data} would not be seen"
        say("note", fact)
        return Overlap(np.zeros(len(items), bool), (), fact)
    is_seen = np.fromiter((is_among(trained_on, item) for item in items), bool, len(items))
    findings, fact = [], "none" if not opened.has_unknown_past else "none that is known: what it started from was trained elsewhere"
    if num_seen := int(is_seen.sum()):
        fact = f"{num_seen:,} of {len(items):,} stand under prompts that the model was trained on"
        findings.append(Finding("warn", OVERLAP, num_seen, 0, f"{fact}: {why}"))
    num_calibrated = 0 if calibrated_on is None else len(np.intersect1d(calibrated_on, prompt_hashes(items)))
    if num_calibrated:
        flattered = "the model was calibrated on prompts of this set: its Brier score and ECE here are flattered"
        findings.append(Finding("warn", CALIBRATED_HERE, float(num_calibrated), 0.0, flattered, "calibration"))
    return Overlap(is_seen, tuple(findings), fact)


def refuse_seen(opened: Opened, items: Sequence[HasPrompt], data: str) -> None:
    """Raises DataError when the scorer was trained on a prompt of the items. When that is not known, nothing is raised."""
    trained_on = opened.provenance.trained_on
    if trained_on is not None:
        refuse_overlap(trained_on, items, train_name=f"the training set of {opened.label}", eval_name=data)
