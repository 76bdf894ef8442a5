"""Speed and memory of training against TRL's RewardTrainer: same base, same pairs, same tokens. Last line: one JSON document.

python benchmarks/train.py

Every measure runs in a process of its own, in turn (A B C, A B C, ...), so that a machine that changes its pace does so for all;
medians with the least and the most. TRL is given the tokens that Assay rendered (it would drop pairs that are too long, Assay cuts
them), no gradient checkpointing, and the micro-batch that was best in a sweep.
"""

from __future__ import annotations

import copy
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from assay import cli  # first: it sets OpenMP up before torch is loaded

# isort: split
import numpy as np
import torch
import tyro
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from assay.commands.demo.run import packaged_base
from assay.data.pairs import read_pairs
from assay.data.tokens.render import Renderer
from assay.data.tokens.table import PairTable, build_table
from assay.models.backbone import load_backbone, split_backbone
from assay.models.bases import resolve_base
from assay.models.device import pick_compute, token_budget
from assay.models.reward_model import RewardModel, new_head
from assay.records import Dtype
from assay.training.batches import TokenSource
from assay.training.loop import LoopSettings, fit, schedule, step_rows
from assay.training.objective import Objective
from assay.training.states.cache import build_cache
from assay.training.tasks.pairs import PairTask

WARM_STEPS = 1


@dataclass(frozen=True, kw_only=True)
class TrainBenchConfig:
    data: str = "../shared/data/rmb/pairs.jsonl.gz"
    base: str | None = None
    tokens: int = 670
    """Mean tokens of a pair, prompt twice."""
    batch_pairs: int = 8
    steps: int = 4
    """Timed steps, after one to warm up."""
    repeats: int = 3
    blocks: int = 4
    dtype: Dtype = "auto"
    """Of both sides' forward and backward; auto takes what pays on this machine."""
    micro_batches: tuple[int, ...] = (1, 2, 4, 8)
    measure: str | None = None
    """One measure in this process (used by the benchmark itself)."""
    work: Path | None = None


def main() -> int:
    config = tyro.cli(TrainBenchConfig)
    cli.keep_freed_memory()
    if config.measure is not None:
        print(json.dumps(measure(config)))
        return 0
    began = time.perf_counter()
    config = replace(config, dtype=pick_compute("cpu", config.dtype).name)
    with tempfile.TemporaryDirectory() as directory:
        config = replace(config, work=Path(directory))
        table = make_table(config)
        said = f"{len(table)} pairs of {table.lengths.sum(1).mean():.0f} tokens"
        print(said, file=sys.stderr)
        sweep = {f"trl-full:{micro}": in_own_process(config, f"trl-full:{micro}") for micro in config.micro_batches}
        best = max(sweep, key=lambda name: sweep[name]["pairs_per_second"])
        micro = best.split(":")[1]
        names = [f"trl-full:{micro}", f"trl-blocks:{micro}", "assay-full", "assay-blocks"]
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        for _ in range(config.repeats):
            for name in names:
                found[name].append(in_own_process(config, name))
        losses = {name: in_own_process(config, name)["losses"] for name in ("trl-losses", "assay-losses")}
        rate = in_own_process(config, "matmul")
        result = {
            "pairs": said,
            "base": Path(config.base or packaged_base()).name,
            "batch_pairs": config.batch_pairs,
            "trl_sweep_pairs_per_second": {name: round(row["pairs_per_second"], 3) for name, row in sweep.items()},
            "measures": {name: spread(rows) for name, rows in found.items()},
            "ratios": ratios(found, *names),
            "first_losses_float32": {**losses, "largest_difference": largest(losses)},
            "matmul": rate,
            "share_of_matmul_rate": {
                name: round(float(np.median([row["flops_per_second"] for row in rows])) / rate["flops_per_second"], 3)
                for name, rows in found.items()
            },
            "dtype": config.dtype,
            "machine": {
                "cpus": os.cpu_count(),
                "threads": torch.get_num_threads(),
                "python": platform.python_version(),
                "torch": torch.__version__,
                "trl": __import__("trl").__version__,
            },
            "seconds": round(time.perf_counter() - began),
        }
    print(json.dumps(result))
    return 0


def make_table(config: TrainBenchConfig) -> PairTable:
    """Enough pairs of the wanted length: those nearest to it among the first 3,000 of the data."""
    assert config.work is not None
    wanted = config.batch_pairs * (config.steps + WARM_STEPS)
    tokenizer = AutoTokenizer.from_pretrained(resolve_base(config.base or packaged_base()).path)
    renderer = Renderer(tokenizer, max_length=1024)
    pairs = list(read_pairs(config.data, limit=3000))
    pairs = [pairs[i] for i in np.random.default_rng(0).permutation(len(pairs))[: 8 * wanted]]
    every, _ = build_table(pairs, renderer, config.work / "every.arrow")
    lengths = every.lengths.sum(1)
    order = np.argsort(np.abs(np.log(lengths / config.tokens)))[:wanted]  # spread on both sides of the wanted length
    table, _ = build_table([pairs[i] for i in np.sort(order)], renderer, config.work / "tokens.arrow")
    return table


def in_own_process(config: TrainBenchConfig, name: str) -> dict[str, Any]:
    flags = ["--measure", name, "--work", str(config.work), "--batch-pairs", str(config.batch_pairs), "--steps", str(config.steps)]
    flags += ["--dtype", config.dtype, "--blocks", str(config.blocks), *(["--base", config.base] if config.base else [])]
    every = set(range(os.cpu_count() or 1))  # OpenMP has bound this process to one core, and a child inherits that
    ran = subprocess.run(
        [sys.executable, __file__, *flags],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: os.sched_setaffinity(0, every) if hasattr(os, "sched_setaffinity") else None,
    )
    if ran.returncode:
        raise RuntimeError(f"{name} failed:\n{ran.stderr[-3000:]}")
    row = json.loads(ran.stdout.splitlines()[-1])
    print(name, {key: value for key, value in row.items() if key != "losses"}, file=sys.stderr)
    return row


def measure(config: TrainBenchConfig) -> dict[str, Any]:
    """What one process does; peak memory is that of the whole process."""
    name, _, argument = str(config.measure).partition(":")
    measures: dict[str, Callable[[], dict[str, Any]]] = {
        "trl-full": lambda: trl_speed(config, None, int(argument)),
        "trl-blocks": lambda: trl_speed(config, config.blocks, int(argument)),
        "assay-full": lambda: assay_full(config),
        "assay-blocks": lambda: assay_blocks(config),
        "trl-losses": lambda: trl_losses(config),
        "assay-losses": lambda: assay_losses(config),
        "matmul": lambda: matmul_rate(compute_dtype(config)),
    }
    row = measures[name]()
    return {**row, "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)}


def settings(config: TrainBenchConfig, **changes: Any) -> LoopSettings:
    rates = {"learning_rate": 5e-5, "head_learning_rate": 5e-5, "weight_decay": 0.0}
    asked = {"epochs": 1, "batch_size": config.batch_pairs, "batch_tokens": token_budget(torch.device("cpu")), **rates, **changes}
    return LoopSettings(**asked)


def task_of(source: TokenSource, table: PairTable) -> PairTask:
    return PairTask(table=table, source=source, objective=Objective(centring=0.0))


def compute_dtype(config: TrainBenchConfig) -> torch.dtype:
    return getattr(torch, config.dtype)


def table_of(config: TrainBenchConfig) -> PairTable:
    assert config.work is not None
    return PairTable(config.work / "tokens.arrow")


def base_path(config: TrainBenchConfig) -> str:
    return resolve_base(config.base or packaged_base()).path


def plain_model(config: TrainBenchConfig) -> Any:
    """transformers' own reward model with the head that Assay starts from."""
    model = AutoModelForSequenceClassification.from_pretrained(base_path(config), num_labels=1, dtype=torch.float32)
    with torch.no_grad():
        model.score.weight.copy_(new_head(model.config.hidden_size, seed=0).weight)
    tokenizer = AutoTokenizer.from_pretrained(base_path(config))
    model.config.pad_token_id = Renderer(tokenizer, max_length=1024).pad_id
    return model


def trl_trainer(config: TrainBenchConfig, model: nn.Module, rows: np.ndarray, micro: int, **changes: Any) -> Any:
    """RewardTrainer on the given table rows in their order, with Assay's tokens, optimiser settings and schedule."""
    import trl
    from datasets import Dataset
    from torch.optim.lr_scheduler import LambdaLR
    from torch.utils.data import SequentialSampler

    class InOrder(trl.RewardTrainer):
        def _get_train_sampler(self, dataset: Any = None) -> Any:
            return SequentialSampler(self.train_dataset)

    table = table_of(config)
    pairs = [table[int(row)] for row in rows]
    data = Dataset.from_dict(
        {side: [getattr(pair, side.split("_")[0]).tolist() for pair in pairs] for side in ("chosen_ids", "rejected_ids")}
    )
    steps = len(rows) // config.batch_pairs
    arguments = trl.RewardConfig(
        output_dir=str(config.work / "trl"),  # type: ignore[operator]
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=config.batch_pairs // micro,
        max_steps=steps,
        gradient_checkpointing=False,
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        logging_steps=1,
        disable_tqdm=True,
        **changes,
    )
    asked = settings(config)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=asked.learning_rate, weight_decay=0.0)
    scheduler = LambdaLR(optimizer, lambda step: schedule(min(step, steps - 1), steps, asked.warmup))
    tokenizer = Renderer(AutoTokenizer.from_pretrained(base_path(config)), max_length=1024).tokenizer
    return InOrder(model=model, args=arguments, train_dataset=data, processing_class=tokenizer, optimizers=(optimizer, scheduler))


def trl_speed(config: TrainBenchConfig, blocks: int | None, micro: int) -> dict[str, Any]:
    from transformers import TrainerCallback

    model = plain_model(config)
    if blocks is not None:
        model.requires_grad_(False)
        for part in (*model.model.layers[-blocks:], model.model.norm, model.score):
            part.requires_grad_(True)
    table = table_of(config)
    rows = in_steps(config, len(table))
    trainer = trl_trainer(config, model, rows, micro, bf16=config.dtype == "bfloat16")
    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *arguments: Any, **named: Any) -> None:
            ends.append(time.perf_counter())

    trainer.add_callback(Clock())
    trainer.train()
    seconds = ends[-1] - ends[WARM_STEPS - 1]
    timed = rows[WARM_STEPS * config.batch_pairs :]
    useful = float(table.lengths[timed].sum())
    lengths = table.lengths[timed].reshape(-1, micro * 2)
    computed = float((lengths.max(1) * micro * 2).sum())
    layers = model.config.num_hidden_layers
    factor = 6.0 if blocks is None else 2.0 + 4.0 * blocks / layers
    return figures(len(timed), seconds, useful, computed, factor * layer_parameters(model.model))


def in_steps(config: TrainBenchConfig, num_pairs: int) -> np.ndarray:
    """All rows in the order in which Assay's first epoch takes them."""
    asked = settings(config)
    return np.concatenate([step_rows(np.arange(num_pairs), asked, step) for step in range(asked.num_steps(num_pairs))])


def assay_model(config: TrainBenchConfig, dtype: torch.dtype) -> RewardModel:
    backbone = load_backbone(base_path(config), dtype=torch.float32)
    return RewardModel(backbone, new_head(backbone.hidden_size, seed=0), compute_dtype=dtype)


def assay_full(config: TrainBenchConfig) -> dict[str, Any]:
    model, table = assay_model(config, compute_dtype(config)), table_of(config)
    source = TokenSource(table=table, max_tokens=token_budget(torch.device("cpu")), layout=model.backbone.layout)
    rows = fit(model, task_of(source, table), np.arange(len(table)), settings(config))
    timed = in_steps(config, len(table))[WARM_STEPS * config.batch_pairs :]
    seconds = sum(row["seconds"] for row in rows[WARM_STEPS:])
    computed = sum(batch.packed.tokens.size for row in chunks(timed, config.batch_pairs) for batch in source.batches(row))
    return figures(len(timed), seconds, float(table.lengths[timed].sum()), computed, 6.0 * layer_parameters(model.backbone.model))


def assay_blocks(config: TrainBenchConfig) -> dict[str, Any]:
    """The frozen trunk over all pairs, then two epochs over its states; pairs a second of the first epoch, and of a cached one."""
    assert config.work is not None
    model, table = assay_model(config, compute_dtype(config)), table_of(config)
    budget, total = token_budget(torch.device("cpu")), model.backbone.num_layers
    model.backbone.requires_grad_(False)
    trunk, top = split_backbone(model.backbone, config.blocks)
    frozen = copy.deepcopy(trunk).to(compute_dtype(config)).eval()
    for part in (top.model.layers, top.model.norm):
        part.requires_grad_(True)
    path = config.work / f"activations-{os.getpid()}.bin"
    began = time.perf_counter()
    cache = build_cache(frozen, table, path, identity="", max_tokens=budget, dtype=compute_dtype(config), limit_bytes=10**11)
    caching = time.perf_counter() - began
    source = TokenSource(table=table, max_tokens=budget, layout=model.backbone.layout, cache=cache)
    whole = RewardModel(top, model.head, compute_dtype=compute_dtype(config))
    rows = fit(whole, task_of(source, table), np.arange(len(table)), settings(config, epochs=3))
    path.unlink()
    steps = len(rows) // 3
    first = caching + sum(row["seconds"] for row in rows[:steps])
    cached = float(np.median([sum(row["seconds"] for row in rows[i * steps : (i + 1) * steps]) for i in (1, 2)]))
    computed = sum(b.packed.tokens.size for row in chunks(np.arange(len(table)), config.batch_pairs) for b in source.batches(row))
    parameters = layer_parameters(model.backbone.model)
    useful = float(table.lengths.sum())
    row = figures(len(table), cached, useful, computed, 6.0 * parameters * config.blocks / total)
    flops = 2.0 * parameters * (1 - config.blocks / total) * computed / caching
    return {
        **row,
        "first_epoch_pairs_per_second": len(table) / first,
        "caching_flops_per_second": flops,
        "caching_seconds": caching,
    }


def chunks(rows: np.ndarray, size: int) -> list[np.ndarray]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def layer_parameters(model: Any) -> float:
    """Weights of the layers' matrices: what a token is multiplied with (embeddings are looked up, attention scores left out)."""
    return float(sum(parameter.numel() for parameter in model.layers.parameters() if parameter.ndim == 2))


def figures(num_pairs: int, seconds: float, useful: float, computed: float, flops_a_token: float) -> dict[str, Any]:
    return {
        "pairs_per_second": num_pairs / seconds,
        "tokens_per_second": useful / seconds,
        "computed_tokens_per_pair": computed / num_pairs,
        "flops_per_second": computed * flops_a_token / seconds,
    }


def trl_losses(config: TrainBenchConfig) -> dict[str, Any]:
    """The loss of each of the first five steps, float32."""
    small = replace(config, batch_pairs=4)
    rows = in_steps(small, len(table_of(config)))[:20]
    trainer = trl_trainer(small, plain_model(config), rows, 4, bf16=False)  # which is not its default
    trainer.train()
    return {"losses": [row["loss"] for row in trainer.state.log_history if "loss" in row]}


def assay_losses(config: TrainBenchConfig) -> dict[str, Any]:
    """The same of Assay: rows are given so that the loop's own permutation puts them into TRL's order."""
    small = replace(config, batch_pairs=4)
    model, table = assay_model(config, torch.float32), table_of(config)
    rows, asked = in_steps(small, len(table))[:20], settings(small)
    source = TokenSource(table=table, max_tokens=token_budget(torch.device("cpu")), layout=model.backbone.layout)
    logged = fit(model, task_of(source, table), rows[np.argsort(in_steps(small, len(rows)))], asked)
    return {"losses": [row["loss"] for row in logged]}


def matmul_rate(dtype: torch.dtype) -> dict[str, Any]:
    """Matrix products of the shapes of the model's feed-forward part and of a large square, best of 20."""

    def rate(m: int, k: int, n: int) -> float:
        a, b = torch.randn(m, k, dtype=dtype), torch.randn(k, n, dtype=dtype)
        seconds = []
        for _ in range(20):
            began = time.perf_counter()
            a @ b
            seconds.append(time.perf_counter() - began)
        return 2.0 * m * k * n / min(seconds)

    return {"flops_per_second": rate(1024, 576, 1536), "square_flops_per_second": rate(2048, 2048, 2048)}


def spread(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Median, least and most of every figure."""
    return {
        name: {
            "median": round(float(np.median([row[name] for row in rows])), 4),
            "range": [round(float(min(row[name] for row in rows)), 4), round(float(max(row[name] for row in rows)), 4)],
        }
        for name in rows[0]
    }


def ratios(found: dict[str, list[dict[str, Any]]], trl_full: str, trl_blocks: str, full: str, blocks: str) -> dict[str, Any]:
    """Assay over TRL, run by run of the same round."""

    def against(ours: str, figure: str, theirs: str, their_figure: str = "pairs_per_second") -> list[float]:
        values = [a[figure] / b[their_figure] for a, b in zip(found[ours], found[theirs], strict=True)]
        return [round(float(value), 3) for value in (np.median(values), min(values), max(values))]

    return {
        "full over TRL full": against(full, "pairs_per_second", trl_full),
        "full over TRL full, peak memory": against(full, "peak_mb", trl_full, "peak_mb"),
        "blocks, first epoch over TRL full": against(blocks, "first_epoch_pairs_per_second", trl_full),
        "blocks, cached epoch over TRL full": against(blocks, "pairs_per_second", trl_full),
        "blocks, first epoch over TRL with the same blocks": against(blocks, "first_epoch_pairs_per_second", trl_blocks),
        "blocks, cached epoch over TRL with the same blocks": against(blocks, "pairs_per_second", trl_blocks),
    }


def largest(losses: dict[str, list[float]]) -> float:
    return float(np.abs(np.array(losses["trl-losses"]) - np.array(losses["assay-losses"])).max())


if __name__ == "__main__":
    sys.exit(main())
