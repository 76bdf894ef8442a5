"""Load of `assay serve`: callers, overload, faults, memory; against a plain handler and the offline scorer. Last line: one JSON.

python benchmarks/serve.py
python benchmarks/serve.py --quick --parts load faults
python benchmarks/serve.py --parts load --vllm PATH/bin/python

Servers and the client are processes of their own, on loopback. (load) 1, 8, 64, 256 callers, one completion a request, the answers
of a prompt asked for by 8 callers at about the same time; who answers is asked in turn. (overload) four times the capacity arrives
whatever becomes of it. (faults) random requests with faults and a table of what each must be answered. (memory) an hour's requests.
(pairs) with --before: this service and another checkout's in turn, on a tiny model.
(hardship) 1,000 callers, slow readers, half-open connections, bodies a byte a second, a full disk, jumping clocks, a killed writer.
Every reward is compared with the offline scorer's; status 1 when one is wrong, an answer is lost, or a server has ended.
"""

from __future__ import annotations

import json
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from score_child import Child  # first: it notes which cores are ours

# isort: split
from assay import cli  # then: it sets OpenMP up before torch is loaded

# isort: split
import serve_hardship
import serve_stress
import tyro
from score import ScoreBenchConfig, log, machine, save_model
from serve_load import ONE_SIZE, Bench, capacity, load, make_bench, pairs
from serve_models import save_items, save_tiny

from assay.commands.demo.run import packaged_base
from assay.models.device import pick_compute
from assay.records import Dtype

PARTS = ("load", "overload", "faults", "memory", "hardship")
ALL_PARTS = (*PARTS, "pairs")
VERSIONS = ("assay-rm", "fastapi", "httpx2", "starlette", "uvicorn")


@dataclass(frozen=True, kw_only=True)
class ServeBenchConfig:
    parts: tuple[str, ...] = PARTS
    callers: tuple[int, ...] = (1, 8, 64, 256)
    rounds: int = 3
    seconds: float = 15.0
    """Of one measurement, about; every caller asks at least once, and up to 64 of them twice."""
    overload_seconds: float = 60.0
    fault_requests: int = 10_000
    memory_seconds: float = 3600.0
    """As many requests as 64 callers send in this time, sent as fast as a tiny model answers them."""
    max_memory_requests: int = 40_000
    prompt_tokens: int = 96
    answer_tokens: int = 48
    base: str | None = None
    dtype: Dtype = "auto"
    hardships: tuple[str, ...] = ()
    """Some parts of hardship alone, by their names in the result."""
    before: Path | None = None
    """Another checkout, whose `assay serve` is asked in turn with this one."""
    vllm: Path | None = None
    """Python of an environment that holds vLLM."""
    quick: bool = False
    """A check in less than five minutes: one round, 64 callers at most, a tenth of the requests."""


def main() -> int:
    config = tyro.cli(ServeBenchConfig)
    unknown = set(config.parts) - set(ALL_PARTS)
    if unknown:
        raise ValueError(f"--parts {sorted(unknown)} is unknown: use some of {', '.join(ALL_PARTS)}")
    if config.quick:
        config = quick(config)
    began = time.perf_counter()
    base = config.base or packaged_base()
    dtype = pick_compute("cpu", config.dtype).name
    versions = {name: version(name) for name in VERSIONS}
    result: dict[str, Any] = {"base": Path(base).name, "dtype": dtype, "rounds": config.rounds, "machine": machine() | versions}
    log("start", result)
    with tempfile.TemporaryDirectory() as directory:
        if {"load", "overload", "memory"} & set(config.parts):
            with large(config, Path(directory) / "large", dtype) as (bench, sizes):
                result |= {"items": sizes, **with_large(config, bench)}
        if {"faults", "memory", "hardship", "pairs"} & set(config.parts):
            with tiny(base, Path(directory) / "tiny") as (bench, sizes):
                result |= {"tiny_items": sizes, **with_tiny(config, bench, result.get("capacity_samples_per_s", 0.0))}
    print(json.dumps({**result, "seconds": round(time.perf_counter() - began)}))
    found = [one for part in config.parts for one in (result[part].values() if part == "pairs" else [result[part]])]
    return 1 if any(map(is_bad, found)) else 0


def quick(config: ServeBenchConfig) -> ServeBenchConfig:
    return replace(
        config,
        callers=tuple(number for number in config.callers if number <= ONE_SIZE) or config.callers[:1],
        rounds=1,
        seconds=min(config.seconds, 5.0),
        overload_seconds=min(config.overload_seconds, 15.0),
        fault_requests=min(config.fault_requests, 1000),
        max_memory_requests=min(config.max_memory_requests, 4000),
    )


@contextmanager
def large(config: ServeBenchConfig, work: Path, dtype: str) -> Iterator[tuple[Bench, dict[str, float]]]:
    """SmolLM2-135M with a fresh head, and items enough for every caller."""
    work.mkdir()
    renderer = save_model(ScoreBenchConfig(base=config.base), work)
    count = max(2 * ONE_SIZE, *config.callers)
    part = 2 * max((number for number in config.callers if number <= ONE_SIZE), default=ONE_SIZE)
    lengths = {"prompt_tokens": config.prompt_tokens, "answer_tokens": config.answer_tokens}
    sizes = save_items(renderer, work, prompts=-(-count // 8), part=max(8, part), **lengths)
    with client(work) as asking:
        yield make_bench(work, dtype, asking), sizes


@contextmanager
def tiny(base: str, work: Path) -> Iterator[tuple[Bench, dict[str, float]]]:
    work.mkdir()
    sizes = save_items(save_tiny(base, work), work, prompts=50, prompt_tokens=60, answer_tokens=24, part=8)
    with client(work) as asking:
        yield make_bench(work, "float32", asking), sizes


def client(work: Path) -> Child:
    return Child([sys.executable, str(Path(__file__).with_name("serve_client.py")), str(work)], work / "client.log")


def with_large(config: ServeBenchConfig, bench: Bench) -> dict[str, Any]:
    result: dict[str, Any] = {}
    if "load" in config.parts:
        result["load"] = found = load(bench, config.callers, config.rounds, config.seconds, config.vllm, config.before)
        rate = found["ways"]["assay"][str(found["compared_at_callers"])]["samples_per_s"]["median"]
    else:
        rate = capacity(bench)
    result["capacity_samples_per_s"] = rate
    if "overload" in config.parts:
        result["overload"] = serve_stress.overload(bench, rate, config.overload_seconds)
    return result


def with_tiny(config: ServeBenchConfig, bench: Bench, rate: float) -> dict[str, Any]:
    result: dict[str, Any] = {}
    if "faults" in config.parts:
        result["faults"] = serve_stress.faults(bench, config.fault_requests)
        log("faults", result["faults"])
    if "memory" in config.parts:
        count = min(config.max_memory_requests, round(rate * config.memory_seconds))
        result["memory"] = serve_stress.memory(bench, max(4000, count))
        log("memory", result["memory"])
    if "pairs" in config.parts:
        if config.before is None:
            raise ValueError("--parts pairs compares two checkouts: give --before DIRECTORY")
        result["pairs"] = {str(callers): pairs(bench, config.before, config.rounds, callers) for callers in config.callers}
        log("pairs", result["pairs"])
    if "hardship" in config.parts:
        result["hardship"] = serve_hardship.hardship(bench, config.hardships)
    return result


def is_bad(found: dict[str, Any]) -> bool:
    """An answer was wrong or lost, or the server did not outlive it."""
    outlived = found.get("alive", True) and found.get("ready", True) and found.get("exit_status", 0) == 0
    return bool(found["wrong"]) or bool(found.get("lost")) or not outlived


if __name__ == "__main__":
    cli.keep_freed_memory()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no server is left behind
    sys.exit(main())
