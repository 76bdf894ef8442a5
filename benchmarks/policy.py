"""A policy trained by TRL's GRPO on the rewards of a served model, whose server is killed on the way. Last line: one JSON document.

python benchmarks/policy.py --model runs/demo
python benchmarks/policy.py --model runs/demo --trainer rloo --steps 3

SmolLM2-135M-Instruct is the policy, `assay serve` a process of its own, a `RemoteScorer` the reward function, through
`assay.policy.trl`. After half of the steps the server is killed and started anew on its port: the step that asks meanwhile
waits. At the end every reward is compared with that of the same model in this process, and a server of another model must raise.
"""

from __future__ import annotations

import json
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from serve_process import Server  # first: it notes which cores are ours

# isort: split
from assay import cli  # then: it sets OpenMP up before torch is loaded

# isort: split
import numpy as np
import torch
import trl
import tyro
from datasets import Dataset
from score import ScoreBenchConfig, machine, save_model
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

import assay
from assay.data.pairs import read_pairs
from assay.errors import AssayError
from assay.models.bases import resolve_base
from assay.policy.trl import trl_reward
from assay.records import Completion, Rewards
from assay.scorers.remote import RemoteScorer
from assay.workflows.demo import packaged_base
from assay.workflows.show import say

LOGGED = ("reward", "reward_std", "assay/unscored")


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    model: Path | None = None
    """Run directory or artifact that is served; a fresh head on the packaged base when left out."""
    trainer: Literal["grpo", "rloo"] = "grpo"
    steps: int = 4
    prompts: int = 2
    """Of one step."""
    answers: int = 4
    """To each prompt."""
    tokens: int = 48
    """Of an answer, at most."""
    seed: int = 0


class Watched:
    """A scorer that remembers what it was asked, what it said, and how long that took."""

    def __init__(self, scorer: RemoteScorer) -> None:
        self.scorer, self.scope, self.tolerance, self.fingerprint = scorer, scorer.scope, scorer.tolerance, scorer.fingerprint
        self.asked: list[Completion] = []
        self.values: list[float] = []
        self.seconds: list[float] = []

    def score(self, completions: Sequence[Completion]) -> Rewards:
        began = time.perf_counter()
        rewards = self.scorer.score(completions)
        self.seconds.append(time.perf_counter() - began)
        self.asked += completions
        self.values += rewards.value.tolist()
        return rewards


class Restart(TrainerCallback):
    """Kills the server at the end of a step, and starts another on its port beside the next one."""

    def __init__(self, service: Service, step: int) -> None:
        self.service, self.step = service, step
        self.thread: threading.Thread | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        if state.global_step == self.step:
            self.service.kill()
            self.thread = threading.Thread(target=self.service.start)
            self.thread.start()


class Service:
    """`assay serve` on one port."""

    def __init__(self, model: Path, work: Path) -> None:
        self.model, self.work = model, work
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
        self.starts = 0
        self.server: Server | None = None

    def start(self) -> None:
        self.starts += 1
        command = [sys.executable, "-m", "assay.cli", "serve", f"rm={self.model}", "--port", str(self.port)]
        self.server = Server(command, self.work / f"serve-{self.starts}.log", health="/readyz")

    def kill(self) -> None:
        assert self.server is not None
        self.server.process.kill()
        self.server.process.wait()


def main() -> int:
    cli.keep_freed_memory()
    config = tyro.cli(PolicyConfig)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        save_model(ScoreBenchConfig(), work)  # also the other model, that must not be taken for the first
        model = config.model or work / "artifact"
        service = Service(model.resolve(), work)
        service.start()
        remote = RemoteScorer(f"http://127.0.0.1:{service.port}", attempts=100, deadline_seconds=300)
        watched, restart = Watched(remote), Restart(service, config.steps // 2)
        rows, seconds = train(config, watched, restart, work)
        assert restart.thread is not None
        restart.thread.join()
        here = assay.load(model)
        expected = here.score(watched.asked).value
        service.kill()
        raised = "" if config.model is None else other_model(service, work / "artifact", watched)
    found = np.array(watched.values)
    result = {
        "trainer": config.trainer,
        "trl": trl.__version__,
        "policy": Path(packaged_base()).name,
        "reward_model": "a fresh head" if config.model is None else config.model.name,
        "steps": [
            {name: round(row[name], 4) for name in ("reward", "reward_std", "assay/unscored") if name in row} for row in rows
        ],
        "answers": len(found),
        "unscored": int(np.isnan(found).sum()),
        "largest_difference_to_this_process": float(np.nanmax(np.abs(found - expected))),
        "tolerance": here.tolerance,
        "reward_seconds": [round(one, 2) for one in watched.seconds],
        "train_seconds": round(seconds, 1),
        "server_starts": service.starts,
        "another_model_raises": raised,
        "machine": machine(),
        "seconds": round(time.perf_counter() - began),
    }
    print(json.dumps(result))
    return 0


def train(config: PolicyConfig, scorer: Watched, restart: Restart, work: Path) -> tuple[list[dict[str, Any]], float]:
    """The trainer's rows of its steps, and seconds."""
    path = resolve_base(packaged_base()).path
    kinds = {"grpo": (trl.GRPOConfig, trl.GRPOTrainer), "rloo": (trl.RLOOConfig, trl.RLOOTrainer)}
    arguments, trainer = kinds[config.trainer]
    starter = read_pairs(str(files("assay.data") / "starter" / "starter.jsonl"))
    prompts = list(dict.fromkeys(pair.prompt for pair in starter if len(pair.prompt) == 1))[: config.steps * config.prompts]
    asked = [[{"role": message.role, "content": message.content} for message in prompt] for prompt in prompts]
    trained = trainer(
        model=AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32),
        reward_funcs=[trl_reward(scorer)],
        args=arguments(
            output_dir=str(work / "policy"),
            per_device_train_batch_size=config.prompts * config.answers,
            num_generations=config.answers,
            max_completion_length=config.tokens,
            max_steps=config.steps,
            learning_rate=1e-6,
            seed=config.seed,
            use_cpu=True,
            bf16=False,
            report_to="none",
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_dict({"prompt": asked}),
        processing_class=AutoTokenizer.from_pretrained(path),
        callbacks=[restart],
    )
    began = time.perf_counter()
    trained.train()
    rows = [row for row in trained.state.log_history if "reward" in row]
    for row in rows:
        say(f"step {row.get('step')}", json.dumps({name: row[name] for name in ("reward", "reward_std") if name in row}))
    return rows, time.perf_counter() - began


def other_model(service: Service, model: Path, scorer: Watched) -> str:
    """What is raised when another model answers on the port of the first."""
    service.model = model
    service.start()
    try:
        scorer.score(scorer.asked[:1])
    except AssayError as error:
        return f"{type(error).__name__}: {error}"
    finally:
        service.kill()
    raise AssertionError("rewards of another model were taken for those of the first")


if __name__ == "__main__":
    sys.exit(main())
