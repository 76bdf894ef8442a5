"""GRPO by TRL with SmolLM2-135M as the policy and a served reward model. Last line: one JSON document.

python benchmarks/policy.py --model runs/demo

`assay serve` runs as a process of its own. Before the step numbered --restart-before it is killed, and started again three seconds
later: the next call must be bridged by the client's retries. At the end another model takes its port: the next call must raise.
Every reward is compared with that of a scorer in this process on the same answers.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from assay import cli  # first: it sets OpenMP up before torch is loaded

# isort: split
import numpy as np
import torch
import trl
import tyro
from datasets import Dataset
from real import machine
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

import assay
from assay.commands.demo.run import packaged_base
from assay.console import say
from assay.errors import EngineError
from assay.models.bases import resolve_base
from assay.models.saved.artifact import load_artifact, save_artifact
from assay.records import Completion, Rewards
from assay.rl.trl import trl_reward
from assay.run_files import artifact_path
from assay.scorers.base import Scope, Scorer

PROMPTS = (
    "How do I keep basil alive on a windowsill?",
    "Explain what a hash table is.",
    "Write a short thank-you note to a neighbour.",
    "Why is the sky blue?",
    "How can I sleep better?",
    "What should I check before I buy a used bicycle?",
    "Describe the water cycle.",
    "Give me three ideas for a rainy afternoon.",
)
DOWN_SECONDS = 3.0


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    model: Path
    """Artifact or run directory of the reward model."""
    steps: int = 4
    prompts: int = 2
    """Prompts a step."""
    answers: int = 4
    """Answers a prompt."""
    tokens: int = 48
    """New tokens an answer."""
    restart_before: int = 2
    """The server is restarted before this step, counted from 0; -1: never."""
    seed: int = 0


class Call(NamedTuple):
    completions: Sequence[Completion]
    rewards: Rewards
    began: float
    seconds: float


class Timed:
    """A scorer that keeps what it was asked, what it answered and the seconds, and calls `before` ahead of each call."""

    scope: Scope = "global"

    def __init__(self, scorer: Scorer, before: Callable[[int], None]) -> None:
        self.scorer, self.before = scorer, before
        self.fingerprint, self.tolerance = scorer.fingerprint, scorer.tolerance
        self.calls: list[Call] = []

    def score(self, completions: Sequence[Completion]) -> Rewards:
        self.before(len(self.calls))
        began = time.perf_counter()
        rewards = self.scorer.score(completions)
        self.calls.append(Call(completions, rewards, began, time.perf_counter() - began))
        return rewards


class Starts(TrainerCallback):
    """When each step began; from there to the call of the scorer TRL generates."""

    def __init__(self) -> None:
        self.at: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.at.append(time.perf_counter())


class Server:
    """`assay serve` as a process on a port that it keeps over restarts."""

    def __init__(self, model: str) -> None:
        self.port = 0
        self.process: subprocess.Popen[str]
        self.start(model)

    def start(self, model: str) -> None:
        """Returns when the process says that it serves."""
        command = [str(Path(sys.executable).with_name("assay")), "serve", f"rm={model}", "--port", str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        said = []
        stdout = self.process.stdout
        assert stdout is not None
        for line in stdout:
            said.append(line)
            if found := re.search(r"http://127\.0\.0\.1:(\d+)", line):
                self.port = int(found[1])
                threading.Thread(target=stdout.read, daemon=True).start()  # or its pipe fills
                return
        raise RuntimeError(f"the server ended before it served: {''.join(said)}")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@contextmanager
def served(model: str) -> Iterator[Server]:
    server = Server(model)
    try:
        yield server
    finally:
        server.kill()


def main() -> int:
    cli.keep_freed_memory()
    config = tyro.cli(PolicyConfig)
    began = time.perf_counter()
    artifact = str(artifact_path(config.model))
    with served(artifact) as server, tempfile.TemporaryDirectory() as directory:
        restarts: list[threading.Thread] = []

        def before(call: int) -> None:
            if call == config.restart_before:
                server.kill()
                restarts.append(threading.Timer(DOWN_SECONDS, server.start, (artifact,)))
                restarts[0].start()

        scorer = Timed(assay.load(f"http://127.0.0.1:{server.port}"), before)
        starts = Starts()
        log, train_seconds = train(config, scorer, starts, Path(directory))
        for restart in restarts:
            restart.join()
        refusal = another_model(config, server, scorer.scorer, Path(directory))
    local = assay.load(artifact)
    worst = max(float(np.abs(call.rewards.value - local.score(call.completions).value).max()) for call in scorer.calls)
    rows = [row_of(*columns) for columns in zip(log, scorer.calls, starts.at, strict=True)]
    for row in rows:
        say("step", json.dumps(row))
    undisturbed = [row for number, row in enumerate(rows) if number != config.restart_before]
    result = {
        "trl": trl.__version__,
        "policy": "SmolLM2-135M-Instruct",
        "same_as_local": bool(scorer.fingerprint == local.fingerprint),
        "completions": sum(len(call.completions) for call in scorer.calls),
        "largest_difference_to_local": worst,
        "tolerance": local.tolerance,
        "share_of_step": {name: share_of(undisturbed, name) for name in ("generation", "reward")},
        "steps": rows,
        "restarted_before_step": config.restart_before,
        "another_model_on_the_port": refusal,
        "train_seconds": round(train_seconds, 1),
        "machine": machine(),
        "seconds": round(time.perf_counter() - began),
    }
    print(json.dumps(result))
    return 0


def train(config: PolicyConfig, scorer: Scorer, starts: Starts, directory: Path) -> tuple[list[dict[str, Any]], float]:
    """TRL's log of each step, and the seconds of training."""
    path = resolve_base(packaged_base()).path
    arguments = trl.GRPOConfig(
        output_dir=str(directory / "policy"),
        per_device_train_batch_size=config.prompts * config.answers,
        num_generations=config.answers,
        max_completion_length=config.tokens,
        max_steps=config.steps,
        learning_rate=1e-5,
        use_cpu=True,
        bf16=False,
        report_to="none",
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
        seed=config.seed,
    )
    trainer = trl.GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32),
        reward_funcs=[trl_reward(scorer)],
        args=arguments,
        train_dataset=Dataset.from_dict({"prompt": [[{"role": "user", "content": prompt}] for prompt in PROMPTS]}),
        processing_class=AutoTokenizer.from_pretrained(path),
        callbacks=[starts],
    )
    began = time.perf_counter()
    trainer.train()
    return [row for row in trainer.state.log_history if "reward" in row], time.perf_counter() - began


def row_of(logged: dict[str, Any], call: Call, step_began: float) -> dict[str, Any]:
    """The rewards of one step, as TRL logged them too, and where its seconds went."""
    return {
        "mean": round(float(call.rewards.value.mean()), 4),
        "std": round(float(call.rewards.value.std()), 4),
        "logged_mean": round(logged["rewards/assay/mean"], 4),
        "unscored": logged["assay/unscored"],
        "seconds": round(logged["step_time"], 2),
        "generation_seconds": round(call.began - step_began, 2),
        "reward_seconds": round(call.seconds, 3),
    }


def share_of(rows: Sequence[dict[str, Any]], name: str) -> float:
    return round(sum(row[f"{name}_seconds"] for row in rows) / sum(row["seconds"] for row in rows), 4)


def another_model(config: PolicyConfig, server: Server, scorer: Scorer, directory: Path) -> str:
    """What the scorer says when a model with other weights answers at the port of the one that it was made for."""
    other = other_artifact(Path(artifact_path(config.model)), directory / "other")
    server.kill()
    server.start(str(other))
    try:
        scorer.score([Completion(messages=PROMPTS[0], response="Water it.")])  # type: ignore[arg-type]
    except EngineError as error:
        return str(error)
    raise AssertionError("rewards of another model were taken")


def other_artifact(artifact: Path, out: Path) -> Path:
    """The artifact with half the rewards."""
    model, renderer, description = load_artifact(artifact)
    with torch.no_grad():
        model.head.weight.mul_(0.5)
    save_artifact(model, renderer, out, {**description, "calibration": None}, dtype=torch.float32)
    return out


if __name__ == "__main__":
    sys.exit(main())
