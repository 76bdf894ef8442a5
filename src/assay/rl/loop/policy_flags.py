"""The flags of every command that trains a policy, and its prompts in two parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from assay.console import say
from assay.data.prompt_rows import Prompt, read_prompts
from assay.data.raw.columns import NO_NAMES
from assay.errors import DataError
from assay.records import prompt_key
from assay.rl.kl_control import Control, KLSettings
from assay.rl.loop.loop_settings import Estimator, PolicySettings


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
class PolicyFlags:
    """How the policy is trained."""

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
    empty: float | None = None
    """Reward of an answer without text, to which most scorers give none."""
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

    def settings(self, kl: KLSettings, seed: int) -> PolicySettings:
        """Raises ValueError for flags that do not go together."""
        return PolicySettings(
            estimator=self.estimator,
            steps=self.steps,
            prompts=self.prompts_per_step,
            samples=self.samples,
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            unfinished=self.unfinished,
            empty=self.empty,
            learning_rate=self.learning_rate,
            params=self.params,
            passes=self.passes,
            kl=kl,
            evaluate_every=self.evaluate_every,
            save_every=self.save_every,
            eval_prompts=self.held_out,
            seed=seed,
        )


def read_split(
    file: str | Path, num_looked_at: int, *, limit: int | None = None, names: Mapping[str, str] = NO_NAMES
) -> tuple[list[Prompt], list[Prompt]]:
    """Prompts to train on, and those held out, by the hash of the prompt: a tenth, at least one and at most four times what a look
    takes. Raises DataError for fewer than two."""
    read, problems = read_prompts(file, limit=limit, names=names)
    say("read", f"{file}: {problems.summary()}")
    if len(read) < 2:
        raise DataError(f"{file} has {len(read)} prompts that can be answered: a policy needs some to train on and some to look at")
    num = min(max(len(read) // 10, 1), 4 * num_looked_at)
    held_out = sorted(read, key=lambda one: prompt_key(one.messages))[:num]
    kept = {one.id for one in held_out}
    return [one for one in read if one.id not in kept], held_out
