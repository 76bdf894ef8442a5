"""Training beside other work: how OpenMP waits, spins and binds, alone and beside busy processes. Last line: JSON.

    python benchmarks/busy.py                 # 2 busy processes, each setting 3 times: about 6 minutes
    python benchmarks/busy.py --busy 8

Each run is a process of its own that takes `steps` optimiser steps of a random Llama (width 576, as SmolLM2-135M) on packed pairs.
The settings are tried in turn within each repeat, so that a slow minute is shared by all of them. `beside` over `alone` of
today's setting is the slowdown; beside B busy processes a fair share of two cores would be (2 + B) / 2.
Written down before the run: passive waiting costs at most 3% alone, and brings the slowdown beside two processes to a fair
share (2).
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import tyro

SETTINGS: dict[str, dict[str, str]] = {
    "bound (until now)": {"OMP_PROC_BIND": "true"},
    "bound, passive": {"OMP_PROC_BIND": "true", "OMP_WAIT_POLICY": "passive"},
    "bound, spin 1000": {"OMP_PROC_BIND": "true", "GOMP_SPINCOUNT": "1000"},
    "unbound": {},
    "unbound, passive": {"OMP_WAIT_POLICY": "passive"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
TODAY = "bound (until now)"


@dataclass(frozen=True, kw_only=True)
class BusyConfig:
    busy: int = 2
    """Processes that compute beside the measured one, one thread each."""
    repeats: int = 3
    steps: int = 6
    only: tuple[str, ...] = ()
    """Settings to try beside that of today; all when left out."""
    child: bool = False
    """Take the steps in this process, and print their seconds."""


def main() -> int:
    config = tyro.cli(BusyConfig)
    if config.child:
        print(json.dumps(take_steps(config.steps)))
        return 0
    tried = {name: variables for name, variables in SETTINGS.items() if not config.only or name in (TODAY, *config.only)}
    seconds: dict[str, dict[str, list[float]]] = {name: {"alone": [], "beside": []} for name in tried}
    for _ in range(config.repeats):
        for name, variables in tried.items():
            seconds[name]["alone"].append(measured(config, variables))
            with busy_processes(config.busy):
                seconds[name]["beside"].append(measured(config, variables))
            print(name, {key: round(found[-1], 2) for key, found in seconds[name].items()}, file=sys.stderr, flush=True)
    alone = statistics.median(seconds[TODAY]["alone"])
    rows = {
        name: {
            "alone_s": [round(value, 3) for value in found["alone"]],
            "beside_s": [round(value, 3) for value in found["beside"]],
            "alone_over_today": round(statistics.median(found["alone"]) / alone, 3),
            "slowdown_beside": round(statistics.median(found["beside"]) / alone, 2),
        }
        for name, found in seconds.items()
    }
    print(json.dumps({"busy": config.busy, "fair_slowdown": (2 + config.busy) / 2, "cores": os.cpu_count(), "settings": rows}))
    return 0


def measured(config: BusyConfig, variables: dict[str, str]) -> float:
    """Seconds of the steps in a process with these variables, and none of those that are compared from outside."""
    compared = {name for setting in SETTINGS.values() for name in setting}
    environment = {name: value for name, value in os.environ.items() if name not in compared} | variables
    command = [sys.executable, __file__, "--child", "--steps", str(config.steps)]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


@contextmanager
def busy_processes(number: int) -> Iterator[None]:
    """So many processes that multiply, one thread each, while the block runs."""
    script = "import numpy as n; a = n.random.default_rng(0).random((300, 300))\nwhile True: b = a @ a"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    started = [subprocess.Popen([sys.executable, "-c", script], env=environment) for _ in range(number)]
    try:
        time.sleep(1.0)
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def take_steps(num_steps: int) -> float:
    """Seconds of `num_steps` steps after one that warms up."""
    import torch
    from transformers import LlamaConfig, LlamaModel

    torch.manual_seed(0)
    shape = {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3}
    model = LlamaModel(LlamaConfig(**shape, num_hidden_layers=6, vocab_size=2000))
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)
    tokens = torch.randint(0, 2000, (4, 256))

    def step() -> None:
        model(input_ids=tokens).last_hidden_state.float().pow(2).mean().backward()
        optimiser.step()
        optimiser.zero_grad()

    step()
    began = time.perf_counter()
    for _ in range(num_steps):
        step()
    return time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(main())
