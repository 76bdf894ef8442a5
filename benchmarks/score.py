"""Speed and memory of scoring against plain transformers and vLLM: same artifact, dtype and texts. Last line: one JSON document.

python benchmarks/score.py
python benchmarks/score.py --only a d --scale 0.1 --vllm-python PATH/bin/python

Every way to score is a process of its own that stays loaded; they are asked in turn (A B C, A B C, ...), so that a machine that
changes its pace does so for all; medians with the least and the most. The others get their best setting of a sweep.
(a) best-of-16, (b) groups of 8 as in GRPO, (c) lone sequences, (d) (a) asked twice through the cache; then ensembles, and a curve.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from score_child import Child, ChildError  # first: it notes which cores are ours

# isort: split
from assay import cli  # then: it sets OpenMP up before torch is loaded

# isort: split
import numpy as np
import torch
import transformers
import tyro
from score_texts import MAX_LENGTH, make_workloads, read_texts, sizes
from transformers import AutoTokenizer

from assay.commands.demo.run import packaged_base
from assay.data.tokens.render import Renderer
from assay.models.backbone import load_backbone
from assay.models.bases import resolve_base
from assay.models.device import pick_compute
from assay.models.reward_model import RewardModel, new_head
from assay.models.saved.artifact import save_artifact
from assay.records import Dtype

STAGES = ("a", "b", "c", "d", "e", "ensemble", "curve")
# Computed tokens of a stage at full scale, all ways, one round; and of its sweeps, at any scale: to fit a run into `minutes`.
_TOKENS = {"a": 122_000, "b": 142_000, "c": 262_000, "d": 20_000, "e": 42_000, "ensemble": 70_000, "curve": 140_000}
_FIXED_TOKENS = {"a": 50_000, "b": 28_000, "c": 20_000, "d": 7_000, "e": 7_000, "ensemble": 10_000, "curve": 25_000}


@dataclass(frozen=True, kw_only=True)
class ScoreBenchConfig:
    base: str | None = None
    dtype: Dtype = "auto"
    """Of every way's forward; auto takes what pays on this machine."""
    scale: float | None = None
    """Share of the full counts (8 prompts, 16 groups, 300 sequences); None takes what fits into `minutes`."""
    minutes: float = 18.0
    """Of the whole run, roughly, when no scale is given; vLLM's own start comes on top."""
    only: tuple[str, ...] = STAGES
    rounds: int = 3
    batch_sizes: tuple[int, ...] = (1, 4, 16)
    """Of the pipeline's sweep."""
    budgets: tuple[int, ...] = (1024, 2048, 4096)
    """Tokens of a batch, of the sweep of padded batches sorted by length."""
    members: int = 5
    member_blocks: int = 2
    vllm_python: Path | None = None
    """Python of an environment that holds vLLM."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What the stages share. rate: matrix products, operations a second; workloads: their sizes."""

    config: ScoreBenchConfig
    work: Path
    dtype: str
    scale: float
    rate: float
    workloads: dict[str, dict[str, float]]


def main() -> int:
    config = tyro.cli(ScoreBenchConfig)
    unknown = set(config.only) - set(STAGES)
    if unknown:
        raise ValueError(f"--only {sorted(unknown)} is unknown: use some of {', '.join(STAGES)}")
    began = time.perf_counter()
    dtype = pick_compute("cpu", config.dtype).name
    result: dict[str, Any] = {"base": Path(config.base or packaged_base()).name, "dtype": dtype, "rounds": config.rounds}
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        renderer = save_model(config, work)
        with way(work, dtype, "assay") as child:
            result |= {"matmul": child.ask("matmul"), "assay": child.ask("about")}
        rate = result["matmul"]["flops_per_second"]
        scale = config.scale or scale_for(config, 0.7 * rate / result["assay"]["flops_a_token"])
        workloads = save_workloads(renderer, scale, work)
        bench = Bench(config=config, work=work, dtype=dtype, scale=scale, rate=rate, workloads=workloads)
        result |= {"scale": round(scale, 3), "machine": machine()}
        log("start", result)
        stages: dict[str, Callable[[], Any]] = {
            **{name: lambda name=name: compare(bench, name) for name in ("a", "b", "c")},
            "d": lambda: cached(bench),
            "e": lambda: one_by_one(bench),
            "ensemble": lambda: ensemble(bench),
            "curve": lambda: curve(bench),
        }
        for name in (name for name in STAGES if name in config.only):
            stage_began = time.perf_counter()
            result[name] = stages[name]()
            log(f"{name} ({time.perf_counter() - stage_began:.0f} s)", result[name])
    print(json.dumps({**result, "seconds": round(time.perf_counter() - began)}))
    return 0


def save_model(config: ScoreBenchConfig, work: Path) -> Renderer:
    """The base with a fresh head, as an artifact that every way loads."""
    path = resolve_base(config.base or packaged_base()).path
    backbone = load_backbone(path, dtype=torch.float32)
    renderer = Renderer(AutoTokenizer.from_pretrained(path), max_length=MAX_LENGTH)
    model = RewardModel(backbone, new_head(backbone.hidden_size, seed=0))
    save_artifact(model, renderer, work / "artifact", {"title": "a fresh head, to measure speed"})
    return renderer


def save_workloads(renderer: Renderer, scale: float, work: Path) -> dict[str, dict[str, float]]:
    """Write the workloads as messages, and as rendered text for those who are not Assay; returns their sizes."""
    workloads = make_workloads(read_texts(renderer), scale)
    rows = {
        name: [{"messages": [turn.as_dict() for turn in one.messages], "response": one.response} for one in ones]
        for name, ones in workloads.items()
    }
    (work / "workloads.json").write_text(json.dumps(rows))
    texts = {name: [rendered_text(renderer, row) for row in workload] for name, workload in rows.items()}
    (work / "texts.json").write_text(json.dumps(texts))
    return {name: sizes(ones, renderer) for name, ones in workloads.items()}


def rendered_text(renderer: Renderer, row: dict[str, Any]) -> str:
    messages = [*row["messages"], {"role": "assistant", "content": row["response"]}]
    return str(renderer.tokenizer.apply_chat_template(messages, tokenize=False))


def scale_for(config: ScoreBenchConfig, tokens_per_second: float) -> float:
    """The share of the full counts at which the asked stages take about `minutes`."""
    tokens = 60 * config.minutes * tokens_per_second - sum(_FIXED_TOKENS[name] for name in config.only)
    return float(np.clip(tokens / (config.rounds * sum(_TOKENS[name] for name in config.only)), 0.03, 1.0))


def way(work: Path, dtype: str, name: str) -> Child:
    return Child([sys.executable, str(Path(__file__).with_name("score_ways.py")), name, str(work), dtype], work / f"{name}.log")


def vllm(bench: Bench) -> Child:
    """vLLM binds its threads by itself, and neither Assay nor its packages are on its path."""
    assert bench.config.vllm_python is not None
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "OMP_PROC_BIND")}
    command = [str(bench.config.vllm_python), str(Path(__file__).with_name("score_vllm.py")), str(bench.work), bench.dtype]
    return Child(command, bench.work / "vllm.log", environment)


def compare(bench: Bench, workload: str) -> dict[str, Any]:
    """Every way on one workload, in turn."""
    config, part = bench.config, f"{workload}-part"
    choices = {"padded": config.budgets, "pipeline": config.batch_sizes}
    sweeps = {name: sweep(bench, name, part, settings) for name, settings in choices.items()}
    best = {name: int(max(found, key=found.__getitem__)) for name, found in sweeps.items()}
    settings: dict[str, int | None] = {"assay": None, **best, "vllm": None}
    about: dict[str, dict[str, Any]] = {}
    left_out = {} if config.vllm_python else {"vllm": "no --vllm-python was given"}
    with ExitStack() as stack:
        children: dict[str, Child] = {}
        for name in (name for name in settings if name not in left_out):
            try:
                child = stack.enter_context(vllm(bench) if name == "vllm" else way(bench.work, bench.dtype, name))
                warm = child.ask("score", workload=part, setting=settings[name])
                about[name] = {"loaded_bytes": warm["before_bytes"], **child.ask("about")}
                children[name] = child
            except (ChildError, OSError) as error:
                if name != "vllm":
                    raise
                left_out[name] = str(error)
        if "vllm" in children:
            about["vllm"]["flops_a_token"] = about["padded"]["flops_a_token"]
        rows: dict[str, list[dict[str, Any]]] = {name: [] for name in children}
        for number in range(config.rounds):
            for name, child in children.items():
                rows[name].append(child.ask("score", workload=workload, setting=settings[name]))
                log(f"{workload} round {number + 1} {name}", without(rows[name][-1], "scores"))
    return {
        "sizes": bench.workloads[workload],
        "sweeps_sequences_per_s": sweeps,
        "best_settings": best,
        "ways": {
            **{name: figures(bench, workload, rows[name], about[name]) for name in rows},
            **dict.fromkeys(left_out),
        },
        "left_out": left_out,
        "vllm": {"version": about["vllm"]["vllm"], "threads": about["vllm"]["threads"]} if "vllm" in children else None,
        "assay_over": {name: ratio(rows[name], rows["assay"], "seconds") for name in rows if name != "assay"},
        "sharing": sharing(bench.workloads[workload], rows),
        "largest_difference_to_assay": {name: difference(rows["assay"], rows[name]) for name in rows if name != "assay"},
    }


def sweep(bench: Bench, name: str, workload: str, choices: Sequence[int]) -> dict[str, float]:
    """Sequences a second at each setting, after one pass to warm up; in a process of its own, whose memory counts for nothing."""
    with way(bench.work, bench.dtype, name) as child:
        child.ask("score", workload=workload, setting=choices[0])
        seconds = {str(choice): child.ask("score", workload=workload, setting=choice)["seconds"] for choice in choices}
    found = {choice: round(bench.workloads[workload]["sequences"] / value, 3) for choice, value in seconds.items()}
    log(f"sweep of {workload} {name}", found)
    return found


def figures(bench: Bench, workload: str, rows: list[dict[str, Any]], about: dict[str, Any]) -> dict[str, Any]:
    """Speed, achieved operations a second against the matrix-product rate, and memory of one way."""
    sequences, seconds = bench.workloads[workload]["sequences"], [row["seconds"] for row in rows]
    flops = [about["flops_a_token"] * row["computed_tokens"] / row["seconds"] for row in rows]
    attention = None
    if (
        "attention_pairs" in rows[0] and "predicted_bytes" not in rows[0]
    ):  # Assay computes what is seen; the others dense products over whole rows, masked or not
        attention = spread([about["flops_an_attention_pair"] * row["attention_pairs"] / row["seconds"] for row in rows])
    known = rows[0]["peak_bytes"] is not None
    peak = max(row["peak_bytes"] for row in rows) if known else None
    return {
        "seconds": spread(seconds),
        "sequences_per_s": spread([sequences / value for value in seconds]),
        "computed_tokens_per_s": spread([row["computed_tokens"] / row["seconds"] for row in rows]),
        "computed_tokens": rows[0]["computed_tokens"],
        "flops_per_s": spread(flops),
        "share_of_matmul_rate": spread([value / bench.rate for value in flops]),
        "attention_flops_per_s": attention,
        "memory": {
            "loaded_bytes": about["loaded_bytes"],
            "peak_bytes": peak,
            "predicted_bytes": rows[0].get("predicted_bytes"),
        },
    }


def sharing(size: dict[str, float], rows: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """How much faster computing each prompt once could be than padded rows, by tokens alone, and how much of it was reached."""
    padded = rows["padded"][0]["computed_tokens"]
    ceiling = padded / size["tokens_with_prompts_once"]
    reached = ratio(rows["padded"], rows["assay"], "seconds")
    return {
        "ceiling": round(ceiling, 3),
        "computed_tokens_saved": round(padded / rows["assay"][0]["computed_tokens"], 3),
        "reached": reached,
        "share_of_ceiling": {name: round(value / ceiling, 3) for name, value in reached.items()},
    }


def cached(bench: Bench) -> dict[str, Any]:
    """Workload (a) asked twice through an empty cache."""
    with way(bench.work, bench.dtype, "assay") as child:
        child.ask("cached", workload="a-part")
        rows = [child.ask("cached", workload="a") for _ in range(bench.config.rounds)]
    sequences = bench.workloads["a"]["sequences"]
    return {
        "sizes": bench.workloads["a"],
        "first_sequences_per_s": spread([sequences / row["first_seconds"] for row in rows]),
        "second_sequences_per_s": spread([sequences / row["second_seconds"] for row in rows]),
        "second_over_first": spread([row["first_seconds"] / row["second_seconds"] for row in rows]),
        "same_rewards": all(row["same"] for row in rows),
        "hits": rows[0]["hits"],
        "misses": rows[0]["misses"],
    }


def one_by_one(bench: Bench) -> dict[str, Any]:
    """Workload (b), its answers asked for one by one: with prompts kept between the calls, and computed anew."""
    with way(bench.work, bench.dtype, "assay") as child:
        child.ask("one_by_one", workload="b-part")
        rows = [child.ask("one_by_one", workload="b") for _ in range(bench.config.rounds)]
    return {
        "sizes": bench.workloads["b"],
        "kept_over_anew": spread([row["anew_seconds"] / row["kept_seconds"] for row in rows]),
        "kept_seconds": spread([row["kept_seconds"] for row in rows]),
        "largest_difference": max(row["largest_difference"] for row in rows),
    }


def ensemble(bench: Bench) -> dict[str, Any]:
    """Seconds of (a) by one model, by K heads on its backbone, by K members with their own last blocks over one trunk."""
    config = bench.config
    kinds, reasons = ["one"], {}
    with way(bench.work, bench.dtype, "ensembles") as child:
        for kind in ("one", "heads", "members"):
            try:
                child.ask("build", kind=kind, members=config.members, blocks=config.member_blocks)
                child.ask("score", workload="a-part", setting=kind)
                kinds += [kind] if kind != "one" else []
            except ChildError as error:
                if kind == "one":
                    raise
                reasons[kind] = str(error)
        rows: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds}
        for number in range(config.rounds):
            for kind in kinds:
                rows[kind].append(child.ask("score", workload="a", setting=kind))
                log(f"ensemble round {number + 1} {kind}", without(rows[kind][-1], "scores"))
    return {
        "members": config.members,
        "member_blocks": config.member_blocks,
        "seconds": {kind: spread([row["seconds"] for row in rows[kind]]) if kind in rows else None for kind in (*kinds, *reasons)},
        "time_over_one": {
            **{kind: ratio(rows[kind], rows["one"], "seconds") for kind in kinds if kind != "one"},
            **dict.fromkeys(reasons),
        },
        "left_out": reasons,
    }


def curve(bench: Bench) -> list[dict[str, Any]]:
    """Assay's own rates, one thing changed at a time."""
    centre = {"batch_tokens": 1024, "length": 256, "group_size": 8, "prefix_share": 0.5}
    axes: dict[str, tuple[float, ...]] = {
        "batch_tokens": (256, 512, 1024, 2048, 4096),
        "length": (64, 128, 256, 512, 1024),
        "group_size": (1, 2, 4, 8, 16),
        "prefix_share": (0.0, 0.3, 0.5, 0.7, 0.9),
    }
    points = [centre]
    points += [{**centre, axis: value} for axis, values in axes.items() for value in values if value != centre[axis]]
    measured: list[list[dict[str, float]]] = [[] for _ in points]
    with way(bench.work, bench.dtype, "assay") as child:
        child.ask("point", tokens=1024, **centre)  # to warm up
        for number in range(bench.config.rounds):
            for point, rows in zip(points, measured, strict=True):
                tokens = max(1024, point["batch_tokens"], round(8192 * bench.scale))
                rows.append(child.ask("point", tokens=tokens, **point))
                log(f"curve round {number + 1}", {**point, **rows[-1]})
    return [
        {**point, **{name: spread([row[name] for row in rows])["median"] for name in rows[0]}, "rounds": rows}
        for point, rows in zip(points, measured, strict=True)
    ]


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": rounded(np.median(values)), "min": rounded(min(values)), "max": rounded(max(values))}


def ratio(numerators: list[dict[str, Any]], denominators: list[dict[str, Any]], name: str) -> dict[str, float]:
    """Run by run of the same round."""
    return spread([a[name] / b[name] for a, b in zip(numerators, denominators, strict=True)])


def difference(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> float:
    return rounded(max(np.abs(np.array(a["scores"]) - np.array(b["scores"])).max() for a, b in zip(ours, theirs, strict=True)))


def rounded(value: Any) -> float:
    return float(f"{float(value):.4g}")


def without(row: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != name}


def log(what: str, found: Any) -> None:
    print(what, json.dumps(found), file=sys.stderr, flush=True)


def machine() -> dict[str, Any]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())
    return {
        "cpu": model,
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


if __name__ == "__main__":
    cli.keep_freed_memory()
    sys.exit(main())
