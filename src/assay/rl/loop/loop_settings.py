"""How a policy is trained against a scorer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from assay.data.steps.step_rules import STEP_RULES, StepRule
from assay.rl.kl_control import KLSettings
from assay.training.settings import parse_params

Estimator = Literal["rloo", "grpo", "ppo"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySettings:
    """The defaults are those of a small policy; every one is printed by `assay rl train --help`.

    estimator: rloo (each answer against the others of its prompt), grpo (the same over their std), ppo (against a value head).
    steps: updates of the policy. prompts: of a step; samples: answers to each. max_tokens: of an answer. temperature: of sampling
    and of log-probabilities alike. unfinished: the reward of an answer that reached max_tokens; None: as it was scored. empty: the
    reward of an answer without text; None: as it was scored, and most scorers give it none. step_rewards: the rule by which an
    answer is cut into steps, each of which is rewarded at its last token (grpo, ppo); None: one reward an answer. params: what is
    trained, full, blocks:K or lora:R. passes: how often a step's answers are gone through, in minibatches parts each.
    clip: of the ratio of probabilities. value_rate: learning rate of the value head (ppo); decay: lambda of its advantages.
    kl: see `KLSettings`; its KL is in the reward (rloo, ppo) or in the loss (grpo). evaluate_every, save_every: steps.
    eval_prompts: held out, answered at every evaluation. keep: best and worst answers that are kept of each evaluation.
    """

    estimator: Estimator = "rloo"
    steps: int = 100
    prompts: int = 16
    samples: int = 4
    max_tokens: int = 64
    temperature: float = 1.0
    unfinished: float | None = None
    empty: float | None = None
    step_rewards: StepRule | None = None
    learning_rate: float = 1e-5
    warmup: int = 5
    params: str = "full"
    passes: int = 1
    minibatches: int = 1
    clip: float = 0.2
    value_rate: float = 1e-3
    decay: float = 0.95
    max_grad_norm: float = 1.0
    kl: KLSettings = field(default_factory=KLSettings)
    evaluate_every: int = 10
    save_every: int = 20
    eval_prompts: int = 32
    keep: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        if self.estimator not in get_args(Estimator):
            raise ValueError(f"estimator {self.estimator!r} is unknown: use one of {', '.join(get_args(Estimator))}")
        for name in ("steps", "prompts", "samples", "max_tokens", "passes", "minibatches", "evaluate_every", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} must be at least 1")
        if self.estimator != "ppo" and self.samples < 2:
            why = f"{self.estimator} compares the answers to one prompt"
            raise ValueError(f"samples {self.samples}: {why}, so it needs at least 2; ppo takes 1")
        if self.step_rewards is not None and self.step_rewards not in STEP_RULES:
            raise ValueError(f"step_rewards {self.step_rewards!r} is no rule for steps: use one of {', '.join(STEP_RULES)}")
        if self.step_rewards is not None and self.estimator == "rloo":
            raise ValueError("rloo weighs an answer as a whole: with rewards of steps use --estimator grpo or ppo")
        if not self.temperature > 0:
            raise ValueError(f"temperature {self.temperature:g} must be above 0: a policy that always says the same learns nothing")
        if not 0 < self.clip < 1:
            raise ValueError(f"clip {self.clip:g} must lie between 0 and 1")
        if self.minibatches > self.prompts * self.samples:
            raise ValueError(f"minibatches {self.minibatches}: a step has only {self.prompts * self.samples} answers")
        if parse_params(self.params)[0] not in ("full", "blocks", "lora"):
            raise ValueError(f"params {self.params!r}: a policy is trained by full, blocks:K or lora:R")
