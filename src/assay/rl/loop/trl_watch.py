"""Adaptive KL and an alarm in somebody else's GRPO or RLOO trainer of TRL, by one callback.

    trainer = GRPOTrainer(...)
    trainer.add_callback(trl_watch(trainer, kl=KLSettings(control="pi", target=8.0), anchor=judge, prompts=held_out))

TRL reads `trainer.beta` in every step, so that it is set before each; it loads the reference only where beta was not 0 when the
trainer was made. Its "kl" is a mean over tokens; times the mean length it is nats an answer, which targets are in.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from assay.audit.monitors import START, GroundLost, wins
from assay.console import say
from assay.data.prompt_rows import Prompt
from assay.files import write_text
from assay.messages import as_messages
from assay.rl.kl_control import KLSettings, KLState, after_alarm, after_step, beta_of, first_state
from assay.rl.loop.loop_settings import PolicySettings
from assay.rl.loop.policy_model import PolicyTokens
from assay.rl.loop.policy_step import answered, generator_of
from assay.scorers.base import Scorer

STATE_FILE = "assay_watch.json"


def trl_watch(
    trainer: Any,
    *,
    kl: KLSettings | None = None,
    anchor: Scorer | None = None,
    prompts: Sequence[Any] = (),
    every: int = 20,
    num_prompts: int = 32,
    stop: bool = False,
    seed: int = 0,
) -> TRLWatch:
    """A callback of that trainer. kl: what sets beta; None leaves it. anchor: by which fresh answers of the policy and of the one
    that training started from are compared every so many steps, to `num_prompts` of the prompts (messages, texts, or `Prompt`s),
    drawn with replacement. stop: end the training at an alarm; without it beta is raised by `kl.on_alarm`.

    Raises ValueError for a trainer whose reference is not loaded, and for an anchor without prompts.
    """
    if kl is not None and not trainer.beta > 0:
        raise ValueError("the trainer was made with beta=0, so that TRL loaded no reference: give it any beta above 0")
    if anchor is not None and not prompts:
        raise ValueError("an anchor needs prompts that are not trained on: prompts=[...]")
    if anchor is not None and getattr(trainer, "ref_model", None) is None and not hasattr(trainer.model, "disable_adapter"):
        raise ValueError("the trainer has no reference to compare with (beta=0): give it any beta above 0")
    asked = [one if isinstance(one, Prompt) else Prompt(messages=as_messages(one), id=f"p{i}") for i, one in enumerate(prompts)]
    return TRLWatch(trainer, kl, anchor, asked, every, num_prompts, stop, seed)


class TRLWatch(TrainerCallback):
    """See `trl_watch`. ground: the evidence so far; its findings say what was found."""

    def __init__(
        self,
        trainer: Any,
        kl: KLSettings | None,
        anchor: Scorer | None,
        prompts: Sequence[Prompt],
        every: int,
        num_prompts: int,
        stop: bool,
        seed: int,
    ) -> None:
        self.trainer, self.settings, self.anchor, self.prompts = trainer, kl, anchor, prompts
        self.every, self.num_prompts, self.stop, self.seed = every, num_prompts, stop, seed
        self.kl: KLState | None = None if kl is None else first_state(kl)
        self.ground = None if anchor is None else GroundLost()

    def on_train_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Go on with what was saved beside the checkpoint that training goes on from."""
        saved = Path(args.output_dir) / f"checkpoint-{state.global_step}" / STATE_FILE
        if state.global_step and saved.is_file():
            found = json.loads(saved.read_text(encoding="utf-8"))
            self.kl = None if found["kl"] is None else KLState.of_saved(found["kl"])
            self.ground = None if found["ground"] is None else GroundLost.of_saved(found["ground"])

    def on_step_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        if self.settings is not None and self.kl is not None:
            self.trainer.beta = beta_of(self.settings, self.kl)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **others: Any) -> None:
        if self.settings is not None and self.kl is not None and logs and "kl" in logs:
            length = logs.get("completions/mean_length")
            if length is not None:
                self.kl = after_step(self.settings, self.kl, float(logs["kl"]) * float(length))

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> Any:
        if self.ground is None or state.global_step % self.every:
            return control
        was, self.ground = self.ground.alarmed, self.ground.seen(state.global_step, {START: self._wins(state.global_step)})
        if self.ground.alarmed and not was:
            say("alarm", f"step {state.global_step}: {self.ground.findings()[0].why}")
            if self.settings is not None and self.kl is not None:
                self.kl = after_alarm(self.settings, self.kl)
            control.should_training_stop = control.should_training_stop or self.stop
        return control

    def on_save(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        target = Path(args.output_dir) / f"checkpoint-{state.global_step}" / STATE_FILE
        if target.parent.is_dir():
            kl = None if self.kl is None else self.kl.saved()
            ground = None if self.ground is None else self.ground.saved()
            write_text(target, json.dumps({"kl": kl, "ground": ground}))

    def _wins(self, step: int) -> list[float]:
        assert self.anchor is not None
        trainer = self.trainer
        model = trainer.accelerator.unwrap_model(trainer.model)
        reference = getattr(trainer, "ref_model", None)
        tokens = PolicyTokens(trainer.processing_class, model)
        settings = replace(PolicySettings(), max_tokens=trainer.max_completion_length, temperature=trainer.temperature)
        places = np.random.default_rng([self.seed, step]).integers(len(self.prompts), size=self.num_prompts)
        asked = [self.prompts[i] for i in places]
        was_training = model.training
        model.eval()
        found = []
        for which, causal in enumerate((model, reference if reference is not None else model)):
            off = model.disable_adapter() if which == 1 and reference is None else nullcontext()
            generator = generator_of(self.seed, step, which)
            with off, torch.no_grad():
                given = answered(causal, tokens, asked, settings, samples=1, generator=generator)
            found.append(self.anchor.score(given.completions))
        model.train(was_training)
        return list(wins(found[0], found[1], range(len(asked))))
