"""`assay rl refresh`: a policy, and a reward model that is trained anew on what it says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from assay.bulk.label import open_labeller
from assay.commands.shared import Columns, Ignored, Where, keep, show
from assay.console import say
from assay.data.raw.columns import renaming
from assay.generation.ledger import Ledger
from assay.report.html import write_html
from assay.rl.evaluations import EVALUATIONS
from assay.rl.loop.beginnings import evidence_of
from assay.rl.loop.policy_flags import Penalty, PolicyFlags, read_split
from assay.rl.loop.policy_result import policy_result
from assay.rl.refresh.refresh_result import refresh_result
from assay.rl.refresh.refresh_settings import PEOPLE, RefreshRun, RefreshSettings, ServedModel
from assay.rl.refresh.refresh_state import stretch_path
from assay.rl.refresh.refreshing import refresh
from assay.run_files import LEDGER
from assay.scorers.base import Scorer
from assay.scorers.judges.open_judge import is_judge
from assay.scorers.judges.options import JudgeOptions

WAITS, WORSE = 9, 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Others:
    """The labeller, where it is a rubric, and a service that gets each promoted model."""

    judge_model: str | None = None
    """Language model in this process, or with --judge-url its name there."""
    judge_url: str | None = None
    """OpenAI-compatible endpoint, such as http://127.0.0.1:8000/v1."""
    key_env: str | None = None
    """Name of the variable that holds the key of --judge-url."""
    judge_budget: float | None = None
    """US dollars that all labels may cost at most."""
    service: str | None = None
    """URL of the service; its admin token is read from ASSAY_ADMIN_TOKENS."""
    service_model: str | None = None
    """Name of the model there; may be left out where one is served."""
    models_dir: Path | None = None
    """The directory that the service loads from, on this machine."""

    def __post_init__(self) -> None:
        if (self.service is None) != (self.models_dir is None):
            raise ValueError("--service and --models-dir go together: where the service is, and the directory that it loads from")

    @property
    def judging(self) -> JudgeOptions:
        return JudgeOptions(
            judge_model=self.judge_model, judge_url=self.judge_url, key_env=self.key_env, judge_budget=self.judge_budget
        )

    @property
    def served(self) -> ServedModel | None:
        if self.service is None or self.models_dir is None:
            return None
        return ServedModel(url=self.service, models_dir=self.models_dir, name=self.service_model)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Train a policy, and its reward model anew on what it says; goes on where it was (docs/rl.md).

    Exit status 9 when people have to label, 5 when it stops since the new model is worse.
    """

    policy: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="POLICY")]
    """Directory, hub id, .gguf or package:NAME of a causal language model."""
    reward: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Run directory of assay train: the first reward model, with its data."""
    prompts: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="PROMPTS")]
    """File of prompts; a tenth is held out to look at, by the hash of the prompt."""
    labeller: str
    """What labels new pairs: a rubric, any scorer, or people (a file to fill in)."""
    gold: str | None = None
    """A scorer that is trusted, for figures alone."""
    anchor: str | None = None
    """By what the policy is held against its past; --gold if left out."""
    roll_back: int | None = None
    """Number of a refresh whose reward model is taken back first."""
    limit: int | None = None
    """Take the first so many prompts."""
    columns: Columns = ()
    """Such as prompt=problem ground_truth=solution (docs/data.md)."""
    ignore: Ignored = ()
    """Columns to leave out."""
    seed: int = 0
    """Of all draws."""
    refresh: RefreshSettings = field(default_factory=RefreshSettings)
    training: PolicyFlags = field(default_factory=PolicyFlags)
    penalty: Penalty = field(default_factory=Penalty)
    others: Others = field(default_factory=Others)
    where: Where = field(default_factory=Where)

    def __post_init__(self) -> None:
        if self.where.out is None:
            raise ValueError("--out DIRECTORY is needed: all that is made is kept there, and a call that goes on finds it there")

    @property
    def out(self) -> Path:
        """The directory of all of it."""
        assert self.where.out is not None
        return self.where.out


def run(config: Config) -> int:
    """Train and refresh, or go on with it; keep the page, and show what came of it."""
    asked = refresh_run(config)
    done = refresh(asked, roll_back=config.roll_back)
    title = f"Refresh: {Path(config.policy).name} and {config.reward.name}"
    result = refresh_result(asked, done.state, title=title)
    reports = [keep(result, config.out, "refresh")]
    last = stretch_path(config.out, done.state.stretch)
    if (last / EVALUATIONS).is_file() and done.waiting is None:
        name = config.anchor or config.gold or ""
        facts = {"policy": config.policy, "directory": str(last)}
        title_of_it, ground = "The policy under its last reward model", evidence_of(last)
        found = policy_result(last, title=title_of_it, facts=facts, ground=ground, anchor=name, seed=config.seed)
        reports.append(found.report())
        say("policy", str(last / "policy"))
    write_html(config.out / "refresh.html", reports, title)
    if done.waiting is not None:
        say("waiting", done.waiting)
        return WAITS
    show(reports, verbose=config.where.verbose, page=config.out / "refresh.html")
    return WORSE if done.state.doing == "stopped" else 0


def refresh_run(config: Config) -> RefreshRun:
    """What is asked for, opened and read as far as nothing is computed yet."""
    names = renaming(config.columns, config.ignore)
    trained_on, held_out = read_split(config.prompts, config.training.held_out, limit=config.limit, names=names)
    gold, anchor = (None if spec is None else config.where.open(spec).scorer for spec in (config.gold, config.anchor))
    return RefreshRun(
        policy=config.policy,
        reward=config.reward,
        prompts=trained_on,
        held_out=held_out,
        out=config.out,
        settings=config.refresh,
        labeller=_labeller(config),
        labeller_name=config.labeller,
        policy_settings=config.training.settings(config.penalty.settings, config.seed),
        gold=gold,
        anchor=anchor,
        service=config.others.served,
        device=config.where.device,
        dtype=config.where.dtype,
    )


def _labeller(config: Config) -> Callable[[], Scorer] | None:
    """What opens the labeller when there is something to label; a name that is none is refused now."""
    where, judging = config.where, config.others.judging
    if config.labeller == PEOPLE:
        if judging != JudgeOptions():
            raise ValueError(f"{' '.join(judging.flags)} is of a judge: leave it out with --labeller people")
        return None
    judged = is_judge(config.labeller)
    opened = where.open(config.labeller, judge=judging if judged or judging != JudgeOptions() else None)
    if not judged:
        return lambda: opened.scorer

    def open_judge() -> Scorer:
        return open_labeller(config.labeller, judging, Ledger(config.out / LEDGER), device=where.device, dtype=where.dtype)

    return open_judge
