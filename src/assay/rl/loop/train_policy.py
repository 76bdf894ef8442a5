"""A policy trained against a scorer: the loop, its run directory, and what is watched while it runs.

RUN/{config.json, metrics.jsonl, evaluations.jsonl, completions.jsonl, checkpoints/, past/, policy/}. metrics.jsonl has a line a
step; evaluations.jsonl KL, reward and gold of each held-out answer; completions.jsonl the best and worst of them; answers.jsonl, if
it is asked for, every answer that was trained on; past/ the trained weights at evaluations, which the policy is held against.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from assay.audit.monitors import HALF, START, GroundLost, wins
from assay.console import progress, say
from assay.data.prompt_rows import Prompt
from assay.errors import CheckpointError, TrainingError
from assay.files import json_digest, write_text
from assay.models.device import pick_compute
from assay.records import Dtype, Rewards
from assay.rl.evaluations import EVALUATIONS
from assay.rl.kl_control import KLState, after_alarm, after_step, beta_of, first_state
from assay.rl.loop.beginnings import (
    CHECKPOINTS,
    PAST,
    RECORDS,
    Beginning,
    begin_from,
    lines_before,
    put_weights,
    weights_at,
)
from assay.rl.loop.look_rows import all_answers, kept_answers, listed, nan_mean, why_unscored
from assay.rl.loop.loop_settings import PolicySettings
from assay.rl.loop.policy_model import PolicyModel, load_policy, optimizer_of
from assay.rl.loop.policy_step import Drawn, Shape, answered, draw, generator_of, step_figures, update, weigh
from assay.run_files import ANSWERS, COMPLETIONS, METRICS
from assay.scorers.base import Scorer
from assay.training.checkpoint import latest_checkpoint, restore_checkpoint, save_checkpoint, trained_weights

CONFIG = "config.json"
ALARM, DISTANCE, SCHEDULE = "alarm", "KL", "schedule"
"""Why a run stopped before its last step."""
_SAID = {
    ALARM: "the policy lost ground against its past",
    DISTANCE: "it went as far from its start as was asked",
    SCHEDULE: "as many steps as were asked",
}
_EVALUATION, _EARLIER, _TRAINING, _ORDER = 3, 4, 5, 6  # what a generator is for


@dataclass(frozen=True, kw_only=True)
class PolicyRun:
    """policy: what training starts from. scorer: the reward; scorer_name: for the records. prompts: to train on; held_out: to look
    at. outcome: with rewards of steps, a scorer of whole answers whose reward is trained on beside theirs. gold: what is known to
    be right, for figures alone. anchor: by which the policy is held against its past; gold if None. shape: of rewards (rl/shaping).
    begin: another run of this policy to go on from. stop_on_alarm, stop_kl, stop_at: what ends the run early: an alarm, so many
    nats of the held-out answers at a look, so many steps; with `resume` it does not go on from there until that is taken back."""

    policy: str
    scorer: Scorer
    scorer_name: str
    prompts: Sequence[Prompt]
    held_out: Sequence[Prompt]
    out: Path
    settings: PolicySettings = field(default_factory=PolicySettings)
    outcome: Scorer | None = None
    gold: Scorer | None = None
    anchor: Scorer | None = None
    against_past: bool = True
    """False: the policy is not held against its past, which takes four times the answers of a look, and no alarm can ring."""
    keep_answers: bool = False
    """Write every answer of training with its reward to answers.jsonl, the log that signs are measured on."""
    shape: Shape | None = None
    shape_name: str = "none"
    resume: bool = False
    begin: Beginning | None = None
    stop_on_alarm: bool = False
    stop_kl: float | None = None
    stop_at: int | None = None
    device: str = "auto"
    dtype: Dtype = "auto"


@dataclass(frozen=True, kw_only=True)
class Trained:
    """rows: the lines of metrics.jsonl. ground: the evidence against the policy's past; None without an anchor. steps: how many
    were taken; stopped: why there were no more, None where all were."""

    policy: Path
    rows: Sequence[Mapping[str, Any]]
    ground: GroundLost | None
    steps: int
    stopped: str | None = None


def train_policy(run: PolicyRun) -> Trained:
    """Train, or go on with a run that was stopped (`resume`). Raises ValueError for what cannot be, CheckpointError for a run that
    was made with other settings, TrainingError where nothing was scored."""
    settings = run.settings
    if not run.prompts:
        raise ValueError("there is no prompt to train on")
    if run.settings.prompts > len(run.prompts):
        raise ValueError(
            f"a step takes {settings.prompts} prompts, and there are {len(run.prompts)}: give more, or take fewer a step"
        )
    refuse_scope(run.scorer, settings)
    if run.outcome is not None and settings.step_rewards is None:
        raise ValueError("an outcome goes with rewards of steps: give step_rewards, or give it as the scorer")
    if run.shape is not None and settings.step_rewards is not None:
        raise ValueError(f"shape {run.shape_name}: a shape is of one reward an answer, not of steps; leave one of them out")
    identity = identity_of(run)
    resumed = _prepared(run, identity)
    model = load_policy(
        run.policy, params=settings.params, compute=pick_compute(run.device, run.dtype), with_values=settings.estimator == "ppo"
    )
    optimizer = optimizer_of(model, settings)
    loop = _Loop(run, model, optimizer)
    if resumed is not None:
        restore_checkpoint(resumed, model, optimizer)
        loop.take(resumed.state)
        say("resumed", f"at step {resumed.step}")
    elif run.begin is not None:
        loop.begin(run.begin)
    if loop.stopped is None or not loop.asks(loop.stopped):
        loop.go()
    target = run.out / "policy"
    model.save(target)  # also where one is there: it may be that of an earlier stop
    return Trained(policy=target, rows=read_metrics(run.out), ground=loop.ground, steps=loop.done, stopped=loop.stopped)


class _Loop:
    """What changes while a run goes on: controller, evidence, and the files."""

    def __init__(self, run: PolicyRun, model: PolicyModel, optimizer: torch.optim.Optimizer) -> None:
        self.run, self.model, self.optimizer, self.settings = run, model, optimizer, run.settings
        self.kl: KLState = first_state(run.settings.kl)
        self.anchor = (run.anchor or run.gold) if run.against_past else None
        self.ground = None if self.anchor is None else GroundLost()
        self.unscored_steps = 0
        self.done = 0
        self.stopped: str | None = None

    def take(self, state: Mapping[str, Any]) -> None:
        self.kl = KLState.of_saved(state["kl"])
        self.ground = None if state["ground"] is None else GroundLost.of_saved(state["ground"])
        self.unscored_steps = int(state["unscored_steps"])
        self.done, self.stopped = int(state["step"]), state.get("stopped")

    def begin(self, begin: Beginning) -> None:
        """From another run, whose records are this one's too; the first checkpoint is of there."""
        state = begin_from(begin, self.run.out, self.model, self.optimizer)
        if state is not None:
            self.take(state)
        self.done = begin.step
        self.keep()
        say("begins", f"at step {begin.step} of {begin.run.name}")

    def keep(self) -> None:
        save_checkpoint(self.run.out / CHECKPOINTS, self.done, self.model, self.optimizer, self.state())

    def state(self) -> dict[str, Any]:
        ground = None if self.ground is None else self.ground.saved()
        return {"kl": self.kl.saved(), "ground": ground, "unscored_steps": self.unscored_steps, "stopped": self.stopped}

    def go(self) -> None:
        settings, run = self.settings, self.run
        self.stopped = None
        with progress("policy", settings.steps, unit="steps", done=self.done) as advance:
            if self.done == 0:
                self.keep_past(0)
                self.evaluate(-1)
            for step in range(self.done, settings.steps):
                row = {"step": step, **self.step(step)}
                last = step + 1 in (settings.steps, run.stop_at)
                if looks := (step + 1) % settings.evaluate_every == 0 or last:
                    row |= self.evaluate(step)
                append(run.out / METRICS, [row])
                self.done = step + 1
                self.stopped = self.why_stop(row) if looks else None
                if self.done % settings.save_every == 0 or last or self.stopped is not None:
                    self.keep()
                advance(1)
                if self.stopped is not None:
                    say("stopped", f"at step {step}: {_SAID[self.stopped]}")
                    return

    def asks(self, stopped: str) -> bool:
        """Whether a run that stopped for this reason is to stay where it is."""
        run = self.run
        return {ALARM: run.stop_on_alarm, DISTANCE: run.stop_kl is not None, SCHEDULE: run.stop_at == self.done}[stopped]

    def why_stop(self, row: Mapping[str, Any]) -> str | None:
        """After a look: the alarm before the others, since what to do about it may be another thing."""
        run = self.run
        if run.stop_on_alarm and self.ground is not None and self.ground.alarmed:
            return ALARM
        if run.stop_kl is not None and row.get("eval_kl", -math.inf) >= run.stop_kl:
            return DISTANCE
        return SCHEDULE if self.done == run.stop_at and self.done < self.settings.steps else None

    def step(self, step: int) -> dict[str, Any]:
        """One step; its figures."""
        settings, run, began = self.settings, self.run, time.perf_counter()
        for group in self.optimizer.param_groups:
            group["lr"] = group["full_lr"] * min(1.0, (step + 1) / max(settings.warmup, 1))
        beta = beta_of(settings.kl, self.kl)
        drawn = self.draw(
            self.model.plain, prompts_of_step(run.prompts, settings, step), run.scorer, _TRAINING, step, samples=settings.samples
        )
        self.refuse_silence(drawn)
        if run.keep_answers:
            append(run.out / ANSWERS, all_answers(step, drawn))
        weighing = time.perf_counter()
        weighed = weigh(self.model, drawn, settings, beta)
        updating = time.perf_counter()
        losses = update(self.model, self.optimizer, drawn, weighed, settings, beta, step)
        ended = time.perf_counter()
        figures = step_figures(drawn, weighed)
        self.kl = after_step(settings.kl, self.kl, figures["kl"])
        seconds = {
            **drawn.seconds,
            "weighing": updating - weighing,
            "updating": ended - updating,
            "all": ended - began,
        }
        return {
            **figures,
            **why_unscored(drawn),
            **losses,
            "beta": beta,
            "seconds": {name: round(one, 4) for name, one in seconds.items()},
        }

    def draw(self, causal: Any, prompts: Sequence[Prompt], scorer: Scorer, *numbers: int, samples: int = 1) -> Drawn:
        """Answers, set by the seed and the numbers; those of a step of training are shaped, and have their outcome."""
        generator = generator_of(self.settings.seed, *numbers)
        more: dict[str, Any] = {"shape": self.run.shape, "outcome": self.run.outcome} if numbers[0] == _TRAINING else {}
        with self.model.autocast():
            return draw(causal, self.model.tokens, prompts, scorer, self.settings, samples=samples, generator=generator, **more)

    def refuse_silence(self, drawn: Drawn) -> None:
        """Three steps in a row without a reward end the run: nothing would be learnt, and it would look like training."""
        given = {"a reward": drawn.rewards, "an outcome": drawn.outcome}
        silent = {what: one for what, one in given.items() if one is not None and not one.ok.any()}
        self.unscored_steps = self.unscored_steps + 1 if silent else 0
        if self.unscored_steps >= 3:
            what, last = next(iter(silent.items()))
            reasons = [error for error in last.error or () if error]
            raise TrainingError(
                f"no answer of three steps in a row has {what}; the last reason: {reasons[0] if reasons else 'none given'}. "
                "Mend the scorer, then go on with --resume"
            )

    def evaluate(self, step: int) -> dict[str, Any]:
        """Held-out answers by the scorer and by gold, the best and worst kept; and today's answers against earlier ones."""
        run, settings = self.run, self.settings
        prompts = run.held_out[: settings.eval_prompts]
        if not prompts:
            return {}
        drawn = self.draw(self.model.plain, prompts, run.scorer, _EVALUATION, step + 1)
        kl_N = weigh(self.model, drawn, settings, 0.0).kl_N
        row: dict[str, Any] = {"eval_reward": nan_mean(drawn.value_PK), "eval_kl": float(kl_N.mean())}
        gold_N = np.full(len(drawn.completions), np.nan)
        if run.gold is not None:
            gold = run.gold.score(drawn.completions)
            gold_N = gold.value.astype(np.float64)
            row["eval_gold"] = nan_mean(gold_N)
        columns = {"kl": kl_N, "reward": drawn.value_PK[:, 0], "gold": gold_N}
        append(run.out / EVALUATIONS, [{"step": step, **{name: listed(one) for name, one in columns.items()}}])
        append(run.out / COMPLETIONS, kept_answers(step, drawn, gold_N, settings.keep))
        if step < 0:  # the policy that training starts from
            return row
        self.keep_past(step + 1)
        if self.ground is not None and self.anchor is not None:
            row["ground"] = self.against_past(step)
        return row

    def against_past(self, step: int) -> dict[str, Any]:
        """Fresh answers of the policy and of two earlier ones, compared by the anchor. Prompts are drawn with replacement, so that
        each comparison is of the policies' mean over all held-out prompts, whatever came before."""
        run, settings, anchor = self.run, self.settings, self.anchor
        assert self.ground is not None
        assert anchor is not None
        places = np.random.default_rng([settings.seed, step, _EARLIER]).integers(len(run.held_out), size=settings.eval_prompts)
        prompts = [run.held_out[i] for i in places]

        def answers(causal: Any, which: int) -> Rewards:
            generator = generator_of(settings.seed, _EARLIER, step, which)
            with self.model.autocast():
                given = answered(causal, self.model.tokens, prompts, settings, samples=1, generator=generator)
            return anchor.score(given.completions)

        today = [answers(self.model.plain, which) for which in (0, 1)]  # anew for each opponent
        with self.model.frozen() as frozen:
            start = answers(frozen, 2)
        now = trained_weights(self.model)
        self.load_past((step + 1) // (2 * settings.evaluate_every) * settings.evaluate_every)
        half = answers(self.model.plain, 3)
        put_weights(self.model, now)
        labels = range(len(prompts))
        results = {START: wins(today[0], start, labels), HALF: wins(today[1], half, labels)}
        was = self.ground.alarmed
        self.ground = self.ground.seen(step, {name: one.tolist() for name, one in results.items()})
        if self.ground.alarmed and not was:
            say("alarm", f"step {step}: {self.ground.findings()[0].why}")
            self.kl = after_alarm(settings.kl, self.kl)
        shown = {f"wins against {name}": nan_mean(one) for name, one in results.items()}
        return {**shown, "evidence": math.exp(min(self.ground.highest, 700.0))}

    def keep_past(self, step: int) -> None:
        target = self.run.out / PAST / f"{step:08d}.safetensors"
        target.parent.mkdir(exist_ok=True)
        save_file({name: one.cpu().contiguous() for name, one in trained_weights(self.model).items()}, target)

    def load_past(self, step: int) -> None:
        put_weights(self.model, weights_at(self.run.out, step))


def prompts_of_step(prompts: Sequence[Prompt], settings: PolicySettings, step: int) -> list[Prompt]:
    """The prompts of a step: an epoch goes through all of them in an order of its own, and what is left of it begins the next."""
    chosen = []
    for place in range(step * settings.prompts, (step + 1) * settings.prompts):
        epoch, i = divmod(place, len(prompts))
        order = np.random.default_rng([settings.seed, epoch, _ORDER]).permutation(len(prompts))
        chosen.append(prompts[order[i]])
    return chosen


def refuse_scope(scorer: Scorer, settings: PolicySettings) -> None:
    """ppo compares rewards of different prompts; those of a scorer whose scope is a prompt cannot be compared."""
    if settings.estimator == "ppo" and getattr(scorer, "scope", "global") == "prompt":
        raise ValueError(
            "this scorer's rewards can be compared only among the answers to one prompt, and ppo compares them over prompts: "
            "use rloo or grpo"
        )


def identity_of(run: PolicyRun) -> dict[str, Any]:
    """What a run that goes on must have in common with the one that was stopped."""
    return {
        "policy": run.policy,
        "scorer": run.scorer_name,
        "fingerprint": run.scorer.fingerprint,
        "outcome": None if run.outcome is None else run.outcome.fingerprint,
        "anchor": None if run.anchor is None else run.anchor.fingerprint,
        "gold": None if run.gold is None else run.gold.fingerprint,
        "shape": run.shape_name,
        "keep_answers": run.keep_answers,
        "prompts": json_digest([[turn.as_dict() for turn in prompt.messages] for prompt in [*run.prompts, *run.held_out]]),
        "settings": asdict(run.settings),
        "begin": None if run.begin is None else run.begin.identity,
    }


def read_metrics(out: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in (out / METRICS).read_text(encoding="utf-8").splitlines()]


def append(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _prepared(run: PolicyRun, identity: Mapping[str, Any]) -> Any:
    """Make the run directory, or look whether the run in it may go on. The lines behind the checkpoint are taken off: they are
    written again."""
    config = run.out / CONFIG
    if not run.resume:
        if run.out.exists() and any(run.out.iterdir()):
            raise ValueError(f"{run.out} exists and is not empty: go on with --resume, or choose another --out")
        run.out.mkdir(parents=True, exist_ok=True)
        write_text(config, json.dumps(dict(identity), indent=1))
        return None
    if not config.is_file():
        raise ValueError(f"{run.out} holds no run to go on with: leave --resume out")
    saved = json.loads(config.read_text(encoding="utf-8"))
    now = json.loads(json.dumps(dict(identity)))
    other = sorted(name for name in now if saved.get(name) != now[name])
    if other:
        shown = "; ".join(f"{name}: {saved.get(name)} before, {now[name]} now" for name in other[:2])
        raise CheckpointError(f"{run.out} was made with other {', '.join(other)} ({shown}): give the same, or choose another --out")
    found = latest_checkpoint(run.out / CHECKPOINTS) if (run.out / CHECKPOINTS).is_dir() else None
    for name in RECORDS:
        if (run.out / name).is_file():
            kept = lines_before(run.out / name, -1 if found is None else found.step)  # -1: the look before the first step too
            write_text(run.out / name, "".join(line + "\n" for line in kept))
    return found
