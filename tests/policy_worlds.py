"""Policies of a few thousand weights, and worlds whose best answer is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from assay.data.prompt_rows import Prompt
from assay.messages import Message
from assay.records import Completion
from assay.rl.loop.loop_settings import PolicySettings
from assay.rl.loop.train_policy import PolicyRun
from assay.scorers.rules import rule_scorer
from assay.training.imitation import SmallModel, fitted, save_base, word_tokenizer

ARMS = ("red", "green", "blue", "white")
SMALL = SmallModel(layers=1, width=32, heads=2, positions=64, batch=64, epochs=5)


def bandit_base(path: Path) -> Path:
    """Asked "pull", it says one of four words, each about equally often."""
    tokenizer = word_tokenizer(("pull", *ARMS))
    return save_base(fitted(tokenizer, [("pull", arm) for arm in ARMS] * 160, SMALL), tokenizer, path)


def copy_base(path: Path) -> Path:
    """Asked for a word, it says it in about four of seven cases, else any other."""
    tokenizer = word_tokenizer(ARMS)
    said = [(asked, said) for asked in ARMS for said in (*ARMS, asked, asked, asked)]
    return save_base(fitted(tokenizer, said * 60, replace(SMALL, epochs=8)), tokenizer, path)


def prompts(*texts: str) -> list[Prompt]:
    return [Prompt(messages=(Message("user", text),), id=f"p{i}", ground_truth={"answer": text}) for i, text in enumerate(texts)]


def payout(completions: Sequence[Completion]) -> list[float]:
    """blue pays 1, green .5, all else nothing."""
    return [{"blue": 1.0, "green": 0.5}.get(one.response or "", 0.0) for one in completions]


def copied(completions: Sequence[Completion]) -> list[float]:
    return [float(one.response == one.messages[0].content) for one in completions]


def a_run(base: Path, out: Path, rule=payout, asked: tuple[str, ...] = ("pull",), **settings) -> PolicyRun:
    chosen = replace(
        PolicySettings(
            steps=30, prompts=1, samples=16, max_tokens=4, learning_rate=0.004, warmup=1, evaluate_every=10, save_every=10
        ),
        **{"eval_prompts": 4, **settings},
    )
    return PolicyRun(
        policy=str(base),
        scorer=rule_scorer(rule),
        scorer_name="rule",
        prompts=prompts(*asked),
        held_out=prompts(*asked),
        out=out,
        settings=chosen,
        device="cpu",
        dtype="float32",
    )
