"""`assay rl preflight`: will this reward model work for this policy, before a step is trained."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from assay.audit.audits import drift_of_sets
from assay.audit.probes.battery import run_probes
from assay.commands.shared import Columns, Ignored, Model, Where, keep, show
from assay.console import print_error, say
from assay.data.prompt_rows import Prompt, read_prompts
from assay.data.raw.columns import renaming
from assay.files import write_text
from assay.generation.generator import Generator, Limits
from assay.generation.ledger import Ledger
from assay.generation.policy import Policy
from assay.generation.replies import Reply
from assay.records import Completion, Finding, Rewards
from assay.rl.preflight import Answers, best_and_worst, preflight
from assay.scorers.base import Scorer
from assay.scorers.opened import Opened

ANSWERS = "preflight-answers.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Will this reward model work for this policy; exit status 6 when a check fails (docs/rl.md)."""

    model: Model
    prompts: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="PROMPTS")]
    """File of prompts; with --gold, what it needs (ground_truth)."""
    policy: Policy
    gold: str | None = None
    """A scorer that is trusted: does the reward order this policy's answers as it does."""
    num_prompts: int = 48
    """Prompts that are answered, drawn by --seed."""
    samples: int = 8
    """Answers to each."""
    temperature: float = 1.0
    """Of the policy."""
    max_tokens: int = 256
    """Of an answer."""
    columns: Columns = ()
    """Such as prompt=problem ground_truth=solution (docs/data.md)."""
    ignore: Ignored = ()
    """Columns to leave out."""
    seed: int = 0
    """Of the draws."""
    where: Where = field(default_factory=Where)

    def __post_init__(self) -> None:
        if self.num_prompts < 2 or self.samples < 2:
            raise ValueError(f"--num-prompts {self.num_prompts} and --samples {self.samples} must each be at least 2")


def run(config: Config) -> int:
    """Answer, score, look at it from all sides, keep the page, and show the verdicts."""
    opened = config.where.open(config.model)
    read, problems = read_prompts(config.prompts, names=renaming(config.columns, config.ignore))
    say("read", f"{config.prompts}: {problems.summary()}")
    if len(read) < 2:
        print_error(f"{config.prompts} has {len(read)} prompts that can be answered: give at least 2, some 50 for useful intervals")
        return 2
    home = config.where.out or opened.home or Path()
    answers = _answered(config, _drawn(read, config.num_prompts, config.seed), home)
    rewards = _scored(opened.scorer, answers)
    gold = None if config.gold is None else _scored(config.where.open(config.gold).scorer, answers)
    notes = (*_probes(opened.scorer, answers, rewards, config.seed), *_distance(opened, answers, home, config.seed))
    title = f"Preflight: {config.policy.policy} against {opened.name}"
    result = preflight(answers, rewards, gold=gold, notes=notes, title=title, seed=config.seed)
    report = keep(result, home, "preflight", page=title)
    opened.say_bill()
    show([report], verbose=config.where.verbose, page=home / "preflight.html")
    return 6 if result.fails else 0


def _drawn(read: Sequence[Prompt], num: int, seed: int) -> list[Prompt]:
    import numpy as np

    order = np.random.default_rng(seed).permutation(len(read))[:num]
    return [read[i] for i in sorted(order)]


def _answered(config: Config, prompts: Sequence[Prompt], home: Path) -> list[Answers]:
    """The policy's answers; the ledger beside them keeps every call, so that a second run asks nothing again."""
    home.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(home / f"{ANSWERS}.ledger.sqlite")
    backend = config.policy.backend(dtype=config.where.dtype, device=config.where.device)
    generator = Generator(backend, ledger=ledger, limits=Limits(budget=config.policy.policy_budget))
    replies = generator.sample(
        [one.messages for one in prompts],
        n=config.samples,
        temperature=config.temperature,
        seed=config.seed,
        max_tokens=config.max_tokens,
    )
    say("policy", f"{backend.model}: {generator.bill.summary()}")
    found = [_of_prompt(prompt, of_prompt) for prompt, of_prompt in zip(prompts, replies, strict=True)]
    failed = sum(config.samples - len(one.completions) for one in found)
    if failed:
        why = next(reply.error for of_prompt in replies for reply in of_prompt if reply.text is None)
        say("answers", f"{failed} of {config.samples * len(prompts)} were not written; the first: {why}")
    return [one for one in found if one.completions]


def _of_prompt(prompt: Prompt, replies: Sequence[Reply]) -> Answers:
    written = [reply for reply in replies if reply.text is not None]
    completions = tuple(
        Completion(messages=prompt.messages, response=reply.text, ground_truth=prompt.ground_truth) for reply in written
    )
    return Answers(completions=completions, finished=tuple(reply.finish != "length" for reply in written))


def _scored(scorer: Scorer, answers: Sequence[Answers]) -> list[Rewards]:
    """Rewards of each prompt's answers, all in one call."""
    rewards = scorer.score([one for each in answers for one in each.completions])
    found, begin = [], 0
    for each in answers:
        end = begin + len(each.completions)
        error = None if rewards.error is None else rewards.error[begin:end]
        found.append(Rewards(value=rewards.value[begin:end], error=error))
        begin = end
    return found


def _probes(scorer: Scorer, answers: Sequence[Answers], rewards: Sequence[Rewards], seed: int) -> list[Finding]:
    """Which worthless edits of this policy's answers gain, in units of the spread between its best and worst answers."""
    pairs = best_and_worst(answers, rewards)
    if len(pairs) < 8:
        why = f"{len(pairs)} prompts have answers of unlike reward: 8 are needed to try the probes"
        return [Finding("warn", "probes", math.nan, 0.0, why)]
    result = run_probes(scorer, pairs, max_rows=64, seed=seed, title="probes")
    bad = [one for one in result.findings if one.level == "fail"]
    if not bad:
        why = "no worthless edit of its answers gains beyond the bound, in units of the spread between its best and worst answers"
        return [Finding("ok", "probes", 0.0, 0.0, why)]
    return [as_warning(one) for one in bad]


def as_warning(finding: Finding) -> Finding:
    """A probe that gains is a warning here: what it is worth to this policy is seen in training."""
    return finding._replace(level="warn", name=f"probe: {finding.name}")


def _distance(opened: Opened, answers: Sequence[Answers], home: Path, seed: int) -> list[Finding]:
    """How far the answers lie from what the model was trained on, where it is an artifact with a reference."""
    rows = [
        {"messages": [turn.as_dict() for turn in one.messages], "response": one.response}
        for each in answers
        for one in each.completions
    ]
    path = home / ANSWERS
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    if opened.artifact is None:
        return []
    try:
        result = drift_of_sets(opened, [str(path)], seed=seed, loaded=opened.scorer)
    except ValueError as reason:
        return [Finding("warn", "distance from the training data", math.nan, 0.0, f"not measured: {reason}")]
    return [one._replace(level="warn" if one.level == "fail" else one.level) for one in result.findings]
