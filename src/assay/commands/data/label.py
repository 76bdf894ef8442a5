"""`assay data label`: prompts in, preference pairs out, which a policy answered and a judge compared; or pairs in, and their labels
are a judge's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from assay.bulk.label import (
    Draws,
    Labelled,
    Ledgered,
    asks_of,
    judged,
    labelled,
    open_labeller,
    pairs_to_judge,
    price_of_each,
    sampled,
)
from assay.bulk.relabel import relabel
from assay.commands.shared import Columns, Ignored
from assay.console import print_error, say
from assay.data.pairs import read_pairs, write_pairs
from assay.data.prompt_rows import read_prompts
from assay.data.raw.columns import renaming
from assay.data.raw.rows import slug
from assay.files import write_text
from assay.generation.generator import Generator, Limits
from assay.generation.ledger import Ledger
from assay.generation.policy import Policy
from assay.generation.prices import dollars
from assay.records import Dtype
from assay.scorers.base import Scorer
from assay.scorers.judges.open_judge import is_judge
from assay.scorers.judges.options import JudgeOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Preference pairs by a policy and a judge, or pairs with a judge's labels (docs/distillation.md).

    Exit status 2 when no pair comes of it.
    """

    prompts: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="PROMPTS")]
    """File of prompts: jsonl, json, csv, parquet or hub:org/name#split. Without --policy: pairs, whose answers are judged."""
    out: Path
    """jsonl or jsonl.gz of pairs; beside it the ledger of all calls, and what came of them as .label.json."""
    policy: Policy = field(default_factory=Policy)
    judge: str
    """Rubric file or a shipped rubric's name, which then compares in both orders; or any scorer."""
    k: int = 4
    """Answers to each prompt."""
    pairs_per_prompt: int | None = None
    """Pairs of a prompt's answers that are judged, drawn at random; all when left out."""
    temperature: float = 1.0
    """Of the answers."""
    max_tokens: int = 512
    """Of an answer; one that is cut off is in no pair."""
    limit: int | None = None
    """Take the first so many prompts; of pairs so many, drawn by whole prompts."""
    hard: bool = False
    """Of pairs: write 1 in place of the judge's probability."""
    dry_run: bool = False
    """Say what it would cost and stop."""
    columns: Columns = ()
    """Such as prompt=instruction (docs/data.md)."""
    ignore: Ignored = ()
    """Columns to leave out."""
    seed: int = 0
    """Of answers and draws."""
    device: str = "auto"
    """Such as cpu or cuda."""
    dtype: Dtype = "auto"
    """Number format of models in this process; auto measures which is faster."""
    judging: JudgeOptions = field(default_factory=JudgeOptions)

    def __post_init__(self) -> None:
        if not self.out.name.endswith((".jsonl", ".jsonl.gz")):
            raise ValueError(f"--out {self.out}: pairs are written as .jsonl or .jsonl.gz")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"--limit {self.limit} must be at least 1")
        if self.policy.policy is None and self.draws != Draws(seed=self.seed):
            raise ValueError("--k, --pairs-per-prompt, --temperature and --max-tokens are of a policy that answers: give --policy")
        if self.policy.policy is not None and self.hard:
            raise ValueError("--hard is of pairs that are labelled: leave it out with --policy")

    @property
    def draws(self) -> Draws:
        return Draws(
            k=self.k,
            temperature=self.temperature,
            max_tokens=self.max_tokens,
            pairs_per_prompt=self.pairs_per_prompt,
            seed=self.seed,
        )


def run(config: Config) -> int:
    """Say the price, sample, say the price of judging, judge, write, and say what it came to."""
    if config.policy.policy is None:
        return _of_pairs(config)
    draws = config.draws
    prompts, problems = read_prompts(config.prompts, limit=config.limit, names=renaming(config.columns, config.ignore))
    say("read", f"{config.prompts}: {problems.summary()}")
    if not prompts:
        print_error(f"there is no prompt in {config.prompts} that can be answered")
        return 2
    ledger = Ledger(_ledger_path(config))
    judge = open_labeller(config.judge, config.judging, ledger, device=config.device, dtype=config.dtype)
    policy = Generator(
        config.policy.backend(dtype=config.dtype, device=config.device),
        ledger=ledger,
        limits=Limits(budget=config.policy.policy_budget),
    )
    say("policy", f"{policy.backend.model}: {policy.estimate(asks_of(prompts, draws)).summary()}")
    calls = getattr(judge, "calls_per_answer", 0) * 2 * draws.most_pairs * len(prompts)
    say("judge", f"{draws.most_pairs * len(prompts):,} pairs at most" + (f", {calls:,} calls at most" if calls else ""))
    if config.dry_run:
        return 0
    answers, left_out = sampled(policy, prompts, draws)
    say("answers", f"{sum(map(len, answers)):,}: {policy.bill.summary()}")
    if isinstance(judge, Ledgered) and draws.pairs_per_prompt is None:
        say("judge", judge.estimate([answer for of_prompt in answers for answer in of_prompt]).summary())
    pairs = pairs_to_judge(prompts, answers, draws)
    found = labelled(
        pairs,
        judged(judge, pairs),
        answers,
        left_out,
        judge=judge.fingerprint,
        policy=policy.backend.model,
        source=slug(config.prompts),
    )
    _keep(config, found, judge, policy)
    return 0 if found.pairs else 2


def _of_pairs(config: Config) -> int:
    """Judge pairs that are there, and say how far that agrees with what they were labelled."""
    reader = read_pairs(config.prompts, limit=config.limit, seed=config.seed, names=renaming(config.columns, config.ignore))
    pairs = list(reader)
    say("read", f"{config.prompts}: {reader.summary()}")
    if not pairs:
        print_error(f"there is no pair in {config.prompts}: give pairs, or prompts and a --policy that answers them")
        return 2
    ledger = Ledger(_ledger_path(config)) if is_judge(config.judge) else None
    judge = open_labeller(config.judge, config.judging, ledger, device=config.device, dtype=config.dtype)
    if isinstance(judge, Ledgered):
        say("judge", judge.estimate([one for pair in pairs for one in pair.completions()]).summary())
    if config.dry_run:
        return 0
    found = relabel(judge, pairs, hard=config.hard, seed=config.seed)
    write_pairs(config.out, found.pairs)
    agreement = found.agreement
    content = {
        "judge": judge.fingerprint,
        "hard": config.hard,
        "pairs judged": found.num_judged,
        "pairs written": len(found.pairs),
        "pairs not written": dict(found.unwritten),
        "seconds": round(found.seconds, 3),
        "agreement with the labels": agreement.value if agreement.n_scored else None,
    }
    _write_counts(config, content)
    say("labelled", found.summary())
    if agreement.n_scored:
        of_them = f"of {agreement.n_scored:,} labels that were there"
        say("agrees", f"with {agreement.value:.3f} [{agreement.low:.3f}, {agreement.high:.3f}] {of_them}")
    if ledger is not None:
        say("bill", ledger.bill().summary())
    _say_written(config, len(found.pairs))
    return 0 if found.pairs else 2


def _keep(config: Config, found: Labelled, judge: Scorer, policy: Generator) -> None:
    """Write the pairs, each with its price, and what came of all of it."""
    bill = policy.ledger.bill()
    price = price_of_each(bill, len(found.pairs))
    write_pairs(config.out, found.pairs, beside=lambda pair: {"price": price})
    content: dict[str, Any] = {
        "prompts": found.num_prompts,
        "answers": found.num_answers,
        "answers left out": dict(found.unsampled),
        "pairs judged": found.num_judged,
        "pairs written": len(found.pairs),
        "pairs not written": dict(found.unwritten),
        "policy": policy.backend.model,
        "judge": judge.fingerprint,
        "calls": bill.num_calls,
        "price in US dollars": None if bill.num_unpriced else bill.price,
        "price of a written pair": price,
    }
    _write_counts(config, content)
    say("labelled", found.summary())
    if (said := getattr(judge, "consistency", None)) is not None:
        say("orders", said())
    say("bill", bill.summary() + (f"; {dollars(price)} for a written pair" if found.pairs else ""))
    _say_written(config, len(found.pairs))


def _say_written(config: Config, count: int) -> None:
    say("written", f"{count:,} pair{'' if count == 1 else 's'} -> {config.out}" + ("" if count else ", which is empty"))
    if not count:
        print_error("no pair came of it: give a judge whose verdicts stand in both orders, or more prompts and answers")


def _write_counts(config: Config, content: Mapping[str, Any]) -> None:
    write_text(config.out.with_name(f"{config.out.name}.label.json"), json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _ledger_path(config: Config) -> Path:
    return config.judging.ledger or config.out.with_name(f"{config.out.name}.ledger.sqlite")
