"""Score a file of completions of any size: in constant memory, resumable, one row of output for every row of input.

The input is read a chunk at a time, and the rows go to a journal (`journal.py`). A run that was stopped resumes after the last
whole chunk. Answers to one prompt in the same chunk share the prompt's computation. What compares the answers to a prompt with each
other gets the file as one chunk.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import pyarrow.parquet as pq
import tyro

from assay.bulk.chunks import CHUNK, ScoredChunk, chunks_after, score_chunk
from assay.bulk.journal import FORMAT, SUFFIXES, Journal, locked
from assay.bulk.score_ray import Cluster, score_on_ray
from assay.console import progress, say
from assay.data.pairs import read_completions
from assay.data.raw.rows import is_hub
from assay.generation.generator import Estimate, total_of
from assay.records import Completion, Dtype
from assay.run_files import LEDGER
from assay.scorers.base import CountsTokens, HasPlan, Scope, TellsCost, TokenCount, capability
from assay.scorers.judges.open_judge import is_judge
from assay.scorers.judges.options import JudgeOptions
from assay.scorers.opened import Opened, open_scorer
from assay.scorers.ray import RayScorer, connect, factory_of
from assay.scorers.verifiers.confined import CodeFlags

WHOLE_FILE = 1 << 40  # rows of a chunk where answers to one prompt, wherever they stand, are compared with each other


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreConfig:
    """Rewards for a file of completions; a run that was stopped is resumed (docs/scoring.md)."""

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """Run directory, artifact, URL, rule:NAME, rule:module:function or rubric (docs/judges.md)."""
    input: str
    """jsonl, jsonl.gz, json or parquet: prompt + response, messages, text, or token_ids."""
    output: Path
    """jsonl or parquet."""
    restart: bool = False
    """Drop the rows of a run that was stopped and start again."""
    cache: Path | None = None
    """SQLite file of cached rewards; created if it does not exist."""
    dry_run: bool = False
    """Say what it would cost and stop: calls and price of a judge, tokens of a model."""
    ray: int | None = None
    """Score on so many Ray actors."""
    ray_address: str | None = None
    """Ray cluster to join ("auto": the one of this machine); one is started on this machine when left out."""
    device: str = "auto"
    dtype: Dtype = "auto"
    batch_tokens: int | None = None
    """Token budget of one forward."""
    judge: JudgeOptions = field(default_factory=JudgeOptions)
    code: CodeFlags = field(default_factory=CodeFlags)


def score_file(config: ScoreConfig) -> tuple[int, int]:
    """Score every row of a file into `output`, in order; returns (rows, rows without a reward).

    Memory is constant, except that a json array is read whole, and a file for a model that compares the answers to a prompt too.
    Raises ValueError when there are unfinished rows of an earlier run with another model or input, or when another process writes
    the same output.
    """
    if config.output.suffix not in SUFFIXES:
        raise ValueError(f"--output {config.output}: rewards are written as .jsonl or .parquet")
    if config.ray is None and config.ray_address is not None:
        raise ValueError(f"--ray-address {config.ray_address}: say with --ray N on how many actors to score there")
    if config.ray is not None and is_judge(config.model):
        raise ValueError(f"--ray {config.ray}: a judge is asked from one process, with its rates and its ledger; leave --ray out")
    if config.ray is not None and config.code.run_code:
        raise ValueError("--run-code with --ray: code of answers is run on this machine alone, leave --ray out")
    read_completions(config.input)  # so that a missing file is reported before the model is loaded
    with locked(config.output):
        engine = _on_ray(config, config.ray) if config.ray is not None else _here(config)
        if engine.scope != "global" and config.ray is not None:
            raise ValueError(f"{config.model} compares the answers to a prompt with each other, and Ray scores a file in parts")
        size = CHUNK if engine.scope == "global" else WHOLE_FILE
        journal = Journal(config.output, _state(config.input, engine.fingerprint, size), chunk=size, restart=config.restart)
        with closing(journal):
            _write(journal, config, engine.chunks_after(journal.num_rows, journal.last_row))
            journal.finish()
        engine.say_bill()
    return journal.num_rows, journal.num_failed


def say_cost(config: ScoreConfig) -> int:
    """Say what the rows of a file would cost: the calls of a judge and their price at most, or the tokens that a model would read.

    Nothing is asked and nothing scored; rows of an unfinished run count too. Returns the number of rows.
    """
    scorer = _opened(config).scorer
    judge, counting = capability(scorer, TellsCost), capability(scorer, CountsTokens)
    num_rows, estimates, counts = 0, list[Estimate](), list[TokenCount]()
    for chunk in chunks_after(config.input, size=CHUNK if scorer.scope == "global" else WHOLE_FILE):
        completions = [item for _, item in chunk if isinstance(item, Completion)]
        num_rows += len(chunk)
        if judge is not None:
            estimates.append(judge.estimate(completions))
        elif counting is not None:
            counts += counting.token_counts(completions)
    if estimates:
        say("judge", total_of(estimates).summary())
    elif counts:
        num_cut, num_tokens = sum(count.is_cut for count in counts), sum(count.num_tokens for count in counts)
        say("tokens", f"{num_tokens:,} to read at most, as prompts that are shared are read once; {num_cut:,} answers are cut")
    else:
        say("cost", f"{config.model} says nothing of what it costs")
    return num_rows


class _Engine(NamedTuple):
    """The scorer of a file. chunks_after(num_done, last_row) gives the scored chunks after the rows that are done."""

    fingerprint: str
    scope: Scope
    chunks_after: Callable[[int, int], Iterator[ScoredChunk]]
    say_bill: Callable[[], None] = lambda: None


def _opened(config: ScoreConfig) -> Opened:
    """The model in this process."""
    return open_scorer(
        config.model,
        dtype=config.dtype,
        device=config.device,
        max_tokens=config.batch_tokens,
        cache=config.cache,
        judge=config.judge,
        ledger=config.output.with_name(f"{config.output.name}.{LEDGER}"),
        run_code=config.code.allowed,
    )


def _here(config: ScoreConfig) -> _Engine:
    opened = _opened(config)
    scorer = opened.scorer
    if (planned := capability(scorer, HasPlan)) is not None:
        say("budget", planned.plan.summary())

    def scored(num_done: int, last_row: int) -> Iterator[ScoredChunk]:
        size = CHUNK if scorer.scope == "global" else WHOLE_FILE
        return (score_chunk(scorer, chunk) for chunk in chunks_after(config.input, num_done, last_row, size=size))

    return _Engine(scorer.fingerprint, scorer.scope, scored, opened.say_bill)


def _on_ray(config: ScoreConfig, num_actors: int) -> _Engine:
    """The model on the actors of a Ray cluster."""
    connect(num_actors, config.ray_address)
    factory = factory_of(config.model, dtype=config.dtype, device=config.device, max_tokens=config.batch_tokens, cache=config.cache)
    with RayScorer(factory, num_actors=1, device=config.device) as scorer:  # the pool that scores is Ray Data's own
        fingerprint, scope = scorer.fingerprint, scorer.scope

    def scored(num_done: int, last_row: int) -> Iterator[ScoredChunk]:
        cluster = Cluster(factory=factory, fingerprint=fingerprint, num_actors=num_actors, device=config.device)
        return score_on_ray(cluster, config.input, num_done, last_row, note=lambda text: say("note", text))

    return _Engine(fingerprint, scope, scored)


def _write(journal: Journal, config: ScoreConfig, chunks: Iterator[ScoredChunk]) -> None:
    """Add the scored chunks to the journal, and show progress."""
    done = journal.num_rows
    num_known = num_requested = 0
    problem, reasons = None, Counter[str]()
    if done:
        say("resume", f"{done:,} rows were scored by an earlier run; going on from there")
    with progress("scoring", _num_rows(config.input), "rows", done=done) as advance:
        for chunk in chunks:
            journal.append(chunk.rows)
            advance(len(chunk.rows))
            reasons.update(row["error"] for row in chunk.rows if row.get("error"))
            num_known, num_requested = num_known + chunk.num_known, num_requested + chunk.num_requested
            problem = chunk.cache_problem or problem
    for reason, count in reasons.most_common(3):
        say("no reward", f"{count:,} rows: {reason}")
    if config.cache is not None:
        say("cache", f"{num_known:,} of {num_requested:,} rewards were known")
    if problem:
        say("note", f"some rewards could not be kept in the cache: {problem}")


def _state(source: str, fingerprint: str, size: int) -> dict[str, Any]:
    """What determines the rows: a run resumes only if all of it is unchanged."""
    state: dict[str, Any] = {"format": FORMAT, "model fingerprint": fingerprint, "chunk size": size}
    if is_hub(source):
        return state | {"input": source}
    path = Path(source).resolve()
    status = path.stat()
    return state | {"input": str(path), "input size": status.st_size, "input modification time": status.st_mtime_ns}


def _num_rows(source: str) -> int | None:
    """How many rows there are; None if that takes reading them."""
    return pq.read_metadata(source).num_rows if source.endswith(".parquet") and not is_hub(source) else None
