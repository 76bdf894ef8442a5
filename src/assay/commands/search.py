"""`assay search`: solutions that a policy writes and a scorer of steps leads and chooses, and what that is worth."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from assay.commands.shared import Columns, Ignored, Model, Where, keep, show
from assay.console import print_error, progress, say
from assay.data.prompt_rows import Prompt, read_prompts
from assay.data.raw.columns import renaming
from assay.data.raw.rows import slug
from assay.files import write_text
from assay.generation.generator import Generator, Limits
from assay.generation.ledger import Ledger
from assay.generation.policy import Policy
from assay.messages import Message
from assay.rl.search.budgets import BudgetCurve, curve_of, settings_of_curve
from assay.rl.search.growing import Found, Method, Reduce, SearchSettings
from assay.rl.search.methods import search
from assay.rl.search.searched import answer_rows, summarised
from assay.scorers.base import Scorer


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Answers that the rewards of their steps led to; a run that was stopped goes on (docs/process.md)."""

    model: Model
    prompts: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="PROMPTS")]
    """File of prompts; with a column ground_truth it is said how many are right."""
    answers: Path
    """jsonl of what was found; beside it the ledger of all calls."""
    policy: Policy
    method: Method = "best-of-n"
    """How: n whole solutions; n prefixes, the best n / width in copies; n / width trees; prefixes below --threshold dropped."""
    n: int = 4
    """Solutions to a prompt."""
    curve: tuple[int, ...] = ()
    """More values of n, for accuracy over tokens beside whole solutions of as many; prompts need a ground_truth."""
    beside: str | None = None
    """On --curve: another model that chooses among the whole solutions, such as an outcome model."""
    width: int = 4
    """Continuations of each prefix that is kept."""
    rounds: int = 40
    """Steps; in the last one solutions are written to their end."""
    reduce: Reduce = "min"
    """One number of a solution's step rewards; own takes the model's."""
    threshold: float | None = None
    """Of rejection, in the unit of --reduce: a prefix that is not above it is dropped."""
    step_end: tuple[str, ...] = (r"\n\n",)
    """Texts that end a step; \\n is a line's end."""
    temperature: float = 0.8
    """Of the policy."""
    max_tokens: int = 512
    """Of one call: a step, or all that is left; what is longer is cut off and not chosen."""
    system: str | None = None
    """Instruction that goes before each prompt, such as how the answer is to be marked."""
    limit: int | None = None
    """Take the first so many prompts."""
    columns: Columns = ()
    """Such as prompt=problem ground_truth=solution (docs/data.md)."""
    ignore: Ignored = ()
    """Columns to leave out."""
    seed: int = 0
    """Of the draws."""
    where: Where = field(default_factory=Where)

    def __post_init__(self) -> None:
        if not self.answers.name.endswith(".jsonl"):
            raise ValueError(f"--answers {self.answers}: what is found is written as .jsonl")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"--limit {self.limit} must be at least 1")
        if self.curve and self.method == "best-of-n":
            raise ValueError(f"--curve {self.curve} is of beam, dvts and rejection: the page of best-of-n has a curve anyway")
        if self.beside is not None and not self.curve:
            raise ValueError(f"--beside {self.beside} chooses among the whole solutions of --curve: give values of n there too")
        if self.policy.policy is None:
            raise ValueError("--policy names no language model: give the one that answers, a directory or a hub id")

    @property
    def settings(self) -> SearchSettings:
        """Raises ValueError for flags that do not go together."""
        return SearchSettings(
            method=self.method,
            n=self.n,
            width=self.width,
            rounds=self.rounds,
            stop=tuple(end.replace(r"\n", "\n") for end in self.step_end),
            reduce=self.reduce,
            threshold=self.threshold,
            temperature=self.temperature,
            max_tokens=self.max_tokens,
            seed=self.seed,
        )


def run(config: Config) -> int:
    """Search, write what was found, keep the report, and show it."""
    settings = config.settings
    opened = config.where.open(config.model)
    read, problems = read_prompts(config.prompts, limit=config.limit, names=renaming(config.columns, config.ignore))
    say("read", f"{config.prompts}: {problems.summary()}")
    if not read:
        print_error(f"there is no prompt in {config.prompts} that can be answered")
        return 2
    prompts = [_instructed(one, config.system) for one in read]
    if config.curve:
        settings_of_curve(settings, config.curve, prompts)  # refuses what does not go together
    home = config.where.out or config.answers.parent
    ledger = Ledger(config.answers.with_name(f"{config.answers.name}.ledger.sqlite"))
    backend = config.policy.backend(dtype=config.where.dtype, device=config.where.device)
    generator = Generator(backend, ledger=ledger, limits=Limits(budget=config.policy.policy_budget))
    scorer, total = opened.scorer, len(prompts) * settings.n if settings.method == "best-of-n" else None
    with progress("writing", total, "calls") as advance:
        found = search(generator, scorer, [one.messages for one in prompts], settings, advance=advance)
    title = f"Search: {settings.method}, n = {settings.n}, on {Path(config.prompts).name}"
    result = summarised(found, prompts, settings, title=title, seed=config.seed)
    if config.curve:
        result = replace(result, page=_curve(config, generator, scorer, prompts, found).added_to(result.page))
    say("policy", f"{backend.model}: {generator.bill.summary()}")
    opened.say_bill()
    write_text(config.answers, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in answer_rows(result, prompts)))
    say("written", str(config.answers))
    kept_as = f"search-{settings.method}-{slug(config.prompts)}"
    report = keep(result, home, kept_as, page=f"{opened.name} leads {backend.model}")
    show([report], verbose=config.where.verbose, page=home / f"{kept_as}.html")
    return 0


def _curve(config: Config, generator: Generator, scorer: Scorer, prompts: Sequence[Prompt], found: Sequence[Found]) -> BudgetCurve:
    """The search with every n, and the whole solutions; what the ledger holds is not written again. found: with --n."""
    messages = [one.messages for one in prompts]
    beside = {} if config.beside is None else {config.beside: config.where.open(config.beside).scorer}
    rewards = {name: lambda items, own=own: own.score(items).value for name, own in beside.items()}

    def search_with(settings: SearchSettings) -> Sequence[Found]:
        return found if settings == config.settings else search(generator, scorer, messages, settings, advance=advance)

    with progress("curve", None, "calls") as advance:
        return curve_of(search_with, config.settings, (*config.curve, config.n), prompts, rewards)


def _instructed(prompt: Prompt, system: str | None) -> Prompt:
    return prompt if system is None else replace(prompt, messages=(Message("system", system), *prompt.messages))
