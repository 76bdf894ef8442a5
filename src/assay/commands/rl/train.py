"""`assay rl train`: a policy trained against a scorer, with gold and its own past beside."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from assay.commands.shared import Columns, Ignored, Where, keep, show
from assay.console import say
from assay.data.columns import renaming
from assay.data.prompt_rows import Prompt, read_prompts
from assay.errors import DataError
from assay.records import prompt_key
from assay.rl.kl_control import Control, KLSettings
from assay.rl.loop.loop_settings import Estimator, PolicySettings
from assay.rl.loop.policy_result import policy_result
from assay.rl.loop.train_policy import PolicyRun, train_policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Penalty:
    """The KL to the policy that training starts from."""

    kl: Control = "fixed"
    """What sets its factor: fixed, ziegler, or pi (proportional and integral)."""
    beta: float = 0.05
    """Factor to begin with."""
    kl_target: float | None = None
    """Nats an answer that ziegler and pi aim at."""
    on_alarm: float = 2.0
    """Factor of beta after an alarm; 1 for none."""

    @property
    def settings(self) -> KLSettings:
        return KLSettings(control=self.kl, beta=self.beta, target=self.kl_target, on_alarm=self.on_alarm)


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
    estimator: Estimator = "rloo"
    """rloo, grpo, or ppo with a value head."""
    steps: int = 100
    """Steps of drawing and updating."""
    prompts_per_step: int = 16
    """Prompts of a step."""
    samples: int = 4
    """Answers to each."""
    max_tokens: int = 64
    """Of an answer."""
    temperature: float = 1.0
    """Of drawing, and of the probabilities that are trained."""
    unfinished: float | None = None
    """Reward of an answer that was cut off; as scored if left out."""
    params: str = "full"
    """What is trained: full, blocks:K or lora:R."""
    learning_rate: float = 1e-5
    """Highest, after a warm-up of 5 steps."""
    passes: int = 1
    """How often the answers of a step are gone through."""
    evaluate_every: int = 10
    """Steps between looks at held-out prompts."""
    save_every: int = 20
    """Steps between checkpoints."""
    held_out: int = 32
    """Held-out prompts that are answered at each look."""
    limit: int | None = None
    """Take the first so many prompts."""
    columns: Columns = ()
    """Such as prompt=problem ground_truth=solution (docs/data.md)."""
    ignore: Ignored = ()
    """Columns to leave out."""
    resume: bool = False
    """Go on with the run in --out."""
    when_alarmed: Literal["go-on", "stop"] = "go-on"
    """What an alarm does beside raising beta."""
    seed: int = 0
    """Of all draws."""
    penalty: Penalty = field(default_factory=Penalty)
    where: Where = field(default_factory=Where)

    def __post_init__(self) -> None:
        if self.where.out is None:
            raise ValueError("--out DIRECTORY is needed: the policy, its metrics, completions and checkpoints are kept there")

    @property
    def out(self) -> Path:
        """The run directory."""
        assert self.where.out is not None
        return self.where.out

    @property
    def settings(self) -> PolicySettings:
        """Raises ValueError for flags that do not go together."""
        return PolicySettings(
            estimator=self.estimator,
            steps=self.steps,
            prompts=self.prompts_per_step,
            samples=self.samples,
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            unfinished=self.unfinished,
            learning_rate=self.learning_rate,
            params=self.params,
            passes=self.passes,
            kl=self.penalty.settings,
            evaluate_every=self.evaluate_every,
            save_every=self.save_every,
            eval_prompts=self.held_out,
            seed=self.seed,
        )


def run(config: Config) -> int:
    """Train, keep the page, and show what came of it."""
    settings = config.settings
    opened = config.where.open(config.scorer)
    trained_on, held_out = _split(config)
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
            gold=others["gold"],
            anchor=others["anchor"],
            resume=config.resume,
            stop_on_alarm=config.when_alarmed == "stop",
            device=config.where.device,
            dtype=config.where.dtype,
        )
    )
    facts = {"policy": config.policy, "reward": opened.label, "estimator": settings.estimator, "steps": str(len(trained.rows))}
    if config.gold:
        facts["gold"] = config.gold
    name = config.anchor or config.gold or ""
    title = f"Policy: {Path(config.policy).name} against {opened.name}"
    result = policy_result(config.out, title=title, facts=facts, ground=trained.ground, anchor=name, seed=config.seed)
    report = keep(result, config.out, "policy", page=title)
    say("policy", str(trained.policy))
    show([report], verbose=config.where.verbose, page=config.out / "policy.html")
    return 0


def _others(config: Config) -> dict[str, str | None]:
    return {"gold": config.gold, "anchor": config.anchor}


def _split(config: Config) -> tuple[list[Prompt], list[Prompt]]:
    """Prompts to train on, and those held out: a tenth, at least one and at most four times what a look takes."""
    read, problems = read_prompts(config.prompts, limit=config.limit, names=renaming(config.columns, config.ignore))
    say("read", f"{config.prompts}: {problems.summary()}")
    if len(read) < 2:
        raise DataError(
            f"{config.prompts} has {len(read)} prompts that can be answered: a policy needs some to train on and some to look at"
        )
    num = min(max(len(read) // 10, 1), 4 * config.held_out)
    order = sorted(read, key=lambda one: prompt_key(one.messages))
    held_out = order[:num]
    kept = {one.id for one in held_out}
    return [one for one in read if one.id not in kept], held_out
