"""A refresh in the errands world, with a policy and reward models of a few thousand weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from assay.commands.train import train_all
from assay.data.pairs import write_pairs
from assay.recipes.worlds.errands import WORDS, Habits, answer, as_prompts, demonstrations, errands, gold_rule, labelled_pairs
from assay.records import Completion
from assay.rl.kl_control import KLSettings
from assay.rl.loop.loop_settings import PolicySettings
from assay.rl.refresh.refresh_settings import RefreshRun, RefreshSettings
from assay.scorers.rules import rule_scorer
from assay.training.imitation import SmallModel, fitted, save_base, word_tokenizer
from assay.training.settings import Machine, Regularization, TrainConfig

SMALL = SmallModel(layers=1, width=32, heads=2, positions=64, batch=64, epochs=2)
POLICY = PolicySettings(
    steps=4,
    prompts=4,
    samples=4,
    max_tokens=16,
    learning_rate=0.003,
    warmup=1,
    evaluate_every=1,
    save_every=2,
    eval_prompts=8,
    kl=KLSettings(beta=0.05),
)


class World(NamedTuple):
    """base: of the policy. reward: run directory of the first reward model; config: the flags that it was trained with."""

    base: Path
    reward: Path
    config: TrainConfig


def make_world(folder: Path) -> World:
    tokenizer = word_tokenizer(WORDS)
    said = [(errand.prompt, text) for errand, text in demonstrations(600, seed=1)]
    base = save_base(fitted(tokenizer, said, SMALL), tokenizer, folder / "base")
    rng = np.random.default_rng(2)

    answers = [(errand, [answer(errand, rng, Habits()) for _ in range(4)]) for errand in errands(160, seed=3)]
    write_pairs(folder / "pairs.jsonl", labelled_pairs(answers, num=160, flips=0.2, seed=4))
    config = TrainConfig(
        data=(str(folder / "pairs.jsonl"),),
        base=str(base),
        out=folder / "reward",
        params="head",
        depth="full",
        epochs=1,
        max_length=64,
        calibration=0.2,
        test=0.2,
        regularization=Regularization(weight_decay=1.0),
        machine=Machine(dtype="float32", device="cpu", reference=0),
    )
    return World(base, train_all(config), config)


def a_refresh(world: World, out: Path, *, labeller=None, policy=(), **settings) -> RefreshRun:
    """By gold after two steps, once, the policy going on; in float32 on the processor."""
    asked = as_prompts(errands(40, seed=5))
    chosen = {"every": 2, "rounds": 1, "pairs": 24, "then": "go-on", **settings}
    rule = labeller or rule_scorer(gold_rule)
    return RefreshRun(
        policy=str(world.base),
        reward=world.reward,
        prompts=asked[8:],
        held_out=asked[:8],
        out=out,
        settings=RefreshSettings(**chosen),
        labeller=lambda: rule,
        labeller_name="gold",
        policy_settings=replace(POLICY, **dict(policy)),
        gold=rule_scorer(gold_rule),
        device="cpu",
        dtype="float32",
    )


class Counting:
    """Gold that writes down each answer that it is asked for as a label, and ends the process at a call where that is asked for."""

    scope, tolerance, fingerprint = "global", 0.0, "counting gold"

    def __init__(self, dies_at: int | None = None) -> None:
        self.asked: list[str] = []
        self.dies_at, self.calls = dies_at, 0

    def score(self, completions: Sequence[Completion]):
        self.calls += 1
        if self.calls == self.dies_at:
            raise KeyboardInterrupt
        self.asked += [one.id for one in completions]
        return rule_scorer(gold_rule).score(completions)
