"""`assay rl train`: a policy trained against a scorer, with gold and its own past beside."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from assay.audit.watch import WatchSettings
from assay.audit.watch_log import watch_log
from assay.commands.shared import Columns, Ignored, Where, keep, show
from assay.console import say
from assay.data.raw.columns import renaming
from assay.data.steps.step_rules import StepRule
from assay.rl.loop.loop_settings import PolicySettings
from assay.rl.loop.policy_flags import Penalty, PolicyFlags, read_split
from assay.rl.loop.policy_result import policy_result
from assay.rl.loop.train_policy import PolicyRun, train_policy
from assay.run_files import ANSWERS


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Train a policy against a reward model, a judge or a rule (docs/rl.md)."""

    policy: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="POLICY")]
    """Directory, hub id, .gguf or package:NAME of a causal language model."""
    scorer: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SCORER")]
    """Run directory, artifact, URL, rule:NAME or rubric: what rewards."""
    prompts: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="PROMPTS")]
    """File of prompts; a tenth is held out to look at, by the hash of the prompt."""
    gold: str | None = None
    """A scorer that is trusted, for figures alone."""
    anchor: str | None = None
    """By what the policy is held against its past; --gold if left out."""
    limit: int | None = None
    """Take the first so many prompts."""
    columns: Columns = ()
    """Such as prompt=problem ground_truth=solution (docs/data.md)."""
    ignore: Ignored = ()
    """Columns to leave out."""
    step_rewards: StepRule | None = None
    """Reward each step at its last token: how answers are cut into steps."""
    outcome: str | None = None
    """With --step-rewards: a scorer of whole answers, rewarded beside."""
    resume: bool = False
    """Go on with the run in --out."""
    watch: bool = False
    """Keep every answer of training, and show signs of hacking in them (docs/monitors.md)."""
    when_alarmed: Literal["go-on", "stop"] = "go-on"
    """What an alarm does beside raising beta."""
    seed: int = 0
    """Of all draws."""
    training: PolicyFlags = field(default_factory=PolicyFlags)
    penalty: Penalty = field(default_factory=Penalty)
    where: Where = field(default_factory=Where)

    def __post_init__(self) -> None:
        if self.where.out is None:
            raise ValueError("--out DIRECTORY is needed: the policy, its metrics, completions and checkpoints are kept there")
        if self.outcome is not None and self.step_rewards is None:
            raise ValueError(f"--outcome {self.outcome} goes with --step-rewards: add that, or give it as SCORER")

    @property
    def out(self) -> Path:
        """The run directory."""
        assert self.where.out is not None
        return self.where.out

    @property
    def settings(self) -> PolicySettings:
        """Raises ValueError for flags that do not go together."""
        return replace(self.training.settings(self.penalty.settings, self.seed), step_rewards=self.step_rewards)


def run(config: Config) -> int:
    """Train, keep the page, and show what came of it."""
    settings = config.settings
    opened = config.where.open(config.scorer)
    trained_on, held_out = read_split(
        config.prompts, config.training.held_out, limit=config.limit, names=renaming(config.columns, config.ignore)
    )
    others = {name: None if spec is None else config.where.open(spec).scorer for name, spec in _others(config).items()}
    trained = train_policy(
        PolicyRun(
            policy=config.policy,
            scorer=opened.scorer,
            scorer_name=opened.label,
            prompts=trained_on,
            held_out=held_out,
            out=config.out,
            settings=settings,
            outcome=others["outcome"],
            gold=others["gold"],
            anchor=others["anchor"],
            resume=config.resume,
            keep_answers=config.watch,
            stop_on_alarm=config.when_alarmed == "stop",
            device=config.where.device,
            dtype=config.where.dtype,
        )
    )
    facts = {"policy": config.policy, "reward": opened.label, "estimator": settings.estimator, "steps": str(len(trained.rows))}
    facts |= {name: spec for name, spec in (("outcome", config.outcome), ("gold", config.gold)) if spec}
    name = config.anchor or config.gold or ""
    title = f"Policy: {Path(config.policy).name} against {opened.name}"
    result = policy_result(config.out, title=title, facts=facts, ground=trained.ground, anchor=name, seed=config.seed)
    reports, then = [keep(result, config.out, "policy", page=title)], tuple[str, ...]()
    if config.watch:
        log = config.out / ANSWERS
        signs = watch_log(log, settings=WatchSettings())
        reports.append(keep(signs, config.out, "signs", page="Signs in the answers of training"))
        then = ("assay", "audit", "watch", str(log), "--healthy", "HEALTHY.jsonl")
    say("policy", str(trained.policy))
    show(reports, verbose=config.where.verbose, page=config.out / "policy.html", then=then)
    return 0


def _others(config: Config) -> dict[str, str | None]:
    return {"outcome": config.outcome, "gold": config.gold, "anchor": config.anchor}
