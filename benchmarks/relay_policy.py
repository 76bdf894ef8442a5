"""Policies of the relay world against a verifier of answers, an outcome model, and a process model whose steps are rewarded one by
one. Last line: one JSON document.

    python benchmarks/process_relay.py --sft --problems 320 --keep runs/relay                  # the models, three seeds
    python benchmarks/relay_policy.py --models runs/relay --keep runs/relay-policy             # goes on where it was stopped

The policy is the SFT model of benchmarks/process_relay.py (SmolLM2-135M cut to 22 layers, fine-tuned on right solutions); it is
trained by grpo on other problems, its last blocks alone. Reward models are those of the same benchmark, trained from that SFT model
on the world's scripted solutions, so that the policy's own are new to them. What is right is known: gold is 1 where every pass and
the answer are right; the rule looks at the answer alone.

Arms: rule; outcome (the outcome model); process, whole (the process model's reduction of a solution); process, steps (each step's
reward at its last token: DeepSeekMath 4.1.3); steps and rule (the same, with the rule's reward of the answer beside them: PRIME);
gold. A replicate has problems and draws of its own and the reward models of one
seed, shared by the arms.

Claims, written before it was run, over the replicates (paired, Student's intervals; sign flips with Holm):

1. rule, process, whole and process, steps end with more right solutions than they began with (intervals above 0).
2. process, steps ends with more right solutions than outcome (interval above 0): labels of steps are worth more than of answers.
3. process, steps is ahead of rule after half of the steps (interval above 0): it says which step was wrong.
4. At the end process, steps is not ahead of rule (interval not above 0): a model of steps is no better than what is checked.

Written after process, steps and rule of replicate 0 had been looked at (the first learnt to stop after two right passes and to
answer with whoever had the key then: reward -2.6 -> -.5, right solutions .23 -> .23; the second .23 -> .44):

5. steps and rule ends with more right solutions than process, steps (interval above 0): the answer's own reward holds that hack.
"""

from __future__ import annotations

import json
import platform
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from assay import cli  # first: it sets OpenMP up before torch is loaded

# isort: split
import numpy as np
import torch
import tyro
from overoptimization_arms import mean_of
from overoptimization_table import against, family, rounded

from assay.console import say
from assay.data.prompt_rows import Prompt
from assay.files import write_text
from assay.models.device import pick_compute
from assay.recipes.worlds.first_errors import WorldSettings
from assay.recipes.worlds.relay import relay_world
from assay.recipes.worlds.relay_writer import passes_in, right_names
from assay.records import Completion
from assay.rl.evaluations import read_evaluations
from assay.rl.kl_control import KLSettings
from assay.rl.loop.loop_settings import PolicySettings
from assay.rl.loop.policy_model import load_policy
from assay.rl.loop.policy_step import answered, generator_of
from assay.rl.loop.train_policy import PolicyRun, train_policy
from assay.scorers.base import Scorer
from assay.scorers.load import load
from assay.scorers.rules import rule_scorer

GOLD, RULED, OUTCOME, WHOLE, STEPS, BOTH = "gold", "rule", "outcome", "process, whole", "process, steps", "steps and rule"
ARMS = (STEPS, RULED, OUTCOME, BOTH, WHOLE, GOLD)
START, HALF, END, GAINED = "at the start", "after half", "at the end", "gained"
MODEL_SEEDS = 3


@dataclass(frozen=True, kw_only=True)
class RelayPolicy:
    models: Path
    """What process_relay.py --sft --keep left: sft/, and seed-N/process and seed-N/outcome."""
    keep: Path | None = None
    """What was found is kept here, and gone on with."""
    replicates: int = 3
    first: int = 0
    """Replicates from this number on."""
    arms: tuple[str, ...] = ARMS
    lengths: tuple[int, ...] = (2, 3, 4)
    steps: int = 16
    prompts: int = 4
    samples: int = 4
    max_tokens: int = 96
    params: str = "blocks:4"
    rate: float = 1e-4
    beta: float = 0.02
    asked: int = 48
    """Held-out problems of a look, one answer each; of the start and the end two."""

    @property
    def decides(self) -> dict[str, Any]:
        """What a kept figure must have been found with."""
        other = ("models", "keep", "replicates", "first", "arms")
        return json.loads(json.dumps({name: value for name, value in asdict(self).items() if name not in other}))


def answer_rule(completions: Sequence[Completion]) -> list[float]:
    """1 for the right answer behind "Answer:", 0 for any other: what a verifier sees."""
    return [float(said(one) == str((one.ground_truth or {}).get("answer"))) for one in completions]


def gold_rule(completions: Sequence[Completion]) -> list[float]:
    """1 where every pass and the answer are right, else 0."""
    answers = answer_rule(completions)
    return [answer * float(has_right_passes(one)) for answer, one in zip(answers, completions, strict=True)]


def said(completion: Completion) -> str:
    return (completion.response or "").rpartition("Answer:")[2].strip()


def has_right_passes(completion: Completion) -> bool:
    try:
        found = [tuple(one) for one in passes_in(completion.response or "")]
    except ValueError:  # a line that is no pass
        return False
    return found == list(pairwise(right_names(completion.messages[0].content)))


@dataclass(frozen=True, kw_only=True)
class Replicate:
    config: RelayPolicy
    folder: Path
    number: int

    @property
    def policy(self) -> Path:
        return self.config.models / "sft"

    def problems(self, num: int, use: int) -> list[Prompt]:
        """`num` problems of this replicate for one use."""
        world = WorldSettings(problems=num, lengths=self.config.lengths, solutions=1, seed=500_000 + 1_000 * self.number + use)
        made = [item.completion for item in relay_world(world)]
        return [Prompt(messages=one.messages, id=str(i), ground_truth=one.ground_truth) for i, one in enumerate(made)]

    def scorer(self, arm: str) -> Scorer:
        rules = {GOLD: gold_rule, RULED: answer_rule}
        if arm in rules:
            return rule_scorer(rules[arm])
        seed = self.number % MODEL_SEEDS
        return load(self.config.models / f"seed-{seed}" / ("outcome" if arm == OUTCOME else "process"))

    def settings(self, arm: str) -> PolicySettings:
        config = self.config
        return PolicySettings(
            estimator="grpo",
            steps=config.steps,
            prompts=config.prompts,
            samples=config.samples,
            max_tokens=config.max_tokens,
            params=config.params,
            learning_rate=config.rate,
            kl=KLSettings(beta=config.beta),
            step_rewards="lines" if arm in (STEPS, BOTH) else None,
            evaluate_every=max(config.steps // 2, 1),
            save_every=4,
            eval_prompts=config.asked,
            seed=self.number,
        )

    def run(self, arm: str) -> dict[str, Any]:
        """What came of an arm: read, or made."""
        kept = self.folder / f"replicate-{self.number}" / f"{''.join(c if c.isalnum() else '-' for c in arm)}.json"
        if kept.exists():
            found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
            if found["settings"] != self.config.decides:
                raise ValueError(f"{kept} was made with other settings: name another --keep, or delete it")
            return found
        out, began = kept.with_suffix(""), time.process_time()
        if not any((out / "checkpoints").glob("step-*")):
            shutil.rmtree(out, ignore_errors=True)
        say("arm", f"replicate {self.number}: {arm}")
        train_policy(
            PolicyRun(
                policy=str(self.policy),
                scorer=self.scorer(arm),
                scorer_name=arm,
                prompts=self.problems(max(200, self.config.prompts), 1),
                held_out=self.problems(self.config.asked, 2),
                out=out,
                settings=self.settings(arm),
                outcome=rule_scorer(answer_rule) if arm == BOTH else None,
                gold=rule_scorer(gold_rule),
                against_past=False,
                resume=out.exists(),
                device="cpu",
                dtype="float32",
            )
        )
        looks = read_evaluations(out)
        found = {
            "settings": self.config.decides,
            "steps": looks.steps.tolist(),
            **{name: [mean_of(one) for one in getattr(looks, f"{name}_EP")] for name in ("kl", "reward", "gold")},
            "start": self.measured(self.policy),
            "end": self.measured(out / "policy"),
            "cpu_seconds": round(time.process_time() - began, 1),
        }
        for part in ("checkpoints", "past", "policy"):
            shutil.rmtree(out / part, ignore_errors=True)
        write_text(kept, json.dumps(found))
        return found

    def measured(self, policy: Path) -> dict[str, float]:
        """Of a policy's answers to the held-out problems, two to each: right answers, right solutions, lines."""
        model = load_policy(str(policy), params="full", compute=pick_compute("cpu", "float32"))
        generator = generator_of(self.number, 9)
        asked, settings = self.problems(self.config.asked, 2), self.settings(WHOLE)
        given = answered(model.plain, model.tokens, asked, settings, samples=2, generator=generator).completions
        lines = float(np.mean([len((one.response or "").splitlines()) for one in given]))
        return {"answers": float(np.mean(answer_rule(given))), "solutions": float(np.mean(gold_rule(given))), "lines": lines}


def main() -> int:
    cli.keep_freed_memory()
    config = tyro.cli(RelayPolicy, config=(tyro.conf.FlagCreatePairsOff,))
    if unknown := [name for name in config.arms if name not in ARMS]:
        raise ValueError(f"there is no arm {unknown[0]!r}: {'; '.join(ARMS)}")
    began = time.process_time()
    torch.set_num_threads(1)
    found: dict[str, dict[int, dict[str, Any]]] = {arm: {} for arm in config.arms}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(config.first, config.first + config.replicates):
            one = Replicate(config=config, folder=config.keep or Path(folder), number=number)
            for arm in config.arms:
                found[arm][number] = one.run(arm)
                start, end = (found[arm][number][when]["solutions"] for when in ("start", "end"))
                say("right", f"{arm}, replicate {number}: {start:.3f} -> {end:.3f}")
    table = {arm: {number: outcomes(one) for number, one in of.items()} for arm, of in found.items()}
    result = {
        "machine": f"{platform.machine()}, 1 thread",
        "settings": config.decides,
        "arms": {arm: summary(of) for arm, of in table.items()},
        **compared(table),
        "cpu_seconds": rounded(time.process_time() - began),
    }
    print(json.dumps(result))
    return 0


def outcomes(one: Mapping[str, Any]) -> dict[str, float]:
    start, end = one["start"], one["end"]
    half = int(np.argmin(np.abs(np.array(one["steps"]) + 1 - (one["steps"][-1] + 1) / 2)))
    rest = {"right answers at the end": end["answers"], "lines at the end": end["lines"], "KL at the end": one["kl"][-1]}
    return {
        START: start["solutions"],
        HALF: one["gold"][half],
        END: end["solutions"],
        GAINED: end["solutions"] - start["solutions"],
        **rest,
    }


def summary(of: Mapping[int, Mapping[str, float]]) -> dict[str, Any]:
    """Means over the replicates, with Student's intervals."""
    rows = {name: against({r: one[name] for r, one in of.items()}, dict.fromkeys(of, 0.0)) for name in next(iter(of.values()))}
    return {name: [rounded(one.mean), rounded(one.low), rounded(one.high)] for name, one in rows.items()}


def compared(table: Mapping[str, Mapping[int, Mapping[str, float]]]) -> dict[str, Any]:
    """The comparisons of the claims, and what became of these; None for what was not run."""

    def column(arm: str, name: str) -> dict[int, float]:
        return {r: one[name] for r, one in table.get(arm, {}).items()}

    nothing = {arm: dict.fromkeys(of, 0.0) for arm, of in table.items()}
    rows = {
        **{f"{arm}: {GAINED}": against(column(arm, GAINED), nothing.get(arm, {})) for arm in (RULED, WHOLE, STEPS)},
        f"{STEPS} less {OUTCOME}, {END}": against(column(STEPS, END), column(OUTCOME, END)),
        f"{STEPS} less {RULED}, {HALF}": against(column(STEPS, HALF), column(RULED, HALF)),
        f"{STEPS} less {RULED}, {END}": against(column(STEPS, END), column(RULED, END)),
        f"{STEPS} less {WHOLE}, {END}": against(column(STEPS, END), column(WHOLE, END)),
        f"{BOTH} less {STEPS}, {END}": against(column(BOTH, END), column(STEPS, END)),
        f"{BOTH} less {RULED}, {END}": against(column(BOTH, END), column(RULED, END)),
    }
    rows = {name: one for name, one in rows.items() if one.num}

    def above(name: str) -> bool | None:
        return bool(rows[name].low > 0) if name in rows and rows[name].num > 1 else None

    gains = [above(f"{arm}: {GAINED}") for arm in (RULED, WHOLE, STEPS)]
    at_end = above(f"{STEPS} less {RULED}, {END}")
    return {
        "comparisons": family(rows),
        "claims": {
            "1 rule and both process arms gain": None if None in gains else all(gains),
            "2 rewards of steps end above the outcome model": above(f"{STEPS} less {OUTCOME}, {END}"),
            "3 rewards of steps are ahead of the rule after half": above(f"{STEPS} less {RULED}, {HALF}"),
            "4 rewards of steps are not ahead of the rule at the end": None if at_end is None else not at_end,
            "5 with the rule beside, rewards of steps end higher": above(f"{BOTH} less {STEPS}, {END}"),
        },
    }


if __name__ == "__main__":
    raise SystemExit(main())
